"""Training, and what a configuration is worth."""
