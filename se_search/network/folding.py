"""Fold constant gates into the weights beside them, so that no attention is left.

A gate that is the same for all images is one factor for each channel. It is multiplied into the weights that make the
scaled tensor, or into those that read it. The outputs in evaluation mode stay the same.
"""

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt
import torch
from timm.layers.conv2d_same import Conv2dSame  # timm.layers exports only functions that create it
from torch import nn

from ..errors import ConfigurationError
from .attention.layers import Gated
from .backbones import copy_network, copy_on_meta, create_on_meta, default_input_size
from .config import SEConfig
from .insertion import block_name, detach
from .sites import Site, find_places
from .tracing import Made, Step, Trace

_LAYERS = {
    "conv2d": (nn.Conv2d, Conv2dSame),
    "linear": (nn.Linear,),
}
"""Layers by the operation that they call. Exact classes: others may compute weights from their parameters."""

_NORMS = {
    "batch_norm": nn.modules.batchnorm._BatchNorm,
    "group_norm": nn.GroupNorm,
    "layer_norm": nn.LayerNorm,
}

_PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__"}
_UNCHANGED = {"to", "contiguous", "float", "type", "clone", "dropout", "dropout_"}
_AVERAGES = {"avg_pool2d", "adaptive_avg_pool2d", "mean"}
_RESHAPES = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze"}
_POSITIVE = {"relu", "relu_", "leaky_relu", "leaky_relu_", "max_pool2d"}
"""Operations that commute with a factor unless it is negative."""


@dataclass(frozen=True)
class Fold:
    """Where a constant gate is folded.

    Attributes:
        modules: Names of the layers whose weights absorb it.
        side: ``"output"``: their outputs are scaled; ``"input"``: their inputs.
        positive: Whether the gate must not be negative, because a rectifier is in between.
    """

    modules: tuple[str, ...]
    side: Literal["output", "input"]
    positive: bool = False


def find_folds(
    model: nn.Module, attention: Iterable[str], input_size: tuple[int, int, int] | None = None
) -> dict[str, Fold | str]:
    """Find where the gate of each attention block can be folded if it is constant, or the reason why it cannot.

    Args:
        model: A network, which stays unchanged.
        attention: Names of its attention modules that multiply each channel by a gate.
        input_size: ``(channels, height, width)``; timm's input size by default.
    """
    traced = copy_on_meta(model)
    walk = _Walk(Trace(traced).run(traced, input_size or default_input_size(model)))
    return {name: walk.find(name) for name in attention}


@functools.lru_cache(maxsize=64)
def foldable_sites(backbone: str) -> dict[Site, Fold | str]:
    """Return :func:`find_folds` for the sites ``existing`` of a backbone.

    Raises:
        BackboneError: As :func:`se_search.network.sites.find_sites`.
    """
    hosts = {site: place.host for site, place in find_places(backbone).items() if site.position == "existing"}
    folds = find_folds(create_on_meta(backbone), hosts.values()) if hosts else {}
    return {site: folds[host] for site, host in hosts.items()}


def fold_gates(
    model: nn.Module,
    gates: Mapping[str, npt.ArrayLike],
    input_size: tuple[int, int, int] | None = None,
    folds: Mapping[str, Fold | str] | None = None,
) -> nn.Module:
    """Return a copy without some attention blocks, whose gates are constants in the weights beside them.

    Its outputs in evaluation mode are those of ``model`` with these gates.

    Args:
        model: A network, which stays unchanged. If it has an ``se_config``, that of the copy is adapted.
        gates: The constant gate of each block by the name of its module, one value for each channel.
        input_size: As in :func:`find_folds`.
        folds: What :func:`find_folds` returned for this model, to save its trace.

    Raises:
        ConfigurationError: If a gate cannot be folded, with the reason.
    """
    folds = find_folds(model, gates, input_size) if folds is None else folds
    folded = copy_network(model)
    for name, gate in gates.items():
        fold, factors = folds[name], torch.as_tensor(gate, dtype=torch.float64).flatten()
        reason = fold if isinstance(fold, str) else ""
        if isinstance(fold, Fold) and fold.positive and bool((factors < 0).any()):
            reason = "some of its gates are negative, and a rectifier stands between it and the adjacent weights"
        if isinstance(fold, str) or reason:
            raise ConfigurationError(f"{name} cannot become constant: {reason}")
        for layer in fold.modules:
            scale = _scale_outputs if fold.side == "output" else _scale_inputs
            with torch.no_grad():
                scale(folded.get_submodule(layer), factors)
        detach(folded, name)
    config = getattr(model, "se_config", None)
    if isinstance(config, SEConfig):
        folded.se_config = _config_of(config, model, gates)  # type: ignore[assignment]  # for exports
    return folded


def _config_of(config: SEConfig, model: nn.Module, gates: Iterable[str]) -> SEConfig:
    """Return the configuration after folding: sites ``existing`` become constant, other blocks are gone."""
    places = find_places(config.backbone)
    own = [site for site in places if site.position == "existing" and site not in config.sites]
    there = {block_name(model, site, places[site]): site for site in (*config.sites, *own)}
    for name in gates:
        config = config.with_constant(there[name])
    return config


class _Walk:
    """Follows a scaled tensor through the trace of a network to the layers that can absorb the factors."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.readers: defaultdict[Made, list[tuple[Made, Step]]] = defaultdict(list)
        for made, step in trace.steps.items():
            for given in dict.fromkeys(step.inputs):
                self.readers[given].append((made, step))
        self.calls = {call.name: call for call in trace.calls}
        names = Counter(id(one) for module in trace.modules.values() for one in module.parameters(recurse=False))
        self.shared = {one for one, count in names.items() if count > 1}

    def find(self, name: str) -> Fold | str:
        """Return where the gate of attention module ``name`` is folded, or why it cannot be."""
        module, call = self.trace.modules[name], self.calls.get(name)
        if self.trace.runs[name] != 1 or call is None:
            return f"it runs {self.trace.runs[name]} times per forward"
        if isinstance(module, Gated) and not module.scales_all:
            return "it does not scale class and register tokens"
        if getattr(module, "mlp_add", None) is not None:  # timm's GlobalContext
            return "it also adds to its input"
        axis = getattr(module, "channel_axis", 3 if type(module).__name__ == "SqueezeExciteCl" else 1)
        before = self._before(call.inputs[0][:2], axis, name)
        after = self._after(call.output[:2], axis)
        found = [one for one in (before, after) if isinstance(one, Fold)]
        if not found:
            return f"before it, {before}; after it, {after}"
        return min(found, key=lambda fold: fold.positive)

    def _before(self, made: Made, axis: int, name: str) -> Fold | str:
        """Follow the tensor that attention module ``name`` scales back to the layer that makes it."""
        positive = False
        others = [step for _, step in self.readers[made] if not _is_inside(step.within, name)]
        while not others:
            step = self.trace.steps.get(made)
            if step is None:
                return "the network's input is scaled"
            layer = self._layer(step, made, axis, "output")
            if layer is not None:
                return Fold((step.within,), "output", positive) if layer is True else layer
            source = next((one for one in step.inputs if self._passes(step, one, made)), None)
            if source is None:
                return _stands_between(step)
            new = self._axis_before(step, source, made, axis)
            if new is None:
                return _stands_between(step)
            positive |= step.name in _POSITIVE
            others = [other for _, other in self.readers[source] if other is not step]
            made, axis = source, new
        return f"{_in_words(others[0])} also reads the tensor"

    def _after(self, made: Made, axis: int) -> Fold | str:
        """Follow the scaled tensor to all layers that read it."""
        if not self.readers[made]:
            return "the network returns the tensor"
        modules: list[str] = []
        positive = False
        for result, step in self.readers[made]:
            layer = self._layer(step, made, axis, "input")
            if layer is True:
                modules.append(step.within)
                continue
            if layer is not None:
                return layer
            new = self._axis_after(step, made, result, axis) if self._passes(step, made, result) else None
            if new is None:
                return _stands_between(step)
            found = self._after(result, new)
            if isinstance(found, str):
                return found
            modules += found.modules
            positive |= found.positive or step.name in _POSITIVE
        return Fold(tuple(dict.fromkeys(modules)), "input", positive)

    def _layer(self, step: Step, made: Made, axis: int, side: str) -> Literal[True] | str | None:
        """Return whether a layer's weights absorb factors of ``made``; ``None`` if the step is not one of a layer."""
        module = self.trace.modules[step.within]
        last = len(self.trace.shapes[made[0]]) - 1
        norm = isinstance(module, _NORMS.get(step.name, ()))
        if norm and side == "input" and step.name != "batch_norm":
            return f"{step.within} normalises the tensor"
        if not norm and type(module) not in _LAYERS.get(step.name, ()):
            return None
        flat: Any = getattr(module, "normalized_shape", (0,))
        if axis != (last if step.name in ("linear", "layer_norm") else 1) or len(flat) != 1:
            return f"{step.within} does not run along the channels"
        if getattr(module, "weight", None) is None or (norm and getattr(module, "bias", None) is None):
            return f"{step.within} has no weights"
        if side == "input" and norm and getattr(module, "running_mean", None) is None:
            return f"{step.within} normalises the tensor"
        if self.trace.runs[step.within] != 1:
            return f"{step.within} runs {self.trace.runs[step.within]} times per forward"
        if any(id(one) in self.shared for one in module.parameters(recurse=False)):
            return f"{step.within} shares its weights with another module"
        return True

    def _passes(self, step: Step, source: Made, result: Made) -> bool:
        """Whether the operation commutes with factors of ``source``."""
        if step.name in _PRODUCTS:
            # The other factors may broadcast; one that is the same tensor would square the factors.
            alone = step.inputs.count(source) == 1
            return alone and self._shape(source) == self._shape(result)
        known = step.order is not None or step.name in _UNCHANGED | _AVERAGES | _RESHAPES | _POSITIVE
        return known and len(step.inputs) == 1

    def _axis_before(self, step: Step, source: Made, result: Made, axis: int) -> int | None:
        if step.order is not None:
            return step.order[axis]
        return self._same_axis(step, result, source, axis)

    def _axis_after(self, step: Step, source: Made, result: Made, axis: int) -> int | None:
        if step.order is not None:
            return step.order.index(axis)
        return self._same_axis(step, source, result, axis)

    def _same_axis(self, step: Step, here: Made, there: Made, axis: int) -> int | None:
        """Return the channel dimension of ``there`` if ``here`` has it at ``axis``; ``None`` if it is split or lost."""
        known, other = self._shape(here), self._shape(there)
        if step.name not in _RESHAPES:
            return axis if len(known) == len(other) and known[axis] == other[axis] else None
        before, channels = math.prod(known[:axis]), known[axis]
        fits = (at for at, size in enumerate(other) if size == channels and math.prod(other[:at]) == before)
        return next(fits, None)

    def _shape(self, made: Made) -> tuple[int, ...]:
        return self.trace.shapes[made[0]]


def _is_inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _in_words(step: Step) -> str:
    name = step.name.strip("_").removeprefix("i" if step.name.startswith("__i") else "")
    return f"{name} in {step.within or 'the network'}"


def _stands_between(step: Step) -> str:
    return f"{_in_words(step)} stands between"


def _scaled(weight: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    return (weight.double() * factors).to(weight.dtype)


def _scale_outputs(layer: Any, factors: torch.Tensor) -> None:
    factors = factors.to(layer.weight.device)
    layer.weight.copy_(_scaled(layer.weight, factors.reshape(-1, *[1] * (layer.weight.dim() - 1))))
    if layer.bias is not None:
        layer.bias.copy_(_scaled(layer.bias, factors))


def _scale_inputs(layer: Any, factors: torch.Tensor) -> None:
    normalises = isinstance(layer, nn.modules.batchnorm._BatchNorm)
    weight, factors = layer.weight, factors.to(layer.weight.device)
    if normalises:
        # In evaluation mode: (s·x - m)·w/d + b = (x - m)·s·w/d + (b + (s - 1)·m·w/d).
        mean, deviation = layer.running_mean.double(), (layer.running_var.double() + layer.eps).sqrt()
        shift = (factors - 1) * mean * weight.double() / deviation
        layer.bias.copy_((layer.bias.double() + shift).to(layer.bias.dtype))
        layer.weight.copy_(_scaled(weight, factors))
        return
    groups = getattr(layer, "groups", 1)
    # Each group of outputs reads its own inputs.
    by_group = weight.unflatten(0, (groups, -1))
    own = factors.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    layer.weight.copy_(_scaled(by_group, own).flatten(0, 1))
