"""Out-of-memory errors as EvaluationError, and the memory that a process has used."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import EvaluationError

_PHRASES = (
    "can't allocate memory",
    "cannot allocate memory",
    "could not create a primitive",
    "could not create a memory object",
    "cublas_status_alloc_failed",
    "not enough memory",
    "out of memory",
    "can't start new thread",
)
"""In messages of PyTorch's ``RuntimeError`` where memory runs out, in lower case."""

_ANOTHER_CAUSE = "could not create a primitive descriptor"  # the operation is not supported


@contextmanager
def memory_told() -> Iterator[None]:
    """Convert out-of-memory errors of a block or, as a decorator, of a function.

    Raises:
        EvaluationError: If memory runs out.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        told = out_of_memory(error)
        if told is None:
            raise
        raise told from error


def out_of_memory(error: MemoryError | OSError | RuntimeError) -> EvaluationError | None:
    """Return what an error is if memory ran out, else ``None``."""
    if not _is_memory(error):
        return None
    # The rest of PyTorch's message lists other processes and settings of its allocator.
    reason = ". ".join(str(error).split(". ")[:3]) or "the machine has no more"
    return EvaluationError(f"out of memory ({reason}): use a smaller batch or smaller images")


def peak_memory(device: str) -> int | None:
    """Return the most memory that this process has used on a device, in bytes; ``None`` if the system does not tell."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _is_memory(error: MemoryError | OSError | RuntimeError) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return _ANOTHER_CAUSE not in text and any(phrase in text for phrase in _PHRASES)
