"""Squeeze-and-Excitation blocks: the plain one and the elastic one that a supernet shares."""

import torch
import torch.nn.functional as F
from timm.layers import SEModule, create_act_layer, make_divisible
from torch import nn

from ..errors import ConfigurationError, did_you_mean

GATES = ("sigmoid", "hard_sigmoid", "tanh", "relu")
"""Gates of the paper's excitation ablation (sigmoid, tanh, ReLU) and MobileNetV3's hard sigmoid."""


def check_ratio(ratio: object) -> int:
    """Return ``ratio`` if it is a reduction ratio, an integer of at least 1.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int) or ratio < 1:
        raise ConfigurationError(f"reduction ratio {ratio!r} is not possible: it must be an integer of at least 1")
    return ratio


def check_gate(gate: object) -> str:
    """Return ``gate`` if it is one of :data:`GATES`.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if not isinstance(gate, str) or gate not in GATES:
        raise ConfigurationError(
            f"gate {gate!r} is unknown: choose one of {', '.join(GATES)}{did_you_mean(str(gate), GATES)}"
        )
    return gate


def hidden_channels(channels: int, ratio: int, rounding: int = 8) -> int:
    """Width of the excitation's hidden layer, ``channels / ratio`` rounded as ``timm.layers.SEModule`` rounds it.

    Args:
        channels: Channels that the block scales.
        ratio: Reduction ratio r.
        rounding: The width is a multiple of this and at least this; 1 rounds to the nearest integer only.
    """
    return int(make_divisible(channels / ratio, rounding, round_limit=0.0))


def create_se_block(
    channels: int, ratio: int, gate: str = "sigmoid", bias: bool = True, rounding: int = 8
) -> nn.Module:
    """Create a plain SE block: ``x * gate(W2 ReLU(W1 mean(x)))`` (SENet paper, section 3), timm's ``SEModule``.

    The two layers start as timm's ResNet starts its 1×1 convolutions (Kaiming normal, fan out).

    Args:
        channels: Channels C of the ``(N, C, H, W)`` tensor that is scaled.
        ratio: Reduction ratio r.
        gate: One of :data:`GATES`.
        bias: Whether both layers have a bias.
        rounding: See :func:`hidden_channels`.
    """
    block = SEModule(
        channels,
        rd_channels=hidden_channels(channels, check_ratio(ratio), rounding),
        bias=bias,
        gate_layer=check_gate(gate),
    )
    for layer in (block.fc1, block.fc2):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return block


class ElasticSE(nn.Module):
    """An SE block whose hidden width and gate can change between forward passes.

    It owns the layers of the widest block; a narrower one uses the leading hidden units. Switched off it returns
    its input. Parameter names are those of the plain block.

    Args:
        channels: Channels C of the ``(N, C, H, W)`` tensor that is scaled.
        hidden: Hidden width of the widest block.
        bias: Whether both layers have a bias.
    """

    def __init__(self, channels: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        widest = SEModule(channels, rd_channels=hidden, bias=bias)
        self.fc1 = widest.fc1
        self.fc2 = widest.fc2
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        self.active_hidden: int | None = None
        self._gate = create_act_layer("sigmoid")

    def select(self, hidden: int | None, gate: str = "sigmoid") -> None:
        """Use the first ``hidden`` units with ``gate`` from now on; ``None`` switches the block off.

        Raises:
            ConfigurationError: If the block has fewer hidden units, or the gate is unknown.
        """
        if hidden is not None and not 1 <= hidden <= self.fc1.out_channels:
            raise ConfigurationError(
                f"hidden width {hidden} is not possible: the elastic block has {self.fc1.out_channels} hidden units"
            )
        self._gate = create_act_layer(check_gate(gate))
        self.active_hidden = hidden

    def slice_state(self, hidden: int) -> dict[str, torch.Tensor]:
        """Return the state of the plain block that the first ``hidden`` units form."""
        state = {"fc1.weight": self.fc1.weight[:hidden], "fc2.weight": self.fc2.weight[:, :hidden]}
        if self.fc1.bias is not None and self.fc2.bias is not None:
            state |= {"fc1.bias": self.fc1.bias[:hidden], "fc2.bias": self.fc2.bias}
        return {name: value.detach().clone() for name, value in state.items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels of ``x``, shape ``(N, C, H, W)``."""
        hidden = self.active_hidden
        if hidden is None:
            return x
        bias = None if self.fc1.bias is None else self.fc1.bias[:hidden]
        z = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), self.fc1.weight[:hidden], bias))
        z = F.conv2d(z, self.fc2.weight[:, :hidden], self.fc2.bias)
        return x * self._gate(z)
