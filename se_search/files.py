"""Read untrusted files, write atomically (a killed process leaves the last version), and plain data for JSON."""

import glob
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .errors import RunFolderError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_MOST_BYTES = 2**24
_UNFINISHED = ".unfinished"


class NotARegularFileError(ValueError):
    """A folder, a pipe or a device stands in place of a file."""

    def __init__(self) -> None:
        super().__init__("it is not a regular file")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without waiting for a pipe.

    Raises:
        OSError: If it cannot be opened.
        NotARegularFileError: If it is something else.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotARegularFileError
    return os.fdopen(handle, "rb")


def read_text(path: Path, most_bytes: int = _MOST_BYTES) -> str:
    """Read UTF-8 text of at most ``most_bytes``, 16 MiB by default.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not a regular file, is larger, or is not UTF-8.
    """
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    return content.decode("utf-8")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


@contextmanager
def refusing_unwritable(path: Path, advice: str = "") -> Iterator[None]:
    """Convert an :class:`OSError` of a block that writes a file or folder.

    The message ends with ``advice``, such as ``": choose another with --to"``.

    Raises:
        RunFolderError: For an :class:`OSError` of the block, which is its cause.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written ({error.strerror or error}){advice}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, whose folder exists, then move it into place."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_UNFINISHED)
    temporary = Path(name)
    try:
        with _in_use(handle):
            write(temporary)
            move_into_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def draft_beside(target: Path) -> Iterator[Path]:
    """Yield a temporary folder from which files can be moved to ``target``, whose parent need not exist yet.

    Those that killed processes left for the same target are removed.
    """
    beside = next(parent for parent in target.absolute().parents if parent.is_dir())
    for left in beside.glob(f".{glob.escape(target.name)}.*{_UNFINISHED}"):
        if _is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(dir=beside, prefix=f".{target.name}.", suffix=_UNFINISHED) as temporary,
        _in_use(None if fcntl is None else os.open(temporary, os.O_RDONLY)),
    ):
        yield Path(temporary)


@contextmanager
def _in_use(handle: int | None) -> Iterator[None]:
    """Hold a lock on a temporary file or folder, which ends with this process, and close its handle."""
    if fcntl is None and handle is not None:  # Windows moves no open file
        os.close(handle)
        handle = None
    try:
        if handle is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _is_abandoned(path: Path) -> bool:
    """Whether no process holds :func:`_in_use` for a temporary file or folder."""
    if fcntl is None:
        return True
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def is_name(text: str) -> bool:
    """Whether a text is the name of a file or folder and not a path that leads elsewhere."""
    return text not in ("", ".", "..") and Path(text).name == text


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files that killed processes left in ``folder``."""
    for left in folder.rglob(f".*.????????{_UNFINISHED}"):  # as tempfile names them
        if _is_abandoned(left):
            with suppress(OSError):
                left.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path) -> None:
    """Replace ``path`` by ``temporary``, with the permissions of a new file."""
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file is missing or damaged.

    Raises:
        RunFolderError: If it is not a regular file.
    """
    try:
        content = json.loads(read_text(file))
    except NotARegularFileError as error:
        raise RunFolderError(f"{file} is not a regular file: remove it") from error
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def plain(value: Any) -> Any:
    """Return plain data for JSON, with ``None`` in place of NaN and infinity, which JSON lacks.

    A table becomes a list of its rows, and a path its text.
    """
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        value = value.astype(object).where(value.notna(), None).to_dict("records")  # pandas 2 keeps its NA there
    elif is_dataclass(value):
        value = vars(value)
    elif hasattr(value, "tolist"):  # of NumPy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
