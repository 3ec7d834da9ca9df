"""Storages that several machines share: opened by URL, asked again after an outage, copied to and from a run folder."""

import threading
import time
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalRedisBackend
from optuna.trial import TrialState, create_trial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError, SQLAlchemyError

from ..errors import DefinitionError, RunFolderError, first_reason
from ..progress import say
from ..sampling.distinct import is_interrupted
from ..study.definitions import StudyDefinition
from ..study.files import parse_definition
from ..trials.folder import create_study, describe_differences
from ..trials.notes import MEASURED_LATENCY
from ..trials.search_study import SearchStudy
from .exchange import DEFINITION, is_of_exchange

STORAGE_VARIABLE = "SE_SEARCH_STORAGE"
"""Environment variable that gives a storage without its password on a command line."""

JOURNAL = "journal:"
GRPC = "grpc://"

_IDENTITY = "identity"  # a study's attribute, which tells two searches of one definition apart
_PATIENCE = 600.0  # seconds that an outage may last
_LONGEST_PAUSE = 5.0
_GRPC_PORT = 13000  # Optuna's
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql", "redis": "redis", "grpc": "grpc"}  # by what they bring


def without_password(url: str) -> str:
    """Return the URL of a storage as it may be shown and written."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        return url.rpartition("@")[2]


def open_storage(url: str) -> BaseStorage:
    """Open a storage of Optuna's that outlasts outages.

    Args:
        url: A database URL as SQLAlchemy has them (``postgresql://…``, ``mysql+pymysql://…``, ``sqlite:///…``),
            ``journal:FILE``, ``redis://…`` or ``grpc://HOST:PORT``.

    Raises:
        DefinitionError: If it cannot be opened.
    """
    shown = without_password(url)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of Redis and gRPC
            storage = _open(url)
        storage.get_all_studies()
    except ImportError as error:
        missing = getattr(error, "name", None) or getattr(error.__cause__, "name", None)
        needs = f"the package {missing}" if missing else "a driver"
        extra = _EXTRAS.get(str(missing))
        remedy = f'pip install "se-search[{extra}]"' if extra else "its driver is not a part of se-search"
        raise DefinitionError(f"--storage {shown} needs {needs}, which is not installed: {remedy}") from error
    except Exception as error:  # every driver has errors of its own
        reason = " ".join(str(getattr(error.__cause__ or error, "orig", error)).split())[:200]
        raise DefinitionError(f"--storage {shown} cannot be opened: {_hide(url, reason)}") from error
    return PatientStorage(storage)


def _open(url: str) -> BaseStorage:
    if url.startswith(JOURNAL):
        file = url.removeprefix(JOURNAL)
        return JournalStorage(JournalFileBackend(file, lock_obj=JournalFileOpenLock(file)))
    if url.startswith("redis"):
        return JournalStorage(JournalRedisBackend(url))
    if url.startswith(GRPC):
        host, _, port = url.removeprefix(GRPC).rstrip("/").partition(":")
        proxy = GrpcStorageProxy(host=host, port=int(port or _GRPC_PORT))
        proxy.wait_server_ready(timeout=_LONGEST_PAUSE)
        return proxy
    named = make_url(url)
    if named.drivername == "postgresql":  # which driver that means depends on SQLAlchemy's version
        named = named.set(drivername="postgresql+psycopg")
    # A connection that the server has closed meanwhile is noticed before it is used.
    storage = RDBStorage(named.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True})
    return get_storage(storage)


def _hide(url: str, text: str) -> str:
    with suppress(SQLAlchemyError, ValueError):
        password = make_url(url).password
        if password:
            return text.replace(str(password), "***")
    return text


class _Patient:
    """Asks a storage again while it does not answer, for up to ten minutes."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self._patience = _PATIENCE

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        pause, begun, told = 0.1, time.monotonic(), False
        while True:
            try:
                answer = getattr(self._storage, name)(*args, **kwargs)
            except UpdateFinishedTrialError:
                # Where the answer of the first call was lost, the trial has ended by that.
                if name != "set_trial_state_values" or pause == 0.1:
                    raise
                answer = True
            except Exception as error:
                if not _is_outage(error):
                    if isinstance(error, SQLAlchemyError | StorageInternalError):
                        raise RunFolderError(
                            f"the storage does not do what it is asked for ({first_reason(error)}): what is finished "
                            "is kept; give the same command again when it does"
                        ) from error
                    raise
                if time.monotonic() - begun > self._patience:
                    self._patience = 0.0  # what ends the search shall not wait again
                    raise RunFolderError(
                        f"the storage has not answered for {_PATIENCE:.0f} s ({type(error).__name__}): what is "
                        "finished is kept; give the same command again when it is back"
                    ) from error
                if pause > 1 and not told and threading.current_thread() is threading.main_thread():
                    told = True
                    say(f"The storage does not answer ({type(error).__name__}): waiting for it.")
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                with suppress(Exception):
                    self._storage.remove_session()
                continue
            if told:
                say("The storage answers again.")
            return answer


def _is_outage(error: BaseException) -> bool:
    cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return True
    if isinstance(cause, OSError | OperationalError | InterfaceError | PendingRollbackError):
        return True
    return type(cause).__module__.partition(".")[0] in ("grpc", "redis")


def _forwarded(name: str) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: self._call(name, *args, **kwargs)


_FORWARDED = sorted(BaseStorage.__abstractmethods__ | {"get_trial_id_from_study_id_trial_number", "remove_session"})

PatientStorage = type("PatientStorage", (_Patient, BaseStorage), {name: _forwarded(name) for name in _FORWARDED})
"""A storage that asks another one again while that does not answer."""


def open_shared(storage: BaseStorage, name: str, definition: StudyDefinition) -> SearchStudy:
    """Open the study of that name in a storage, or create it there.

    Args:
        storage: From :func:`open_storage`.
        name: The study's name.
        definition: Gives objectives and directions.
    """
    with suppress(DuplicatedStudyError):
        create_study(storage, name, definition)
    return SearchStudy(name, storage)


def copy_finished(source: optuna.Study, target: optuna.Study) -> None:
    """Copy the finished trials that a study lacks, up to the first that is not finished.

    Numbers agree unless both have gone on from the same trial without each other: then what one lacks comes after all
    that it has. What a search and its workers tell each other stays where it is.

    Args:
        source: Where they are.
        target: The same search.
    """
    trials = source.get_trials(deepcopy=False)
    numbers = _numbers(target)
    length = len(target.get_trials(deepcopy=False))
    for trial in trials:
        if not trial.state.is_finished():
            break
        is_there = trial.user_attrs.get("config_id") in numbers
        if trial.number < length and (is_there or is_interrupted(trial)):
            continue
        target.add_trial(create_trial(state=TrialState.FAIL) if is_there else trial)
        length += 1
    numbers, there = _numbers(target), target.user_attrs
    for name, value in source.user_attrs.items():
        if name.startswith(MEASURED_LATENCY):
            number = int(name.removeprefix(MEASURED_LATENCY))
            name = f"{MEASURED_LATENCY}{numbers[trials[number].user_attrs['config_id']]}"
        if there.get(name) != value and not is_of_exchange(name):
            target.set_user_attr(name, value)


def _numbers(study: optuna.Study) -> dict[str, int]:
    """Numbers of the trials that ended by themselves, by what they have evaluated, which none does twice."""
    return {
        trial.user_attrs["config_id"]: trial.number
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not is_interrupted(trial) and "config_id" in trial.user_attrs
    }


def check_same_study(shared: optuna.Study, definition: StudyDefinition) -> None:
    """Check that a study in a storage is searched as ``definition`` says, or not at all yet.

    Raises:
        RunFolderError: If it is another one.
    """
    there = shared.user_attrs.get(DEFINITION)
    if there is None and not shared.get_trials(deepcopy=False):
        return
    name = shared.study_name
    try:
        differences = describe_differences(parse_definition(str(there), f"study {name!r} in the storage"), definition)
    except DefinitionError as error:
        raise RunFolderError(f"study {name!r} in the storage is none of se-search: choose --study-name") from error
    if differences:
        raise RunFolderError(f"study {name!r} in the storage is another one: {differences}; choose --study-name")


def check_same_search(folder: Path, own: optuna.Study, shared: optuna.Study) -> None:
    """Check that what a run folder and a storage hold is one search, and note in both that it is.

    Two searches may have one definition and even the same first trials, but each has a supernet of its own.

    Raises:
        RunFolderError: If they are two.
    """
    here, there = own.user_attrs.get(_IDENTITY), shared.user_attrs.get(_IDENTITY)
    if there is not None and here != there and own.get_trials(deepcopy=False):
        raise RunFolderError(
            f"the trials of {folder} are not those of study {shared.study_name!r} in the storage: "
            "choose another --study-name or another folder with --out"
        )
    identity = there or here or uuid.uuid4().hex
    # In this order: the folder of a search that is killed in between is still that of the storage.
    for study in (own, shared):
        study.set_user_attr(_IDENTITY, identity)
