"""Objectives that are exactly computable from a configuration, before any training."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

from ..network.config import SEConfig
from ..network.overhead import flops_overhead, parameter_share
from ..network.sites import Site
from ..study.space import Block, SearchSpace

EXACT: Mapping[str, Callable[[SEConfig, tuple[int, int, int]], float]] = {
    "parameter_overhead": lambda config, size: parameter_share(config),
    "flops_overhead": flops_overhead,
}
"""How each exact objective of :data:`~se_search.study.objectives.OBJECTIVES` is computed, from a configuration and an
input size ``(channels, height, width)``; it must be the sum of what the configuration's blocks cost one by one."""


def exact_objectives(
    space: SearchSpace, objectives: Sequence[str], size: tuple[int, int, int]
) -> dict[int, Callable[[Mapping[str, Any]], float]]:
    """Return functions that compute the exact objectives from the parameters of a trial, by index of the objective.

    Parameters and FLOPs of blocks are additive, so a configuration costs the sum of its blocks. The costs of each site
    and choice, and those of each stage, are cached: a sampler asks for hundreds of sums per trial. FLOPs are those of
    the input size ``(channels, height, width)``.
    """
    return {place: _additive(space, EXACT[name], size) for place, name in enumerate(objectives) if name in EXACT}


def _additive(
    space: SearchSpace, exact: Callable[[SEConfig, tuple[int, int, int]], float], size: tuple[int, int, int]
) -> Callable[[Mapping[str, Any]], float]:
    @cache
    def of_block(site: Site, block: Block) -> float:
        return exact(SEConfig(space.backbone, (space.place(site, block),)), size)

    @cache
    def of_constant(site: Site) -> float:
        return exact(SEConfig(space.backbone, constant=(site,)), size)

    @cache
    def of_removal(site: Site) -> float:
        return exact(SEConfig(space.backbone, removed=(site,)), size)

    @lru_cache(maxsize=2**16)
    def of_stage(stage: int, values: tuple[Any, ...]) -> float:
        parameters = dict(zip(space.names_of(stage), values, strict=True))
        placed, removed, constant = space.chosen(parameters, [stage])
        return sum(of_block(*one) for one in placed) + sum(map(of_removal, removed)) + sum(map(of_constant, constant))

    names = {stage: space.names_of(stage) for stage in space.stages}

    def total(parameters: Mapping[str, Any]) -> float:
        return sum(of_stage(stage, tuple([parameters[one] for one in own])) for stage, own in names.items())

    return total
