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


class Excitation(nn.Module):
    """Two layers with ReLU between them and a sigmoid behind, on a GPU in one kernel if they are small."""

    def __init__(self, first: PooledLinear, second: PooledLinear) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``x`` of shape ``(N, inputs)`` to gates of shape ``(N, outputs)``."""
        first, second = self.first, self.second
        few = max(first.weight.numel(), second.weight.numel()) <= _MOST_WEIGHTS
        if _uses_kernels(x) and few and x.is_contiguous() and first.bias is not None and second.bias is not None:
            from .kernels import excite  # needs Triton

            return excite(x, first.weight, first.bias, second.weight, second.bias)
        return second(F.relu(first(x))).sigmoid()


_MOST_WEIGHTS = 1 << 15
"""Of a layer of an excitation, which one multiprocessor reads for each image."""


def _uses_kernels(x: torch.Tensor) -> bool:
    """Whether kernels of our own run here: a compiler fuses by itself, and exported networks have only PyTorch's."""
    return x.is_cuda and not torch.compiler.is_compiling()


def _is_dense(x: torch.Tensor) -> bool:
    return x.numel() < 1 << 31 and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
