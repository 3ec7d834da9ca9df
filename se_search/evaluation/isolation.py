"""What may crash or hang, kept from taking the search with it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any, NoReturn, ParamSpec, TypeVar

import torch
from loky import ProcessPoolExecutor
from loky.process_executor import BrokenProcessPool
from torch import nn

from ..errors import EvaluationError
from .latency import LatencyConditions, LatencyMeter, Ratio
from .runtimes import Deployment, describe

P = ParamSpec("P")
R = TypeVar("R")


class _TimeIsUp(BaseException):
    """No :class:`Exception`: what takes any failure for one of an image or a compiler must let it pass."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise an error in the block after so long.

    It is raised between two steps of Python: a call that waits, as for a process that loads images, is left at once,
    one that computes outside Python when it returns. Where there are no alarms, on Windows and outside the main thread,
    nothing is raised.

    Args:
        seconds: The limit; ``None`` for none.

    Raises:
        EvaluationError: If the block takes longer.
    """
    if seconds is None or not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TimeIsUp:
        raise EvaluationError(f"it took longer than the limit of {seconds:g} s for a trial") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class IsolatedMeter:
    """A :class:`~se_search.evaluation.latency.LatencyMeter` in a process of its own.

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
