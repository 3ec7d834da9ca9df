"""A search that hands its trials to workers: how it is spread, and who does what."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DefinitionError, EvaluationError, RunFolderError
from ..progress import say
from ..study.definitions import StudyDefinition
from ..study.evaluator_definition import FROM_PYTHON
from ..time_limit import time_limit
from ..trials.latency import StudyLatency
from ..trials.notes import FOREIGN, note_unreadable
from ..trials.search_study import SearchStudy
from ..trials.trials import MOST_ATTEMPTS, Proposal, Trials, costs_of, difference_of_images
from ..words import counted
from .exchange import ANSWER, TASK, Task, Work, answer_of, pauses
from .fleet import Fleet
from .shared_files import ArtifactStore, fetch_files, remove_files

_TELL_AGAIN = 60.0


@dataclass(frozen=True)
class Spread:
    """How the trials of a search are spread.

    Attributes:
        workers: Processes on this machine that evaluate.
        storage: URL of a storage that further workers share; without it only those of this machine take part.
        study_name: The study's name there; that of the run folder by default.
        artifacts: Where workers find files (:func:`se_search.cluster.shared_files.open_artifacts`); a folder of the run
            folder by default.
        latency_device: Part of the name of the device whose latency counts; this process's by default.
        worker_timeout: Seconds without a sign of life after which a worker of another machine counts as gone.
    """

    workers: int = 1
    storage: str | None = None
    study_name: str | None = None
    artifacts: str | None = None
    latency_device: str | None = None
    worker_timeout: float = 60.0

    @property
    def is_needed(self) -> bool:
        """Whether anybody but this process takes part."""
        return self.workers != 1 or self.storage is not None


def check_spread(spread: Spread, study: StudyDefinition, measures: Mapping[str, Any]) -> None:
    """Check that a search can be spread in this way.

    Raises:
        DefinitionError: If it cannot.
    """
    if spread.workers < 0:
        raise DefinitionError(f"--workers is {spread.workers}: it must be at least 1, or 0 with --storage")
    if spread.workers == 0 and spread.storage is None:
        raise DefinitionError("--workers 0 leaves the work to others, who need --storage to join: give that too")
    if not spread.worker_timeout > 0:
        raise DefinitionError(f"--worker-timeout is {spread.worker_timeout}: it must be a number of seconds above 0")
    for option, value in (
        ("--study-name", spread.study_name),
        ("--artifacts", spread.artifacts),
        ("--latency-device", spread.latency_device),
    ):
        if value is not None and spread.storage is None:
            raise DefinitionError(
                f"{option} is for workers on other machines, who need --storage to join: give that too"
            )
    if not spread.is_needed:
        return
    if spread.workers > 0 and not hasattr(signal, "SIGSTOP"):
        raise DefinitionError(
            f"--workers is {spread.workers}: this platform cannot pause workers while latency is measured, so it must "
            "be 0 with --storage and 1 without"
        )
    if study.evaluator.name.startswith(FROM_PYTHON) or measures:
        raise DefinitionError(
            "an evaluator or objective given as a Python function cannot be sent to workers: leave out workers and "
            "storage, or make the evaluator a plugin"
        )
    if spread.latency_device is not None and study.latency.source == "model":
        raise DefinitionError(
            "--latency-device is for measured latency, and the study predicts it from a model: leave one of them out"
        )


@dataclass
class _UnderWay:
    """A trial that is not finished."""

    proposal: Proposal
    costs: dict[str, Any]
    needs: Work
    task: Task | None = None
    turns: int = 0
    lost: list[str] = field(default_factory=list)


class FleetSearch:
    """One search that hands its trials to workers.

    Args:
        study: The study.
        trials: Its trials.
        fleet: Its workers.
        latency: Measures latency here.
        size: Input size at which FLOPs are counted.
        optuna_study: The Optuna study that all share.
        folder: The run folder.
        artifacts: Where workers of other machines leave files, if there may be any.
        device: Part of the name of the device whose latency counts; this process's by default.
    """

    def __init__(
        self,
        study: StudyDefinition,
        trials: Trials,
        fleet: Fleet,
        latency: StudyLatency,
        size: tuple[int, int, int],
        optuna_study: SearchStudy,
        folder: Path,
        artifacts: ArtifactStore | None,
        device: str | None = None,
    ) -> None:
        self._study = study
        self._trials = trials
        self._fleet = fleet
        self._latency = latency
        self._size = size
        self._optuna_study = optuna_study
        self._folder = folder
        self._artifacts = artifacts
        self._device = device
        self._measures_here = device is None or latency.is_on(device)
        self._measuring: str | None = None
        self._unfit: set[str] = set()  # to measure latency
        self._unable: dict[str, str] = {}  # to evaluate, and why
        self._under_way: dict[int, _UnderWay] = {}
        self._waited = 0.0

    def run(self, advance: Callable[..., None], keep: Callable[[], None]) -> None:
        """Search until the budget is spent or the space is.

        Args:
            advance: As :func:`se_search.progress.progress_bar` yields it.
            keep: Called after each trial that is finished.

        Raises:
            EvaluationError: If trials or workers fail again and again.
            RunFolderError: If the folder cannot be written any more, or no worker reads the images of the run.
        """
        waits, exhausted = pauses(), False
        try:
            while self._trials.left and not (exhausted and not self._under_way):
                self._fleet.look()
                lines = [*self._take_answers(), *self._give_up_on_the_gone()]
                for done, line in lines:
                    advance(done, line)
                    keep()
                self._check_that_somebody_is_able()
                began, exhausted = self._begin(advance) if not exhausted else (False, True)
                self._assign()
                if lines or began:
                    waits, self._waited = pauses(), 0.0
                else:
                    pause = next(waits)
                    self._tell_who_is_missing(pause)
                    time.sleep(pause)
            if exhausted and self._trials.left:
                self._trials.tell_that_none_is_left()
        except BaseException:
            for one in self._under_way.values():
                self._trials.interrupt(one.proposal)
            raise

    def _take_answers(self) -> Iterator[tuple[int, str]]:
        attributes = {
            trial.number: trial.user_attrs
            for trial in (self._optuna_study.get_trials(deepcopy=False) if self._under_way else ())
            if trial.number in self._under_way
        }
        for number, one in list(self._under_way.items()):
            answer = None if one.task is None else answer_of(attributes[number], one.task)
            if answer is None or one.task is None:
                continue
            worker, one.task = one.task.worker, None
            try:
                if "error" in answer:
                    raise EvaluationError(str(answer["error"]))
                if one.needs == "latency":
                    self._take_latency(one, worker, answer["notes"])
                    continue
                if not self._saw_the_same_images(worker, answer):
                    continue
                self._take_over(answer["files"])
                note_unreadable(self._optuna_study, answer["unreadable"])
                over = {TASK: None, ANSWER: None}
                line = self._trials.complete(one.proposal, one.costs | answer["notes"] | over, answer["stopped"])
            except (EvaluationError, RunFolderError, *FOREIGN) as error:
                yield 0, self._trials.fail(one.proposal, str(error) if "error" in answer else error)
            else:
                yield 1, line
            del self._under_way[number]

    def _take_latency(self, one: _UnderWay, worker: str, notes: Mapping[str, Any]) -> None:
        try:
            self._latency.check_comparable(notes["latency_conditions"])
        except EvaluationError as error:
            self._unfit.add(worker)
            say(f"Worker {worker} measures no latency any more: {error}.")
        else:
            one.costs |= notes
            one.needs = "accuracy"

    def _saw_the_same_images(self, worker: str, answer: Mapping[str, Any]) -> bool:
        difference = difference_of_images(answer["notes"], self._optuna_study)
        if not difference:
            return True
        self._unable[worker] = difference
        say(f"Worker {worker} evaluates nothing any more: {difference}; restore them there and start it again.")
        if self._artifacts is not None:
            remove_files(self._artifacts, answer["files"])
        return False

    def _check_that_somebody_is_able(self) -> None:
        known = self._fleet.known.keys()
        if known and known <= self._unable.keys():
            difference = self._unable[min(known)]
            raise RunFolderError(
                f"no worker is left that reads the images of the run: {difference}; restore them as they were, or "
                "choose another folder with --out"
            )

    def _take_over(self, files: list[dict[str, str]]) -> None:
        """Take over what a worker's evaluator has kept, which is in a folder of its own as that of :class:`Scratch` is.

        Raises:
            RunFolderError: If a file cannot be taken over.
        """
        for one in files:
            if "/" not in one["path"]:
                raise RunFolderError(f"a worker's file {one['path']!r} would be among the run's own: it is not taken")
        if self._artifacts is not None:
            fetch_files(self._artifacts, files, self._folder)
            remove_files(self._artifacts, files)

    def _give_up_on_the_gone(self) -> Iterator[tuple[int, str]]:
        for number, one in list(self._under_way.items()):
            if one.task is None or one.task.worker in self._fleet.known:
                continue
            worker, one.task = one.task.worker, None
            if worker in self._fleet.left:
                say(f"Worker {worker} has left: trial {number} goes to another.")
                continue
            one.lost.append(worker)
            if len(one.lost) == MOST_ATTEMPTS:
                del self._under_way[number]
                reason = f"each of the {MOST_ATTEMPTS} workers that evaluated it ended: {', '.join(one.lost)}"
                yield 0, self._trials.fail(one.proposal, reason)
            else:
                say(f"Worker {worker} is gone: trial {number} goes to another.")

    def _begin(self, advance: Callable[..., None]) -> tuple[bool, bool]:
        """Begin a trial for each worker that has nothing to do; whether any began, and whether none was left."""
        began = False
        measures = self._measures_here and not self._latency.is_predicted
        while not (measures and self._fleet.is_starting):
            waiting = sum(one.task is None and one.needs == "accuracy" for one in self._under_way.values())
            measuring = sum(one.needs == "latency" for one in self._under_way.values())
            room = min(len(self._idle("accuracy")) - waiting - measuring, self._trials.left - len(self._under_way))
            if room <= 0:
                break
            proposal = self._trials.propose()
            if proposal is None:
                return began, True
            began = True
            costs = costs_of(proposal.config, self._size)
            try:
                if self._measures_here:
                    costs |= self._measure(proposal)
            except KeyboardInterrupt:
                self._trials.interrupt(proposal)
                raise
            except Exception as error:  # a network may fail in any way in a runtime
                advance(0, self._trials.fail(proposal, error))
                continue
            needs: Work = "accuracy" if self._measures_here else "latency"
            self._under_way[proposal.trial.number] = _UnderWay(proposal, costs, needs)
        return began, False

    def _measure(self, proposal: Proposal) -> dict[str, Any]:
        if self._latency.is_predicted:
            return self._latency.of(proposal.config)
        with self._fleet.paused(), time_limit(self._study.trial_limit):
            return self._latency.of(proposal.config)

    def _assign(self) -> None:
        for number, one in self._under_way.items():
            idle = self._idle(one.needs)
            if one.task is not None or not idle:
                continue
            one.turns += 1
            one.task = Task(idle[0], one.needs, one.turns)
            # A worker needs the costs for successive halving, and nothing that it finds out is noted half.
            notes = {**one.costs, TASK: one.task.to_attribute()}
            with self._optuna_study.at_once() as note:
                note(number, notes)

    def _idle(self, work: Work) -> list[str]:
        busy = {one.task.worker for one in self._under_way.values() if one.task is not None}
        measuring = self._latency_worker()
        if work == "latency":
            able = [measuring] if measuring else []
        else:
            able = [worker for worker in self._fleet.known if worker not in self._unable]
            able = [worker for worker in able if worker != measuring or len(able) == 1]
        return [worker for worker in able if worker not in busy]

    def _latency_worker(self) -> str | None:
        """The one worker that measures latency, where this process does not: it does nothing else beside others."""
        if self._measures_here or self._device is None:
            return None
        wanted = self._device.casefold()
        able = [
            worker
            for worker, one in self._fleet.known.items()
            if worker not in self._unfit and wanted in str(one.get("device")).casefold()
        ]
        if self._measuring not in able:
            self._measuring = min(able, default=None)
        return self._measuring

    def _tell_who_is_missing(self, passed: float) -> None:
        self._waited += passed
        if self._waited < _TELL_AGAIN:
            return
        self._waited = 0.0
        if not self._fleet.known:
            say("Waiting for workers: se-search worker --storage … starts one.")
        elif not self._measures_here and self._latency_worker() is None:
            there = ", ".join(sorted({str(one.get("device")) for one in self._fleet.known.values()}))
            say(f"Waiting for a worker with {self._device!r} in the name of its device; those here have {there}.")
        else:
            say(f"{counted(len(self._under_way), 'trial')} under way on {counted(len(self._fleet.known), 'worker')}.")
