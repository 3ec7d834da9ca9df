"""Objectives that are exactly computable from a configuration, before any training."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from ..network.config import SEConfig
from ..network.overhead import flops_overhead, parameter_share
from ..network.sites import Site
from ..study.space import SearchSpace


def exact_objectives(
    space: SearchSpace, objectives: Sequence[str], size: tuple[int, int, int]
) -> dict[int, Callable[[Mapping[str, Any]], float]]:
    """Return functions that compute the exact objectives from the parameters of a trial, by index of the objective.

    Parameters and FLOPs of blocks are additive, so a configuration costs the sum of its blocks. The cost of each site
    and choice is cached.

    Args:
        space: The space.
        objectives: Names of the study's objectives.
        size: Input size ``(channels, height, width)`` at which FLOPs are counted.
    """
    known: dict[str, Callable[[SEConfig], float]] = {
        "parameter_overhead": parameter_share,
        "flops_overhead": lambda config: flops_overhead(config, size),
    }
    return {place: _additive(space, known[name]) for place, name in enumerate(objectives) if name in known}


def _additive(space: SearchSpace, cost: Callable[[SEConfig], float]) -> Callable[[Mapping[str, Any]], float]:
    @cache
    def of_block(site: Site, options: tuple[Any, ...]) -> float:
        return cost(SEConfig(space.backbone, (space.place(site, options),)))

    @cache
    def of_removal(site: Site) -> float:
        return cost(SEConfig(space.backbone, removed=(site,)))

    def total(parameters: Mapping[str, Any]) -> float:
        placed, removed = space.chosen(parameters)
        return sum(of_block(*one) for one in placed) + sum(map(of_removal, removed))

    return total
