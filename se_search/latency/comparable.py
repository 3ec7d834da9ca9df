"""Which latencies can be compared with each other."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..deployment.deployment import Deployment
from ..errors import EvaluationError

# The CPUs in use and the time limit may differ.
_COMPARABLE = ("processor", *(one.name for one in fields(Deployment)))


def check_same_conditions(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that latencies are comparable, by the conditions of two measurements.

    Raises:
        EvaluationError: If the processor or the deployment differs.
    """
    for name in _COMPARABLE:
        if now[name] != before[name]:
            raise EvaluationError(f"latency was measured with {name} {before[name]!r} before and {now[name]!r} now")
