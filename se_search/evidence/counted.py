"""Costs of SE in an architecture, counted on its network."""

from collections.abc import Mapping

from ..network.attention.se import PlacedSE
from ..network.overhead import SiteCosts, backbone_costs
from ..network.sites import Site, sum_by_stage
from ..network.stages import StageSites
from .atlas import RATIOS, ArchitectureCosts, SiteGroupCosts


def count_costs(backbone: str, family: str = "") -> ArchitectureCosts:
    """Return the costs of SE in an architecture at timm's input size, counted on a network without weights.

    Args:
        backbone: A timm architecture name.
        family: Its family, to be told in the result.

    Raises:
        BackboneError: If timm does not know the backbone, or it has no sites.
    """
    found = backbone_costs(backbone)
    stages = sum_by_stage({site: cost.attention_weights for site, cost in found.sites.items()})
    own = [cost for site, cost in found.sites.items() if site.position == "existing"]
    return ArchitectureCosts(
        family,
        found.parameters,
        found.flops,
        found.input_size,
        tuple(_group_costs(group, found.sites) for group in stages),
        len(own),
        sum(cost.attention_parameters for cost in own),
        sum(cost.attention_flops for cost in own),
    )


def _group_costs(group: StageSites, costs: Mapping[Site, SiteCosts]) -> SiteGroupCosts:
    """Return the costs of SE at all sites of a stage and position."""
    sites = {site: cost for site, cost in costs.items() if (site.stage, site.position) == (group.stage, group.position)}
    placed = {ratio: [(PlacedSE(site, ratio), cost) for site, cost in sites.items()] for ratio in RATIOS}
    return SiteGroupCosts(
        **vars(group),
        parameters=tuple(sum(block.parameters for block, _ in blocks) for blocks in placed.values()),
        flops=tuple(sum(block.flops(cost.elements) for block, cost in blocks) for blocks in placed.values()),
    )
