"""The trials of a run and their storage."""
