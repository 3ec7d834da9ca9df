"""The folder of one run: which study it belongs to, its storage, and one process at a time."""

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from ..errors import DefinitionError, RunFolderError
from ..files import remove_unfinished, write_atomically, write_text
from .definitions import StudyDefinition, load_study

STUDY_FILE = "study.yaml"
STORAGE_FILE = "study.db"
TRIALS_FILE = "trials.csv"
PARETO_FILE = "pareto.csv"
RUN_FILE = "run.json"
REPORT_FILE = "report.html"
_LOCK_FILE = ".lock"
_STUDY_NAME = "se-search"
_MAY_CHANGE = {"budget", "description"}


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


def check_folder(folder: Path, study: StudyDefinition) -> None:
    """Check, without writing, that a run of ``study`` may go on or begin in ``folder``.

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
    there, here = _identity(read_definition(folder)), _identity(study)
    differences = [
        f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differences:
        raise RunFolderError(
            f"{folder} belongs to another study: {'; '.join(differences)}; choose another folder with --out"
        )
    if (folder / STORAGE_FILE).exists():
        load_trials(folder)


@contextmanager
def open_folder(folder: Path, study: StudyDefinition) -> Iterator[optuna.Study]:
    """Create or reopen the run folder of ``study``, for this process alone, and give its Optuna study.

    Raises:
        RunFolderError: If the folder cannot be written, is in use, or :func:`check_folder` objects.
    """
    check_folder(folder, study)
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
        write_text(folder / STUDY_FILE, yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False))
        if not (folder / STORAGE_FILE).exists():
            write_atomically(folder / STORAGE_FILE, lambda file: _create_storage(file, study))
        yield load_trials(folder)
    finally:
        lock.release()


def load_trials(folder: Path) -> optuna.Study:
    """Load the Optuna study of a run folder.

    Raises:
        RunFolderError: If the storage is missing or damaged.
    """
    file = folder / STORAGE_FILE
    if not file.is_file():
        raise RunFolderError(f"{folder} has no {STORAGE_FILE}: nothing has been searched in it yet")
    damaged = f"{file} is damaged: restore it from a copy, or choose another folder with --out"
    try:
        # Optuna would write its tables into an empty or foreign database.
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            intact = connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
            held = connection.execute("SELECT study_name FROM studies").fetchall()
        if not intact or held != [(_STUDY_NAME,)]:
            raise RunFolderError(damaged)
        study = optuna.load_study(study_name=_STUDY_NAME, storage=optuna.storages.RDBStorage(_storage_url(file)))
        study.get_trials(deepcopy=False)
    except (sqlite3.Error, SQLAlchemyError, RuntimeError, KeyError, ValueError) as error:
        raise RunFolderError(damaged) from error
    return study


def _create_storage(file: Path, definition: StudyDefinition) -> None:
    storage = optuna.storages.RDBStorage(_storage_url(file))
    study = optuna.create_study(storage=storage, study_name=_STUDY_NAME, directions=definition.directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(definition.objectives))
    storage.remove_session()
    storage.engine.dispose()


def _storage_url(file: Path) -> str:
    return URL.create("sqlite", database=str(file.absolute())).render_as_string()


def _identity(study: StudyDefinition) -> dict[str, Any]:
    """What a run folder is bound to, as flat keys: everything but how long to search."""
    flat: dict[str, Any] = {}
    for key, value in study.model_dump(mode="json", exclude=_MAY_CHANGE).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": one for inner, one in value.items() if inner not in _MAY_CHANGE}
        else:
            flat[key] = value
    return flat
