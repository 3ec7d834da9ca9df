"""Convert out-of-memory errors to EvaluationError."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import EvaluationError


@contextmanager
def memory_told() -> Iterator[None]:
    """Convert out-of-memory errors of a block or, as a decorator, of a function.

    Raises:
        EvaluationError: If memory runs out.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        # The rest of PyTorch's message lists other processes and settings of its allocator.
        reason = ". ".join(str(error).split(". ")[:3]) or "the machine has no more"
        raise EvaluationError(f"out of memory ({reason}): use a smaller batch or smaller images") from error
