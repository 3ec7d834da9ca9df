"""A network as it is run elsewhere."""
