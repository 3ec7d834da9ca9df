"""Dispatch the trials of a search to workers."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DefinitionError, EvaluationError, RunFolderError, as_given
from ..progress import say
from ..study.definitions import StudyDefinition
from ..time_limit import time_limit
from ..trials.latency import StudyLatency
from ..trials.notes import FOREIGN, note_unreadable
from ..trials.search_study import SearchStudy
from ..trials.trials import MOST_ATTEMPTS, Proposal, Trials, costs_of, difference_of_images
from ..words import counted
from .exchange import ANSWER, TASK, Task, Work, answer_of, backoff
from .fleet import Fleet
from .shared_files import ArtifactStore, fetch_files, remove_files

_REPORT_INTERVAL = 60.0


@dataclass(frozen=True)
class ClusterOptions:
    """How a search uses workers.

    Attributes:
        workers: Number of local worker processes.
        storage: URL of a storage through which remote workers join; local workers only by default.
        study_name: Name of the study in the storage; that of the run folder by default.
        artifacts: Location of the artifact store (:func:`se_search.cluster.shared_files.open_artifact_store`); a folder
            in the run folder by default.
        latency_device: Part of the name of the device on which latency is measured; this process's by default.
        worker_timeout: Seconds without a heartbeat after which a remote worker counts as lost.
    """

    workers: int = 1
    storage: str | None = None
    study_name: str | None = None
    artifacts: str | None = None
    latency_device: str | None = None
    worker_timeout: float = 60.0

    @property
    def uses_workers(self) -> bool:
        """Whether other processes evaluate trials."""
        return self.workers != 1 or self.storage is not None


def check_cluster_options(cluster: ClusterOptions, definition: StudyDefinition, measures: Mapping[str, Any]) -> None:
    """Check that a study can be searched with these options.

    Raises:
        DefinitionError: If it cannot.
    """
    if cluster.workers < 0:
        raise DefinitionError(
            f"{as_given('workers')} is {cluster.workers}: it must be at least 1, or 0 with {as_given('storage')}"
        )
    if cluster.workers == 0 and cluster.storage is None:
        raise DefinitionError(
            f"{as_given('workers')} 0 starts no local workers, and remote ones need {as_given('storage')} to join: "
            f"add it"
        )
    if not cluster.worker_timeout > 0:
        raise DefinitionError(
            f"{as_given('worker_timeout')} is {cluster.worker_timeout}: it must be a number of seconds above 0"
        )
    for option, value in (
        ("study_name", cluster.study_name),
        ("artifacts", cluster.artifacts),
        ("latency_device", cluster.latency_device),
    ):
        if value is not None and cluster.storage is None:
            raise DefinitionError(
                f"{as_given(option)} is for remote workers, which need {as_given('storage')} to join: add it"
            )
    if not cluster.uses_workers:
        return
    if cluster.workers > 0 and not hasattr(signal, "SIGSTOP"):
        raise DefinitionError(
            f"{as_given('workers')} is {cluster.workers}: this platform cannot suspend workers during latency "
            f"measurements, so it "
            f"must be 0 with {as_given('storage')} and 1 without"
        )
    if definition.evaluator.function or measures:
        raise DefinitionError(
            "an evaluator or objective given as a Python function cannot be sent to workers: omit workers and storage, "
            "or make the evaluator a plugin"
        )
    if cluster.latency_device is not None and definition.latency.source == "model":
        raise DefinitionError(
            f"{as_given('latency_device')} requires measured latency, but the study predicts it with a model: omit "
            f"one of them"
        )


@dataclass
class _RunningTrial:
    """A trial in progress."""

    proposal: Proposal
    costs: dict[str, Any]
    needs: Work
    task: Task | None = None
    turns: int = 0
    lost: list[str] = field(default_factory=list)


class Dispatcher:
    """Proposes the trials of one search and dispatches them to workers.

    Args:
        definition: The study.
        trials: Its trials.
        fleet: Its workers.
        latency: Measures latency in this process.
        study: The Optuna study that all share.
        folder: The run folder.
        artifacts: Store for files from remote workers; ``None`` if only local workers evaluate.
        device: Part of the name of the device on which latency is measured; this process's by default.
    """

    def __init__(
        self,
        definition: StudyDefinition,
        trials: Trials,
        fleet: Fleet,
        latency: StudyLatency,
        study: SearchStudy,
        folder: Path,
        artifacts: ArtifactStore | None,
        device: str | None = None,
    ) -> None:
        self._definition = definition
        self._trials = trials
        self._fleet = fleet
        self._latency = latency
        self._study = study
        self._folder = folder
        self._artifacts = artifacts
        self._device = device
        self._measures_locally = device is None or latency.is_on(device)
        self._latency_worker: str | None = None
        self._cannot_measure: set[str] = set()
        self._cannot_evaluate: dict[str, str] = {}  # worker to reason
        self._running: dict[int, _RunningTrial] = {}
        self._idle_seconds = 0.0

    def run(self, advance: Callable[..., None], keep: Callable[[], None]) -> None:
        """Search until the budget is spent or the space is exhausted.

        Args:
            advance: As :func:`se_search.progress.progress_bar` yields it.
            keep: Called after each finished trial.

        Raises:
            EvaluationError: If trials or workers fail repeatedly.
            RunFolderError: If the folder becomes unwritable, or every worker reads images that differ from the run's.
        """
        delays, exhausted = backoff(), False
        try:
            while self._trials.left and not (exhausted and not self._running):
                self._fleet.refresh()
                lines = [*self._collect_answers(), *self._reassign_lost()]
                for done, line in lines:
                    advance(done, line)
                    keep()
                self._check_capable_worker()
                started, exhausted = self._start_trials(advance) if not exhausted else (False, True)
                self._assign()
                if lines or started:
                    delays, self._idle_seconds = backoff(), 0.0
                else:
                    pause = next(delays)
                    self._report_waiting(pause)
                    time.sleep(pause)
            if exhausted and self._trials.left:
                self._trials.tell_that_none_is_left()
        except BaseException:
            for one in self._running.values():
                self._trials.interrupt(one.proposal)
            raise

    def _collect_answers(self) -> Iterator[tuple[int, str]]:
        attributes = {
            trial.number: trial.user_attrs
            for trial in (self._study.get_trials(deepcopy=False) if self._running else ())
            if trial.number in self._running
        }
        for number, one in list(self._running.items()):
            answer = None if one.task is None else answer_of(attributes[number], one.task)
            if answer is None or one.task is None:
                continue
            worker, one.task = one.task.worker, None
            try:
                if "error" in answer:
                    raise EvaluationError(str(answer["error"]))
                if one.needs == "latency":
                    self._record_latency(one, worker, answer["notes"])
                    continue
                if not self._used_same_images(worker, answer):
                    continue
                self._fetch_results(answer["files"])
                note_unreadable(self._study, answer["unreadable"])
                over = {TASK: None, ANSWER: None}
                line = self._trials.complete(one.proposal, one.costs | answer["notes"] | over, answer["stopped"])
            except (EvaluationError, RunFolderError, *FOREIGN) as error:
                yield 0, self._trials.fail(one.proposal, str(error) if "error" in answer else error)
            else:
                yield 1, line
            del self._running[number]

    def _record_latency(self, one: _RunningTrial, worker: str, notes: Mapping[str, Any]) -> None:
        try:
            self._latency.check_comparable(notes["latency_conditions"])
        except EvaluationError as error:
            self._cannot_measure.add(worker)
            say(f"Worker {worker} no longer measures latency: {error}.")
        else:
            one.costs |= notes
            one.needs = "accuracy"

    def _used_same_images(self, worker: str, answer: Mapping[str, Any]) -> bool:
        difference = difference_of_images(answer["notes"], self._study)
        if not difference:
            return True
        self._cannot_evaluate[worker] = difference
        say(f"Worker {worker} receives no more trials: {difference}; restore the images there and restart the worker.")
        if self._artifacts is not None:
            remove_files(self._artifacts, answer["files"])
        return False

    def _check_capable_worker(self) -> None:
        known = self._fleet.known.keys()
        if known and known <= self._cannot_evaluate.keys():
            difference = self._cannot_evaluate[min(known)]
            raise RunFolderError(
                f"every worker reads images that differ from the run's: {difference}; restore them, or choose another "
                "folder with --out"
            )

    def _fetch_results(self, files: list[dict[str, str]]) -> None:
        """Fetch the files that a worker's evaluator wrote; they must lie in a subfolder, as those of ``scratch`` do.

        Raises:
            RunFolderError: If a file cannot be fetched, or would lie beside the run's own files.
        """
        for one in files:
            if "/" not in one["path"]:
                raise RunFolderError(f"a worker sent {one['path']!r}, which is not in a subfolder: it is rejected")
        if self._artifacts is not None:
            fetch_files(self._artifacts, files, self._folder)
            remove_files(self._artifacts, files)

    def _reassign_lost(self) -> Iterator[tuple[int, str]]:
        for number, one in list(self._running.items()):
            if one.task is None or one.task.worker in self._fleet.known:
                continue
            worker, one.task = one.task.worker, None
            if worker in self._fleet.left:
                say(f"Worker {worker} has left: trial {number} is reassigned.")
                continue
            one.lost.append(worker)
            if len(one.lost) == MOST_ATTEMPTS:
                del self._running[number]
                reason = f"all {MOST_ATTEMPTS} workers that evaluated it died: {', '.join(one.lost)}"
                yield 0, self._trials.fail(one.proposal, reason)
            else:
                say(f"Worker {worker} is lost: trial {number} is reassigned.")

    def _start_trials(self, advance: Callable[..., None]) -> tuple[bool, bool]:
        """Start a trial for each idle worker; return whether any started, and whether the space is exhausted."""
        started = False
        measures = self._measures_locally and not self._latency.is_predicted
        while not (measures and self._fleet.is_starting):
            waiting = sum(one.task is None and one.needs == "accuracy" for one in self._running.values())
            measuring = sum(one.needs == "latency" for one in self._running.values())
            room = min(len(self._idle("accuracy")) - waiting - measuring, self._trials.left - len(self._running))
            if room <= 0:
                break
            proposal = self._trials.propose()
            if proposal is None:
                return started, True
            started = True
            costs = costs_of(proposal.config, self._latency.size)
            try:
                if self._measures_locally:
                    costs |= self._measure(proposal)
            except KeyboardInterrupt:
                self._trials.interrupt(proposal)
                raise
            except Exception as error:  # a runtime can raise anything for a network
                advance(0, self._trials.fail(proposal, error))
                continue
            needs: Work = "accuracy" if self._measures_locally else "latency"
            self._running[proposal.trial.number] = _RunningTrial(proposal, costs, needs)
        return started, False

    def _measure(self, proposal: Proposal) -> dict[str, Any]:
        if self._latency.is_predicted:
            return self._latency.of(proposal.config)
        with self._fleet.paused(), time_limit(self._definition.trial_limit):
            return self._latency.of(proposal.config)

    def _assign(self) -> None:
        for number, one in self._running.items():
            idle = self._idle(one.needs)
            if one.task is not None or not idle:
                continue
            one.turns += 1
            one.task = Task(idle[0], one.needs, one.turns)
            # Workers need the costs for successive halving; one transaction, so that they never see a part of them.
            notes = {**one.costs, TASK: one.task.to_attribute()}
            with self._study.at_once() as note:
                note(number, notes)

    def _idle(self, work: Work) -> list[str]:
        busy = {one.task.worker for one in self._running.values() if one.task is not None}
        measuring = self._find_latency_worker()
        if work == "latency":
            able = [measuring] if measuring else []
        else:
            able = [worker for worker in self._fleet.known if worker not in self._cannot_evaluate]
            able = [worker for worker in able if worker != measuring or len(able) == 1]
        return [worker for worker in able if worker not in busy]

    def _find_latency_worker(self) -> str | None:
        """The worker that measures all latencies, if this process does not; it evaluates only if it is the only one."""
        if self._measures_locally or self._device is None:
            return None
        wanted = self._device.casefold()
        able = [
            worker
            for worker, one in self._fleet.known.items()
            if worker not in self._cannot_measure and wanted in str(one.get("device")).casefold()
        ]
        if self._latency_worker not in able:
            self._latency_worker = min(able, default=None)
        return self._latency_worker

    def _report_waiting(self, passed: float) -> None:
        self._idle_seconds += passed
        if self._idle_seconds < _REPORT_INTERVAL:
            return
        self._idle_seconds = 0.0
        if not self._fleet.known:
            say("Waiting for workers: start one with se-search worker --storage ….")
        elif not self._measures_locally and self._find_latency_worker() is None:
            there = ", ".join(sorted({str(one.get("device")) for one in self._fleet.known.values()}))
            say(f"Waiting for a worker whose device name contains {self._device!r}; present: {there}.")
        else:
            say(f"{counted(len(self._running), 'trial')} running on {counted(len(self._fleet.known), 'worker')}.")
