"""Modules of networks that are optimized for inference."""

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ExportError
from ..words import by


class FixedSize(nn.Module):
    """Checks the size of images: ``(channels, height, width)``."""

    def __init__(self, input_size: tuple[int, int, int]) -> None:
        super().__init__()
        self.input_size = input_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``images``.

        Raises:
            ExportError: If they have another size.
        """
        if tuple(images.shape[1:]) != self.input_size:
            raise ExportError(
                f"images of {by(images.shape[1:])} cannot be taken: this network was optimized for "
                f"{by(self.input_size)}"
            )
        return images


class PooledLinear(nn.Module):
    """A linear layer of an excitation: weights of shape ``(outputs, inputs)``, and biases ``(outputs,)`` or none."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``x`` of shape ``(N, inputs)`` to ``(N, outputs)``."""
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting() and x.shape[0] == 1:
            # Inductor fuses a sum with the operations around it, while a matrix product is a separate call.
            product = (self.weight[None] * x[:, None, :]).sum(-1)
            return product if self.bias is None else product + self.bias
        return F.linear(x, self.weight, self.bias)


class ScaledSum(nn.Module):
    """``x * gate + other`` in one pass over memory, written over ``x`` where nothing else reads that."""

    def __init__(self, overwrites: bool) -> None:
        super().__init__()
        self.overwrites = overwrites

    def forward(self, x: torch.Tensor, gate: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the shape of ``x`` and ``other``, to which the gate is expanded."""
        if torch.compiler.is_compiling():  # compilers fuse by themselves
            return x * gate + other
        gradients = x.requires_grad or gate.requires_grad or other.requires_grad
        return torch.addcmul(other, x, gate, out=x if self.overwrites and not gradients else None)


class ScaleAddReLU(nn.Module):
    """``relu(x * gate + other)``, on a GPU in one kernel."""

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the shape of ``x`` and ``other``, ``(N, C, H, W)``; the gate has ``(N, C, 1, 1)``.

        ``None`` for the gate is a gate of one.
        """
        alike = (x.stride(), x.dtype) == (other.stride(), other.dtype)
        if _uses_kernels(x) and _is_dense(x) and alike:
            from .kernels import scale_add_relu  # needs Triton

            return scale_add_relu(x, gate, other)
        total = x + other if gate is None else (x * gate).add_(other)
        return total.relu_()


class SqueezeExcite(nn.Module):
    """An SE block with the sum and the ReLU that follow if they do: on a GPU in two kernels.

    Args:
        first: The first layer of the excitation.
        second: The second.
        axis: Dimension of the channels: 1, or the last.
        activated: Whether ReLU follows.
    """

    def __init__(self, first: PooledLinear, second: PooledLinear, axis: int, activated: bool) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.axis = axis
        self.activated = activated

    def forward(self, source: torch.Tensor, x: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
        """Return ``x`` scaled by the gates that the averages of ``source`` give, plus ``other``."""
        first, second, axis = self.first, self.second, self.axis
        alike = other is None or (x.stride(), x.dtype) == (other.stride(), other.dtype)
        if _uses_kernels(x) and alike and _is_dense(source, axis) and _is_dense(x, axis):
            from .kernels import squeeze_excite  # needs Triton

            return squeeze_excite(
                source, first.weight, first.bias, second.weight, second.bias, x, other, axis, self.activated
            )
        others = [place for place in range(1, x.ndim) if place != axis]
        gate = second(F.relu(first(source.mean(others)))).sigmoid()
        gate = gate.reshape([-1, *(1 if place in others else gate.shape[1] for place in range(1, x.ndim))])
        total = x * gate if other is None else torch.addcmul(other, x, gate)
        return total.relu_() if self.activated else total


def _uses_kernels(x: torch.Tensor) -> bool:
    """Whether kernels of our own run here: a compiler fuses by itself, and exported networks have only PyTorch's."""
    return x.is_cuda and not torch.compiler.is_compiling()


def _is_dense(x: torch.Tensor, axis: int = 1) -> bool:
    channels_last = axis == 1 and x.is_contiguous(memory_format=torch.channels_last)
    return x.numel() < 1 << 31 and (x.is_contiguous() or channels_last)
