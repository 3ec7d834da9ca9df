"""Parameters and multiply-additions (FLOPs) of attention blocks."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ConfigurationError
from .attention.grid import Grid, grid_of
from .attention.layers import Gated
from .backbones import copy_on_meta, create_on_meta, default_input_size, network_options
from .config import SEConfig
from .discovery import Place
from .insertion import attach, count_parameters, create_model_on_meta
from .sites import Site, check_site, find_places, find_places_once


@dataclass(frozen=True)
class Overhead:
    """Parameters that attention blocks add to a backbone; negative if they replace or remove larger attention.

    Attributes:
        formula: Σ 2C²/r over the SE blocks (SENet paper, section 3.4 of the journal version), minus the weights of
            replaced and removed attention.
        counted: Parameters of the network minus those of its backbone, both counted.
        by_stage: ``formula`` for each stage with changed sites.
        backbone: Parameters of the backbone with timm's default classifier.
    """

    formula: float
    counted: int
    by_stage: dict[int, float]
    backbone: int

    @property
    def ratio(self) -> float:
        """Counted parameters as a share of the backbone's."""
        return self.counted / self.backbone


def formula_by_stage(config: SEConfig) -> dict[int, float]:
    """Return :attr:`Overhead.formula` by stage: (2/r)·N_s·C_s² for N_s SE blocks with one ratio."""
    total: dict[int, Fraction] = {}
    for placed in config.placed:
        stage = placed.site.stage
        total[stage] = total.get(stage, Fraction(0)) + placed.formula_parameters
    for site, place in _replaced(config):
        total[site.stage] = total.get(site.stage, Fraction(0)) - place.weights
    return {stage: float(cost) for stage, cost in sorted(total.items())}


def added_parameters(config: SEConfig) -> int:
    """Return :attr:`Overhead.counted`, computed without creating the network.

    Raises:
        BackboneError: If timm does not know the backbone.
        ConfigurationError: If a site does not exist in it.
    """
    return sum(placed.parameters for placed in config.placed) - sum(place.parameters for _, place in _replaced(config))


def _replaced(config: SEConfig) -> list[tuple[Site, Place]]:
    existing = [site for site in config.sites if site.position == "existing"]
    places = find_places(config.backbone) if existing else {}
    for site in existing:
        check_site(site, config.backbone, places)
    return [(site, places[site]) for site in existing]


@functools.lru_cache(maxsize=64)
def backbone_parameters(backbone: str) -> int:
    """Return the number of parameters of a backbone with timm's default classifier.

    Raises:
        BackboneError: If timm does not know the backbone.
    """
    return count_parameters(create_on_meta(backbone))


def parameter_overhead(config: SEConfig) -> Overhead:
    """Return the parameter overhead of ``config`` by the formula and counted on the network.

    Both agree exactly without biases and if the rounded hidden width is C/r.

    Raises:
        BackboneError: If timm does not know the backbone.
        ConfigurationError: If a site does not exist in it.
    """
    by_stage = formula_by_stage(config)
    backbone = backbone_parameters(config.backbone)
    counted = count_parameters(create_model_on_meta(config)) - backbone
    return Overhead(math.fsum(by_stage.values()), counted, by_stage, backbone)


def parameter_share(config: SEConfig) -> float:
    """Return :attr:`Overhead.ratio`, computed without creating the network."""
    return added_parameters(config) / backbone_parameters(config.backbone)


def count_flops(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> int:
    """Count the multiply-additions of a forward pass for one image.

    ``torch.utils.flop_counter`` counts convolutions and matrix products. Averaging and multiplication count one for
    each element, and so do the maximum and the windows of an SE block: squeeze and scale are not free.

    Args:
        model: A network; a copy without weights runs once.
        input_size: ``(channels, height, width)``; timm's input size by default.
    """
    counts = _count_by_module(model, input_size)
    root = type(model).__name__
    attention = [f"{root}.{name}" for name, module in model.named_modules() if isinstance(module, Gated)]
    pooled = sum(counts[name].get(pool, 0) for name in attention for pool in _POOLS if name in counts)
    return (_without_pools(counts["Global"]) + pooled) // 2


def _without_pools(counts: Mapping[Any, int]) -> int:
    return sum(count for operation, count in counts.items() if operation not in _POOLS)


def _count_by_module(model: nn.Module, input_size: tuple[int, int, int] | None) -> dict[str, dict[Any, int]]:
    return _run_counted(copy_on_meta(model), input_size or default_input_size(model))


def _run_counted(model: nn.Module, input_size: tuple[int, int, int]) -> dict[str, dict[Any, int]]:
    counter = FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE)
    model.requires_grad_(False)  # the counter fails on a parameter that is a module's input
    with torch.no_grad(), counter:
        model(torch.empty(1, *input_size, device="meta"))
    return counter.get_flop_counts()


def added_flops(config: SEConfig, input_size: tuple[int, int, int] | None = None) -> int:
    """Return the multiply-additions that ``config`` adds to its backbone, computed without creating the network.

    They equal the difference of :func:`count_flops` at ``input_size``.

    Raises:
        BackboneError: If timm does not know the backbone.
        ConfigurationError: If a site does not exist in it.
    """
    known = backbone_costs(config.backbone, input_size).sites if config.sites else {}
    for site in config.sites:
        check_site(site, config.backbone, known)
    added = sum(placed.on_grid(known[placed.site].grid).flops(known[placed.site].elements) for placed in config.placed)
    return added - sum(known[site].attention_flops for site in config.sites)


def flops_overhead(config: SEConfig, input_size: tuple[int, int, int] | None = None) -> float:
    """Return :func:`added_flops` as a share of the backbone's multiply-additions; errors are the same."""
    return added_flops(config, input_size) / backbone_costs(config.backbone, input_size).flops


@dataclass(frozen=True)
class SiteCosts:
    """What the cost of a block at a site depends on.

    Attributes:
        elements: Elements that the block scales.
        grid: Their grid; ``None`` if it is unknown.
        attention_parameters: Parameters of the backbone's own attention there.
        attention_weights: The same without biases.
        attention_flops: Its multiply-additions.
    """

    elements: int
    grid: Grid | None
    attention_parameters: int
    attention_weights: int
    attention_flops: int


@dataclass(frozen=True)
class BackboneCosts:
    """Costs of a bare backbone for one image.

    Attributes:
        input_size: Size of the image, ``(channels, height, width)``.
        parameters: Its parameters.
        flops: Its multiply-additions, as :func:`count_flops` counts them.
        sites: What the cost of a block depends on, at each of its sites.
    """

    input_size: tuple[int, int, int]
    parameters: int
    flops: int
    sites: dict[Site, SiteCosts]


@functools.lru_cache(maxsize=64)
def backbone_costs(backbone: str, input_size: tuple[int, int, int] | None = None) -> BackboneCosts:
    """Return the costs of a backbone, counted in one forward pass on the meta device.

    Args:
        backbone: A timm architecture name.
        input_size: ``(channels, height, width)``; timm's input size by default.

    Raises:
        BackboneError: If timm does not know the backbone, or it has no sites.
    """
    options = network_options(backbone, input_size) if input_size else {}
    model = create_on_meta(backbone, **options)
    places = find_places_once(model, backbone, options)
    parameters, size = count_parameters(model), input_size or default_input_size(model)
    shapes: dict[Site, tuple[int, ...]] = {}
    for site, place in places.items():
        recorder = _Recorder(site, shapes)
        if place.side == "existing":
            model.get_submodule(place.host).register_forward_pre_hook(recorder.read_input, with_kwargs=True)
        else:
            attach(model, site, place, recorder)
    counts, root = _run_counted(model, size), type(model).__name__
    sites = {}
    for site, place in places.items():
        own = _without_pools(counts[f"{root}.{place.host}"]) // 2 if place.side == "existing" else 0
        sites[site] = SiteCosts(
            math.prod(shapes[site]), _grid_at(site, shapes[site]), place.parameters, place.weights, own
        )
    return BackboneCosts(size, parameters, _without_pools(counts["Global"]) // 2, sites)


def _grid_at(site: Site, shape: tuple[int, ...]) -> Grid | None:
    try:
        return grid_of(shape, site.layout, site.grid)
    except ConfigurationError:
        return None


class _Recorder(nn.Module):
    """Records the shape of the tensor at a site."""

    def __init__(self, site: Site, shapes: dict[Site, tuple[int, ...]]) -> None:
        super().__init__()
        self._site, self._shapes = site, shapes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._shapes[self._site] = tuple(x.shape)
        return x

    def read_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the input of the backbone's own attention."""
        self(*args, **kwargs)


def _flops_of_elements(shape: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(shape)


_POOLS = (torch.ops.aten.amax, torch.ops.aten.avg_pool2d, torch.ops.aten.max_pool2d_with_indices)
"""Pooling that counts in attention blocks only."""

_ELEMENTWISE: dict[Any, Callable[..., int]] = dict.fromkeys(
    (torch.ops.aten.mean, torch.ops.aten.mul, *_POOLS), _flops_of_elements
)
