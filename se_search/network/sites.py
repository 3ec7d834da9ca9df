"""Sites for SE blocks in a backbone, found by tracing."""

import functools
import itertools
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.utils import reparameterize_model
from torch import nn

from ..errors import BackboneError, ConfigurationError, first_reason
from ..words import by
from .attention.grid import Grid
from .attention.kind import PlacedAttention, check_choice
from .backbones import copy_on_meta, create_on_meta, default_input_size, network_options
from .discovery import Found, Place, discover, name_blocks, stream_of
from .positions import POSITIONS, default_among
from .stages import StageSites
from .tracing import EmptySlot, Trace

_BRANCH_SLOT, _SHORTCUT_SLOT = "se", "downsample"
"""Attributes of timm's blocks for an optional layer; ``None`` if the block has none."""


@dataclass(frozen=True, order=True)
class Site:
    """A place for one SE block.

    Attributes:
        block: Name of the block in the backbone, such as ``"layer2.0"``. For a block with several residual branches,
            name of the module in which the branch ends, such as ``"blocks.0.attn"``.
        stage: Number of the stage as in the SENet paper: the stem is 1, resnet50's ``layer1`` is 2.
        position: One of :data:`se_search.network.positions.POSITIONS`.
        channels: Channels that the SE block scales.
        layout: Order of the dimensions: ``"NCHW"``, ``"NHWC"`` or, for tokens, ``"NLC"`` or ``"NCL"``.
        grid: Rows and columns of the positions in the traced network; ``None`` if they are unknown, as in a
            configuration read from a file. It does not count in comparisons.

    Raises:
        ConfigurationError: If a value has the wrong type or is out of range.
    """

    block: str
    stage: int
    position: str
    channels: int
    layout: str
    grid: Grid | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("block", "position", "layout"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ConfigurationError(f"{name} {value!r} of a site is invalid: it must be a string")
        for name in ("stage", "channels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{name} {value!r} of a site is invalid: it must be an integer of at least 1")


@dataclass(frozen=True)
class SkippedSite:
    """A candidate site, with the reason why it cannot carry an SE block."""

    block: str
    position: str
    reason: str


@dataclass(frozen=True)
class ResidualAddition:
    """A residual addition of a backbone; ``channels`` is 0 and ``layout`` empty if they are unknown."""

    block: str
    channels: int
    layout: str


@dataclass(frozen=True)
class Discovery:
    """Result of tracing a backbone, in forward order: sites, candidates that are not sites, and residual additions."""

    places: dict[Site, Place]
    skipped: tuple[SkippedSite, ...]
    additions: tuple[ResidualAddition, ...]


def find_sites(
    backbone: str | nn.Module, input_size: tuple[int, int, int] | None = None, position: str | None = None
) -> tuple[Site, ...]:
    """Find the sites of a backbone in forward order, with all positions of a block together.

    The function traces one forward pass on the meta device. A residual addition joins a branch to a block's stream: its
    input or the sum of an earlier addition, unchanged or through one projection. Networks without residual additions
    get a ``post`` site at each repeated unit. A stage holds the blocks of one output resolution; stages are numbered in
    forward order. If a resolution has several widths, with at least two blocks each on average, each width is a stage.

    Args:
        backbone: A timm architecture name, or a model, which stays unchanged.
        input_size: ``(channels, height, width)`` for the trace; timm's input size by default.
        position: Return the sites of this position only, one of :data:`se_search.network.positions.POSITIONS`.

    Raises:
        BackboneError: If the name is unknown, or the network cannot be traced or has no site.
        ConfigurationError: If the position is unknown. A known one that the backbone lacks gives an empty tuple.
    """
    if position is not None:
        check_choice("position", position, POSITIONS)
    return tuple(site for site in find_places(backbone, input_size) if position in (None, site.position))


def check_site(site: Site, backbone: str, known: Container[Site]) -> None:
    """Check that ``site`` is one of ``known``, the sites of ``backbone``.

    Raises:
        ConfigurationError: If it is not.
    """
    if site not in known:
        raise ConfigurationError(f"{site} is not a site of {backbone}: `find_sites` lists them")


def check_grids(backbone: str, placed: Iterable[PlacedAttention]) -> None:
    """Check that the sites of blocks that need a grid have one.

    Raises:
        ConfigurationError: If one has none, with the reason.
    """
    for one in placed:
        if one.needs_grid:
            check_grid(one, find_places(backbone)[one.site], backbone)


def check_grid(placed: PlacedAttention, place: Place, network: str) -> None:
    """Check that a place has the grid that a block needs.

    Raises:
        ConfigurationError: If it has none, with the reason.
    """
    if placed.needs_grid and isinstance(place.grid, str):
        raise ConfigurationError(
            f"{placed.label} is impossible at {placed.site.block} ({placed.site.position}) of {network}: {place.grid}"
        )


def check_grids_for(backbone: str, placed: Iterable[PlacedAttention], input_size: tuple[int, int, int]) -> None:
    """Check that blocks at tokens find the right rows and columns of images of ``input_size``.

    Networks that take images of several sizes are created with the grid of their default size, so that images must have
    its aspect ratio.

    Raises:
        BackboneError: If the network does not accept such images.
        ConfigurationError: If they do not.
    """
    on_tokens = [one for one in placed if one.needs_grid and "L" in one.site.layout]
    if not on_tokens:
        return
    options = network_options(backbone, input_size)
    model = create_on_meta(backbone, **options)
    known, there = find_places_once(model, backbone, options), find_places(model, input_size)
    for one in on_tokens:
        assumed, grid = known[one.site].known_grid, there[one.site].known_grid
        if assumed is None or grid is None or not assumed.fits(grid):
            raise ConfigurationError(
                f"{one.label} is impossible at {one.site.block} ({one.site.position}) of {backbone} with images of "
                f"{by(input_size)}: their number of tokens does not determine rows and columns; use images of the "
                f"aspect ratio of {by(default_input_size(model))}"
            )


def grids_at(backbone: str, sizes: Iterable[tuple[int, int, int]]) -> dict[tuple[str, str], tuple[Grid, ...]]:
    """Return the grids at each block and position for images ``(channels, height, width)``, where they are known.

    The stage of a site can differ between sizes: where a map has one position, nothing is downsampled any more.

    Raises:
        BackboneError: If the network does not accept such images.
    """
    found = [
        {
            (site.block, site.position): place.known_grid
            for site, place in find_places(create_on_meta(backbone, **network_options(backbone, size)), size).items()
        }
        for size in dict.fromkeys(sizes)
    ]
    everywhere = {site: [grids.get(site) for grids in found] for grids in found[:1] for site in grids}
    known = {site: tuple(grid for grid in grids if grid is not None) for site, grids in everywhere.items()}
    return {site: grids for site, grids in known.items() if len(grids) == len(found)}


def default_position(backbone: str) -> str:
    """Return ``existing`` if the backbone has attention, else ``standard`` if it has residual branches, else ``post``.

    Raises:
        BackboneError: As :func:`find_sites`.
    """
    return default_among({site.position for site in find_sites(backbone)})


def sum_by_stage(weights: Mapping[Site, int]) -> tuple[StageSites, ...]:
    """Sum up sites by stage and position, in the order of their first sites.

    Args:
        weights: All sites of a backbone in forward order, with the weights of its own attention there.
    """
    modules = modules_of_stages(weights)
    groups: dict[tuple[int, str], list[Site]] = {}
    for site in weights:
        groups.setdefault((site.stage, site.position), []).append(site)
    return tuple(
        StageSites(
            stage,
            position,
            modules[stage],
            len(sites),
            (min(site.channels for site in sites), max(site.channels for site in sites)),
            sum(site.channels**2 for site in sites),
            sum(weights[site] for site in sites),
        )
        for (stage, position), sites in groups.items()
    )


def modules_of_stages(sites: Iterable[Site]) -> dict[int, str]:
    """Return timm's module that contains all blocks of each stage; the first and the last block if none does."""
    blocks: dict[int, list[str]] = {}
    for site in sites:
        blocks.setdefault(site.stage, []).append(site.block)
    return {stage: _module_of(names) for stage, names in blocks.items()}


def _module_of(blocks: Sequence[str]) -> str:
    parts = zip(*(block.split(".") for block in blocks), strict=False)
    levels = itertools.takewhile(lambda names: len(set(names)) == 1, parts)
    return ".".join(first for first, *_ in levels) or f"{blocks[0]} … {blocks[-1]}"


def find_places(backbone: str | nn.Module, input_size: tuple[int, int, int] | None = None) -> dict[Site, Place]:
    """Find sites as :func:`find_sites` does, and where their SE blocks are attached.

    Raises:
        BackboneError: As :func:`find_sites`.
    """
    name = backbone if isinstance(backbone, str) else type(backbone).__name__
    places = trace_backbone(backbone, input_size).places
    if not places:
        raise BackboneError(
            f"backbone {name!r} has no site for an SE block: it has neither a residual branch nor a repeated unit "
            "with a known channel dimension"
        )
    return places


def find_places_once(model: nn.Module, backbone: str, arguments: Mapping[str, Any]) -> dict[Site, Place]:
    """Cached :func:`find_places` for a bare network, by its architecture and arguments for ``timm.create_model``.

    A positive number of classes changes no site: it is left out, so that a search traces its backbone once.
    """
    varied = {name: value for name, value in arguments.items() if name != "num_classes" or not value}
    if not varied:
        return find_places(backbone)
    if not all(isinstance(value, _PLAIN) for value in varied.values()):
        return find_places(model)
    key = (backbone, *sorted(varied.items()))
    if key not in _places_of_created:
        _places_of_created[key] = find_places(model)
    return _places_of_created[key]


_PLAIN = (str, int, float, bool, tuple, type(None))
_places_of_created: dict[tuple[Any, ...], dict[Site, Place]] = {}


def trace_backbone(backbone: str | nn.Module, input_size: tuple[int, int, int] | None = None) -> Discovery:
    """Trace a backbone; results for names are cached.

    Raises:
        BackboneError: If the name is unknown or the network cannot be traced.
    """
    if isinstance(backbone, str):
        return _trace_by_name(backbone, input_size)
    return _discover(copy_on_meta(backbone), input_size, type(backbone).__name__)


@functools.lru_cache(maxsize=64)
def _trace_by_name(backbone: str, input_size: tuple[int, int, int] | None) -> Discovery:
    return _discover(create_on_meta(backbone), input_size, backbone)


def _discover(model: nn.Module, input_size: tuple[int, int, int] | None, name: str) -> Discovery:
    trace = _trace(model, input_size or default_input_size(model), name)
    trace.merged = _merge(model)
    found = discover(trace)
    stages = _number_stages(one for one in found if one.place)
    places = {
        Site(one.block, stages[one.block], one.position, one.channels, one.layout, one.place.known_grid): one.place
        for one in found
        if one.place
    }
    skipped = tuple(SkippedSite(one.block, one.position, one.reason) for one in found if not one.place)
    additions = tuple(
        ResidualAddition(block, *(stream_of(trace, addition) or (0, "")))
        for addition, block in zip(trace.additions, name_blocks(trace), strict=True)
    )
    return Discovery(places, skipped, additions)


def _merge(model: nn.Module) -> set[str]:
    """Merge layers in place as timm does for inference, and return the names of the modules that this removes."""
    before = dict(model.named_modules())
    try:
        with torch.device("meta"), torch.no_grad():
            after = dict(reparameterize_model(model, inplace=True).named_modules())
    except Exception:  # a user's own network may have an unrelated method with the name that timm calls
        return set(before)
    return {name for name, module in before.items() if after.get(name) is not module}


def _number_stages(found: Iterable[Found]) -> dict[str, int]:
    """Return the stage number of each block; the first is 2."""
    size_of: dict[str, tuple[int, int]] = {}
    for one in found:
        size_of.setdefault(one.block, one.size)
    blocks_of = Counter(size_of.values())
    numbers: dict[tuple[int, int], int] = {}
    stages = {}
    for block, (width, pixels) in size_of.items():
        alike = [blocks for (_, other), blocks in blocks_of.items() if other == pixels]
        key = (width if sum(alike) >= 2 * len(alike) else 0, pixels)
        stages[block] = numbers.setdefault(key, len(numbers) + 2)
    return stages


def _trace(model: nn.Module, input_size: tuple[int, int, int], name: str) -> Trace:
    _fill(model, _BRANCH_SLOT)
    try:
        trace = Trace(model).run(model, input_size)
    except Exception as error:  # timm's networks raise many exception types for inputs of a wrong size
        raise BackboneError(
            f"backbone {name!r} cannot be traced with images of {by(input_size)}: {first_reason(error)}"
        ) from error
    slots = _fill(model, _SHORTCUT_SLOT)
    return (slots and _run_with_shortcut_slots(model, input_size, slots, trace)) or trace


def _fill(model: nn.Module, slot: str) -> list[str]:
    """Put an :class:`EmptySlot` wherever ``slot`` is ``None`` and return the names of these slots."""
    empty = [(name, module) for name, module in model.named_modules() if getattr(module, slot, module) is None]
    for _, module in empty:
        setattr(module, slot, EmptySlot())
    return [f"{name}.{slot}" if name else slot for name, _ in empty]


def _run_with_shortcut_slots(
    model: nn.Module, input_size: tuple[int, int, int], slots: list[str], without: Trace
) -> Trace | None:
    """Trace with a layer in every shortcut slot; return ``None`` if that changes what the network computes.

    In some blocks such a layer reads another tensor than the block's input, and others have no shortcut without it.
    """
    try:
        trace = Trace(model).run(model, input_size)
    except Exception:  # as above; the slots are unusable if shapes no longer match
        return None
    used = {slot for slot in slots if trace.runs[slot]}
    same = len(trace.additions) == len(without.additions) and used <= trace.reads_stream
    return trace if same else None
