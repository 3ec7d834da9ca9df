"""Results of a search."""
