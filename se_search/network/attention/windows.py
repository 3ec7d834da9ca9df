"""Squeeze of a whole map or of its windows, and the scale that comes from it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .grid import LAYOUTS, Grid
from .layers import from_map, spread, squeeze, to_map


@dataclass(frozen=True)
class Scope:
    """What a squeeze pools, and how.

    Attributes:
        squeeze: ``"avg"`` or ``"max"``.
        extent: Side of the windows in positions; ``None`` for the whole map and all tokens.
        grid: Rows and columns of the tokens; only windows of tokens need it.
    """

    squeeze: str = "avg"
    extent: int | None = None
    grid: Grid | None = None

    def scale(self, x: torch.Tensor, layout: str, gate: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return ``x`` times the gate of each window.

        Windows start at the first row and column; those at the end are smaller if the extent does not divide the map.
        With windows, class and register tokens neither enter the squeeze nor are scaled.

        Args:
            x: A tensor of this layout.
            layout: One of :data:`~se_search.network.attention.grid.LAYOUTS`.
            gate: Maps what is squeezed, ``(N, C, windows, windows)``, to scales of the same shape.
        """
        if self.extent is None:
            axis = LAYOUTS[layout]
            return x * spread(gate(squeeze(x, axis, self.squeeze)), x, axis)
        positions = to_map(x, layout, self.grid)
        rows, columns = positions.shape[2:]
        scale = gate(self._pool(positions, self.extent))
        if self.extent > 1 and max(rows, columns) > self.extent:
            # In the order of dimensions of x, so that both are read in the same order. PyTorch's interpolation would do
            # the same, but its multiplications of indices would count as FLOPs.
            first = 2 if layout == "NCHW" else 1
            scale = scale if first == 2 else scale.permute(0, 2, 3, 1)
            scale = scale.repeat_interleave(self.extent, first + 1).narrow(first + 1, 0, columns)
            scale = scale.repeat_interleave(self.extent, first).narrow(first, 0, rows)
            scale = scale if first == 2 else scale.permute(0, 3, 1, 2)
        return from_map(positions * scale, x, layout, self.grid)

    def _pool(self, positions: torch.Tensor, extent: int) -> torch.Tensor:
        if extent == 1:
            return positions
        if max(positions.shape[2:]) <= extent:
            return squeeze(positions, 1, self.squeeze)
        if self.squeeze == "max":
            return F.max_pool2d(positions, extent, ceil_mode=True)
        return F.avg_pool2d(positions, extent, ceil_mode=True, count_include_pad=False)
