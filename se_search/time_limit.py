"""Time limit of a trial."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from .errors import EvaluationError


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
