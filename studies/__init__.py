"""Studies shipped with the package."""
