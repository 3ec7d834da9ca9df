"""Kinds of attention by name, each in a file of its own."""

from .kind import PlacedAttention
from .se import PlacedSE

DEFAULT_KIND = PlacedSE.kind
"""The kind of blocks, spaces and files that name none."""

KINDS: dict[str, type[PlacedAttention]] = {"se": PlacedSE}
