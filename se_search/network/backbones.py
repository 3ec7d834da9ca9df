"""Look up timm architectures: validate names, create networks (also without weights), find input sizes."""

import copy
import functools
from typing import Any

import timm
import torch
from timm.models import get_arch_name, get_model_input_config
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import BackboneError, did_you_mean, first_reason
from ..words import by
from .tracing import BATCH


def check_backbone(backbone: str) -> str:
    """Return ``backbone`` if timm has an architecture of that name (with or without a pretrained tag).

    Raises:
        BackboneError: If it does not; the message suggests similar names.
    """
    if not isinstance(backbone, str) or not timm.is_model(backbone):
        near = did_you_mean(get_arch_name(str(backbone)), timm.list_models())
        raise BackboneError(f"backbone {backbone!r} is not an architecture of timm{near}")
    return backbone


def create_backbone(backbone: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Create a backbone with ``timm.create_model``.

    Raises:
        BackboneError: If timm does not know the name or its tag, or cannot create the network with these arguments.
    """
    check_backbone(backbone)
    try:
        return timm.create_model(backbone, pretrained=pretrained, **kwargs)
    except (RuntimeError, ValueError) as error:
        raise BackboneError(f"backbone {backbone!r} cannot be created by timm: {error}") from error


def create_on_meta(backbone: str, **kwargs: Any) -> nn.Module:
    """Create a backbone on the meta device, in evaluation mode."""
    with torch.device("meta"), _WithoutValues():
        return create_backbone(backbone, **kwargs).eval()


class _WithoutValues(TorchFunctionMode):
    """Skips the initialisation of tensors on the meta device: `clamp_` alone is half the time to create Swin."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _INITIALISING and args and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


_INITIALISING = {"clamp_", "erfinv_", "fill_", "normal_", "uniform_", "zero_"}


def copy_on_meta(model: nn.Module) -> nn.Module:
    """Copy a network to the meta device, in float32 and evaluation mode."""
    memo: dict[int, torch.Tensor] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for tensor in (*model.buffers(), *_computed_tensors(model)):
        memo[id(tensor)] = torch.empty_like(tensor, device="meta")
    return copy.deepcopy(model, memo).float().eval()


def copy_network(model: nn.Module) -> nn.Module:
    """Copy a network, also one that has kept tensors of a forward pass with gradients, which PyTorch does not copy."""
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in _computed_tensors(model)})


def _computed_tensors(model: nn.Module) -> list[torch.Tensor]:
    """Return tensors with gradients that modules keep, as EfficientFormer in ``attention_bias_cache``."""
    kept = (
        value
        for module in model.modules()
        for values in vars(module).values()
        if isinstance(values, dict)
        for value in values.values()
    )
    return [value for value in kept if isinstance(value, torch.Tensor) and not value.is_leaf]


def default_input_size(model: nn.Module) -> tuple[int, int, int]:
    """Return the input size ``(channels, height, width)`` that ``model`` requires or that timm recommends for it."""
    channels, height, width = get_model_input_config(model)["input_size"]
    return channels, height, width


@functools.lru_cache(maxsize=64)
def backbone_input_size(backbone: str) -> tuple[int, int, int]:
    """Return :func:`default_input_size` of an architecture, which may be the user's own and unknown to timm's table."""
    return default_input_size(create_on_meta(backbone))


def network_options(backbone: str, input_size: tuple[int, int, int]) -> dict[str, Any]:
    """Return the arguments with which ``timm.create_model`` gives a network for images of ``input_size``.

    They are empty for networks that accept any size and contain ``img_size`` for networks with a fixed size.

    Raises:
        BackboneError: If the network does not accept such images.
    """
    return dict(_network_options(backbone, input_size))


@functools.lru_cache(maxsize=64)
def _network_options(backbone: str, input_size: tuple[int, int, int]) -> tuple[tuple[str, Any], ...]:
    reason = ""
    for options in ((), (("img_size", input_size[1:]),)):
        try:
            model = create_on_meta(backbone, **dict(options))
            with torch.no_grad():
                model(torch.empty(BATCH, *input_size, device="meta"))
            return options
        except BackboneError:
            raise
        except Exception as error:  # timm's networks raise many exception types for inputs of a wrong size
            reason = reason or first_reason(error)
    raise BackboneError(f"backbone {backbone!r} cannot take images of {by(input_size)}: {reason}")
