"""When a measurement of latency stops."""

TARGET = 0.005
"""Half-width of the interval at which a measurement stops, as a share of the ratio."""


LIMIT = 5.0
"""Seconds after which it stops."""
