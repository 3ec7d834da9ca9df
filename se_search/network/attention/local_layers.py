"""Modules of local mixing: the plain block, and the elastic block of a supernet."""

import torch
import torch.nn.functional as F
from torch import nn

from ...errors import ConfigurationError
from .grid import LAYOUTS, Grid
from .kind import check_choice
from .layers import Elastic, from_map, to_map


class LocalBlock(nn.Module):
    """A residual depthwise convolution over the positions of a tensor: ``x + conv(x)``; it starts at zero.

    Args:
        channels: Channels C of the tensor.
        kernel: Odd kernel size.
        bias: Whether the convolution has a bias.
        layout: One of :data:`~se_search.network.attention.grid.LAYOUTS`.
        grid: Rows and columns of tokens; tokens before the grid pass unchanged.
    """

    def __init__(
        self, channels: int, kernel: int = 3, bias: bool = True, layout: str = "NCHW", grid: Grid | None = None
    ) -> None:
        super().__init__()
        self.layout, self.grid = check_choice("layout", layout, LAYOUTS), grid
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the convolution of ``x`` to ``x``."""
        return _mix(x, self.conv.weight, self.conv.bias, self.layout, self.grid)


class ElasticLocal(Elastic):
    """A local block whose kernel size can change between forward passes; a smaller kernel is the middle of it.

    Args:
        channels: Channels C of the tensor.
        kernel: The largest kernel size.
        bias: Whether the convolution has a bias.
        layout: One of :data:`~se_search.network.attention.grid.LAYOUTS`.
        grid: Rows and columns of tokens.
        kept: The backbone's own attention at this site.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        bias: bool = True,
        layout: str = "NCHW",
        grid: Grid | None = None,
        kept: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.layout, self.grid = layout, grid
        self.conv = LocalBlock(channels, kernel, bias, layout, grid).conv
        self.kept = kept
        self.active_kernel: int | None = None

    def select(self, kernel: int | None) -> None:
        """Switch to a kernel size; ``None`` switches the block off.

        Raises:
            ConfigurationError: If the kernel is even or too large.
        """
        if kernel is not None:
            self._middle(kernel)
        self.active_kernel = kernel
        self.keeps = False

    def slice_state(self, kernel: int) -> dict[str, torch.Tensor]:
        """Return a copy of the state of the plain block with the middle of the kernel."""
        state = {"conv.weight": self._middle(kernel)}
        state |= {} if self.conv.bias is None else {"conv.bias": self.conv.bias}
        return {name: value.detach().clone() for name, value in state.items()}

    def _middle(self, kernel: int) -> torch.Tensor:
        whole = self.conv.weight.shape[2]
        if kernel % 2 == 0 or not 1 <= kernel <= whole:
            raise ConfigurationError(f"kernel size {kernel} is invalid: it must be odd and at most {whole}")
        first = (whole - kernel) // 2
        return self.conv.weight[:, :, first : first + kernel, first : first + kernel]

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Add the convolution of ``x`` to ``x``."""
        if self.active_kernel is None:
            return x
        return _mix(x, self._middle(self.active_kernel), self.conv.bias, self.layout, self.grid)


def _mix(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: str, grid: Grid | None
) -> torch.Tensor:
    positions = to_map(x, layout, grid)
    near = F.conv2d(positions, weight, bias, padding=weight.shape[2] // 2, groups=len(weight))
    return from_map(positions + near, x, layout, grid)
