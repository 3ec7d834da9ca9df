"""Studies that travel with the package."""
