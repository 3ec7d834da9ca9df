"""Time limit of a trial."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from .errors import EvaluationError


class _TimeIsUp(BaseException):
    """Not an :class:`Exception`, so that handlers for any failure of an image or a compiler let it pass."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise an error when a block takes longer than a limit.

    The error is raised between two steps of Python. A call that waits, such as for a process that loads images, ends at
    once; one that computes outside Python ends when it returns. On Windows and outside the main thread, where there are
    no alarms, there is no limit.

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
        raise EvaluationError(f"the trial took longer than its limit of {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
