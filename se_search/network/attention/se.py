"""Squeeze-and-Excitation, the default kind of attention."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from ...definition import Several
from ...errors import ConfigurationError
from .gates import GATES, check_gate
from .kind import LAYOUTS, STARTS, Choices, PlacedAttention, check_choice

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .se_layers import ElasticSE

MOST_ROUNDING = 1024
"""Largest rounding of hidden widths; larger values make networks that do not fit into memory."""


def check_ratio(ratio: object) -> int:
    """Return ``ratio`` if it is an integer of at least 1.

    Raises:
        ConfigurationError: If it is not.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int) or ratio < 1:
        raise ConfigurationError(f"reduction ratio {ratio!r} is invalid: it must be an integer of at least 1")
    return ratio


def hidden_channels(channels: int, ratio: int, rounding: int = 8) -> int:
    """Return the hidden width: ``channels / ratio`` rounded as in ``timm.layers.SEModule``.

    It is a multiple of ``rounding`` and at least ``rounding``.
    """
    return max(rounding, int(channels / ratio + rounding / 2) // rounding * rounding)


class SEChoices(Choices):
    """Options of SE blocks that a space varies."""

    ratios: Several[Annotated[int, BeforeValidator(check_ratio)]]
    """Reduction ratios of a stage."""

    gates: Several[Annotated[str, BeforeValidator(check_gate)]]
    """Gates; a configuration uses one for all blocks."""

    bias: bool = True
    """Whether the SE blocks have biases."""

    rounding: Annotated[int, Field(ge=1, le=MOST_ROUNDING)] = 8
    """Hidden widths are multiples of this; 1 rounds to integers."""

    published: ClassVar[dict[str, Any] | None] = {"ratio": 16}

    @property
    def per_stage(self) -> dict[str, tuple[Any, ...]]:
        """The ratio."""
        return {"ratio": self.ratios}

    @property
    def per_network(self) -> dict[str, tuple[Any, ...]]:
        """The gate."""
        return {"gate": self.gates}

    @property
    def fixed(self) -> dict[str, Any]:
        """Biases and rounding."""
        return {"bias": self.bias, "rounding": self.rounding}

    @property
    def widest(self) -> dict[str, Any]:
        """The smallest ratio."""
        return {"ratio": min(self.ratios)}

    @property
    def narrowest(self) -> dict[str, Any]:
        """The largest ratio."""
        return {"ratio": max(self.ratios)}


@dataclass(frozen=True, order=True)
class PlacedSE(PlacedAttention):
    """An SE block at a site.

    Attributes:
        site: The site.
        ratio: Reduction ratio r, an integer of at least 1.
        gate: One of :data:`se_search.network.attention.gates.GATES`.
        bias: Whether both layers have a bias.
        rounding: The hidden width is a multiple of this, as in timm's ``make_divisible``; 1 rounds to integers.
        start: ``"paper"``, or ``"identity"``: the block has no effect before training.

    Raises:
        ConfigurationError: If a value is invalid.
    """

    ratio: int = 16
    gate: str = "sigmoid"
    bias: bool = True
    rounding: int = 8
    start: str = "paper"

    kind: ClassVar[str] = "se"
    choices: ClassVar[type[Choices]] = SEChoices
    formula: ClassVar[str] = "2C²/r"

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        check_gate(self.gate)
        check_choice("start", self.start, STARTS)
        if not isinstance(self.bias, bool):
            raise ConfigurationError(f"bias {self.bias!r} is invalid: it must be true or false")
        rounding: Any = self.rounding
        if isinstance(rounding, bool) or not isinstance(rounding, int) or not 1 <= rounding <= MOST_ROUNDING:
            raise ConfigurationError(
                f"rounding {rounding!r} is invalid: it must be an integer of at least 1 and at most {MOST_ROUNDING}"
            )

    @property
    def hidden(self) -> int:
        """Width of the hidden layer in channels."""
        return hidden_channels(self.site.channels, self.ratio, self.rounding)

    @property
    def structure(self) -> tuple[Any, ...]:
        """Equal for ratios with the same rounded hidden width."""
        return (self.kind, self.site, self.hidden, self.gate, self.bias, self.start)

    @property
    def parameters(self) -> int:
        """Number of parameters: two weight matrices and, with ``bias``, two bias vectors."""
        weights = 2 * self.site.channels * self.hidden
        return weights + (self.hidden + self.site.channels if self.bias else 0)

    @property
    def formula_parameters(self) -> Fraction:
        """Section 3.4 of the journal version of the SENet paper."""
        return Fraction(2 * self.site.channels**2, self.ratio)

    def flops(self, elements: int) -> int:
        """Squeeze and scale read each element; the layers have 2·C·h weights; identity start multiplies the gate."""
        channels = self.site.channels
        return 2 * elements + 2 * channels * self.hidden + (channels if self.start == "identity" else 0)

    def latency_terms(self) -> dict[str, float]:
        """Return the number of blocks and h/C; gates count the same."""
        return {"block": 1.0, "width": self.hidden / self.site.channels}

    @property
    def label(self) -> str:
        """The ratio."""
        return f"r={self.ratio}"

    @property
    def rank(self) -> int:
        """The ratio."""
        return self.ratio

    @property
    def description(self) -> str:
        """Ratio, gate, position, and options with unusual values."""
        words = [self.label, f"gate {self.gate}", f"position {self.site.position}"]
        words += [] if self.bias else ["no biases"]
        words += [] if self.rounding == 8 else [f"hidden width a multiple of {self.rounding}"]
        words += ["identity start"] if self.start == "identity" else []
        return ", ".join(words)

    def at_identity(self) -> "PlacedSE":
        """Return a copy whose gate starts at one."""
        return replace(self, start="identity")

    def create(self) -> "nn.Module":
        """Create the module, see :func:`se_search.network.attention.se_layers.create_se_block`."""
        from .se_layers import create_se_block

        channels, layout = self.site.channels, self.site.layout
        return create_se_block(channels, self.ratio, self.gate, self.bias, self.rounding, layout, self.start)

    def create_elastic(self, kept: "nn.Module | None" = None) -> "ElasticSE":
        """Create an elastic block of this hidden width."""
        from .se_layers import ElasticSE

        return ElasticSE(self.site.channels, self.hidden, self.bias, self.site.layout, kept)

    def select_in(self, elastic: "ElasticSE") -> None:
        """Use the leading hidden units."""
        elastic.select(self.hidden, self.gate)

    def slice_of(self, elastic: "ElasticSE") -> "dict[str, torch.Tensor]":
        """Take the leading hidden units."""
        return elastic.slice_state(self.hidden)

    def standalone_call(self) -> str:
        """Return a call of ``SqueezeExcite`` without default arguments."""
        call = f"SqueezeExcite({self.site.channels}, {self.hidden}, {self.gate!r}"
        call += "" if self.bias else ", bias=False"
        axis, gate = LAYOUTS[self.site.layout], GATES[self.gate]
        call += "" if axis == 1 else f", channel_axis={axis}"
        call += f", shift={gate.shift!r}, factor={gate.factor!r}" if self.start == "identity" else ""
        return f"{call})"
