"""Options of attention blocks and their checks, without PyTorch: study files are checked before it is loaded."""

import math
from collections.abc import Collection

from ...errors import ConfigurationError, did_you_mean

MOST_ROUNDING = 1024
"""Largest multiple that hidden widths are rounded to; a larger one makes networks that no machine holds."""

GATES = ("sigmoid", "hard_sigmoid", "tanh", "relu")
"""Gates of the paper's excitation ablation (sigmoid, tanh, ReLU) and MobileNetV3's hard sigmoid."""


LAYOUTS = {"NCHW": 1, "NHWC": 3, "NLC": 2, "NCL": 1}
"""Orders of dimensions, with the dimension of the channels."""


STARTS = ("paper", "identity")
"""How an SE block starts: as the paper's, or without an effect."""


_FROM_ONE = {"sigmoid": (0.0, 2.0), "hard_sigmoid": (0.0, 2.0), "tanh": (math.atanh(0.5), 2.0), "relu": (1.0, 1.0)}


def check_ratio(ratio: object) -> int:
    """Return ``ratio`` if it is a reduction ratio, an integer of at least 1.

    Raises:
        ConfigurationError: If it is anything else.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int) or ratio < 1:
        raise ConfigurationError(f"reduction ratio {ratio!r} is not possible: it must be an integer of at least 1")
    return ratio


def check_gate(gate: object) -> str:
    """Return ``gate`` if it is one of :data:`GATES`.

    Raises:
        ConfigurationError: If it is anything else.
    """
    return _check_choice("gate", gate, GATES)


def check_layout(layout: object) -> str:
    """Return ``layout`` if it is one of :data:`LAYOUTS`.

    Raises:
        ConfigurationError: If it is anything else.
    """
    return _check_choice("layout", layout, LAYOUTS)


def check_start(start: object) -> str:
    """Return ``start`` if it is one of :data:`STARTS`.

    Raises:
        ConfigurationError: If it is anything else.
    """
    return _check_choice("start", start, STARTS)


def _check_choice(word: str, value: object, choices: Collection[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        near = did_you_mean(str(value), choices)
        raise ConfigurationError(f"{word} {value!r} is unknown: choose one of {', '.join(choices)}{near}")
    return value
