"""Kinds of attention, each in its own file."""

from collections.abc import Iterable

from .eca import PlacedECA
from .kind import PlacedAttention
from .local import PlacedLocal
from .se import PlacedSE

DEFAULT_KIND = PlacedSE.kind
"""Kind of blocks, spaces and files without the key ``kind`` or ``attention``."""

KINDS: dict[str, type[PlacedAttention]] = {"se": PlacedSE, "eca": PlacedECA, "local": PlacedLocal}
"""Kinds by name."""


def name_attention(kinds: Iterable[str]) -> str:
    """Return the word for attention of these kinds, by default SE: the kind's own, or attention for several kinds."""
    words = {KINDS[kind].word for kind in kinds} or {KINDS[DEFAULT_KIND].word}
    return words.pop() if len(words) == 1 else "attention"
