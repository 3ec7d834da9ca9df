"""The sites of a backbone, by stage and one by one."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..files import plain
from ..network.config import SEConfig
from ..network.overhead import backbone_parameters, formula_by_stage
from ..network.sites import find_places, trace_backbone

_RATIO = 16
_COLUMNS = ("stage", "module", "block", "position", "layout", "grid", "channels", "formula", "weights")


@dataclass(frozen=True)
class PositionTotal:
    """Number of sites of a position, and the parameters of SE with r=16 at all of them, by the formula."""

    position: str
    sites: int
    formula: float


@dataclass(frozen=True)
class SiteList:
    """The sites of a backbone.

    Attributes:
        backbone: The backbone.
        parameters: Its parameters.
        sites: One row for each site, with ``stage`` (as in the paper), ``module`` (timm's, of the whole stage),
            ``block``, ``position``, ``layout``, ``grid``, ``channels``, ``formula`` (2C²/16) and ``weights`` of
            attention that stands there.
        totals: Sums by position.
        skipped: Places without a site, with the reason.
    """

    backbone: str
    parameters: int
    sites: pd.DataFrame
    totals: tuple[PositionTotal, ...]
    skipped: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {str(name): one for name, one in plain(self).items()}


def list_sites(backbone: str, position: str | None = None) -> SiteList:
    """List the sites of a backbone, and the places that have none.

    Args:
        backbone: A timm architecture name.
        position: Only this position.

    Raises:
        BackboneError: If timm does not know the backbone, or it has no site.
    """
    places = find_places(backbone)
    blocks: dict[int, list[str]] = {}
    for site in places:
        blocks.setdefault(site.stage, []).append(site.block)
    modules = {stage: _module_of(names) for stage, names in blocks.items()}
    rows = [
        {
            "stage": site.stage,
            "module": modules[site.stage],
            "block": site.block,
            "position": site.position,
            "layout": site.layout,
            "grid": None if site.grid is None else [site.grid.prefix, site.grid.rows, site.grid.columns],
            "channels": site.channels,
            "formula": 2 * site.channels**2 / _RATIO,
            "weights": place.weights,
        }
        for site, place in places.items()
        if position in (None, site.position)
    ]
    totals = [
        PositionTotal(
            offered,
            sum(site.position == offered for site in places),
            sum(formula_by_stage(SEConfig.uniform(backbone, _RATIO, position=offered)).values()),
        )
        for offered in dict.fromkeys(site.position for site in places)
    ]
    without = [(one.block, one.position, one.reason) for one in trace_backbone(backbone).skipped]
    without += [
        (site.block, site.position, f"for attention with local extent only: {place.grid}")
        for site, place in places.items()
        if isinstance(place.grid, str)
    ]
    skipped = pd.DataFrame(without, columns=["block", "position", "reason"])
    return SiteList(
        backbone,
        backbone_parameters(backbone),
        pd.DataFrame(rows, columns=list(_COLUMNS)),
        tuple(totals),
        skipped if position is None else skipped[skipped["position"] == position],
    )


def _module_of(blocks: Sequence[str]) -> str:
    """Return timm's module that contains all blocks of a stage; the first and the last one if none does."""
    parts = zip(*(block.split(".") for block in blocks), strict=False)
    levels = itertools.takewhile(lambda names: len(set(names)) == 1, parts)
    return ".".join(first for first, *_ in levels) or f"{blocks[0]} … {blocks[-1]}"
