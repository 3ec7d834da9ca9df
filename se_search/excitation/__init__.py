"""Analysis of the gates of trained attention blocks."""
