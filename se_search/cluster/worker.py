"""A worker process: joins a search through its storage and evaluates the trials that it is assigned."""

import os
import platform
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from ..data.image_data import ImageData
from ..errors import DataError, DefinitionError, RunFolderError, as_given
from ..latency.meter import processor_name
from ..network.config import SEConfig
from ..progress import progress_bar, say
from ..study.checking import check_definition
from ..study.definitions import StudyDefinition
from ..study.files import parse_definition
from ..study.space import SearchSpace
from ..time_limit import time_limit
from ..training.evaluator import Evaluator
from ..trials.evaluators import find_evaluator, study_data, use_device
from ..trials.latency import StudyLatency
from ..trials.notes import describe_data
from ..trials.search_study import SearchStudy, set_attributes
from ..trials.trials import worth_of
from .exchange import (
    ANSWER,
    ARTIFACTS,
    DEFINITION,
    HEARTBEAT_INTERVAL,
    MAX_BACKOFF,
    SEARCH,
    SHARED_FILES,
    WORKER,
    LivenessMonitor,
    Task,
    answer_of,
    backoff,
    heartbeat,
)
from .shared_files import ArtifactStore, fetch_files, open_artifact_store, share_files
from .storage import open_storage, without_password


@dataclass(frozen=True)
class WorkerOptions:
    """Options of a worker.

    Attributes:
        storage: URL of the storage that it shares with the search.
        study: Name of the study in the storage.
        artifacts: Location of the artifact store; that of the search by default.
        data: Path or name of the study's images on this machine, if it differs.
        data_root: The same for the root folder of a timm dataset.
        device: Torch device; the study's by default.
        threads: CPU threads; PyTorch's default if not given.
        patience: Seconds without a heartbeat of the search after which the worker gives up.
        name: Name of the worker; a unique one by default.
        run_folder: The run folder, if it is on this machine.
        parent: Id of the process with which the worker exits.
    """

    storage: str
    study: str
    artifacts: str | None = None
    data: str | None = None
    data_root: str | None = None
    device: str | None = None
    threads: int | None = None
    patience: float = 600.0
    name: str | None = None
    run_folder: Path | None = None
    parent: int | None = None


def run_worker(options: WorkerOptions) -> int:
    """Work for a search until it ends, and return the number of completed tasks.

    Raises:
        SeSearchError: If the worker cannot join.
    """
    if not options.patience > 0:
        raise DefinitionError(f"{as_given('patience')} is {options.patience}: it must be a number of seconds above 0")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if options.parent is not None:
        os.setpgid(0, 0)  # the search suspends and kills the whole process group
        threading.Thread(target=_exit_with, args=(options.parent,), daemon=True).start()
    storage = open_storage(options.storage)
    shared = _SharedStudy(storage, options)
    with ExitStack() as stack:
        study = shared.wait_for_search()
        if study is None:
            return 0
        worker = stack.enter_context(_prepared(study, options))
        say(f"Worker {worker.name} works for {options.study} on {worker.device}.")
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        stack.callback(study.set_user_attr, WORKER + worker.name, {"left": True})
        stack.enter_context(heartbeat(study, WORKER + worker.name, {"device": worker.device}))
        done = worker.run_until(shared.has_ended)
    say(f"The search has ended: {done} tasks completed.")
    return done


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(HEARTBEAT_INTERVAL)
    os._exit(1)


class _SharedStudy:
    """The shared study, and the state of the search in it."""

    def __init__(self, storage: BaseStorage, options: WorkerOptions) -> None:
        self._storage = storage
        self._options = options
        self._watch = LivenessMonitor(options.patience)
        self._study: SearchStudy | None = None
        self._start = time.monotonic()

    def wait_for_search(self) -> SearchStudy | None:
        """Wait until the search assigns trials, and return its study; ``None`` if it has ended."""
        reported = ""
        while True:
            state = self._state()
            if state in ("searching", "ended"):
                return self._study if state == "searching" else None
            line = f"Waiting for the search {self._options.study} ({state or 'not started'})."
            if line != reported:
                say(reported := line)
            time.sleep(MAX_BACKOFF)

    def has_ended(self) -> bool:
        """Whether the search has ended.

        Raises:
            RunFolderError: If it has written no heartbeat for the patience.
        """
        return self._state() == "ended"

    def _state(self) -> str:
        name = self._options.study
        if self._study is None:
            with suppress(KeyError):
                self._study = SearchStudy(name, self._storage)
        attribute = {} if self._study is None else self._study.user_attrs.get(SEARCH, {})
        state = str(attribute.get("state", ""))
        if state == "ended":
            return state
        if not self._watch.is_alive(SEARCH, attribute) and time.monotonic() - self._start > self._options.patience:
            raise RunFolderError(
                f"no heartbeat of search {name!r} in {without_password(self._options.storage)} for "
                f"{self._options.patience:g} s: start it with se-search run --storage … --study-name {name}"
            )
        return state


@contextmanager
def _prepared(study: SearchStudy, options: WorkerOptions) -> Iterator["_Worker"]:
    """Load the study, data and shared files, and yield the worker."""
    attributes = study.user_attrs
    source = f"the study of {options.study}"
    definition = parse_definition(str(attributes[DEFINITION]), source)
    given = {name: getattr(options, name) for name in ("data", "data_root", "device", "threads")}
    changes = {name: value for name, value in given.items() if value is not None}
    here = definition.model_dump() | {"threads": torch.get_num_threads()} | changes
    definition = check_definition(StudyDefinition, here, source, {name: as_given(name) for name in changes})
    use_device(definition)
    data = study_data(definition)
    _check_data(describe_data(data), attributes["data"], renamed=options.data is not None)
    space = SearchSpace(definition.backbone, definition.resolved_space)
    evaluator = find_evaluator(definition.evaluator.name)(definition, space, data)
    artifacts = options.artifacts or attributes.get(ARTIFACTS)
    store = None if options.run_folder is not None or not artifacts else open_artifact_store(str(artifacts))
    with ExitStack() as stack:
        folder = options.run_folder or Path(stack.enter_context(TemporaryDirectory(prefix="se-search-")))
        if store is not None:
            fetch_files(store, attributes[SHARED_FILES], folder)
        evaluator.prepare(folder, space, progress_bar)
        worker = _Worker(study, definition, data, space, evaluator, folder, store, options.name or _unique_name())
        yield stack.enter_context(closing(worker))


def _unique_name() -> str:
    return f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


def _check_data(here: dict[str, Any], there: dict[str, Any], renamed: bool) -> None:
    for key, value in here.items():
        if there.get(key) != value and not (renamed and key == "name"):
            raise DataError(
                f"the images here differ from those of the search: {key} is {value} here and {there.get(key)} there; "
                f"name the same ones with {as_given('data')}"
            )


class _Worker:
    """Evaluates assigned trials in this process."""

    def __init__(
        self,
        study: SearchStudy,
        definition: StudyDefinition,
        data: ImageData,
        space: SearchSpace,
        evaluator: Evaluator,
        folder: Path,
        store: ArtifactStore | None,
        name: str,
    ) -> None:
        self.name = name
        self.device = processor_name(definition.device)
        self._study = study
        self._definition = definition
        self._data = data
        self._space = space
        self._evaluator = evaluator
        self._folder = folder
        self._store = store
        self._latency: StudyLatency | None = None
        self._files = set(folder.rglob("*")) if store is not None else set()

    def close(self) -> None:
        """Stop the processes that measure latency."""
        if self._latency is not None:
            self._latency.close()

    def run_until(self, has_ended: Callable[[], bool]) -> int:
        """Process tasks until ``has_ended``, and return the number of completed ones."""
        done, delays = 0, backoff()
        while not has_ended():
            found = self._find_task()
            if found is None:
                time.sleep(next(delays))
                continue
            trial, task = found
            delays = backoff()
            answer = {"turn": task.turn, **self._evaluate(trial, task)}
            with suppress(UpdateFinishedTrialError):  # the search has ended the trial meanwhile
                set_attributes(self._study, trial.number, {ANSWER: answer})
            done += 1
            failed = f"failed: {answer['error']}" if "error" in answer else "done"
            say(f"trial {trial.number}, {task.work}: {failed}")
        return done

    def _find_task(self) -> tuple[FrozenTrial, Task] | None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            task = Task.of(trial.user_attrs)
            if task is not None and task.worker == self.name and answer_of(trial.user_attrs, task) is None:
                return trial, task
        return None

    def _evaluate(self, trial: FrozenTrial, task: Task) -> dict[str, Any]:
        try:
            config = SEConfig.from_json(trial.user_attrs["config"])
            with time_limit(self._definition.trial_limit):
                if task.work == "latency":
                    return {"notes": self._measure(config)}
                notes, stopped = worth_of(
                    self._definition,
                    config,
                    self._evaluator,
                    trial.user_attrs,
                    self._study,
                    "name" in trial.user_attrs,
                )
            return {
                "notes": notes,
                "stopped": stopped,
                "files": self._upload_results(),
                "unreadable": self._data.unreadable,
            }
        except Exception as error:  # a failed trial must not end the worker
            return {"error": f"{type(error).__name__}: {error}"}

    def _measure(self, config: SEConfig) -> dict[str, Any]:
        if self._latency is None:
            self._latency = StudyLatency(self._definition, self._space, self._data.input_size, self._data.classes)
        return self._latency.measured(config)

    def _upload_results(self) -> list[dict[str, str]]:
        """Upload the files that the evaluator wrote for a configuration, such as trained weights."""
        if self._store is None:
            return []
        new = [path for path in self._folder.rglob("*") if path not in self._files and path.is_file()]
        shared = share_files(self._study, self._store, self._folder, new)
        for path in new:
            path.unlink()
        return shared
