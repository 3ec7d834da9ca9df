"""Latency measurement in a separate process, so that a runtime that crashes does not end the search."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import torch
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool
from torch import nn

from ..deployment.deployment import Deployment
from ..deployment.prepare import describe
from ..errors import EvaluationError
from ..safe_path import safe_path
from .meter import LatencyConditions, LatencyMeter, Ratio

P = ParamSpec("P")
R = TypeVar("R")


class IsolatedMeter:
    """A :class:`~se_search.latency.meter.LatencyMeter` in a separate process, with the same arguments.

    A runtime that crashes ends that process; the next measurement starts a new one.

    Raises:
        SeSearchError: As the meter raises it.
        EvaluationError: If the runtime crashes.
    """

    def __init__(self, baseline: nn.Module, deployment: Deployment, target: float, limit: float, seed: int) -> None:
        # PyTorch's default number of threads may differ in the other process.
        self._deployment = replace(deployment, threads=deployment.threads or torch.get_num_threads())
        self._arguments = (baseline, self._deployment, target, limit, seed)
        self._executor: ProcessPoolExecutor | None = None
        self.conditions = self._start()

    def measure(self, model: nn.Module, look: float | None = None) -> Ratio:
        """Measure as the meter does; raises an :class:`EvaluationError` too if the runtime crashes."""
        if self._executor is None:
            self._start()
        return self._call(_measure, model, look)

    def close(self) -> None:
        """End the process."""
        if self._executor is not None:
            self._executor.shutdown(kill_workers=True)
            self._executor = None

    def _start(self) -> LatencyConditions:
        try:
            return self._call(_create, *self._arguments)
        except Exception:
            self.close()
            raise

    def _call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        with safe_path():
            if self._executor is None:
                self._executor = ProcessPoolExecutor(1)
            called = self._executor.submit(function, *args, **kwargs)
        try:
            return called.result()
        except BrokenProcessPool as error:
            self.close()
            raise EvaluationError(f"{describe(self._deployment)} crashed while it ran the network") from error
        finally:
            if not called.done():  # an exception interrupted the wait: stop the measurement
                self.close()


_meters: list[LatencyMeter] = []
"""The meter of the other process."""


def _create(*arguments: Any) -> LatencyConditions:
    _meters[:] = [LatencyMeter(*arguments)]
    return _meters[0].conditions


def _measure(model: nn.Module, look: float | None) -> Ratio:
    return _meters[0].measure(model, look)
