"""Search spaces that travel with the package."""
