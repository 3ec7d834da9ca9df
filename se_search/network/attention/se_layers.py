"""Modules of Squeeze-and-Excitation: the plain block, and the elastic block of a supernet."""

import torch
import torch.nn.functional as F
from timm.layers import SEModule, create_act_layer
from torch import nn

from ...errors import ConfigurationError
from .gates import check_gate
from .kind import LAYOUTS, STARTS, check_choice
from .layers import Elastic, Gated, GateFromOne, spread, squeeze
from .se import check_ratio, hidden_channels

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
) -> nn.Module:
    """Create a plain SE block, timm's ``SEModule``: ``x * gate(W2 ReLU(W1 mean(x)))`` (SENet paper, section 3).

    Both layers are initialised like the 1×1 convolutions of timm's ResNet (Kaiming normal, fan out). All tokens are
    averaged and scaled, including class and register tokens.

    Args:
        channels: Channels C of the scaled tensor.
        ratio: Reduction ratio r.
        gate: One of :data:`~se_search.network.attention.gates.GATES`.
        bias: Whether both layers have a bias.
        rounding: See :func:`~se_search.network.attention.se.hidden_channels`.
        layout: One of :data:`~se_search.network.attention.kind.LAYOUTS`.
        start: ``"paper"``, or ``"identity"``: the gate's shift and factor make it one at zero, and the second layer
            starts next to zero.
    """
    kind = SEModule if layout == "NCHW" else LaidOutSE
    hidden = hidden_channels(channels, check_ratio(ratio), rounding)
    block = kind(channels, rd_channels=hidden, bias=bias, gate_layer=check_gate(gate))
    _initialise(block.fc1, block.fc2)
    if isinstance(block, LaidOutSE):
        block.channel_axis = LAYOUTS[check_choice("layout", layout, LAYOUTS)]
    if check_choice("start", start, STARTS) == "identity":
        block.gate = GateFromOne(block.gate, gate)
        nn.init.normal_(block.fc2.weight, std=_NEXT_TO_ZERO)
        if block.fc2.bias is not None:
            nn.init.zeros_(block.fc2.bias)
    return block


def _initialise(*layers: nn.Conv2d) -> None:
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class LaidOutSE(SEModule):  # type: ignore[misc]  # timm is untyped
    """timm's ``SEModule`` for tensors with the channels in dimension :attr:`channel_axis`."""

    channel_axis = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels of ``x``."""
        z = self.fc2(self.act(self.bn(self.fc1(squeeze(x, self.channel_axis)))))
        return x * spread(self.gate(z), x, self.channel_axis)


class ElasticSE(Elastic, Gated):
    """An SE block whose hidden width and gate can change between forward passes.

    It has the layers of the widest block; a narrower block uses the leading hidden units.

    Args:
        channels: Channels C of the scaled tensor.
        hidden: Hidden width of the widest block.
        bias: Whether both layers have a bias.
        layout: One of :data:`~se_search.network.attention.kind.LAYOUTS`.
        kept: The backbone's own attention at this site.
    """

    def __init__(
        self, channels: int, hidden: int, bias: bool = True, layout: str = "NCHW", kept: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.channel_axis = LAYOUTS[check_choice("layout", layout, LAYOUTS)]
        widest = SEModule(channels, rd_channels=hidden, bias=bias)
        self.fc1 = widest.fc1
        self.fc2 = widest.fc2
        _initialise(self.fc1, self.fc2)
        self.kept = kept
        self.active_hidden: int | None = None
        self.gate = create_act_layer("sigmoid")

    def select(self, hidden: int | None, gate: str = "sigmoid") -> None:
        """Switch to the first ``hidden`` units with ``gate``; ``None`` switches the block off.

        Raises:
            ConfigurationError: If the block has fewer hidden units, or the gate is unknown.
        """
        if hidden is not None and not 1 <= hidden <= self.fc1.out_channels:
            raise ConfigurationError(
                f"hidden width {hidden} is invalid: the elastic block has {self.fc1.out_channels} hidden units"
            )
        self.gate = create_act_layer(check_gate(gate))
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
        z = F.relu(F.conv2d(squeeze(x, self.channel_axis), self.fc1.weight[:hidden], bias))
        z = F.conv2d(z, self.fc2.weight[:, :hidden], self.fc2.bias)
        return x * spread(self.gate(z), x, self.channel_axis)
