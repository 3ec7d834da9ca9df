"""Optuna storages that several machines share: open by URL, retry after outages, synchronise with a run folder."""

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

from ..errors import DefinitionError, RunFolderError, as_given, first_reason
from ..progress import say
from ..sampling.distinct import is_interrupted
from ..study.definitions import StudyDefinition
from ..study.files import parse_definition
from ..trials.folder import create_study, describe_differences
from ..trials.notes import MEASURED_LATENCY
from ..trials.search_study import SearchStudy
from .exchange import DEFINITION, is_transient

STORAGE_VARIABLE = "SE_SEARCH_STORAGE"
"""Environment variable for the storage URL, which keeps its password off the command line."""

JOURNAL = "journal:"
GRPC = "grpc://"

_IDENTITY = "identity"  # study attribute that distinguishes two searches with the same definition
_OUTAGE_TIMEOUT = 600.0  # seconds
_MAX_BACKOFF = 5.0
_GRPC_PORT = 13000  # Optuna's
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql", "redis": "redis", "grpc": "grpc"}  # driver to extra


def without_password(url: str) -> str:
    """Return a storage URL with its password hidden, for messages and files."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (SQLAlchemyError, ValueError):
        return url.rpartition("@")[2]


def open_storage(url: str) -> BaseStorage:
    """Open an Optuna storage that retries its calls during outages.

    Args:
        url: A SQLAlchemy database URL (``postgresql://…``, ``mysql+pymysql://…``, ``sqlite:///…``), ``journal:FILE``,
            ``redis://…`` or ``grpc://HOST:PORT``.

    Raises:
        DefinitionError: If it cannot be opened, or its driver is not installed.
    """
    shown = without_password(url)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # from Redis and gRPC
            storage = _open(url)
        storage.get_all_studies()
    except ImportError as error:
        missing = getattr(error, "name", None) or getattr(error.__cause__, "name", None)
        needs = f"the package {missing}" if missing else "a driver"
        extra = _EXTRAS.get(str(missing))
        remedy = f'pip install "se-search[{extra}]"' if extra else "se-search has no extra for it"
        raise DefinitionError(
            f"{as_given('storage')} {shown} needs {needs}, which is not installed: {remedy}"
        ) from error
    except Exception as error:  # each driver raises its own exceptions
        reason = " ".join(str(getattr(error.__cause__ or error, "orig", error)).split())[:200]
        raise DefinitionError(f"{as_given('storage')} {shown} cannot be opened: {_hide(url, reason)}") from error
    return RetryingStorage(storage)


def _open(url: str) -> BaseStorage:
    if url.startswith(JOURNAL):
        file = url.removeprefix(JOURNAL)
        return JournalStorage(JournalFileBackend(file, lock_obj=JournalFileOpenLock(file)))
    if url.startswith("redis"):
        return JournalStorage(JournalRedisBackend(url))
    if url.startswith(GRPC):
        host, _, port = url.removeprefix(GRPC).rstrip("/").partition(":")
        proxy = GrpcStorageProxy(host=host, port=int(port or _GRPC_PORT))
        proxy.wait_server_ready(timeout=_MAX_BACKOFF)
        return proxy
    named = make_url(url)
    if named.drivername == "postgresql":  # SQLAlchemy's default driver depends on its version
        named = named.set(drivername="postgresql+psycopg")
    # Detect connections that the server has closed before using them.
    storage = RDBStorage(named.render_as_string(hide_password=False), engine_kwargs={"pool_pre_ping": True})
    return get_storage(storage)


def _hide(url: str, text: str) -> str:
    with suppress(SQLAlchemyError, ValueError):
        password = make_url(url).password
        if password:
            return text.replace(str(password), "***")
    return text


class _Retrying:
    """Retries the calls of a storage during an outage, for up to ten minutes."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self._timeout = _OUTAGE_TIMEOUT

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        delay, start, reported = 0.1, time.monotonic(), False
        while True:
            try:
                answer = getattr(self._storage, name)(*args, **kwargs)
            except UpdateFinishedTrialError:
                # The first call ended the trial if only its response was lost.
                if name != "set_trial_state_values" or delay == 0.1:
                    raise
                answer = True
            except Exception as error:
                if not _is_outage(error):
                    if isinstance(error, SQLAlchemyError | StorageInternalError):
                        raise RunFolderError(
                            f"the storage rejects a request ({first_reason(error)}): finished trials are kept; run the "
                            "same command again when this is fixed"
                        ) from error
                    raise
                if time.monotonic() - start > self._timeout:
                    self._timeout = 0.0  # cleanup must not wait again
                    raise RunFolderError(
                        f"the storage has not responded for {_OUTAGE_TIMEOUT:.0f} s ({type(error).__name__}): finished "
                        "trials are kept; run the same command again when it is back"
                    ) from error
                if delay > 1 and not reported and threading.current_thread() is threading.main_thread():
                    reported = True
                    say(f"The storage does not respond ({type(error).__name__}): retrying.")
                time.sleep(delay)
                delay = min(delay * 2, _MAX_BACKOFF)
                with suppress(Exception):
                    self._storage.remove_session()
                continue
            if reported:
                say("The storage responds again.")
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

RetryingStorage = type("RetryingStorage", (_Retrying, BaseStorage), {name: _forwarded(name) for name in _FORWARDED})
"""Wraps a storage and retries its calls during an outage."""


def open_shared(storage: BaseStorage, name: str, definition: StudyDefinition) -> SearchStudy:
    """Open the study ``name`` in a storage, or create it.

    Args:
        storage: From :func:`open_storage`.
        name: Name of the study.
        definition: Defines its objectives and directions.
    """
    with suppress(DuplicatedStudyError):
        create_study(storage, name, definition)
    return SearchStudy(name, storage)


def copy_finished(source: optuna.Study, target: optuna.Study) -> None:
    """Copy the finished trials that ``target`` lacks, up to the first unfinished one, and the study attributes.

    Trial numbers agree unless both studies continued from the same trial independently; then the copies are appended.
    Attributes of the protocol with workers are not copied.

    Args:
        source: The study to copy from.
        target: Another copy of the same search.
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
        if there.get(name) != value and not is_transient(name):
            target.set_user_attr(name, value)


def _numbers(study: optuna.Study) -> dict[str, int]:
    """Configuration id to trial number, of the finished trials that were not interrupted."""
    return {
        trial.user_attrs["config_id"]: trial.number
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not is_interrupted(trial) and "config_id" in trial.user_attrs
    }


def check_same_study(shared: optuna.Study, definition: StudyDefinition) -> None:
    """Check that a study in a storage is new or has this definition.

    Raises:
        RunFolderError: If it has another one.
    """
    there = shared.user_attrs.get(DEFINITION)
    if there is None and not shared.get_trials(deepcopy=False):
        return
    name = shared.study_name
    try:
        differences = describe_differences(parse_definition(str(there), f"study {name!r} in the storage"), definition)
    except DefinitionError as error:
        raise RunFolderError(
            f"study {name!r} in the storage was not created by se-search: choose another {as_given('study_name')}"
        ) from error
    if differences:
        raise RunFolderError(
            f"study {name!r} in the storage has another definition: {differences}; choose another "
            f"{as_given('study_name')}"
        )


def check_same_search(folder: Path, own: optuna.Study, shared: optuna.Study) -> None:
    """Check that a run folder and a storage hold the same search, and record its identity in both.

    Two searches with the same definition, and even the same first trials, have different supernets.

    Raises:
        RunFolderError: If they hold different searches.
    """
    here, there = own.user_attrs.get(_IDENTITY), shared.user_attrs.get(_IDENTITY)
    if there is not None and here != there and own.get_trials(deepcopy=False):
        raise RunFolderError(
            f"{folder} and study {shared.study_name!r} in the storage hold different searches: choose another "
            "--study-name, or another folder with --out"
        )
    identity = there or here or uuid.uuid4().hex
    # The folder first: if the search is killed in between, the folder still matches the storage.
    for study in (own, shared):
        study.set_user_attr(_IDENTITY, identity)
