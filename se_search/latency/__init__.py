"""What a configuration costs in time."""
