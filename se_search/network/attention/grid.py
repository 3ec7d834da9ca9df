"""Grid of positions in a feature map or in tokens. This module does not import PyTorch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import ConfigurationError

LAYOUTS = {"NCHW": 1, "NHWC": 3, "NLC": 2, "NCL": 1}
"""Channel dimension of each order of dimensions."""

_ROWS = {"NCHW": 2, "NHWC": 1}
_TOKENS = {"NLC": 1, "NCL": 2}


@dataclass(frozen=True, order=True)
class Grid:
    """Rows and columns of positions; tokens have them in row-major order after ``prefix`` class and register tokens."""

    prefix: int
    rows: int
    columns: int

    @property
    def positions(self) -> int:
        """Number of positions in the grid."""
        return self.rows * self.columns

    def fits(self, grid: "Grid") -> bool:
        """Whether this grid, scaled to as many tokens, is ``grid``."""
        try:
            return self.scaled_to(grid.prefix + grid.positions) == grid
        except ConfigurationError:
            return False

    def scaled_to(self, tokens: int) -> "Grid":
        """Return the grid of an image of the same aspect ratio that has ``tokens`` tokens.

        Raises:
            ConfigurationError: If no such image has this number of tokens.
        """
        positions = tokens - self.prefix
        if positions == self.positions:
            return self
        common = math.gcd(self.rows, self.columns)
        rows, columns = self.rows // common, self.columns // common
        scale = math.isqrt(max(positions, 0) // (rows * columns))
        if scale < 1 or scale**2 * rows * columns != positions:
            raise ConfigurationError(
                f"{tokens} tokens have no rows and columns: {self.prefix} class or register tokens and a grid with the "
                f"aspect ratio of {self.rows}×{self.columns} are needed"
            )
        return Grid(self.prefix, scale * rows, scale * columns)


def grid_of(shape: Sequence[int], layout: str, traced: Grid | None) -> Grid | None:
    """Return the grid of a tensor of this shape at a site with the grid ``traced``; ``None`` if that is unknown.

    Raises:
        ConfigurationError: As :meth:`Grid.scaled_to`.
    """
    if traced is None:
        return None
    if layout in _ROWS:
        return Grid(0, shape[_ROWS[layout]], shape[_ROWS[layout] + 1])
    return traced.scaled_to(shape[_TOKENS[layout]])
