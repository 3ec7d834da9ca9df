"""Gates, which turn an excitation into a scale."""

import math
from dataclasses import dataclass

from .kind import check_choice


@dataclass(frozen=True)
class Gate:
    """A timm activation that scales channels.

    Attributes:
        shift: What is added to its input
        factor: and what its output is multiplied by, so that it is one for zero: the identity start.
        source: The function in a stand-alone file.
    """

    shift: float
    factor: float
    source: str


GATES = {
    "sigmoid": Gate(0.0, 2.0, "torch.sigmoid"),
    "hard_sigmoid": Gate(0.0, 2.0, "F.hardsigmoid"),
    "tanh": Gate(math.atanh(0.5), 2.0, "torch.tanh"),
    "relu": Gate(1.0, 1.0, "F.relu"),
}
"""Gates of the paper's excitation ablation (sigmoid, tanh, ReLU) and MobileNetV3's hard sigmoid, by timm's names."""


def check_gate(gate: object) -> str:
    """Return ``gate`` if it is one of :data:`GATES`.

    Raises:
        ConfigurationError: If it is anything else.
    """
    return check_choice("gate", gate, GATES)
