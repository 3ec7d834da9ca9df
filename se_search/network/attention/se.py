"""Squeeze-and-Excitation, the default kind of attention."""

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from ...definition import Several
from ...errors import ConfigurationError
from .gates import GATES, check_gate
from .grid import LAYOUTS, Grid
from .kind import STARTS, Choices, PlacedAttention, check_choice

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .se_layers import ElasticSE
    from .windows import Scope

MOST_ROUNDING = 1024
"""Largest rounding of hidden widths; larger values make networks that do not fit into memory."""


SQUEEZES = ("avg", "max")
"""How a channel is squeezed (SENet paper, table 11)."""

GLOBAL = "global"
"""Extent of a squeeze of the whole map."""

EXTENTS = (GLOBAL, 8, 4, 2, 1)
"""Sides of the windows that are squeezed; 1 is the paper's NoSqueeze (table 16)."""

check_squeeze = partial(check_choice, "squeeze", choices=SQUEEZES)
"""Return a squeeze if it is one of :data:`SQUEEZES`; otherwise raise :class:`~se_search.errors.ConfigurationError`."""

check_extent = partial(check_choice, "extent", choices=EXTENTS)
"""Return an extent if it is one of :data:`EXTENTS`; otherwise raise :class:`~se_search.errors.ConfigurationError`."""


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

    squeezes: Several[Annotated[str, BeforeValidator(check_squeeze)]] = ("avg",)
    """How a channel is squeezed: by its average or its maximum; a configuration uses one for all blocks."""

    extents: Several[Annotated[int | str, BeforeValidator(check_extent)]] = (GLOBAL,)
    """Extents of the squeeze in a stage: the whole map, or windows of a side of 8, 4, 2 or 1 positions."""

    published: ClassVar[dict[str, Any] | None] = {"ratio": 16, "squeeze": "avg", "extent": GLOBAL}

    @property
    def per_stage(self) -> dict[str, tuple[Any, ...]]:
        """The ratio, and the extent if there are several."""
        return {"ratio": self.ratios} | ({"extent": self.extents} if len(self.extents) > 1 else {})

    @property
    def per_network(self) -> dict[str, tuple[Any, ...]]:
        """The gate, and the squeeze if there are several."""
        return {"gate": self.gates} | ({"squeeze": self.squeezes} if len(self.squeezes) > 1 else {})

    @property
    def fixed(self) -> dict[str, Any]:
        """Biases and rounding, and a single squeeze or extent."""
        fixed: dict[str, Any] = {"bias": self.bias, "rounding": self.rounding}
        fixed |= {"squeeze": self.squeezes[0]} if len(self.squeezes) == 1 else {}
        return fixed | ({"extent": self.extents[0]} if len(self.extents) == 1 else {})

    @property
    def widest(self) -> dict[str, Any]:
        """The smallest ratio."""
        return {"ratio": min(self.ratios)}

    @property
    def narrowest(self) -> dict[str, Any]:
        """The largest ratio."""
        return {"ratio": max(self.ratios)}

    @property
    def timed(self) -> tuple[dict[str, Any], ...]:
        """The smallest and the largest ratio with each squeeze and extent."""
        ends = dict.fromkeys((min(self.ratios), max(self.ratios)))
        return tuple(
            {"ratio": ratio, "squeeze": squeeze, "extent": extent}
            for ratio, squeeze, extent in itertools.product(ends, self.squeezes, self.extents)
        )


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
        squeeze: One of :data:`SQUEEZES`.
        extent: One of :data:`EXTENTS`. With windows, each has its own gate from the same two layers; class and register
            tokens are neither squeezed nor scaled.

    Raises:
        ConfigurationError: If a value is invalid.
    """

    ratio: int = 16
    gate: str = "sigmoid"
    bias: bool = True
    rounding: int = 8
    start: str = "paper"
    squeeze: str = "avg"
    extent: int | str = GLOBAL

    kind: ClassVar[str] = "se"
    word: ClassVar[str] = "SE"
    later: ClassVar[tuple[str, ...]] = ("squeeze", "extent")
    choices: ClassVar[type[Choices]] = SEChoices
    formula: ClassVar[str] = "2C²/r"

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        check_gate(self.gate)
        check_choice("start", self.start, STARTS)
        check_squeeze(self.squeeze)
        check_extent(self.extent)
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
        return (self.kind, self.site, self.hidden, self.gate, self.bias, self.start, self.squeeze, self.extent)

    def simplest_on(self, grids: Collection[Grid]) -> "PlacedSE":
        """One window that holds every map is the whole map; with class tokens, the smallest such window."""
        largest = max((max(grid.rows, grid.columns) for grid in grids), default=math.inf)
        if self.side is None or self.side < largest:
            return self
        if all(grid.prefix == 0 for grid in grids):
            return replace(self, extent=GLOBAL)
        return replace(self, extent=min(side for side in EXTENTS if isinstance(side, int) and side >= largest))

    @property
    def side(self) -> int | None:
        """Side of the windows in positions; ``None`` without windows."""
        return self.extent if isinstance(self.extent, int) else None

    @property
    def is_local(self) -> bool:
        """Windows are local."""
        return self.side is not None

    @property
    def needs_grid(self) -> bool:
        """Windows need rows and columns."""
        return self.side is not None

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
        """Squeeze and scale read each element; the layers have 2·C·h weights; identity start multiplies the gate.

        Windows do so each. Windows of one position need no squeeze.

        Raises:
            ConfigurationError: If windows are counted on an unknown grid.
        """
        channels, windows, read = self.site.channels, 1, 2 * elements
        if self.side is not None:
            grid = self._grid
            windows = math.ceil(grid.rows / self.side) * math.ceil(grid.columns / self.side)
            read = channels * grid.positions * (1 if self.side == 1 else 2)
        return read + windows * (2 * channels * self.hidden + (channels if self.start == "identity" else 0))

    @property
    def _grid(self) -> Grid:
        if self.site.grid is None:
            raise ConfigurationError(f"the rows and columns at {self.site.block} ({self.site.position}) are unknown")
        return self.site.grid

    def latency_terms(self) -> dict[str, float]:
        """Return the number of blocks and h/C, by squeeze and extent; gates count the same."""
        return {
            " ".join(("block", *self._scope)): 1.0,
            " ".join(("width", *self._scope)): self.hidden / self.site.channels,
        }

    @property
    def _scope(self) -> list[str]:
        """Words for a squeeze and an extent that are not the usual ones."""
        words = [] if self.squeeze == "avg" else [f"{self.squeeze} squeeze"]
        return words if self.side is None else [*words, f"{self.side}×{self.side} windows"]

    @property
    def label(self) -> str:
        """The ratio, and an unusual squeeze or extent."""
        return ", ".join((f"r={self.ratio}", *self._scope))

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

        channels, layout, scope = self.site.channels, self.site.layout, self._create_scope()
        return create_se_block(channels, self.ratio, self.gate, self.bias, self.rounding, layout, self.start, scope)

    def _create_scope(self) -> "Scope":
        from .windows import Scope

        return Scope(self.squeeze, self.side, self.site.grid if self.side else None)

    def create_elastic(self, kept: "nn.Module | None" = None) -> "ElasticSE":
        """Create an elastic block of this hidden width."""
        from .se_layers import ElasticSE

        return ElasticSE(self.site.channels, self.hidden, self.bias, self.site.layout, kept, self.site.grid, self.start)

    def select_in(self, elastic: "ElasticSE") -> None:
        """Use the leading hidden units."""
        elastic.select(self.hidden, self.gate, self.squeeze, self.side, self.start)

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
        call += "" if self.squeeze == "avg" else f", squeeze={self.squeeze!r}"
        call += "" if self.side is None else f", extent={self.side}"
        if self.side and self.site.layout in ("NLC", "NCL"):
            call += f", grid={(self._grid.prefix, self._grid.rows, self._grid.columns)}"
        return f"{call})"
