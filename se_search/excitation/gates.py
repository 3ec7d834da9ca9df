"""Find, record and replace the gates of a network's channel attention."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..data.image_data import ImageData, ImageSet, batches
from ..errors import BackboneError, ConfigurationError, DataError, first_reason
from ..network.attention.gates import GATES
from ..network.attention.layers import Elastic, GateFromOne
from ..network.config import SEConfig
from ..network.discovery import Place
from ..network.gates import (
    by_channel,
    find_gates as find_gates,
    has_windows,
    replaced_gates as replaced_gates,
    watched_gates,
)
from ..network.sites import Site, find_places
from ..training.mean_gates import forward_images, mean_gates as mean_gates
from ..training.recipe import TrainingRecipe
from ..words import by

_GATE_NAMES = {name.replace("_", ""): name for name in GATES}


@dataclass(frozen=True)
class ExcitedBlock:
    """Channel attention whose gate, such as ``"sigmoid"``, multiplies each channel of each image.

    ``module`` is the name of the attention module and ``block`` that of the block that contains it. Its stage and its
    position, one of :data:`se_search.network.positions.POSITIONS`, are ``None`` if they are unknown.
    """

    module: str
    block: str
    stage: int | None
    position: str | None
    channels: int
    gate: str


def find_blocks(
    model: nn.Module, data: ImageData, recipe: TrainingRecipe, device: str
) -> tuple[list[ExcitedBlock], list[dict[str, str]]]:
    """Return the blocks whose gates can be analysed, in forward order, and the skipped ones with the reason.

    A gate must run once per forward pass and return one value per channel and image, or one for each window. Gates of
    elastic blocks that are switched off are ignored. The network is in evaluation mode on ``device``; a trial forward
    pass has the precision of ``recipe``.

    Raises:
        ConfigurationError: If no gate can be analysed, or the network is not a classifier.
        DataError: If the network cannot take the images, or has another number of classes than the data.
    """
    gates = find_gates(model)
    seen: dict[str, list[torch.Size]] = {}

    def note(name: str, output: torch.Tensor) -> None:
        seen.setdefault(name, []).append(output.shape)

    logits, count = _try(model, gates, note, data, recipe, device)
    kind = type(model).__name__
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise ConfigurationError(f"this {kind} does not return one row of logits for each image: pass a classifier")
    if logits.shape[1] != data.classes:
        raise DataError(
            f"the network has {logits.shape[1]} classes and {data.name} has {data.classes}: give data with the "
            "network's classes"
        )
    sites = _sites_by_module(model, list(gates), data.input_size)
    blocks, skipped = [], []
    for name, shapes in seen.items():
        shape = shapes[0]
        site = sites.get(name)
        block = site.block if site else name.rpartition(".")[0] or name
        if len(shapes) > 1:
            skipped.append({"block": block, "reason": f"its gate runs {len(shapes)} times per forward"})
        elif has_windows(model, name, shape) and shape[0] == count:
            blocks.append(_block(name, block, site, shape[1], gates[name]))
        elif shape[0] != count or shape.numel() != count * max(shape[1:], default=1):
            skipped.append({"block": block, "reason": "its gate is not one value per channel and image"})
        else:
            blocks.append(_block(name, block, site, shape.numel() // count, gates[name]))
    for name in (name for name in gates if name not in seen):
        # Elastic blocks can be switched off. In timm's networks a gate that does not run belongs to additive attention.
        if not isinstance(model.get_submodule(name), Elastic) and not name.endswith(".kept"):
            skipped.append({"block": name.rpartition(".")[0] or name, "reason": "its gate does not run"})
    if not blocks:
        reason = f" ({skipped[0]['block']}: {skipped[0]['reason']})" if skipped else ""
        raise ConfigurationError(f"this {kind} has no attention block whose gate can be analysed{reason}")
    return blocks, skipped


def _block(module: str, block: str, site: Site | None, channels: int, gate: nn.Module) -> ExcitedBlock:
    stage, position = (site.stage, site.position) if site else (None, None)
    return ExcitedBlock(module, block, stage, position, channels, gate_name(gate))


def _try(
    model: nn.Module,
    gates: Mapping[str, nn.Module],
    see: Callable[[str, torch.Tensor], None],
    data: ImageData,
    recipe: TrainingRecipe,
    device: str,
) -> tuple[Any, int]:
    """Return the network's output for a batch, and the batch size."""
    images = torch.zeros(2, *data.input_size)
    try:
        with watched_gates(gates, see):
            return forward_images(model, images, recipe, device), len(images)
    except (AssertionError, RuntimeError) as error:  # timm's networks assert their input size
        raise DataError(
            f"the network cannot take images of {by(data.input_size)}, the size of {data.name}: {first_reason(error)}"
        ) from error


def gate_name(gate: nn.Module) -> str:
    """Return the name of a gate in configurations, or its class name in lower case."""
    if isinstance(gate, GateFromOne):
        return f"{gate_name(gate.gate)} from one"
    kind = type(gate).__name__.lower().removesuffix("me")  # timm's memory-efficient variants
    return _GATE_NAMES.get(kind, kind)


def _sites_by_module(model: nn.Module, modules: Sequence[str], size: tuple[int, int, int]) -> dict[str, Site]:
    """Return the site of each module, if known."""
    config = getattr(model, "se_config", None)
    traced: list[tuple[str | nn.Module, tuple[int, int, int] | None]] = [(model, size)]
    if isinstance(config, SEConfig):  # a user's own network has no architecture name in timm
        traced.insert(0, (config.backbone, None))
    for backbone, input_size in traced:
        try:
            return _match(find_places(backbone, input_size), modules)
        except BackboneError:
            continue
    return {}


def _match(places: Mapping[Site, Place], modules: Sequence[str]) -> dict[str, Site]:
    found: dict[str, Site] = {}
    for site, place in places.items():
        own = f"{place.host}.se_{site.position}"
        if place.side in ("slot", "existing"):
            names = {place.host, f"{place.host}.kept"}  # an elastic block contains the backbone's own attention
        else:
            names = {own if own in modules or site.position != "standard" else f"{place.host}.se"}
        found = dict.fromkeys(names.intersection(modules), site) | found
    return found


def read_gates(
    model: nn.Module, gates: Mapping[str, nn.Module], images: ImageSet, recipe: TrainingRecipe, device: str
) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.int64]]:
    """Return the values of each gate, of shape (images, channels), and the images' classes."""
    rows: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in gates}
    classes = []

    def keep(name: str, output: torch.Tensor) -> None:
        rows[name].append(by_channel(model, name, output).float().cpu().numpy().copy())

    with watched_gates(gates, keep):
        for inputs, labels in batches(images, recipe.batch, workers=recipe.workers):
            forward_images(model, inputs, recipe, device)
            classes.append(labels.numpy())
    # Each gate's batches are freed as soon as they are joined.
    return {name: np.concatenate(rows.pop(name)) for name in gates}, np.concatenate(classes)
