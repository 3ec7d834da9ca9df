"""Kinds of attention, each in its own file."""

from .kind import PlacedAttention
from .se import PlacedSE

DEFAULT_KIND = PlacedSE.kind
"""Kind of blocks, spaces and files without the key ``kind`` or ``attention``."""

KINDS: dict[str, type[PlacedAttention]] = {"se": PlacedSE}
"""Kinds by name."""
