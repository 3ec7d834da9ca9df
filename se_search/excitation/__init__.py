"""What trained attention does."""
