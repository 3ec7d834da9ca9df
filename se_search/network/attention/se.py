"""Squeeze-and-Excitation, the default kind of attention."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from ...definition import Listed, as_value_error, distinct
from ...errors import ConfigurationError
from .gates import GATES, check_gate
from .kind import LAYOUTS, STARTS, Choices, PlacedAttention, check_choice

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .se_layers import ElasticSE

MOST_ROUNDING = 1024
"""Largest multiple that hidden widths are rounded to; a larger one makes networks that no machine holds."""


def check_ratio(ratio: object) -> int:
    """Return ``ratio`` if it is a reduction ratio, an integer of at least 1.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int) or ratio < 1:
        raise ConfigurationError(f"reduction ratio {ratio!r} is not possible: it must be an integer of at least 1")
    return ratio


def hidden_channels(channels: int, ratio: int, rounding: int = 8) -> int:
    """Width of the excitation's hidden layer, ``channels / ratio`` rounded as ``timm.layers.SEModule`` rounds it.

    Args:
        channels: Channels that the block scales.
        ratio: Reduction ratio r.
        rounding: The width is a multiple of this and at least this; 1 rounds to the nearest integer only.
    """
    return max(rounding, int(channels / ratio + rounding / 2) // rounding * rounding)


class SEChoices(Choices):
    """What a space may vary about SE blocks."""

    ratios: Annotated[
        tuple[Annotated[int, BeforeValidator(lambda value: as_value_error(check_ratio, value))], ...],
        Listed,
        Field(min_length=1),
        AfterValidator(distinct),
    ]
    """Reduction ratios that a stage may have."""

    gates: Annotated[
        tuple[Annotated[str, BeforeValidator(lambda value: as_value_error(check_gate, value))], ...],
        Listed,
        Field(min_length=1),
        AfterValidator(distinct),
    ]
    """Gates of which a configuration uses one."""

    bias: bool = True
    """Whether the SE blocks have biases."""

    rounding: Annotated[int, Field(ge=1, le=MOST_ROUNDING)] = 8
    """Rounding of hidden widths; 1 for none."""

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
    """An SE block at its site.

    Attributes:
        site: Where it stands.
        ratio: Reduction ratio r, an integer of at least 1.
        gate: One of :data:`se_search.network.attention.gates.GATES`.
        bias: Whether both layers have a bias.
        rounding: The hidden width is a multiple of this, as in timm's ``make_divisible``; 1 rounds to integers only.
        start: ``"paper"``, or ``"identity"``: the block starts without an effect.

    Raises:
        ConfigurationError: If a value is impossible.
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
            raise ConfigurationError(f"bias {self.bias!r} is not possible: it must be true or false")
        rounding: Any = self.rounding
        if isinstance(rounding, bool) or not isinstance(rounding, int) or not 1 <= rounding <= MOST_ROUNDING:
            raise ConfigurationError(
                f"rounding {rounding!r} is not possible: an integer of at least 1 and at most {MOST_ROUNDING} is needed"
            )

    @property
    def hidden(self) -> int:
        """Width of the hidden layer in channels."""
        return hidden_channels(self.site.channels, self.ratio, self.rounding)

    @property
    def structure(self) -> tuple[Any, ...]:
        """Equal for ratios that are rounded to the same hidden width."""
        return (self.kind, self.site, self.hidden, self.gate, self.bias, self.start)

    @property
    def parameters(self) -> int:
        """Number of parameters: two weight matrices and, where there are biases, two bias vectors."""
        weights = 2 * self.site.channels * self.hidden
        return weights + (self.hidden + self.site.channels if self.bias else 0)

    @property
    def formula_parameters(self) -> Fraction:
        """Section 3.4 of the journal version of the SENet paper."""
        return Fraction(2 * self.site.channels**2, self.ratio)

    def flops(self, elements: int) -> int:
        """Squeeze and scale read each element, the layers have 2·C·h weights, and a gate that starts at one scales."""
        channels = self.site.channels
        return 2 * elements + 2 * channels * self.hidden + (channels if self.start == "identity" else 0)

    def latency_terms(self) -> dict[str, float]:
        """A block, and its hidden width as a share of its channels; gates are not told apart."""
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
        """Ratio, gate and position, and what is unusual."""
        words = [self.label, f"gate {self.gate}", f"position {self.site.position}"]
        words += [] if self.bias else ["no biases"]
        words += [] if self.rounding == 8 else [f"hidden width a multiple of {self.rounding}"]
        words += ["identity start"] if self.start == "identity" else []
        return ", ".join(words)

    def at_identity(self) -> "PlacedSE":
        """Return the block whose gate starts at one."""
        return replace(self, start="identity")

    def create(self) -> "nn.Module":
        """Create it as :func:`se_search.network.attention.se_layers.create_se_block` does."""
        from .se_layers import create_se_block

        channels, layout = self.site.channels, self.site.layout
        return create_se_block(channels, self.ratio, self.gate, self.bias, self.rounding, layout, self.start)

    def create_elastic(self, kept: "nn.Module | None" = None) -> "ElasticSE":
        """Create the elastic block of this hidden width."""
        from .se_layers import ElasticSE

        return ElasticSE(self.site.channels, self.hidden, self.bias, self.site.layout, kept)

    def select_in(self, elastic: "ElasticSE") -> None:
        """Use the leading hidden units."""
        elastic.select(self.hidden, self.gate)

    def slice_of(self, elastic: "ElasticSE") -> "dict[str, torch.Tensor]":
        """Take the leading hidden units."""
        return elastic.slice_state(self.hidden)

    def standalone_call(self) -> str:
        """Call ``SqueezeExcite``; what is usual is left out."""
        call = f"SqueezeExcite({self.site.channels}, {self.hidden}, {self.gate!r}"
        call += "" if self.bias else ", bias=False"
        axis, gate = LAYOUTS[self.site.layout], GATES[self.gate]
        call += "" if axis == 1 else f", channel_axis={axis}"
        call += f", shift={gate.shift!r}, factor={gate.factor!r}" if self.start == "identity" else ""
        return f"{call})"
