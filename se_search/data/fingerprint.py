"""Fingerprints of image folders: whether two hold the same images, and what differs."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import printable
from ..files import open_regular
from ..words import some_of

_WHOLE = 2**28  # bytes of all files up to which all of them are read: a second or less
_SAMPLE = 1000  # of more, so many files are read
_SAMPLED_BYTES = 2**20  # of each
_END = 2**13  # bytes at both ends of a file that tell it from files of the same size
_DIGITS = 16


@dataclass(frozen=True)
class ImageFile:
    """A file of a folder of images: its ``name`` with the split, the ``group`` (split and class), and its ``path``."""

    name: str
    group: str
    path: str


@dataclass(frozen=True)
class Fingerprint:
    """Digests of a folder of images.

    Attributes:
        files: Number of files.
        read: Number of files whose contents were read.
        names: Digest of the names.
        sizes: Digest of the sizes.
        contents: Digest of the contents of the files that were read.
        groups: Digest of names, sizes and contents for each split and class.
    """

    files: int
    read: int
    names: str
    sizes: str
    contents: str
    groups: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def fingerprint_of(files: Iterable[ImageFile]) -> Fingerprint:
    """Return the fingerprint of image files.

    All contents are read if the files have at most 256 MiB together. Of more, the first MiB of 1,000 files is read, of
    those whose names have the lowest hashes.
    """
    ordered = sorted(files, key=lambda file: os.fsencode(file.name))
    sizes = [_size(file.path) for file in ordered]
    whole = sum(sizes) <= _WHOLE
    chosen = set(range(len(ordered)))
    if not whole:
        chosen = set(
            sorted(chosen, key=lambda place: hashlib.sha256(os.fsencode(ordered[place].name)).digest())[:_SAMPLE]
        )
    contents = [
        _contents(file.path, None if whole else _SAMPLED_BYTES) if place in chosen else b""
        for place, file in enumerate(ordered)
    ]
    names = [os.fsencode(file.name) for file in ordered]
    numbers = [str(size).encode() for size in sizes]
    groups: dict[str, list[bytes]] = {}
    for file, *about in zip(ordered, names, numbers, contents, strict=True):
        groups.setdefault(printable(file.group), []).extend(about)
    return Fingerprint(
        files=len(ordered),
        read=len(chosen),
        names=_digest(names),
        sizes=_digest(numbers),
        contents=_digest(contents),
        groups={group: _digest(about) for group, about in groups.items()},
    )


def describe_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what differs between two fingerprints as :meth:`Fingerprint.to_dict` returns them; empty if nothing does."""
    if before.get("files") != now.get("files"):
        what = f"there were {before.get('files')} image files and are {now.get('files')} now"
    else:
        parts = ("names", "sizes", "contents")
        differing = [part for part in parts if before.get(part) != now.get(part)]
        if not differing:
            return ""
        what = f"the {' and '.join(differing)} of image files differ"
    there, here = (one.get("groups") for one in (before, now))
    if isinstance(there, dict) and isinstance(here, dict):
        groups = {str(group) for group in there.keys() | here.keys() if there.get(group) != here.get(group)}
        what += f", in {some_of(groups)}" if groups else ""
    return what


def content_key(path: str) -> bytes:
    """Return a hash that copies of a file share: of its size and the 8 KiB at both its ends.

    A file that cannot be read has the hash of its name.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(Path(path)) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{size} ".encode() + file.read(_END))
            file.seek(max(size - _END, 0))
            digest.update(file.read(_END))
    except (OSError, ValueError):
        digest = hashlib.sha256(os.fsencode(os.path.basename(path)))
    return digest.digest()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size if os.path.isfile(path) else -1
    except OSError:
        return -1


def _contents(path: str, most: int | None) -> bytes:
    try:
        with open_regular(Path(path)) as file:
            if most is not None:
                return hashlib.sha256(file.read(most)).digest()
            return hashlib.sha256(file.read()).digest()
    except (OSError, ValueError):
        return b"unreadable"


def _digest(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:_DIGITS]
