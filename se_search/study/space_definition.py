"""Definition of a space: what may vary."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..network.attention.options import MOST_ROUNDING, check_gate, check_ratio
from .base import Definition, Listed, as_value_error, distinct


def _ratio(value: Any) -> int:
    return as_value_error(check_ratio, value)


def _gate(value: Any) -> str:
    return as_value_error(check_gate, value)


ReductionRatio = Annotated[int, BeforeValidator(_ratio)]


Gate = Annotated[str, BeforeValidator(_gate)]


class SpaceDefinition(Definition):
    """What may vary."""

    description: str = ""
    """One sentence for ``se-search spaces``."""

    placement: Literal["stage", "block"]
    """What is switched on or off: a whole ``"stage"`` or each ``"block"``."""

    positions: Annotated[
        tuple[Literal["default", "standard", "pre", "post", "identity", "3x3", "existing"], ...],
        Listed,
        Field(min_length=1),
        AfterValidator(distinct),
    ] = ("default",)
    """Positions that SE blocks may have. ``"default"`` is ``existing`` in networks that have attention, ``standard`` in
    others with residual branches, ``post`` in plain ones."""

    position_per: Literal["network", "stage"] = "network"
    """Whether one position is chosen for the whole ``"network"`` or for each ``"stage"``."""

    ratios: Annotated[tuple[ReductionRatio, ...], Listed, Field(min_length=1), AfterValidator(distinct)]
    """Reduction ratios that a stage may have."""

    gates: Annotated[tuple[Gate, ...], Listed, Field(min_length=1), AfterValidator(distinct)]
    """Gates of which a configuration uses one."""

    bias: bool = True
    """Whether the SE blocks have biases."""

    rounding: Annotated[int, Field(ge=1, le=MOST_ROUNDING)] = 8
    """Rounding of hidden widths; 1 for none."""
