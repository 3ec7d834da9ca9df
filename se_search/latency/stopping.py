"""Default precision and time limits of a latency measurement."""

TARGET = 0.005
"""Half-width of the interval at which a measurement stops, as a share of the ratio."""

LIMIT = 5.0
"""Time limit of a measurement, in seconds."""

LOOK = 1.0
"""Time limit of a measurement that is pooled with others, in seconds."""
