"""One trial and where it is kept."""
