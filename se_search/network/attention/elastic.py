"""Elastic modules of the supernet for one or several kinds of attention at a site."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from .kind import PlacedAttention
from .layers import Elastic


def create_elastic(widest: Sequence[PlacedAttention], kept: nn.Module | None = None) -> Elastic:
    """Create the supernet's module for a site.

    Args:
        widest: The widest block of each kind there.
        kept: The backbone's own attention at this site.
    """
    if len(widest) == 1:
        return widest[0].create_elastic(kept)
    return ElasticKinds({block.kind: block.create_elastic() for block in widest}, kept)


class ElasticKinds(Elastic):
    """Elastic blocks of several kinds at one site; blocks that are switched off return their input.

    Args:
        kinds: The elastic block of each kind.
        kept: The backbone's own attention at this site.
    """

    def __init__(self, kinds: dict[str, Elastic], kept: nn.Module | None = None) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict(kinds)
        self.kept = kept

    def select(self, options: None) -> None:
        """Switch all kinds off; :meth:`of_kind` switches one on."""
        for kind in self.kinds:
            self.of_kind(kind).select(None)
        self.keeps = False

    def of_kind(self, kind: str) -> Elastic:
        """Return the elastic block of a kind."""
        return cast("Elastic", self.kinds[kind])

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block that is switched on."""
        for block in self.kinds.values():
            x = block(x)
        return x
