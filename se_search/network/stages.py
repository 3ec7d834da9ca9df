"""Sums of a backbone's sites by stage and position, without PyTorch."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class StageSites:
    """The sites of a stage and position.

    Attributes:
        stage: Number of the stage; the stem is 1.
        position: The position.
        module: timm's module that contains all blocks of the stage; the first and the last block if none does.
        sites: Number of sites.
        channels: The fewest and the most channels of a site.
        squares: Sum of the squared channels: the formula is 2/r of it.
        weights: Weights, without biases, of the backbone's own attention there.
    """

    stage: int
    position: str
    module: str
    sites: int
    channels: tuple[int, int]
    squares: int
    weights: int

    def formula(self, ratio: int) -> float:
        """Return the parameters of SE at these sites by the formula."""
        return 2 * self.squares / ratio


@dataclass(frozen=True)
class PositionTotal:
    """Number of sites of a position, and the parameters that SE with r=16 at all of them adds, by the formula."""

    position: str
    sites: int
    formula: float


def totals_by_position(stages: Iterable[StageSites]) -> tuple[PositionTotal, ...]:
    """Return the sums over the stages, less the weights of attention that SE replaces."""
    at: dict[str, list[StageSites]] = {}
    for one in stages:
        at.setdefault(one.position, []).append(one)
    return tuple(
        PositionTotal(position, sum(one.sites for one in found), sum(one.formula(16) - one.weights for one in found))
        for position, found in at.items()
    )
