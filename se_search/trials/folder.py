"""The folder of one run: which study it belongs to, its storage, and one process at a time."""

import functools
import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import orm, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from ..errors import DefinitionError, RunFolderError
from ..files import remove_unfinished, write_atomically, write_text
from ..study.definitions import StudyDefinition
from ..study.files import load_study
from ..study.safe_yaml import write_yaml
from .notes import FOREIGN
from .search_study import SearchStudy

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
_STUDY_NAME = "se-search"
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


class RunStudy(SearchStudy):
    """The Optuna study of a run folder, which can write at once what belongs together.

    Optuna makes a transaction of each parameter and each attribute of a trial, and each waits for the disk.

    Args:
        file: The storage.
    """

    def __init__(self, file: Path) -> None:
        storage = RDBStorage(_storage_url(file))
        self._engine = storage.engine
        self._sessions: orm.scoped_session[Any] = orm.scoped_session(orm.sessionmaker(self._engine, class_=_Session))
        storage.scoped_session = self._sessions  # what Optuna's storage writes through
        super().__init__(_STUDY_NAME, storage)

    @contextmanager
    def at_once(self) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
        """Make one transaction of all that the block writes: if the process is killed, all is there or nothing.

        Yields:
            A function to call with the number of a running trial and what to set as its user attributes.
        """
        session = self._sessions()
        session.held = True
        try:
            yield functools.partial(_set_user_attributes, session)
            session.held = False
            session.commit()
        finally:
            session.held = False
            session.close()

    def close(self) -> None:
        """Close its connections to the storage."""
        self._sessions.remove()
        self._engine.dispose()


class _Session(orm.Session):
    """While it is held its transaction stays open, whoever commits and closes it."""

    held = False

    def commit(self) -> None:
        if self.held:
            self.flush()
        else:
            super().commit()

    def close(self) -> None:
        if self.held:
            self.expunge_all()
        else:
            super().close()


def _set_user_attributes(session: orm.Session, number: int, attributes: Mapping[str, Any]) -> None:
    # Through Optuna each would take as long as all of them do here.
    trial = session.execute(_TRIAL_OF_NUMBER, {"number": number}).scalar_one()
    rows = [{"trial": trial, "name": name, "value": json.dumps(value)} for name, value in attributes.items()]
    session.execute(_SET_USER_ATTRIBUTE, rows)


_TRIAL_OF_NUMBER = text("SELECT trial_id FROM trials WHERE number = :number")  # the storage holds one study
_SET_USER_ATTRIBUTE = text(
    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial, :name, :value) "
    "ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
)


@contextmanager
def open_folder(folder: Path, definition: StudyDefinition, there: StudyDefinition | None = None) -> Iterator[RunStudy]:
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


def load_trials(folder: Path) -> RunStudy:
    """Load the Optuna study of a run folder.

    Raises:
        RunFolderError: If the storage is missing or damaged.
    """
    file = folder / STORAGE_FILE
    if not file.is_file():
        raise RunFolderError(f"{folder} has no {STORAGE_FILE}: nothing has been searched in it yet")
    _check_storage(file)
    try:
        study = RunStudy(file)
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
    if not intact or held != [(_STUDY_NAME,)]:
        raise RunFolderError(_damaged(file))


def _damaged(file: Path) -> str:
    return f"{file} is damaged: restore it from a copy, or choose another folder with --out"


def _create_storage(file: Path, definition: StudyDefinition) -> None:
    storage = RDBStorage(_storage_url(file))
    create_study(storage, _STUDY_NAME, definition)
    storage.remove_session()
    storage.engine.dispose()


def create_study(storage: BaseStorage, name: str, definition: StudyDefinition) -> None:
    """Create the Optuna study of a definition in a storage, with its objectives and directions.

    Raises:
        optuna.exceptions.DuplicatedStudyError: If there is one of that name.
    """
    study = optuna.create_study(storage=storage, study_name=name, directions=definition.directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(definition.objectives))


def storage_url(folder: Path) -> str:
    """Return the URL of a run folder's own storage."""
    return _storage_url(folder / STORAGE_FILE)


def _storage_url(file: Path) -> str:
    # As a URI the path may hold ? and {}, which SQLAlchemy 2.0 and Optuna would read as parts of theirs.
    return URL.create("sqlite", database=file.absolute().as_uri(), query={"uri": "true"}).render_as_string()


def _identity(definition: StudyDefinition) -> dict[str, Any]:
    """What a run folder is bound to, as flat keys: everything but how long to search."""
    flat: dict[str, Any] = {}
    for key, value in definition.model_dump(mode="json", exclude=_MAY_CHANGE).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": one for inner, one in value.items() if inner not in _MAY_CHANGE}
        else:
            flat[key] = value
    return flat
