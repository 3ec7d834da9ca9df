"""Latency of a network: measured as a ratio to its backbone, or predicted."""
