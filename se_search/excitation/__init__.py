"""Analysis of the gates of trained SE blocks."""
