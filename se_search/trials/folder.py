"""The run folder: its study file and storage, locked by one process at a time."""

import errno
import shlex
import signal
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ..data.load import absolute_name, is_folder_name
from ..errors import DefinitionError, RunFolderError
from ..files import remove_unfinished, write_atomically, write_text
from ..study.definitions import StudyDefinition
from ..study.files import load_study
from ..study.safe_yaml import write_yaml
from ..training.stand_alone import NETWORKS
from .notes import FOREIGN
from .search_study import LOCK_LIMIT, STUDY_NAME, SearchStudy, is_locked, storage_url

STUDY_FILE = "study.yaml"
STORAGE_FILE = "study.db"
TRIALS_FILE = "trials.csv"
PARETO_FILE = "pareto.csv"
CURVES_FILE = "curves.csv"
RUN_FILE = "run.json"
REPORT_FILE = "report.html"

VERIFICATION = "verification"
TRACKED = ("tensorboard", "wandb")  # folders that these packages write
EXCITATION = "excitation"  # has a subfolder for each analysis
ANALYSIS_FILE = "excitation.json"
PAGE_FILE = "excitation.html"

_LOCK_FILE = ".lock"
_STORAGE_ENDS = ("", "-journal", "-wal", "-shm")  # SQLite's files beside it
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_MAY_CHANGE = {"budget", "data_workers", "description", "track", "trial_limit"}


def read_definition(folder: Path) -> StudyDefinition:
    """Read the study of a run folder.

    Raises:
        RunFolderError: If the folder is not a run folder or its study file is damaged.
    """
    file = folder / STUDY_FILE
    if not file.is_file():
        raise RunFolderError(f"{folder} is not a run folder: it has no {STUDY_FILE}")
    try:
        definition = load_study(str(file))
    except DefinitionError as error:
        raise RunFolderError(f"{file} is damaged: {error}") from error
    if "cut" in definition.splits.model_fields_set:
        return definition
    # Version 0.1.0 had no such key.
    return definition.model_copy(update={"splits": definition.splits.model_copy(update={"cut": "order"})})


def check_folder(folder: Path, definition: StudyDefinition, existing: StudyDefinition | None = None) -> None:
    """Check, without writing, that a run of ``definition`` can start or resume in ``folder``.

    ``existing`` is the folder's study if :func:`read_definition` has already read it.

    Raises:
        RunFolderError: If the folder holds other files or another study, or is damaged.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is not a folder: choose another with --out")
    if not (folder / STUDY_FILE).exists():
        if any(entry.name != _LOCK_FILE for entry in folder.iterdir()):
            raise RunFolderError(f"{folder} is not empty and not a run folder: choose another folder with --out")
        return
    before, now = _identity(existing or read_definition(folder)), _identity(definition)
    differences = "; ".join(
        f"{key} is {before.get(key)!r} there and {now.get(key)!r} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not (key == "data" and _may_have_moved(before[key], now[key]))
    )
    if differences:
        raise RunFolderError(f"{folder} belongs to another study: {differences}; choose another folder with --out")
    check_links(folder)
    if (folder / STORAGE_FILE).exists():
        _check_storage(folder / STORAGE_FILE)


def check_links(folder: Path) -> None:
    """Check that no link leads what is written into a run folder out of it; files are replaced, links among them.

    Raises:
        RunFolderError: If a link does.
    """
    written = [f"{STORAGE_FILE}{end}" for end in _STORAGE_ENDS] + [NETWORKS, VERIFICATION, EXCITATION, *TRACKED]
    subfolders = [one for name in (EXCITATION, "tensorboard") for one in (folder / name).glob("*")]
    for one in (*(folder / name for name in written), *subfolders):
        if one.is_symlink():
            raise RunFolderError(f"{one} is a link: replace it by what it leads to")


@contextmanager
def open_folder(
    folder: Path, definition: StudyDefinition, existing: StudyDefinition | None = None
) -> Iterator[SearchStudy]:
    """Create or reopen the run folder of ``definition``, lock it and yield its Optuna study.

    Raises:
        RunFolderError: If the folder cannot be written, is in use, or :func:`check_folder` rejects it.
    """
    check_folder(folder, definition, existing)
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    lock = FileLock(folder / _LOCK_FILE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(f"{folder} is in use by another process: wait for it or choose another --out") from error
    except OSError as error:
        for parent in created:
            with suppress(OSError):
                parent.rmdir()
        raise RunFolderError(f"{folder} cannot be written ({error.strerror}): choose another --out") from error
    try:
        remove_unfinished(folder)
        storage = folder / STORAGE_FILE
        opened = load_trials(folder) if storage.exists() else None
        write_text(folder / STUDY_FILE, write_yaml(definition.model_dump(mode="json")))
        if opened is None:
            write_atomically(storage, lambda file: _create_storage(file, definition))
            opened = load_trials(folder)
        # With a write-ahead log, a transaction waits for the disk once instead of three times. Readers never wait.
        _set_journal(storage, "wal")
        try:
            yield opened
        finally:
            with _uninterrupted():
                opened.close()
                _set_journal(storage, "delete")
    finally:
        lock.release()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore further interruptions, as SQLAlchemy prints the traceback of one in which a connection is closed."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may, and is interrupted
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def is_unwritable(error: Exception) -> bool:
    """Whether an error says that a run folder can no longer be written or read, so that no trial is to blame."""
    if isinstance(error, OSError):
        return error.errno in _UNWRITABLE
    return isinstance(error, SQLAlchemyError | StorageInternalError)


@contextmanager
def reporting_unwritable(folder: Path) -> Iterator[None]:
    """Report in one sentence that a run folder can no longer be written: its disk is full or became read-only.

    Raises:
        RunFolderError: For such an error of the block.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = str(getattr(cause, "orig", None) or cause or error)
        if is_locked(error):
            reason = f"{STORAGE_FILE} is locked by another process"
    except OSError as error:
        if not is_unwritable(error):
            raise
        reason = str(error.strerror)
    else:
        return
    raise RunFolderError(
        f"{folder} can no longer be written ({reason}): finished results are kept; make it writable and give the "
        "same command again"
    )


def _set_journal(file: Path, mode: str) -> None:
    # The mode stays unchanged while another process uses the database; both modes are safe.
    with closing(sqlite3.connect(file, timeout=0)) as connection, suppress(sqlite3.OperationalError):
        connection.execute(f"PRAGMA journal_mode = {mode}")


def load_trials(folder: Path) -> SearchStudy:
    """Load the Optuna study of a run folder.

    Raises:
        RunFolderError: If the storage is missing or damaged.
    """
    file = folder / STORAGE_FILE
    if not file.is_file():
        raise RunFolderError(f"{folder} has no {STORAGE_FILE}: no search has run in it yet")
    _check_storage(file)
    try:
        study = SearchStudy(file)
        study.get_trials(deepcopy=False)
    except (SQLAlchemyError, RuntimeError, *FOREIGN) as error:
        another = ""
        with suppress(SQLAlchemyError, RuntimeError, *FOREIGN):
            another = _another_version(file)
        raise (RunFolderError(another) if another else _unusable(file, error)) from error
    return study


def _check_storage(file: Path) -> None:
    """Check that a file is an intact database of a run. Optuna would write its tables into an empty or foreign one."""
    for beside in _STORAGE_ENDS:
        one = file.with_name(file.name + beside)
        if one.exists() and not one.is_file():
            raise RunFolderError(f"{one} is not a regular file: remove it")
    try:
        uri = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=LOCK_LIMIT)) as connection:
            intact = connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
            names = connection.execute("SELECT study_name FROM studies").fetchall()
            numbers = connection.execute("SELECT number FROM trials ORDER BY number").fetchall()
    except sqlite3.Error as error:
        raise _unusable(file, error) from error
    if not intact or names != [(STUDY_NAME,)]:
        raise _unusable(file)
    wrong = [place for place, (number,) in enumerate(numbers) if number != place]
    if wrong:  # Optuna gives the numbers of deleted trials again
        raise RunFolderError(
            f"{file} is inconsistent: trial {wrong[0]} is missing, or its number is used twice, because trials were "
            f"deleted from it; {_REMEDY}"
        )


def _another_version(file: Path) -> str:
    """Say which version of Optuna wrote a database and what opens it; empty if it was this one's."""
    storage = RDBStorage(storage_url(file), skip_compatibility_check=True, skip_table_creation=True)
    try:
        found, known = storage.get_current_version(), storage.get_all_versions()
        with storage.engine.connect() as connection:
            written = connection.execute(text("SELECT library_version FROM version_info")).scalar_one()
    finally:
        storage.remove_session()
        storage.engine.dispose()
    if found == storage.get_head_version():
        return ""
    url = shlex.quote(f"sqlite:///{file.absolute()}")
    remedy = f"optuna storage upgrade --storage {url}" if found in known else "pip install --upgrade optuna"
    return f"{file} was written by Optuna {written}, and Optuna {optuna.__version__} cannot read it: run {remedy}"


def _unusable(file: Path, error: BaseException | None = None) -> RunFolderError:
    if is_locked(error):
        return RunFolderError(f"{file} is locked by another process: end it, and run the same command again")
    return RunFolderError(f"{file} is damaged: {_REMEDY}")


_REMEDY = "restore it from a copy, or choose another folder with --out"


def _create_storage(file: Path, definition: StudyDefinition) -> None:
    storage = RDBStorage(storage_url(file))
    study = optuna.create_study(storage=storage, study_name=STUDY_NAME, directions=definition.directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(definition.objectives))
    storage.remove_session()
    storage.engine.dispose()


def _may_have_moved(before: str, now: str) -> bool:
    """Whether two names of data are folders of images: their fingerprints decide then, see ``trials/images.py``."""
    return is_folder_name(before) and is_folder_name(now)


def _identity(definition: StudyDefinition) -> dict[str, Any]:
    """Return the settings that a run folder is bound to, by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in definition.model_dump(mode="json", exclude=_MAY_CHANGE).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": setting for name, setting in value.items() if name not in _MAY_CHANGE}
        else:
            flat[key] = value
    return flat | {"data": absolute_name(definition.data)}
