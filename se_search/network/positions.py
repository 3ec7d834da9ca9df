"""The positions of blocks, and which one they have if none is named, without PyTorch."""

from collections.abc import Collection

POSITIONS = ("standard", "pre", "post", "identity", "3x3", "existing")
"""The paper's positions (section 6.5 of the journal version), and ``existing`` for the backbone's own attention."""

_ORDER = ("existing", "standard", "post", "pre", "identity", "3x3")


def default_among(offered: Collection[str]) -> str:
    """Return ``existing`` if it is offered, else ``standard`` (of residual branches), else ``post``."""
    return next(position for position in _ORDER if position in offered)
