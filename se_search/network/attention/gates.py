"""Gates: the activations that turn an excitation into a scale."""

import math
from dataclasses import dataclass
from functools import partial

from .kind import check_choice


@dataclass(frozen=True)
class Gate:
    """A gate by timm's name; for identity start, ``factor * gate(0 + shift)`` is one.

    Attributes:
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

check_gate = partial(check_choice, "gate", choices=GATES)
"""Return a gate if it is one of :data:`GATES`; otherwise raise :class:`~se_search.errors.ConfigurationError`."""
