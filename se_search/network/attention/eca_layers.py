"""Modules of efficient channel attention: the plain block, and the elastic block of a supernet."""

import torch
import torch.nn.functional as F
from timm.layers import EcaModule, create_act_layer
from torch import nn

from ...errors import ConfigurationError
from .gates import check_gate
from .kind import LAYOUTS, STARTS, check_choice
from .layers import Elastic, Gated, GateFromOne, create_gate, spread, squeeze


def create_eca_block(kernel: int, gate: str = "sigmoid", layout: str = "NCHW", start: str = "paper") -> nn.Module:
    """Create a plain ECA block, timm's ``EcaModule``: ``x * gate(conv(mean(x)))``.

    All tokens are averaged and scaled, including class and register tokens.

    Args:
        kernel: Kernel size k of the convolution along the channels, odd.
        gate: One of :data:`~se_search.network.attention.gates.GATES`.
        layout: One of :data:`~se_search.network.attention.grid.LAYOUTS`.
        start: ``"paper"``: PyTorch's initialisation, or ``"identity"``: the kernel is zero, and the gate's shift and
            factor make it one there.
    """
    kind = EcaModule if layout == "NCHW" else LaidOutECA
    block = kind(kernel_size=kernel, gate_layer=check_gate(gate))
    if isinstance(block, LaidOutECA):
        block.channel_axis = LAYOUTS[check_choice("layout", layout, LAYOUTS)]
    if check_choice("start", start, STARTS) == "identity":
        block.gate = GateFromOne(block.gate, gate)
        nn.init.zeros_(block.conv.weight)
    return block


def _excite(x: torch.Tensor, weight: torch.Tensor, channel_axis: int) -> torch.Tensor:
    """Return the gate's input, of shape ``(N, 1, C)``."""
    return F.conv1d(squeeze(x, channel_axis).flatten(1)[:, None], weight, padding=weight.shape[2] // 2)


class LaidOutECA(EcaModule):  # type: ignore[misc]  # timm is untyped
    """timm's ``EcaModule`` for tensors with the channels in dimension :attr:`channel_axis`."""

    channel_axis = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels of ``x``."""
        return x * spread(self.gate(_excite(x, self.conv.weight, self.channel_axis)), x, self.channel_axis)


class ElasticECA(Elastic, Gated):
    """An ECA block whose kernel size and gate can change between forward passes.

    It has the largest kernel; a smaller one is the middle of it.

    Args:
        kernel: The largest kernel size.
        layout: One of :data:`~se_search.network.attention.grid.LAYOUTS`.
        kept: The backbone's own attention at this site.
        start: As in :func:`create_eca_block`; gates of :meth:`select` must have the same.
    """

    def __init__(self, kernel: int, layout: str = "NCHW", kept: nn.Module | None = None, start: str = "paper") -> None:
        super().__init__()
        self.channel_axis = LAYOUTS[check_choice("layout", layout, LAYOUTS)]
        self.conv = EcaModule(kernel_size=kernel).conv
        if check_choice("start", start, STARTS) == "identity":
            nn.init.zeros_(self.conv.weight)
        self.kept = kept
        self.active_kernel: int | None = None
        self.gate = create_act_layer("sigmoid")

    def select(self, kernel: int | None, gate: str = "sigmoid", start: str = "paper") -> None:
        """Switch to a kernel size with ``gate``; ``None`` switches the block off.

        With ``start="identity"``, the gate is one at zero.

        Raises:
            ConfigurationError: If the kernel is even or too large, or the gate is unknown.
        """
        if kernel is not None:
            self._middle(kernel)
        self.gate = create_gate(gate, start)
        self.active_kernel = kernel
        self.keeps = False

    def slice_state(self, kernel: int) -> dict[str, torch.Tensor]:
        """Return a copy of the state of the plain block with the middle of the kernel."""
        return {"conv.weight": self._middle(kernel).detach().clone()}

    def _middle(self, kernel: int) -> torch.Tensor:
        whole = self.conv.weight.shape[2]
        if kernel % 2 == 0 or not 1 <= kernel <= whole:
            raise ConfigurationError(f"kernel size {kernel} is invalid: it must be odd and at most {whole}")
        first = (whole - kernel) // 2
        return self.conv.weight[:, :, first : first + kernel]

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Scale the channels of ``x``."""
        if self.active_kernel is None:
            return x
        return x * spread(
            self.gate(_excite(x, self._middle(self.active_kernel), self.channel_axis)), x, self.channel_axis
        )
