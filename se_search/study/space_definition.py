"""Definition of a space: what may vary."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..network.attention.se import check_gate, check_ratio
from ..network.config import MOST_ROUNDING
from .base import Definition, Listed, as_value_error, distinct


def _ratio(value: Any) -> int:
    return as_value_error(check_ratio, value)


def _gate(value: Any) -> str:
    return as_value_error(check_gate, value)


Ratio = Annotated[int, BeforeValidator(_ratio)]


Gate = Annotated[str, BeforeValidator(_gate)]


class SpaceDefinition(Definition):
    """What may vary.

    Attributes:
        description: One sentence for ``se-search spaces``.
        placement: What is switched on or off: a whole ``"stage"`` or each ``"block"``.
        positions: Positions that SE blocks may have. ``"default"`` is ``existing`` in networks that have attention,
            ``standard`` in others with residual branches, ``post`` in plain ones.
        position_per: Whether one position is chosen for the whole ``"network"`` or for each ``"stage"``.
        ratios: Reduction ratios that a stage may have.
        gates: Gates of which a configuration uses one.
        bias: Whether the SE blocks have biases.
        rounding: Rounding of hidden widths; 1 for none.
    """

    description: str = ""
    placement: Literal["stage", "block"]
    positions: Annotated[
        tuple[Literal["default", "standard", "pre", "post", "identity", "3x3", "existing"], ...],
        Listed,
        Field(min_length=1),
        AfterValidator(distinct),
    ] = ("default",)
    position_per: Literal["network", "stage"] = "network"
    ratios: Annotated[tuple[Ratio, ...], Listed, Field(min_length=1), AfterValidator(distinct)]
    gates: Annotated[tuple[Gate, ...], Listed, Field(min_length=1), AfterValidator(distinct)]
    bias: bool = True
    rounding: Annotated[int, Field(ge=1, le=MOST_ROUNDING)] = 8
