"""Which position blocks have if none is named, without PyTorch."""

from collections.abc import Collection

_ORDER = ("existing", "standard", "post", "pre", "identity", "3x3")


def default_among(offered: Collection[str]) -> str:
    """Return ``existing`` if it is offered, else ``standard`` (of residual branches), else ``post``."""
    return next(position for position in _ORDER if position in offered)
