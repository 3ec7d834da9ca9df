"""One file for each runtime: its ``RUNTIME`` describes, checks and prepares; the file has the runtime's name."""
