"""Keep the current directory off the path on which processes find Python's modules."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SETTING = "PYTHONSAFEPATH"  # since Python 3.11


@contextmanager
def safe_path() -> Iterator[None]:
    """Start the Python processes of a block without their current directory on ``sys.path``.

    Otherwise a file ``torch.py`` where the user stands would be executed in place of PyTorch.
    """
    before = os.environ.get(_SETTING)
    os.environ[_SETTING] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SETTING]
        else:
            os.environ[_SETTING] = before


def leave_current_directory() -> None:
    """Remove the current directory, which ``python -m`` puts first, from this process's path."""
    if not getattr(sys.flags, "safe_path", False) and sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
