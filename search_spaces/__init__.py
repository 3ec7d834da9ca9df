"""Search spaces shipped with the package."""
