"""Base modules of all kinds of attention."""

from typing import Any

import torch
from timm.layers import create_act_layer
from torch import nn

from ...errors import ConfigurationError
from .gates import GATES, check_gate
from .grid import Grid, grid_of
from .kind import STARTS, check_choice


class Gated:
    """Marks modules whose ``gate`` returns the scale of each channel of each image, so that it can be analysed.

    A gate of shape ``(N, C, rows, columns)`` has a scale for each window of the image.
    """

    @property
    def scales_all(self) -> bool:
        """Whether all positions are scaled, class and register tokens among them."""
        return True


class GateFromOne(nn.Module):
    """A gate with the shift and factor of :data:`~se_search.network.attention.gates.GATES`; its value at zero is 1."""

    def __init__(self, gate: nn.Module, name: str) -> None:
        super().__init__()
        self.gate = gate
        self.shift = GATES[name].shift
        self.factor = GATES[name].factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate's values for ``x`` of any shape."""
        return self.gate(x + self.shift) * self.factor


def create_gate(name: str, start: str = "paper") -> nn.Module:
    """Create a gate; with ``start="identity"`` it is one at zero.

    Raises:
        ConfigurationError: If the gate or the start is unknown.
    """
    gate: nn.Module = create_act_layer(check_gate(name))
    return GateFromOne(gate, name) if check_choice("start", start, STARTS) == "identity" else gate


class Elastic(nn.Module):
    """A block of the supernet that switches between all blocks of its kind at one site, and no block.

    Parameter names are those of the plain block.

    Attributes:
        kept: The backbone's own attention at this site.
        keeps: Whether ``kept`` is used.
        constant: The constant gate that is used instead of ``kept``, of a shape that broadcasts.
    """

    kept: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.keeps = False
        self.constant: torch.Tensor | None = None

    def select(self, *args: Any, **kwargs: Any) -> None:
        """Switch to the block with these options; ``None`` switches off."""
        raise NotImplementedError

    def of_kind(self, kind: str) -> "Elastic":
        """Return the elastic module of a kind at this site: this one."""
        return self

    def keep(self) -> None:
        """Switch to the backbone's own attention.

        Raises:
            ConfigurationError: If there is none at this site.
        """
        if self.kept is None:
            raise ConfigurationError("the backbone has no attention at this site: there is none to keep")
        self.keeps, self.constant = True, None

    def fix(self, gate: torch.Tensor) -> None:
        """Scale by a constant gate instead of the backbone's own attention, until something else is selected.

        Args:
            gate: One value for each channel, in a shape that broadcasts to the scaled tensor.
        """
        self.constant = gate

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the selected block."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the selected block, the backbone's own attention or its constant gate."""
        if self.kept is None or not self.keeps:
            return self.attend(x)
        return self.kept(x) if self.constant is None else x * self.constant


def squeeze(x: torch.Tensor, channel_axis: int, how: str = "avg") -> torch.Tensor:
    """Average or, for ``"max"``, maximum over all dimensions but batch and channels; returns ``(N, C, 1, 1)``."""
    others = [axis for axis in range(1, x.dim()) if axis != channel_axis]
    return (x.amax(others) if how == "max" else x.mean(others))[:, :, None, None]


def spread(gate: torch.Tensor, x: torch.Tensor, channel_axis: int) -> torch.Tensor:
    """Reshape a gate of shape ``(N, C, 1, 1)`` so that it broadcasts to ``x``."""
    shape = [1] * x.dim()
    shape[0], shape[channel_axis] = x.shape[0], x.shape[channel_axis]
    return gate.reshape(shape)


def to_map(x: torch.Tensor, layout: str, grid: Grid | None) -> torch.Tensor:
    """Return the positions of ``x`` as a feature map ``(N, C, H, W)``, without class and register tokens.

    Args:
        x: A tensor at a site.
        layout: One of :data:`~se_search.network.attention.grid.LAYOUTS`.
        grid: The site's grid; only tokens need it.

    Raises:
        ConfigurationError: If the number of tokens does not fit to the grid.
    """
    if layout == "NCHW":
        return x
    if layout == "NHWC":
        return x.permute(0, 3, 1, 2)
    here = _grid_of_tokens(x, layout, grid)
    tokens = x.transpose(1, 2) if layout == "NLC" else x
    return tokens[:, :, here.prefix :].reshape(*tokens.shape[:2], here.rows, here.columns)


def from_map(positions: torch.Tensor, x: torch.Tensor, layout: str, grid: Grid | None) -> torch.Tensor:
    """Return ``x`` with a feature map ``(N, C, H, W)`` at its positions; class and register tokens stay.

    The arguments after the map are those of :func:`to_map`.
    """
    if layout == "NCHW":
        return positions
    if layout == "NHWC":
        return positions.permute(0, 2, 3, 1)
    prefix, tokens = _grid_of_tokens(x, layout, grid).prefix, positions.flatten(2)
    if layout == "NLC":
        tokens = tokens.transpose(1, 2)
        return torch.cat((x[:, :prefix], tokens), 1) if prefix else tokens
    return torch.cat((x[:, :, :prefix], tokens), 2) if prefix else tokens


def _grid_of_tokens(x: torch.Tensor, layout: str, grid: Grid | None) -> Grid:
    here = grid_of(x.shape, layout, grid)
    if here is None:
        raise ConfigurationError("the rows and columns of these tokens are unknown")
    return here
