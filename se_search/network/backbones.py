"""timm's architectures by name: whether they exist, what they take, and how to create them without weights."""

import functools
from typing import Any

import timm
import torch
from timm.models import get_arch_name
from torch import nn

from ..errors import BackboneError, did_you_mean
from .tracing import BATCH

DEFAULT_INPUT_SIZE = (3, 224, 224)


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

    Raises:
        BackboneError: If timm does not know it or its tag.
    """
    check_backbone(backbone)
    with torch.device("meta"):
        try:
            model = timm.create_model(backbone, pretrained=False, **kwargs)
        except RuntimeError as error:
            raise BackboneError(f"backbone {backbone!r} cannot be created by timm: {error}") from error
    return model.eval()


def default_input_size(model: nn.Module) -> tuple[int, int, int]:
    """Input size ``(channels, height, width)`` that ``model`` takes: its own, the one timm publishes, or 3×224×224."""
    channels, *resolution = (getattr(model, "pretrained_cfg", None) or {}).get("input_size") or DEFAULT_INPUT_SIZE
    resolution = getattr(getattr(model, "patch_embed", None), "img_size", None) or resolution
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return (first.in_channels if first else channels, *resolution)


def network_options(backbone: str, input_size: tuple[int, int, int]) -> dict[str, Any]:
    """Return what ``timm.create_model`` needs besides the name for a network that takes images of ``input_size``.

    It is nothing for networks that take any size, and ``img_size`` for those that are built for one.

    Raises:
        BackboneError: If the network cannot take such images.
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
        except Exception as error:  # timm's networks raise many kinds for what they do not take
            reason = reason or str(error).partition("\n")[0]
    raise BackboneError(f"backbone {backbone!r} cannot take images of {'×'.join(map(str, input_size))}: {reason}")
