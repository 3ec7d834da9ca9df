"""Efficient channel attention (Wang et al. 2020, arXiv:1910.03151)."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator

from ...definition import Several
from .gates import GATES, check_gate
from .kind import LAYOUTS, STARTS, Choices, PlacedAttention, check_choice

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .eca_layers import ElasticECA

PUBLISHED = "published"
"""Kernel size from the number of channels, as in the paper."""

KERNELS = (3, 5, 7, 9)
"""Kernel sizes of the paper's ablation (table 2)."""

check_kernel = partial(check_choice, "kernel", choices=(PUBLISHED, *KERNELS))
"""Return a kernel size if it can be chosen; otherwise raise :class:`~se_search.errors.ConfigurationError`."""


def published_kernel(channels: int) -> int:
    """Return the odd number nearest to ``|log2(C)/2 + 1/2|`` and at least 3, as timm's ``EcaModule`` does.

    Equation 12 of the paper with γ = 2 and b = 1.
    """
    size = int(abs(math.log2(channels) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)


class ECAChoices(Choices):
    """Options of ECA blocks that a space varies."""

    kernels: Several[Annotated[int | str, BeforeValidator(check_kernel)]]
    """Kernel sizes of a stage: ``published``, 3, 5, 7 or 9."""

    gates: Several[Annotated[str, AfterValidator(check_gate)]] = ("sigmoid",)
    """Gates; a configuration uses one for all blocks."""

    published: ClassVar[dict[str, Any] | None] = {"kernel": PUBLISHED}

    @property
    def per_stage(self) -> dict[str, tuple[Any, ...]]:
        """The kernel size."""
        return {"kernel": self.kernels}

    @property
    def per_network(self) -> dict[str, tuple[Any, ...]]:
        """The gate."""
        return {"gate": self.gates}

    @property
    def _sizes(self) -> list[int]:
        return [kernel for kernel in self.kernels if isinstance(kernel, int)]

    @property
    def widest(self) -> dict[str, Any]:
        """The largest number; its elastic module also contains the published kernel."""
        return {"kernel": max(self._sizes, default=PUBLISHED)}

    @property
    def narrowest(self) -> dict[str, Any]:
        """The smallest number."""
        return {"kernel": min(self._sizes, default=PUBLISHED)}


@dataclass(frozen=True, order=True)
class PlacedECA(PlacedAttention):
    """An ECA block at a site: ``x * gate(conv(mean(x)))``, a convolution along the channels.

    Attributes:
        site: The site.
        kernel: Kernel size, one of :data:`se_search.network.attention.eca.KERNELS`, or :data:`PUBLISHED`.
        gate: One of :data:`se_search.network.attention.gates.GATES`.
        start: ``"paper"``, or ``"identity"``: the block has no effect before training.

    Raises:
        ConfigurationError: If a value is invalid.
    """

    kernel: int | str = PUBLISHED
    gate: str = "sigmoid"
    start: str = "paper"

    kind: ClassVar[str] = "eca"
    word: ClassVar[str] = "ECA"
    choices: ClassVar[type[Choices]] = ECAChoices
    formula: ClassVar[str] = "k"

    def __post_init__(self) -> None:
        check_kernel(self.kernel)
        check_gate(self.gate)
        check_choice("start", self.start, STARTS)

    @property
    def size(self) -> int:
        """Kernel size k."""
        return self.kernel if isinstance(self.kernel, int) else published_kernel(self.site.channels)

    @property
    def structure(self) -> tuple[Any, ...]:
        """Equal for the published kernel and its size as a number."""
        return (self.kind, self.site, self.size, self.gate, self.start)

    @property
    def parameters(self) -> int:
        """Number of parameters: the kernel."""
        return self.size

    @property
    def formula_parameters(self) -> Fraction:
        """The kernel."""
        return Fraction(self.size)

    def flops(self, elements: int) -> int:
        """Squeeze and scale read each element; the convolution has k·C; identity start multiplies the gate."""
        return 2 * elements + self.site.channels * (self.size + (self.start == "identity"))

    def latency_terms(self) -> dict[str, float]:
        """Return the number of blocks; kernels and gates count the same."""
        return {"eca": 1.0}

    @property
    def label(self) -> str:
        """The kernel size, unless it is the published one."""
        return "ECA" if self.kernel == PUBLISHED else f"ECA k={self.kernel}"

    @property
    def rank(self) -> int:
        """Larger for smaller kernels."""
        return 64 // self.size

    @property
    def description(self) -> str:
        """Kernel size, gate, position and start."""
        words = [f"ECA k={self.size}", f"gate {self.gate}", f"position {self.site.position}"]
        return ", ".join(words + (["identity start"] if self.start == "identity" else []))

    def at_identity(self) -> "PlacedECA":
        """Return a copy whose gate starts at one."""
        return replace(self, start="identity")

    def create(self) -> "nn.Module":
        """Create the module, see :func:`se_search.network.attention.eca_layers.create_eca_block`."""
        from .eca_layers import create_eca_block

        return create_eca_block(self.size, self.gate, self.site.layout, self.start)

    def create_elastic(self, kept: "nn.Module | None" = None) -> "ElasticECA":
        """Create an elastic block of this kernel size or the published one, whichever is larger."""
        from .eca_layers import ElasticECA

        size = max(self.size, published_kernel(self.site.channels))
        return ElasticECA(size, self.site.layout, kept, self.start)

    def select_in(self, elastic: "ElasticECA") -> None:
        """Use the middle of the kernel."""
        elastic.select(self.size, self.gate, self.start)

    def slice_of(self, elastic: "ElasticECA") -> "dict[str, torch.Tensor]":
        """Take the middle of the kernel."""
        return elastic.slice_state(self.size)

    def standalone_call(self) -> str:
        """Return a call of ``EfficientChannelAttention`` without default arguments."""
        call = f"EfficientChannelAttention({self.size}, {self.gate!r}"
        axis, gate = LAYOUTS[self.site.layout], GATES[self.gate]
        call += "" if axis == 1 else f", channel_axis={axis}"
        call += f", shift={gate.shift!r}, factor={gate.factor!r}" if self.start == "identity" else ""
        return f"{call})"
