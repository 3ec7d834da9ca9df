"""The folder of one run: which study it belongs to, its storage, and one process at a time."""

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from ..errors import DefinitionError, RunFolderError
from ..files import remove_unfinished, write_atomically, write_text
from ..study.definitions import StudyDefinition
from ..study.files import load_study
from ..study.safe_yaml import write_yaml
from .notes import FOREIGN
from .search_study import STUDY_NAME, SearchStudy, storage_url

STUDY_FILE = "study.yaml"
STORAGE_FILE = "study.db"
TRIALS_FILE = "trials.csv"
PARETO_FILE = "pareto.csv"
RUN_FILE = "run.json"
REPORT_FILE = "report.html"

EXCITATION = "excitation"
"""Folder of a run folder that holds analyses, one in each folder of it."""


ANALYSIS_FILE = "excitation.json"


PAGE_FILE = "excitation.html"

_LOCK_FILE = ".lock"
_MAY_CHANGE = {"budget", "data_workers", "description", "trial_limit"}


def read_definition(folder: Path) -> StudyDefinition:
    """Read the study that a run folder belongs to.

    Raises:
        RunFolderError: If the folder is no run folder or its study file is damaged.
    """
    file = folder / STUDY_FILE
    if not file.is_file():
        raise RunFolderError(f"{folder} is not a run folder: it has no {STUDY_FILE}")
    try:
        return load_study(str(file))
    except DefinitionError as error:
        raise RunFolderError(f"{file} is damaged: {error}") from error


def check_folder(folder: Path, definition: StudyDefinition, there: StudyDefinition | None = None) -> None:
    """Check, without writing, that a run of ``definition`` may resume or begin in ``folder``.

    Args:
        folder: The run folder.
        definition: The study to search.
        there: The study that the folder belongs to, where :func:`read_definition` has read it already.

    Raises:
        RunFolderError: If the folder holds something else or its study is damaged or another one.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is not a folder: choose another with --out")
    if not (folder / STUDY_FILE).exists():
        if any(entry.name != _LOCK_FILE for entry in folder.iterdir()):
            raise RunFolderError(f"{folder} holds other files and no run: choose another folder with --out")
        return
    differences = describe_differences(there or read_definition(folder), definition)
    if differences:
        raise RunFolderError(f"{folder} belongs to another study: {differences}; choose another folder with --out")
    if (folder / STORAGE_FILE).exists():
        _check_storage(folder / STORAGE_FILE)


def describe_differences(there: StudyDefinition, here: StudyDefinition) -> str:
    """Say in what two studies differ besides how long to search; empty where they do not."""
    first, second = _identity(there), _identity(here)
    return "; ".join(
        f"{key} is {first.get(key)!r} there and {second.get(key)!r} here"
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    )


@contextmanager
def open_folder(
    folder: Path, definition: StudyDefinition, there: StudyDefinition | None = None
) -> Iterator[SearchStudy]:
    """Create or reopen the run folder of ``definition``, for this process alone, and give its Optuna study.

    Args:
        folder: The run folder.
        definition: The study to search.
        there: As in :func:`check_folder`.

    Raises:
        RunFolderError: If the folder cannot be written, is in use, or :func:`check_folder` objects.
    """
    check_folder(folder, definition, there)
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
        # With a write-ahead log a transaction waits once for the disk, not three times, and readers never wait.
        _set_journal(storage, "wal")
        try:
            yield opened
        finally:
            opened.close()
            _set_journal(storage, "delete")
    finally:
        lock.release()


def _set_journal(file: Path, mode: str) -> None:
    # While somebody else reads or writes it stays as it is, which is as safe.
    with closing(sqlite3.connect(file, timeout=0)) as connection, suppress(sqlite3.OperationalError):
        connection.execute(f"PRAGMA journal_mode = {mode}")


def load_trials(folder: Path) -> SearchStudy:
    """Load the Optuna study of a run folder.

    Raises:
        RunFolderError: If the storage is missing or damaged.
    """
    file = folder / STORAGE_FILE
    if not file.is_file():
        raise RunFolderError(f"{folder} has no {STORAGE_FILE}: nothing has been searched in it yet")
    _check_storage(file)
    try:
        study = SearchStudy(file)
        study.get_trials(deepcopy=False)
    except (SQLAlchemyError, RuntimeError, *FOREIGN) as error:
        raise RunFolderError(_damaged(file)) from error
    return study


def _check_storage(file: Path) -> None:
    """Check that it is a sound database of a run, without reading its trials."""
    try:
        # Optuna would write its tables into an empty or foreign database.
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            intact = connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
            held = connection.execute("SELECT study_name FROM studies").fetchall()
    except sqlite3.Error as error:
        raise RunFolderError(_damaged(file)) from error
    if not intact or held != [(STUDY_NAME,)]:
        raise RunFolderError(_damaged(file))


def _damaged(file: Path) -> str:
    return f"{file} is damaged: restore it from a copy, or choose another folder with --out"


def _create_storage(file: Path, definition: StudyDefinition) -> None:
    storage = RDBStorage(storage_url(file))
    study = optuna.create_study(storage=storage, study_name=STUDY_NAME, directions=definition.directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(definition.objectives))
    storage.remove_session()
    storage.engine.dispose()


def _identity(definition: StudyDefinition) -> dict[str, Any]:
    """What a run folder is bound to, as flat keys: everything but how long to search."""
    flat: dict[str, Any] = {}
    for key, value in definition.model_dump(mode="json", exclude=_MAY_CHANGE).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": one for inner, one in value.items() if inner not in _MAY_CHANGE}
        else:
            flat[key] = value
    return flat
