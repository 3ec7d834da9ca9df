"""Where SE blocks can stand in a backbone, found by tracing the network itself."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from timm.models import get_arch_name
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import BackboneError, ConfigurationError, did_you_mean

DEFAULT_INPUT_SIZE = (3, 224, 224)
SLOT = "se"
"""Name of the attribute in which timm's residual blocks keep their attention layer, ``None`` where they have none."""

_ADDITIONS = {
    torch.add,
    torch.Tensor.add,
    torch.Tensor.add_,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.__iadd__,
}


@dataclass(frozen=True, order=True)
class Site:
    """One place where an SE block can stand.

    Attributes:
        block: Name of the residual block in the backbone, such as ``"layer2.0"``.
        stage: Number of its stage as in the SENet paper: the stem is 1, resnet50's ``layer1`` is 2.
        position: ``"standard"``: on the residual branch just before the addition.
        channels: Channels that the SE block scales.
        layout: Order of the dimensions, ``"NCHW"``.

    Raises:
        ConfigurationError: If a value is of another kind.
    """

    block: str
    stage: int
    position: str
    channels: int
    layout: str

    def __post_init__(self) -> None:
        for name in ("block", "position", "layout"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ConfigurationError(f"{name} {value!r} of a site is not possible: it must be a string")
        for name in ("stage", "channels"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(
                    f"{name} {value!r} of a site is not possible: it must be an integer of at least 1"
                )


@dataclass
class _Frame:
    """One running module: what came in, and which of its children made which tensor."""

    name: str
    inputs: set[int]
    makers: dict[int, list[str]] = field(default_factory=dict)
    consumed: dict[str, set[int]] = field(default_factory=dict)

    def is_shortcut(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` is the block's input, as it came or after one child."""
        makers = self.makers.get(id(tensor), [])
        return id(tensor) in self.inputs or any(self.consumed[maker] & self.inputs for maker in makers)


class _ResidualTracer(TorchFunctionMode):
    """Records the residual additions whose branch passes through a block's SE slot."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[int, ...]]] = []
        self._stack: list[_Frame] = []
        self._alive: list[torch.Tensor] = []  # an identity stays unique only while its tensor lives

    def enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._stack.append(_Frame(name, self._identities((*args, *kwargs.values()))))

        return hook

    def leave(self, name: str) -> Callable[..., None]:
        child = name.rpartition(".")[2]

        def hook(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            frame = self._stack.pop()
            if self._stack:
                parent = self._stack[-1]
                parent.consumed.setdefault(child, set()).update(frame.inputs)
                for identity in self._identities((output,)):
                    parent.makers.setdefault(identity, []).append(child)

        return hook

    def _identities(self, values: tuple[Any, ...]) -> set[int]:
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        self._alive.extend(tensors)
        return {id(tensor) for tensor in tensors}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _ADDITIONS and self._stack and len(args) >= 2:
            self._record(args[0], args[1])
        return func(*args, **(kwargs or {}))

    def _record(self, left: object, right: object) -> None:
        if not (isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)) or left.shape != right.shape:
            return
        frame = self._stack[-1]
        for branch, shortcut in ((left, right), (right, left)):
            if SLOT in frame.makers.get(id(branch), []) and frame.is_shortcut(shortcut):
                self.found.append((frame.name, tuple(branch.shape)))
                return


def check_backbone(backbone: str) -> str:
    """Return ``backbone`` if timm knows an architecture of that name (with or without a pretrained tag).

    Raises:
        BackboneError: If it does not; the message holds near names.
    """
    if not isinstance(backbone, str) or not timm.is_model(backbone):
        near = did_you_mean(get_arch_name(str(backbone)), timm.list_models())
        raise BackboneError(f"backbone {backbone!r} is not an architecture of timm{near}")
    return backbone


def create_on_meta(backbone: str, **kwargs: Any) -> nn.Module:
    """Create a backbone without memory for its weights, in evaluation mode.

    Args:
        backbone: A timm architecture name.
        **kwargs: Passed to ``timm.create_model``.
    """
    check_backbone(backbone)
    with torch.device("meta"):
        try:
            model = timm.create_model(backbone, pretrained=False, **kwargs)
        except RuntimeError as error:
            raise BackboneError(f"backbone {backbone!r} cannot be created by timm: {error}") from error
    return model.eval()


def default_input_size(model: nn.Module) -> tuple[int, int, int]:
    """Input size ``(channels, height, width)`` that ``model`` takes: its own channels, timm's resolution or 224×224."""
    channels, *resolution = (getattr(model, "pretrained_cfg", None) or {}).get("input_size") or DEFAULT_INPUT_SIZE
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return (first.in_channels if first else channels, *resolution)


def find_sites(backbone: str | nn.Module, input_size: tuple[int, int, int] | None = None) -> tuple[Site, ...]:
    """Find the sites of a backbone of timm's ResNet family, in forward order.

    One forward pass on the meta device finds every residual addition whose branch passes the block's ``se`` slot.
    Stages are the blocks of one output resolution and width, numbered in the order in which they appear.

    Args:
        backbone: A timm architecture name, or a model (which stays as it is).
        input_size: ``(channels, height, width)`` to trace with; timm's own size by default.

    Raises:
        BackboneError: If the name is unknown or the network has no such place.
    """
    if isinstance(backbone, str):
        return _find_sites_by_name(backbone, input_size)
    return _trace_sites(copy.deepcopy(backbone).to("meta").eval(), input_size, type(backbone).__name__)


@functools.lru_cache(maxsize=64)
def _find_sites_by_name(backbone: str, input_size: tuple[int, int, int] | None) -> tuple[Site, ...]:
    return _trace_sites(create_on_meta(backbone), input_size, backbone)


def _trace_sites(model: nn.Module, input_size: tuple[int, int, int] | None, name: str) -> tuple[Site, ...]:
    slots = [module for module in model.modules() if getattr(module, SLOT, module) is None]
    for module in slots:
        setattr(module, SLOT, nn.Identity())
    additions = _trace_additions(model, input_size or default_input_size(model)) if slots else []
    if not additions:
        holders = [getattr(module, SLOT, None) for module in model.modules()]
        occupied = any(isinstance(holder, nn.Module) and not isinstance(holder, nn.Identity) for holder in holders)
        reason = (
            "it carries attention layers already"
            if occupied and not slots
            else "it has no residual block with an SE slot"
        )
        raise BackboneError(
            f"backbone {name!r} has no site for an SE block: {reason}; "
            "choose a plain member of timm's ResNet family, such as resnet50, resnet18d or resnext50_32x4d"
        )
    sites = []
    stages: dict[tuple[int, ...], int] = {}
    for block, (_, channels, *resolution) in additions:
        stage = stages.setdefault((channels, *resolution), len(stages) + 2)
        sites.append(Site(block, stage, "standard", channels, "NCHW"))
    return tuple(sites)


def _trace_additions(model: nn.Module, input_size: tuple[int, int, int]) -> list[tuple[str, tuple[int, ...]]]:
    tracer = _ResidualTracer()
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(tracer.enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(tracer.leave(name)))
    try:
        with torch.no_grad(), tracer:
            model(torch.empty(1, *input_size, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    return tracer.found
