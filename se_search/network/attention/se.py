"""Squeeze-and-Excitation blocks: the plain one and the elastic one that a supernet shares."""

import torch
import torch.nn.functional as F
from timm.layers import SEModule, create_act_layer, make_divisible
from torch import nn

from ...errors import ConfigurationError
from .options import _FROM_ONE, LAYOUTS, check_gate, check_layout, check_ratio, check_start

# No activation is large enough to make this felt: the outputs stay. Zero would keep the gradient from the first layer.
_NEXT_TO_ZERO = 1e-20


def hidden_channels(channels: int, ratio: int, rounding: int = 8) -> int:
    """Width of the excitation's hidden layer, ``channels / ratio`` rounded as ``timm.layers.SEModule`` rounds it.

    Args:
        channels: Channels that the block scales.
        ratio: Reduction ratio r.
        rounding: The width is a multiple of this and at least this; 1 rounds to the nearest integer only.
    """
    return int(make_divisible(channels / ratio, rounding, round_limit=0.0))


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
        gate: One of :data:`GATES`.
        bias: Whether both layers have a bias.
        rounding: See :func:`hidden_channels`.
        layout: One of :data:`LAYOUTS`.
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
        block.channel_axis = LAYOUTS[check_layout(layout)]
    if check_start(start) == "identity":
        block.gate = GateFromOne(block.gate, *_FROM_ONE[gate])
        nn.init.normal_(block.fc2.weight, std=_NEXT_TO_ZERO)
        if block.fc2.bias is not None:
            nn.init.zeros_(block.fc2.bias)
    return block


class GateFromOne(nn.Module):
    """A gate shifted and multiplied so that its value at zero is one.

    Args:
        gate: The gate.
        shift: What is added to its input.
        factor: What its output is multiplied by.
    """

    def __init__(self, gate: nn.Module, shift: float, factor: float) -> None:
        super().__init__()
        self.gate = gate
        self.shift = shift
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the gate's values for ``x`` of any shape."""
        return self.gate(x + self.shift) * self.factor


class LaidOutSE(SEModule):  # type: ignore[misc]  # timm is untyped
    """timm's ``SEModule`` for tensors that keep their channels in another dimension, :attr:`channel_axis`."""

    channel_axis = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels of ``x``."""
        z = self.fc2(self.act(self.bn(self.fc1(_squeeze(x, self.channel_axis)))))
        return x * _spread(self.gate(z), x, self.channel_axis)


def _squeeze(x: torch.Tensor, channel_axis: int) -> torch.Tensor:
    """Average all dimensions but batch and channels: shape ``(N, C, 1, 1)``."""
    return x.mean([axis for axis in range(1, x.dim()) if axis != channel_axis])[:, :, None, None]


def _spread(gate: torch.Tensor, x: torch.Tensor, channel_axis: int) -> torch.Tensor:
    """Bring a gate of shape ``(N, C, 1, 1)`` into the dimensions of ``x``."""
    shape = [1] * x.dim()
    shape[0], shape[channel_axis] = x.shape[0], x.shape[channel_axis]
    return gate.reshape(shape)


class ElasticSE(nn.Module):
    """An SE block whose hidden width and gate can change between forward passes.

    It owns the layers of the widest block; a narrower one uses the leading hidden units. Switched off it returns
    its input. Parameter names are those of the plain block. Where the backbone has attention of its own, that can be
    used instead.

    Args:
        channels: Channels C of the tensor that is scaled.
        hidden: Hidden width of the widest block.
        bias: Whether both layers have a bias.
        layout: One of :data:`LAYOUTS`.
        kept: The backbone's own attention at this site.
    """

    def __init__(
        self, channels: int, hidden: int, bias: bool = True, layout: str = "NCHW", kept: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.channel_axis = LAYOUTS[check_layout(layout)]
        widest = SEModule(channels, rd_channels=hidden, bias=bias)
        self.fc1 = widest.fc1
        self.fc2 = widest.fc2
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        self.kept = kept
        self.keeps = False
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
        self.keeps = False

    def keep(self) -> None:
        """Use the backbone's own attention from now on.

        Raises:
            ConfigurationError: If it has none here.
        """
        if self.kept is None:
            raise ConfigurationError("the backbone has no attention of its own at this site: there is none to keep")
        self.keeps = True

    def slice_state(self, hidden: int) -> dict[str, torch.Tensor]:
        """Return the state of the plain block that the first ``hidden`` units form."""
        state = {"fc1.weight": self.fc1.weight[:hidden], "fc2.weight": self.fc2.weight[:, :hidden]}
        if self.fc1.bias is not None and self.fc2.bias is not None:
            state |= {"fc1.bias": self.fc1.bias[:hidden], "fc2.bias": self.fc2.bias}
        return {name: value.detach().clone() for name, value in state.items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels of ``x``."""
        hidden = self.active_hidden
        if self.keeps and self.kept is not None:
            return self.kept(x)
        if hidden is None:
            return x
        bias = None if self.fc1.bias is None else self.fc1.bias[:hidden]
        z = F.relu(F.conv2d(_squeeze(x, self.channel_axis), self.fc1.weight[:hidden], bias))
        z = F.conv2d(z, self.fc2.weight[:, :hidden], self.fc2.bias)
        return x * _spread(self._gate(z), x, self.channel_axis)
