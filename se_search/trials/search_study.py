"""The Optuna study of a run folder."""

import functools
import json
import sqlite3
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import orm, text
from sqlalchemy.engine import URL

STUDY_NAME = "se-search"

LOCK_LIMIT = 30.0
"""Seconds for which reading and writing wait while another process holds a lock on the database."""


class SearchStudy(optuna.Study):
    """The Optuna study in a database file, which can group reads, and group writes into one transaction.

    Optuna commits each parameter and each attribute of a trial separately, and each commit waits for the disk. It reads
    the new trials whenever somebody asks for a list.
    """

    def __init__(self, file: Path) -> None:
        storage = RDBStorage(storage_url(file), skip_table_creation=True)
        self._engine = storage.engine
        self._sessions: orm.scoped_session[Any] = orm.scoped_session(orm.sessionmaker(self._engine, class_=_Session))
        storage.scoped_session = self._sessions  # Optuna's storage writes through it
        self._reads_once, self._read = False, list[FrozenTrial]()
        super().__init__(STUDY_NAME, storage)

    @contextmanager
    def reading_once(self) -> Iterator[None]:
        """Read the trials when the block begins; all but copies of trials are these throughout."""
        self._read = super().get_trials(deepcopy=False)
        self._reads_once = True
        try:
            yield
        finally:
            self._reads_once = False

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        # Optuna's own method of this name, by which get_trials and samplers read.
        if deepcopy or not self._reads_once:
            return super()._get_trials(deepcopy, states, use_cache)
        return [trial for trial in self._read if states is None or trial.state in states]

    def _pop_waiting_trial_id(self) -> int | None:
        # Optuna's ask would read all trials again to find an enqueued one.
        if self._reads_once and not any(trial.state == TrialState.WAITING for trial in self._read):
            return None
        return super()._pop_waiting_trial_id()

    def ask_all(self, distributions: Mapping[str, BaseDistribution]) -> tuple[Trial, dict[str, Any]]:
        """Start a trial as ``ask(distributions)`` does, and store its parameters together, within :meth:`at_once`.

        The sampler proposes all of them, also those of an enqueued trial.

        Returns:
            The trial, which does not know its parameters, and these.
        """
        trial = self.ask()
        parameters = {name: trial.relative_params[name] for name in distributions}
        rows = [
            {
                "name": name,
                "value": one.to_internal_repr(parameters[name]),
                "distribution": distribution_to_json(one),
                "number": trial.number,
            }
            for name, one in distributions.items()
        ]
        self._sessions().execute(_ADD_PARAMETER, rows)
        return trial, parameters

    @contextmanager
    def at_once(self) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
        """Write all changes of the block in one transaction: a killed process leaves all of them or none.

        Yields:
            A function that sets user attributes of a running trial, given its number.
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
        """Close the connections to the storage."""
        self._sessions.remove()
        self._engine.dispose()


class _Session(orm.Session):
    """A session that keeps its transaction open while ``held``, even if Optuna commits or closes it."""

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
    # Through Optuna, each attribute would take as long as all of them take here.
    trial = session.execute(_TRIAL_OF_NUMBER, {"number": number}).scalar_one()
    rows = [{"trial": trial, "name": name, "value": json.dumps(value)} for name, value in attributes.items()]
    session.execute(_SET_USER_ATTRIBUTE, rows)


_ADD_PARAMETER = text(
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
    "SELECT trial_id, :name, :value, :distribution FROM trials WHERE number = :number"
)
_TRIAL_OF_NUMBER = text("SELECT trial_id FROM trials WHERE number = :number")  # the storage holds one study
_SET_USER_ATTRIBUTE = text(
    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (:trial, :name, :value) "
    "ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
)


def storage_url(file: Path) -> str:
    """Return the URL of a database file."""
    # A path can contain ? and {}, which SQLAlchemy 2.0 and Optuna would interpret. A URI quotes them.
    query = {"uri": "true", "timeout": str(LOCK_LIMIT)}
    return URL.create("sqlite", database=file.absolute().as_uri(), query=query).render_as_string()


def is_locked(error: BaseException | None) -> bool:
    """Whether an error says that another process holds a lock on the database."""
    while error is not None:
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", str(error)) in _LOCKED:
            return True
        error = error.__cause__ or error.__context__
    return False


_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED", "database is locked", "database table is locked")  # names since Python 3.11
