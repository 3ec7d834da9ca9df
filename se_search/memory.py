"""What does not fit into the memory of a device, told in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import EvaluationError


@contextmanager
def memory_told() -> Iterator[None]:
    """Say in a sentence that memory is used up, in a block or, as a decorator, in a function.

    Raises:
        EvaluationError: If it is.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        # PyTorch goes on with what every other process holds and with settings of its allocator.
        reason = ". ".join(str(error).split(". ")[:3]) or "the machine has no more"
        raise EvaluationError(f"memory is used up ({reason}): use a smaller batch or smaller images") from error
