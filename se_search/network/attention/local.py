"""A residual depthwise convolution: local mixing for networks whose other mixing is global."""

from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator

from ...definition import Several
from ...errors import ConfigurationError
from .kind import STARTS, Choices, PlacedAttention, check_choice

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .local_layers import ElasticLocal

KERNELS = (3, 5)
"""Kernel sizes, that of PEG, CPE and LPI (Chu et al. 2021, Li et al. 2022, El-Nouby et al. 2021), and a larger one."""

check_kernel = partial(check_choice, "kernel", choices=KERNELS)
"""Return a kernel size if it can be chosen; otherwise raise :class:`~se_search.errors.ConfigurationError`."""


class LocalChoices(Choices):
    """Options of local blocks that a space varies."""

    kernels: Several[Annotated[int, BeforeValidator(check_kernel)]] = (3,)
    """Kernel sizes of a stage: 3 or 5."""

    bias: bool = True
    """Whether the convolutions have biases."""

    published: ClassVar[dict[str, Any] | None] = {"kernel": 3}

    @property
    def per_stage(self) -> dict[str, tuple[Any, ...]]:
        """The kernel size."""
        return {"kernel": self.kernels}

    @property
    def fixed(self) -> dict[str, Any]:
        """Biases."""
        return {"bias": self.bias}

    @property
    def widest(self) -> dict[str, Any]:
        """The largest kernel."""
        return {"kernel": max(self.kernels)}

    @property
    def narrowest(self) -> dict[str, Any]:
        """The smallest kernel."""
        return {"kernel": min(self.kernels)}


@dataclass(frozen=True, order=True)
class PlacedLocal(PlacedAttention):
    """A local block at a site: ``x + conv(x)``, a depthwise convolution over the positions.

    Tokens are convolved on the grid of patches; class and register tokens pass unchanged.

    Attributes:
        site: The site.
        kernel: Kernel size, one of :data:`se_search.network.attention.local.KERNELS`.
        bias: Whether the convolution has a bias.
        start: ``"paper"`` or ``"identity"``, which are the same here: the convolution is zero before training.

    Raises:
        ConfigurationError: If a value is invalid.
    """

    kernel: int = 3
    bias: bool = True
    start: str = "paper"

    kind: ClassVar[str] = "local"
    word: ClassVar[str] = "local convolution"
    choices: ClassVar[type[Choices]] = LocalChoices
    formula: ClassVar[str] = "k²C"

    def __post_init__(self) -> None:
        check_kernel(self.kernel)
        check_choice("start", self.start, STARTS)
        if not isinstance(self.bias, bool):
            raise ConfigurationError(f"bias {self.bias!r} is invalid: it must be true or false")

    @property
    def is_local(self) -> bool:
        """A convolution is local."""
        return True

    @property
    def needs_grid(self) -> bool:
        """A convolution needs rows and columns."""
        return True

    @property
    def structure(self) -> tuple[Any, ...]:
        """Equal for both starts."""
        return (self.kind, self.site, self.kernel, self.bias)

    @property
    def parameters(self) -> int:
        """Number of parameters: k² weights and, with ``bias``, one bias for each channel."""
        return (self.kernel**2 + self.bias) * self.site.channels

    @property
    def formula_parameters(self) -> Fraction:
        """The weights."""
        return Fraction(self.kernel**2 * self.site.channels)

    def flops(self, elements: int) -> int:
        """k² for each convolved element; class and register tokens are not convolved, and additions do not count."""
        grid = self.site.grid
        convolved = elements if grid is None else self.site.channels * grid.positions
        return self.kernel**2 * convolved

    def latency_terms(self) -> dict[str, float]:
        """Return the number of blocks and k²."""
        return {"local": 1.0, "local taps": float(self.kernel**2)}

    @property
    def label(self) -> str:
        """The kernel size."""
        return f"local {self.kernel}×{self.kernel}"

    @property
    def rank(self) -> int:
        """Larger for the smaller kernel."""
        return 16 // self.kernel

    @property
    def description(self) -> str:
        """Kernel size, position and missing biases."""
        words = [self.label, f"position {self.site.position}"]
        return ", ".join(words + ([] if self.bias else ["no biases"]))

    def at_identity(self) -> "PlacedLocal":
        """Return the block: it always starts at identity."""
        return self

    def create(self) -> "nn.Module":
        """Create the module, see :class:`se_search.network.attention.local_layers.LocalBlock`."""
        from .local_layers import LocalBlock

        return LocalBlock(self.site.channels, self.kernel, self.bias, self.site.layout, self.site.grid)

    def create_elastic(self, kept: "nn.Module | None" = None) -> "ElasticLocal":
        """Create an elastic block of this kernel size."""
        from .local_layers import ElasticLocal

        return ElasticLocal(self.site.channels, self.kernel, self.bias, self.site.layout, self.site.grid, kept)

    def select_in(self, elastic: "ElasticLocal") -> None:
        """Use the middle of the kernel."""
        elastic.select(self.kernel)

    def slice_of(self, elastic: "ElasticLocal") -> "dict[str, torch.Tensor]":
        """Take the middle of the kernel."""
        return elastic.slice_state(self.kernel)

    def standalone_call(self) -> str:
        """Return a call of ``LocalConvolution`` without default arguments."""
        grid, layout = self.site.grid, self.site.layout
        call = f"LocalConvolution({self.site.channels}, {self.kernel}"
        call += "" if self.bias else ", bias=False"
        call += "" if layout == "NCHW" else f", layout={layout!r}"
        if layout in ("NLC", "NCL") and grid is not None:
            call += f", prefix={grid.prefix}, grid=({grid.rows}, {grid.columns})"
        return f"{call})"
