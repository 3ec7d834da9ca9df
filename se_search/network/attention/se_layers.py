"""Modules of Squeeze-and-Excitation: the plain block, and the elastic block of a supernet."""

import torch
import torch.nn.functional as F
from timm.layers import SEModule, create_act_layer
from torch import nn

from ...errors import ConfigurationError
from .gates import check_gate
from .grid import LAYOUTS, Grid
from .kind import STARTS, check_choice
from .layers import Elastic, Gated, GateFromOne, create_gate
from .se import check_ratio, check_squeeze, hidden_channels
from .windows import Scope

# Too small to change outputs. Zero would give the first layer no gradient.
_NEXT_TO_ZERO = 1e-20


def create_se_block(
    channels: int,
    ratio: int,
    gate: str = "sigmoid",
    bias: bool = True,
    rounding: int = 8,
    layout: str = "NCHW",
    start: str = "paper",
    scope: Scope | None = None,
) -> nn.Module:
    """Create a plain SE block, timm's ``SEModule``: ``x * gate(W2 ReLU(W1 mean(x)))`` (SENet paper, section 3).

    Both layers are initialised like the 1×1 convolutions of timm's ResNet (Kaiming normal, fan out). All tokens are
    averaged and scaled, including class and register tokens, unless ``scope`` has windows.

    Args:
        channels: Channels C of the scaled tensor.
        ratio: Reduction ratio r.
        gate: One of :data:`~se_search.network.attention.gates.GATES`.
        bias: Whether both layers have a bias.
        rounding: See :func:`~se_search.network.attention.se.hidden_channels`.
        layout: One of :data:`~se_search.network.attention.grid.LAYOUTS`.
        start: ``"paper"``, or ``"identity"``: the gate's shift and factor make it one at zero, and the second layer
            starts next to zero.
        scope: What the squeeze pools; the average of the whole map by default.
    """
    usual = layout == "NCHW" and scope in (None, Scope())
    kind = SEModule if usual else LaidOutSE
    hidden = hidden_channels(channels, check_ratio(ratio), rounding)
    block = kind(channels, rd_channels=hidden, bias=bias, gate_layer=check_gate(gate))
    _initialise(block.fc1, block.fc2)
    if isinstance(block, LaidOutSE):
        block.layout, block.scope = check_choice("layout", layout, LAYOUTS), scope or Scope()
    if check_choice("start", start, STARTS) == "identity":
        block.gate = GateFromOne(block.gate, gate)
        _start_at_zero(block.fc2)
    return block


def _start_at_zero(layer: nn.Conv2d) -> None:
    nn.init.normal_(layer.weight, std=_NEXT_TO_ZERO)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _initialise(*layers: nn.Conv2d) -> None:
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class LaidOutSE(SEModule, Gated):  # type: ignore[misc]  # timm is untyped
    """timm's ``SEModule`` for another layout, squeeze or extent."""

    layout = "NCHW"
    scope = Scope()

    @property
    def channel_axis(self) -> int:
        """Dimension of the channels."""
        return LAYOUTS[self.layout]

    @property
    def scales_all(self) -> bool:
        """Windows leave class and register tokens out."""
        return self.scope.extent is None or self.scope.grid is None or not self.scope.grid.prefix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels of ``x``."""
        return self.scope.scale(x, self.layout, lambda z: self.gate(self.fc2(self.act(self.bn(self.fc1(z))))))


class ElasticSE(Elastic, Gated):
    """An SE block whose hidden width, gate, squeeze and extent can change between forward passes.

    It has the layers of the widest block; a narrower block uses the leading hidden units. All squeezes and extents
    share them.

    Args:
        channels: Channels C of the scaled tensor.
        hidden: Hidden width of the widest block.
        bias: Whether both layers have a bias.
        layout: One of :data:`~se_search.network.attention.grid.LAYOUTS`.
        kept: The backbone's own attention at this site.
        grid: Rows and columns of the tokens, for windows.
        start: As in :func:`create_se_block`; gates of :meth:`select` must have the same.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        bias: bool = True,
        layout: str = "NCHW",
        kept: nn.Module | None = None,
        grid: Grid | None = None,
        start: str = "paper",
    ) -> None:
        super().__init__()
        self.layout = check_choice("layout", layout, LAYOUTS)
        self.grid = grid
        self.scope = Scope(grid=grid)
        widest = SEModule(channels, rd_channels=hidden, bias=bias)
        self.fc1 = widest.fc1
        self.fc2 = widest.fc2
        _initialise(self.fc1, self.fc2)
        if check_choice("start", start, STARTS) == "identity":
            _start_at_zero(self.fc2)
        self.kept = kept
        self.active_hidden: int | None = None
        self.gate = create_act_layer("sigmoid")

    @property
    def channel_axis(self) -> int:
        """Dimension of the channels."""
        return LAYOUTS[self.layout]

    def select(
        self,
        hidden: int | None,
        gate: str = "sigmoid",
        squeeze: str = "avg",
        extent: int | None = None,
        start: str = "paper",
    ) -> None:
        """Switch to the first ``hidden`` units with a gate, squeeze and extent; ``None`` switches the block off.

        With ``start="identity"``, the gate is one at zero.

        Raises:
            ConfigurationError: If the block has fewer hidden units, or the gate or squeeze is unknown.
        """
        if hidden is not None and not 1 <= hidden <= self.fc1.out_channels:
            raise ConfigurationError(
                f"hidden width {hidden} is invalid: the elastic block has {self.fc1.out_channels} hidden units"
            )
        check_squeeze(squeeze)
        self.gate = create_gate(gate, start)
        self.scope = Scope(squeeze, extent, self.grid)
        self.active_hidden = hidden
        self.keeps = False

    def slice_state(self, hidden: int) -> dict[str, torch.Tensor]:
        """Return a copy of the state of the plain block with the first ``hidden`` units."""
        state = {"fc1.weight": self.fc1.weight[:hidden], "fc2.weight": self.fc2.weight[:, :hidden]}
        if self.fc1.bias is not None and self.fc2.bias is not None:
            state |= {"fc1.bias": self.fc1.bias[:hidden], "fc2.bias": self.fc2.bias}
        return {name: value.detach().clone() for name, value in state.items()}

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels of ``x``."""
        hidden = self.active_hidden
        if hidden is None:
            return x
        bias = None if self.fc1.bias is None else self.fc1.bias[:hidden]

        def excite(z: torch.Tensor) -> torch.Tensor:
            z = F.relu(F.conv2d(z, self.fc1.weight[:hidden], bias))
            return self.gate(F.conv2d(z, self.fc2.weight[:, :hidden], self.fc2.bias))

        return self.scope.scale(x, self.layout, excite)
