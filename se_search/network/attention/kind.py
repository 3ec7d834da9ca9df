"""Interface of a kind of attention: everything that depends on the kind. This module does not import PyTorch."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from ...definition import Definition
from ...errors import ConfigurationError, did_you_mean
from .grid import LAYOUTS as LAYOUTS, Grid

if TYPE_CHECKING:
    import torch
    from torch import nn
    from typing_extensions import Self

    from ..sites import Site
    from .layers import Elastic

STARTS = ("paper", "identity")
"""How a block is initialised: as in its paper, or without an effect."""

_Choice = TypeVar("_Choice", bound=str | int)


def check_choice(word: str, value: object, choices: Collection[_Choice]) -> _Choice:
    """Return ``value`` if it is one of ``choices``, which are strings and integers.

    Raises:
        ConfigurationError: If it is not; ``word`` names the option.
    """
    if not (isinstance(value, str) or type(value) is int) or value not in choices:
        names = list(map(str, choices))
        near = did_you_mean(str(value), names)
        raise ConfigurationError(f"{word} {value!r} is unknown: choose one of {', '.join(names)}{near}")
    return cast("_Choice", value)


class Choices(Definition, ABC):
    """Options of a kind of attention that a space varies; the fields are keys of space files.

    Each property returns values by name of a field of :class:`PlacedAttention`.
    """

    published: ClassVar[dict[str, Any] | None] = None
    """Values of a published uniform network, which a search evaluates first."""

    @property
    @abstractmethod
    def per_stage(self) -> dict[str, tuple[Any, ...]]:
        """Choices of each stage, besides no block."""

    @property
    def per_network(self) -> dict[str, tuple[Any, ...]]:
        """Choices that are the same for all blocks."""
        return {}

    @property
    def fixed(self) -> dict[str, Any]:
        """Fixed values."""
        return {}

    @property
    @abstractmethod
    def widest(self) -> dict[str, Any]:
        """Values of the block whose elastic module contains all others."""

    @property
    @abstractmethod
    def narrowest(self) -> dict[str, Any]:
        """Values of the block with the fewest parameters."""

    @property
    def timed(self) -> tuple[dict[str, Any], ...]:
        """Values of blocks whose latencies determine those of all others; they may include choices per network."""
        return (self.widest, self.narrowest)


@dataclass(frozen=True, order=True)
class PlacedAttention(ABC):
    """A block of attention at a site. Each kind is a subclass, whose other fields are the block's options."""

    site: "Site"

    kind: ClassVar[str]
    """Name of the kind."""

    word: ClassVar[str]
    """Name of the kind in sentences, such as local convolution."""

    choices: ClassVar[type[Choices]]
    """Options that a space varies."""

    later: ClassVar[tuple[str, ...]] = ()
    """Options that files leave out at their default values, since earlier versions do not know them."""

    formula: ClassVar[str]
    """Formula for the parameters of a block, such as ``2C²/r``."""

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Return the names of the options."""
        return tuple(field.name for field in fields(cls) if field.name != "site")

    def options(self) -> dict[str, Any]:
        """Return the options by name, for JSON."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {
            name: values[name][0]
            for name in self.option_names()
            if name not in self.later or values[name][0] != values[name][1]
        }

    @property
    def is_local(self) -> bool:
        """Whether what the block does at a position depends on a part of the map only."""
        return False

    @property
    def needs_grid(self) -> bool:
        """Whether the block needs the rows and columns of the positions at its site."""
        return False

    def on_grid(self, grid: Grid | None) -> "Self":
        """Return a copy whose site has this grid."""
        return replace(self, site=replace(self.site, grid=grid))

    def simplest_on(self, grids: Collection[Grid]) -> "Self":
        """Return the block that stands for all that compute the same on maps of these grids."""
        return self

    @property
    def structure(self) -> tuple[Any, ...]:
        """Key that is equal for options that create the same module."""
        return (self.kind, self.site, *(getattr(self, name) for name in self.option_names()))

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of parameters."""

    @property
    @abstractmethod
    def formula_parameters(self) -> Fraction:
        """Number of parameters by :attr:`formula`."""

    @abstractmethod
    def flops(self, elements: int) -> int:
        """Return the multiply-additions to scale ``elements`` of one image, as ``count_flops`` counts them."""

    @abstractmethod
    def latency_terms(self) -> dict[str, float]:
        """Return the regressors of the additive latency model; their names must differ from those of other kinds."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Label in figures and tables, such as ``r=16``."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Order in figures, at least 1; larger for fewer parameters, with a lighter colour."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Options and position in a model card."""

    @property
    def gate(self) -> str:
        """Name of the gate; empty for kinds without a gate."""
        return ""

    @abstractmethod
    def at_identity(self) -> "PlacedAttention":
        """Return a copy that has no effect before training."""

    @abstractmethod
    def create(self) -> "nn.Module":
        """Create the module."""

    @abstractmethod
    def create_elastic(self, kept: "nn.Module | None" = None) -> "Elastic":
        """Create the supernet's module that contains this block, all narrower ones and ``kept``, existing attention."""

    @abstractmethod
    def select_in(self, elastic: Any) -> None:
        """Switch an elastic module to this block."""

    @abstractmethod
    def slice_of(self, elastic: Any) -> "dict[str, torch.Tensor]":
        """Return this block's slice of the state of an elastic module."""

    @classmethod
    def standalone_source(cls) -> str:
        """Return the Jinja template of the source in a stand-alone file, from ``.jinja`` beside the kind's file."""
        return Path(f"{inspect.getfile(cls)}.jinja").read_text(encoding="utf-8")

    @abstractmethod
    def standalone_call(self) -> str:
        """Return the expression that creates the module in a stand-alone file."""
