"""What may crash or hang, kept from taking the search with it."""

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
from .meter import LatencyConditions, LatencyMeter, Ratio

P = ParamSpec("P")
R = TypeVar("R")


class IsolatedMeter:
    """A :class:`~se_search.latency.meter.LatencyMeter` in a process of its own.

    A runtime that crashes ends that process; the next measurement begins a new one.

    Args:
        baseline: As for the meter, like all others.
        deployment: How both networks are run.
        target: Half-width of the interval at which a measurement stops.
        limit: Seconds after which it stops.
        seed: Fixes the order within pairs.

    Raises:
        SeSearchError: As the meter does.
        EvaluationError: If the runtime crashes.
    """

    def __init__(self, baseline: nn.Module, deployment: Deployment, target: float, limit: float, seed: int) -> None:
        # The other process has a number of threads of its own.
        self._deployment = replace(deployment, threads=deployment.threads or torch.get_num_threads())
        self._arguments = (baseline, self._deployment, target, limit, seed)
        self._executor: ProcessPoolExecutor | None = None
        self.conditions = self._start()

    def measure(self, model: nn.Module) -> Ratio:
        """Measure as the meter does.

        Raises:
            SeSearchError: As the meter does.
            EvaluationError: If the runtime crashes.
        """
        if self._executor is None:
            self._start()
        return self._call(_measure, model)

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
        if self._executor is None:
            self._executor = ProcessPoolExecutor(1)
        called = self._executor.submit(function, *args, **kwargs)
        try:
            return called.result()
        except BrokenProcessPool as error:
            self.close()
            raise EvaluationError(f"{describe(self._deployment)} crashed while it ran the network") from error
        finally:
            if not called.done():  # nobody waits for it any more: it shall not go on
                self.close()


_meters: list[LatencyMeter] = []
"""In the other process, its one meter."""


def _create(*arguments: Any) -> LatencyConditions:
    _meters[:] = [LatencyMeter(*arguments)]
    return _meters[0].conditions


def _measure(model: nn.Module) -> Ratio:
    return _meters[0].measure(model)
