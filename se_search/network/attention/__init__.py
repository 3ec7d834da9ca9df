"""Kinds of attention, each in its own file."""

from .eca import PlacedECA
from .kind import PlacedAttention
from .local import PlacedLocal
from .se import PlacedSE

DEFAULT_KIND = PlacedSE.kind
"""Kind of blocks, spaces and files without the key ``kind`` or ``attention``."""

KINDS: dict[str, type[PlacedAttention]] = {"se": PlacedSE, "eca": PlacedECA, "local": PlacedLocal}
"""Kinds by name."""
