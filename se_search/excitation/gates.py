"""The gates of a network's channel attention: where they are, what they return, and what happens without them."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..data.image_data import ImageData, ImageSet, batches
from ..errors import BackboneError, ConfigurationError, DataError, first_reason
from ..network.attention.se import ElasticSE, GateFromOne
from ..network.config import SEConfig
from ..network.discovery import ATTENTION, Place
from ..network.sites import Site, find_places
from ..training.recipe import TrainingRecipe, autocast, to_device
from ..words import by

_PARTS_OF_GATES = ("gate", "sigmoid", "_gate")  # of timm's blocks, of those of its SENets, of the elastic one
_GATE_NAMES = {"Hardsigmoid": "hard_sigmoid", "HardSigmoid": "hard_sigmoid", "HardSigmoidMe": "hard_sigmoid"}


@dataclass(frozen=True)
class ExcitedBlock:
    """A channel attention whose gate multiplies each channel of each image.

    Attributes:
        module: Name of the module.
        block: Name of the block that it stands in.
        stage: Number of its stage, ``None`` where that cannot be told.
        position: One of :data:`se_search.network.discovery.POSITIONS`, ``None`` where it cannot be told.
        channels: Number of channels.
        gate: Name of the gate, such as ``"sigmoid"``.
    """

    module: str
    block: str
    stage: int | None
    position: str | None
    channels: int
    gate: str


def find_gates(model: nn.Module) -> dict[str, nn.Module]:
    """Return the gate of each channel attention in a network, by the name of the attention.

    These are timm's :data:`se_search.network.discovery.ATTENTION`, what this package inserts, and the supernet's
    elastic blocks.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, ElasticSE) or any(_is_timms(kind) for kind in type(module).__mro__):
            parts = (getattr(module, part, None) for part in _PARTS_OF_GATES)
            gate = next((part for part in parts if isinstance(part, nn.Module)), None)
            if gate is not None:
                found[name] = gate
    return found


def _is_timms(kind: type) -> bool:
    return kind.__name__ in ATTENTION and kind.__module__.startswith("timm.")


@contextmanager
def _watched(gates: Mapping[str, nn.Module], see: Callable[[str, torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """Call ``see`` with what each gate returns; what it returns itself takes the place of that."""

    def hook(name: str, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor | None:
        return see(name, output)

    handles = [gate.register_forward_hook(functools.partial(hook, name)) for name, gate in gates.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced_gates(gates: Mapping[str, nn.Module], means: Mapping[str, npt.NDArray[Any]]) -> Iterator[None]:
    """Let gates return, meanwhile, the same value of each channel for every image.

    Args:
        gates: Gates by name, some of :func:`find_gates`.
        means: Their values, one for each channel.
    """

    def constant(name: str, output: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(means[name]).to(output).reshape(1, *output.shape[1:]).expand_as(output)

    with _watched(gates, constant):
        yield


def find_blocks(
    model: nn.Module, data: ImageData, recipe: TrainingRecipe, device: str
) -> tuple[list[ExcitedBlock], list[dict[str, str]]]:
    """Return the blocks whose gates can be analysed, in forward order, and those that cannot with the reason.

    A gate must run once in a forward pass and return one value for each channel of each image. Gates that do not run,
    such as those of an elastic block that is switched off, are left out.

    Args:
        model: A network in evaluation mode on ``device``.
        data: What it is tried on.
        recipe: Gives the precision.
        device: A torch device.

    Raises:
        ConfigurationError: If there is none, or the network is no classifier.
        DataError: If the network cannot take the images, or tells other classes apart than the data have.
    """
    gates = find_gates(model)
    seen: dict[str, list[torch.Size]] = {}

    def note(name: str, output: torch.Tensor) -> None:
        seen.setdefault(name, []).append(output.shape)

    logits, count = _try(model, gates, note, data, recipe, device)
    kind = type(model).__name__
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise ConfigurationError(f"this {kind} does not return one row of logits for each image: give a classifier")
    if logits.shape[1] != data.classes:
        raise DataError(
            f"the network tells {logits.shape[1]} classes apart and {data.name} has {data.classes}: "
            "name the data of its classes"
        )
    sites = _sites_by_module(model, list(gates), data.input_size)
    blocks, skipped = [], []
    for name, shapes in seen.items():
        shape = shapes[0]
        site = sites.get(name)
        block = site.block if site else name.rpartition(".")[0] or name
        if len(shapes) > 1:
            skipped.append({"block": block, "reason": f"its gate runs {len(shapes)} times in one forward"})
        elif shape[0] != count or shape.numel() != count * max(shape[1:], default=1):
            skipped.append({"block": block, "reason": "its gate is not one value for each channel of each image"})
        else:
            blocks.append(
                ExcitedBlock(
                    name,
                    block,
                    site.stage if site else None,
                    site.position if site else None,
                    shape.numel() // count,
                    gate_name(gates[name]),
                )
            )
    for name in (name for name in gates if name not in seen):
        # An elastic block may be switched off; in timm's networks such attention adds to its input.
        if not isinstance(model.get_submodule(name), ElasticSE) and not name.endswith(".kept"):
            skipped.append({"block": name.rpartition(".")[0] or name, "reason": "its gate does not run"})
    if not blocks:
        reason = f": of {skipped[0]['block']}, {skipped[0]['reason']}" if skipped else ""
        raise ConfigurationError(f"this {kind} has no SE block whose gate can be analysed{reason}")
    return blocks, skipped


def _try(
    model: nn.Module,
    gates: Mapping[str, nn.Module],
    see: Callable[[str, torch.Tensor], None],
    data: ImageData,
    recipe: TrainingRecipe,
    device: str,
) -> tuple[Any, int]:
    """Return what the network gives for a batch, and how many images that has."""
    images = torch.zeros(2, *data.input_size)
    try:
        with _watched(gates, see):
            return _forward(model, images, recipe, device), len(images)
    except (AssertionError, RuntimeError) as error:  # timm's networks assert the size that they were made for
        raise DataError(
            f"the network cannot take images of {by(data.input_size)}, as {data.name} has them: {first_reason(error)}"
        ) from error


def _forward(model: nn.Module, images: torch.Tensor, recipe: TrainingRecipe, device: str) -> Any:
    target = torch.device(device)
    with torch.inference_mode(), autocast(recipe, target):
        return model(to_device(images, recipe, target))


def gate_name(gate: nn.Module) -> str:
    """Return what a gate is called in a configuration, or the name of its class in small letters."""
    if isinstance(gate, GateFromOne):
        return f"{gate_name(gate.gate)} from one"
    kind = type(gate).__name__
    return _GATE_NAMES.get(kind, kind.lower())


def _sites_by_module(model: nn.Module, modules: Sequence[str], size: tuple[int, int, int]) -> dict[str, Site]:
    """Return the site of each module, as far as that can be told."""
    config = getattr(model, "se_config", None)
    traced: list[tuple[str | nn.Module, tuple[int, int, int] | None]] = [(model, size)]
    if isinstance(config, SEConfig):  # of a network of the user's own timm does not know the name
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
        if place.side in ("slot", "existing"):
            names = [place.host, f"{place.host}.kept"]  # an elastic block keeps the backbone's own attention inside
        else:
            own = f"{place.host}.se_{site.position}"
            names = [own if own in modules or site.position != "standard" else f"{place.host}.se"]
        for name in names:
            if name in modules:
                found.setdefault(name, site)
    return found


def read_gates(
    model: nn.Module, gates: Mapping[str, nn.Module], images: ImageSet, recipe: TrainingRecipe, device: str
) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.int64]]:
    """Return the values of each gate, one row for each image, and the images' classes."""
    rows: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in gates}
    classes = []

    def keep(name: str, output: torch.Tensor) -> None:
        rows[name].append(output.flatten(1).float().cpu().numpy().copy())

    with _watched(gates, keep):
        for inputs, labels in batches(images, recipe.batch, workers=recipe.workers):
            _forward(model, inputs, recipe, device)
            classes.append(labels.numpy())
    values = {}
    for name in gates:
        values[name] = np.concatenate(rows.pop(name))
    return values, np.concatenate(classes)


def mean_gates(
    model: nn.Module, gates: Mapping[str, nn.Module], images: ImageSet, recipe: TrainingRecipe, device: str
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the mean of each gate over images."""
    sums: dict[str, npt.NDArray[np.float64]] = {}

    def add(name: str, output: torch.Tensor) -> None:
        sums[name] = sums.get(name, 0.0) + output.flatten(1).double().sum(0).cpu().numpy()

    count = 0
    with _watched(gates, add):
        for inputs, _ in batches(images, recipe.batch, workers=recipe.workers):
            _forward(model, inputs, recipe, device)
            count += len(inputs)
    return {name: total / count for name, total in sums.items()}
