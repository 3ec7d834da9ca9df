"""Decoded images in memory that the processes of a loader share."""

import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image

_MOST_BYTES = 2**30
_NUMBER = np.dtype(np.int64)


class DecodedImages:
    """RGB images of a data source as they were decoded, as many as fit into memory of a fixed size.

    Processes that are forked from this one read and add to the same images. Other processes, which get a copy, keep
    none. The system provides memory only for what has been added.

    Args:
        count: Number of images of the source.
        most_bytes: Size of the memory; by default 1 GiB, but at most a sixteenth of the machine's.
    """

    def __init__(self, count: int, most_bytes: int | None = None) -> None:
        self._table: npt.NDArray[np.int64] | None = None
        if not hasattr(os, "memfd_create"):  # without it, processes are not forked, or could not take turns
            return
        if most_bytes is None:
            most_bytes = min(_MOST_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16)
        try:
            self._pixels = mmap.mmap(-1, most_bytes)
            rows = mmap.mmap(-1, (count + 1) * 3 * _NUMBER.itemsize)
            self._lock = os.memfd_create("decoded images")
        except OSError:  # too little memory or too many open files
            return
        weakref.finalize(self, os.close, self._lock)
        # For each image the end of its pixels, width and height; in the last row the end of all pixels.
        self._table = np.frombuffer(rows, _NUMBER).reshape(-1, 3)

    def __getstate__(self) -> dict[str, None]:
        return {"_table": None}

    def find(self, index: int) -> Image.Image | None:
        """Return an image that was added, or ``None``."""
        if self._table is None:
            return None
        with self._turn():
            end, width, height = map(int, self._table[index])
        if not end:
            return None
        return Image.frombytes("RGB", (width, height), self._pixels[end - 3 * width * height : end])

    def add(self, index: int, image: Image.Image) -> None:
        """Add an image, if there is room."""
        if self._table is None:
            return
        size = 3 * image.width * image.height
        with self._turn():
            start = int(self._table[-1, 0])
            if self._table[index, 0] or start + size > len(self._pixels):
                return
            self._table[-1, 0] = start + size
        self._pixels[start : start + size] = image.tobytes()
        with self._turn():
            self._table[index] = start + size, image.width, image.height

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Exclude other processes; a process that dies has left."""
        import fcntl

        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)
