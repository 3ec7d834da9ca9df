"""The gates of a network's channel attention: find, watch and replace them."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from .attention.layers import Gated
from .discovery import ATTENTION

_PARTS_OF_GATES = ("gate", "sigmoid")  # of timm's blocks and this package's, of timm's legacy SENets


def find_gates(model: nn.Module) -> dict[str, nn.Module]:
    """Return the gates of a network's channel attention, by the name of the attention module.

    This covers timm's :data:`se_search.network.discovery.ATTENTION`, blocks inserted by this package, and the
    supernet's elastic blocks.
    """
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Gated) or any(
            kind.__name__ in ATTENTION and kind.__module__.startswith("timm.") for kind in type(module).__mro__
        ):
            parts = (getattr(module, part, None) for part in _PARTS_OF_GATES)
            gate = next((part for part in parts if isinstance(part, nn.Module)), None)
            if gate is not None:
                found[name] = gate
    return found


Seen = Callable[[str, torch.Tensor], torch.Tensor | None]
"""Receives the name and the output of a gate; a return value other than ``None`` replaces the output."""


@contextmanager
def watched_gates(
    gates: Mapping[str, nn.Module], see: Callable[[str, torch.Tensor], torch.Tensor | None]
) -> Iterator[None]:
    """Call ``see`` with the output of each gate."""

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
    """Replace the outputs of gates by their means, one value per channel, within the context (mean ablation).

    Windows have the same mean.
    """

    def constant(name: str, output: torch.Tensor) -> torch.Tensor:
        mean = torch.as_tensor(means[name]).to(output)
        by_channel = output.shape[1:] if mean.numel() == output[0].numel() else (len(mean), 1, 1)
        return mean.reshape(1, *by_channel).expand_as(output)

    with watched_gates(gates, constant):
        yield


def has_windows(model: nn.Module, name: str, shape: Sequence[int]) -> bool:
    """Whether the gate of a block has a value for each window, not one for the image."""
    return isinstance(model.get_submodule(name), Gated) and len(shape) == 4 and shape[2] * shape[3] > 1


def by_channel(model: nn.Module, name: str, output: torch.Tensor) -> torch.Tensor:
    """Return one value for each image and channel: the mean over windows."""
    return output.double().mean((2, 3)) if has_windows(model, name, output.shape) else output.flatten(1)
