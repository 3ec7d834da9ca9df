"""Modules of Squeeze-and-Excitation: the plain block and the elastic one that a supernet shares."""

import torch
import torch.nn.functional as F
from timm.layers import SEModule, create_act_layer
from torch import nn

from ...errors import ConfigurationError
from .gates import check_gate
from .kind import LAYOUTS, STARTS, check_choice
from .layers import Elastic, Gated, GateFromOne, spread, squeeze
from .se import check_ratio, hidden_channels

# No activation is large enough to make this felt: the outputs stay. Zero would keep the gradient from the first layer.
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
    """Create a plain SE block: ``x * gate(W2 ReLU(W1 mean(x)))`` (SENet paper, section 3), timm's ``SEModule``.

    The two layers start as timm's ResNet starts its 1×1 convolutions (Kaiming normal, fan out). Of tokens all are
    averaged and all are scaled, class and register tokens among them.

    Args:
        channels: Channels C of the tensor that is scaled.
        ratio: Reduction ratio r.
        gate: One of :data:`~se_search.network.attention.gates.GATES`.
        bias: Whether both layers have a bias.
        rounding: See :func:`~se_search.network.attention.se.hidden_channels`.
        layout: One of :data:`~se_search.network.attention.kind.LAYOUTS`.
        start: ``"paper"``, or ``"identity"``: the gate is shifted and multiplied so that it starts at one, from where
            the second layer, which starts next to zero, moves it.
    """
    kind = SEModule if layout == "NCHW" else LaidOutSE
    block = kind(
        channels,
        rd_channels=hidden_channels(channels, check_ratio(ratio), rounding),
        bias=bias,
        gate_layer=check_gate(gate),
    )
    for layer in (block.fc1, block.fc2):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if isinstance(block, LaidOutSE):
        block.channel_axis = LAYOUTS[check_choice("layout", layout, LAYOUTS)]
    if check_choice("start", start, STARTS) == "identity":
        block.gate = GateFromOne(block.gate, gate)
        nn.init.normal_(block.fc2.weight, std=_NEXT_TO_ZERO)
        if block.fc2.bias is not None:
            nn.init.zeros_(block.fc2.bias)
    return block


class LaidOutSE(SEModule):  # type: ignore[misc]  # timm is untyped
    """timm's ``SEModule`` for tensors that keep their channels in another dimension, :attr:`channel_axis`."""

    channel_axis = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels of ``x``."""
        z = self.fc2(self.act(self.bn(self.fc1(squeeze(x, self.channel_axis)))))
        return x * spread(self.gate(z), x, self.channel_axis)


class ElasticSE(Elastic, Gated):
    """An SE block whose hidden width and gate can change between forward passes.

    It owns the layers of the widest block; a narrower one uses the leading hidden units.

    Args:
        channels: Channels C of the tensor that is scaled.
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
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        self.kept = kept
        self.active_hidden: int | None = None
        self.gate = create_act_layer("sigmoid")

    def select(self, hidden: int | None, gate: str = "sigmoid") -> None:
        """Use the first ``hidden`` units with ``gate`` from now on; ``None`` switches the block off.

        Raises:
            ConfigurationError: If the block has fewer hidden units, or the gate is unknown.
        """
        if hidden is not None and not 1 <= hidden <= self.fc1.out_channels:
            raise ConfigurationError(
                f"hidden width {hidden} is not possible: the elastic block has {self.fc1.out_channels} hidden units"
            )
        self.gate = create_act_layer(check_gate(gate))
        self.active_hidden = hidden
        self.keeps = False

    def slice_state(self, hidden: int) -> dict[str, torch.Tensor]:
        """Return the state of the plain block that the first ``hidden`` units form."""
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
