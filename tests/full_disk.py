"""A full disk, for tests of what is written then."""

import resource
from contextlib import contextmanager


@contextmanager
def files_no_larger_than(size):
    """What a full disk does to a file that grows, for this process alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
