"""What a person sees: figures and the HTML page of a run."""
