"""What does not fit into the memory is told in a sentence."""

import errno

import pytest
import torch

from se_search.errors import EvaluationError
from se_search.memory import memory_told

# What PyTorch 2.11 said on a GPU that another process had filled; the part about processes is longer.
OF_PYTORCH = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which 11.25 MiB is "
    "free. Process 911 has 138.02 GiB memory in use. Of the allocated memory 1.21 GiB is allocated by PyTorch. See "
    "documentation for Memory Management  (https://docs.pytorch.org/docs/stable/notes/cuda.html)"
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            torch.OutOfMemoryError(OF_PYTORCH),
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which "
            "11.25 MiB is free",
        ),
        (MemoryError(), "the machine has no more"),
        # What PyTorch 2.15 says on a CPU under ulimit -v.
        (RuntimeError("could not create a primitive"), "could not create a primitive"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
    ],
)
def test_a_function_that_finds_no_memory_says_so_in_a_sentence(error, reason):
    @memory_told()
    def needs_too_much():
        raise error

    with pytest.raises(EvaluationError) as refusal:
        needs_too_much()
    assert str(refusal.value) == f"out of memory ({reason}): use a smaller batch or smaller images"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes differ"),
        RuntimeError("could not create a primitive descriptor for a matmul primitive"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as passed, memory_told():
        raise error
    assert passed.value is error


def test_what_pytorch_itself_raises_is_recognised():
    with pytest.raises(EvaluationError, match="out of memory"), memory_told():
        torch.empty(2**50)
