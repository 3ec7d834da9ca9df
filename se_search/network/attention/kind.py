"""The interface of a kind of attention: all that depends on the kind lies behind it. It needs no PyTorch."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...definition import Definition
from ...errors import ConfigurationError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..sites import Site
    from .layers import Elastic

LAYOUTS = {"NCHW": 1, "NHWC": 3, "NLC": 2, "NCL": 1}
"""Orders of dimensions, with the dimension of the channels."""

STARTS = ("paper", "identity")
"""How a block starts: as its paper's, or without an effect."""


def check_choice(word: str, value: object, choices: Collection[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ConfigurationError: If it is anything else; ``word`` says what of.
    """
    if not isinstance(value, str) or value not in choices:
        near = did_you_mean(str(value), choices)
        raise ConfigurationError(f"{word} {value!r} is unknown: choose one of {', '.join(choices)}{near}")
    return value


class Choices(Definition, ABC):
    """What a space may vary about a kind of attention: the fields are keys of the space's file.

    The properties give values by the names of the placed block's fields.
    """

    published: ClassVar[dict[str, Any] | None] = None
    """Values per stage of a published uniform network, which a search tries first."""

    @property
    @abstractmethod
    def per_stage(self) -> dict[str, tuple[Any, ...]]:
        """Choices that each stage has; the first can also be that the stage has no block."""

    @property
    def per_network(self) -> dict[str, tuple[Any, ...]]:
        """Choices that all blocks share."""
        return {}

    @property
    def fixed(self) -> dict[str, Any]:
        """Values that do not vary."""
        return {}

    @property
    @abstractmethod
    def widest(self) -> dict[str, Any]:
        """Values per stage of the block whose elastic module holds all others."""

    @property
    @abstractmethod
    def narrowest(self) -> dict[str, Any]:
        """Values per stage of the block with the fewest parameters."""


@dataclass(frozen=True, order=True)
class PlacedAttention(ABC):
    """A block of one kind of attention at its site; a kind is a subclass, its fields are the block's options.

    Attributes:
        site: Where it stands.
    """

    site: "Site"

    kind: ClassVar[str]
    """Name of the kind."""

    choices: ClassVar[type[Choices]]
    """What a space may vary."""

    formula: ClassVar[str]
    """The formula of the parameters of a block, such as ``2C²/r``."""

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of the options: the fields but the site."""
        return tuple(field.name for field in fields(cls) if field.name != "site")

    def options(self) -> dict[str, Any]:
        """Options by name, as JSON holds them."""
        return {name: getattr(self, name) for name in self.option_names()}

    @property
    def structure(self) -> tuple[Any, ...]:
        """What the block is: equal for options that give the same module."""
        return (self.kind, self.site, *self.options().values())

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of parameters."""

    @property
    @abstractmethod
    def formula_parameters(self) -> Fraction:
        """Parameters by :attr:`formula`."""

    @abstractmethod
    def flops(self, elements: int) -> int:
        """Multiply-additions for one image, of which the block scales ``elements``.

        They are what :func:`se_search.network.overhead.count_flops` counts.
        """

    @abstractmethod
    def latency_terms(self) -> dict[str, float]:
        """Amounts by which the costs of the additive latency model count; no other kind uses their names."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What figures and tables call it, such as ``r=16``."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Place in figures, at least 1: the fewer parameters, the greater it is and the lighter the colour."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Options and position as a model card lists them."""

    @property
    def gate(self) -> str:
        """Name of the gate, empty for a kind without."""
        return ""

    @abstractmethod
    def at_identity(self) -> "PlacedAttention":
        """Return the block that starts without an effect."""

    @abstractmethod
    def create(self) -> "nn.Module":
        """Create the module."""

    @abstractmethod
    def create_elastic(self, kept: "nn.Module | None" = None) -> "Elastic":
        """Create the module of the supernet that holds this block and all narrower ones.

        Args:
            kept: The backbone's own attention there.
        """

    @abstractmethod
    def select_in(self, elastic: Any) -> None:
        """Let an elastic module compute what this block does."""

    @abstractmethod
    def slice_of(self, elastic: Any) -> "dict[str, torch.Tensor]":
        """Return this block's state from that of an elastic module."""

    @classmethod
    def standalone_source(cls) -> str:
        """Return the Jinja template of the kind's source in a stand-alone file, given its ``blocks``.

        It lies beside the kind's file and is called as that with ``.jinja``.
        """
        return Path(f"{inspect.getfile(cls)}.jinja").read_text(encoding="utf-8")

    @abstractmethod
    def standalone_call(self) -> str:
        """Return the expression that creates the module in a stand-alone file."""
