"""Costs of SE in an architecture, counted on its network."""

from ..network.attention.se import PlacedSE
from ..network.overhead import SiteCosts, backbone_costs
from ..network.sites import Site
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
    groups: dict[tuple[int, str], list[tuple[Site, SiteCosts]]] = {}
    for site, cost in found.sites.items():
        groups.setdefault((site.stage, site.position), []).append((site, cost))
    own = [cost for site, cost in found.sites.items() if site.position == "existing"]
    return ArchitectureCosts(
        family,
        found.parameters,
        found.flops,
        found.input_size,
        tuple(_group_costs(*group, sites) for group, sites in sorted(groups.items())),
        len(own),
        sum(cost.attention_parameters for cost in own),
        sum(cost.attention_flops for cost in own),
    )


def _group_costs(stage: int, position: str, sites: list[tuple[Site, SiteCosts]]) -> SiteGroupCosts:
    """Return the costs of SE at all sites of a stage and position."""
    placed = {ratio: [(PlacedSE(site, ratio), cost) for site, cost in sites] for ratio in RATIOS}
    return SiteGroupCosts(
        stage,
        position,
        len(sites),
        sum(site.channels**2 for site, _ in sites),
        tuple(sum(block.parameters for block, _ in blocks) for blocks in placed.values()),
        tuple(sum(block.flops(cost.elements) for block, cost in blocks) for blocks in placed.values()),
    )
