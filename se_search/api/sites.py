"""The sites of a backbone, by stage and one by one."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..files import plain
from ..network.overhead import backbone_parameters
from ..network.sites import find_places, modules_of_stages, sum_by_stage, trace_backbone
from ..network.stages import StageSites, totals_by_position

_RATIO = 16
_COLUMNS = ("stage", "module", "block", "position", "layout", "grid", "channels", "formula", "weights")


@dataclass(frozen=True)
class SiteList:
    """The sites of a backbone.

    Attributes:
        backbone: The backbone.
        parameters: Its parameters.
        sites: One row for each site, with ``stage`` (as in the paper), ``module`` (timm's, of the whole stage),
            ``block``, ``position``, ``layout``, ``grid``, ``channels``, ``formula`` (2C²/16) and ``weights`` of
            attention that stands there.
        stages: Sums by stage and position, of all positions.
        skipped: Places without a site, with the reason.
    """

    backbone: str
    parameters: int
    sites: pd.DataFrame
    stages: tuple[StageSites, ...]
    skipped: pd.DataFrame

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        content: dict[str, Any] = plain(
            {
                "backbone": self.backbone,
                "parameters": self.parameters,
                "sites": self.sites,
                "totals": totals_by_position(self.stages),
                "skipped": self.skipped,
            }
        )
        return content


def list_sites(backbone: str, position: str | None = None) -> SiteList:
    """List the sites of a backbone, and the places that have none.

    Args:
        backbone: A timm architecture name.
        position: Only this position.

    Raises:
        BackboneError: If timm does not know the backbone, or it has no site.
    """
    places = find_places(backbone)
    modules = modules_of_stages(places)
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
        sum_by_stage({site: place.weights for site, place in places.items()}),
        skipped if position is None else skipped[skipped["position"] == position],
    )
