"""The study loop: propose a configuration, determine its costs, measure its latency, evaluate it, record the result."""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..cluster.executor import Executor, Outcome, Task
from ..errors import ClusterError, EvaluationError, OutputError, RunFolderError
from ..files import write_atomically
from ..network.config import SEConfig
from ..progress import progress_bar, say
from ..results.contenders import latency_contenders, uncertain_contenders
from ..study.definitions import StudyDefinition
from ..time_limit import time_limit
from ..trials.folder import is_unwritable
from ..trials.latency import StudyLatency
from ..trials.notes import note_unreadable, with_measured_latency
from ..trials.search_study import SearchStudy
from ..trials.trials import Proposal, Trials, costs_of, image_count_difference

EVALUATING = "Evaluating configurations"
"""Title of the progress bar of trials."""

_POLL = 1.0  # seconds between checks of the cluster
_REPORT_INTERVAL = 60.0


@dataclass
class StudyLoop:
    """Evaluates configurations until the budget is spent or the space is exhausted.

    If tasks run on this machine, latency is measured while none runs: trials then start together, in rounds.

    Attributes:
        definition: The study.
        trials: Its trials.
        executor: Runs the tasks.
        latency: Measures latency in this process, or predicts it.
        study: The Optuna study.
        folder: The run folder.
        latency_node: Whether the executor measures latency, on a dedicated node.
        log: Called after each trial.
    """

    definition: StudyDefinition
    trials: Trials
    executor: Executor
    latency: StudyLatency
    study: SearchStudy
    folder: Path
    latency_node: bool = False
    log: Callable[[SearchStudy], None] = lambda study: None
    _running: dict[Future[Outcome], tuple[Proposal, Task]] = field(default_factory=dict, init=False)
    _open: dict[int, Proposal] = field(default_factory=dict, init=False)
    _avoid: frozenset[str] = field(default=frozenset(), init=False)
    _waiting_since: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> None:
        """Search.

        Raises:
            EvaluationError: If trials fail repeatedly.
            ClusterError: If a cluster is lost or cannot evaluate.
            RunFolderError: If images differ from the run's, or latencies cannot be compared.
        """
        done, budget = self.trials.done, self.definition.budget
        with progress_bar(EVALUATING, budget, min(done, budget)) as self._advance:
            try:
                exhausted = False
                while self.trials.left and not (exhausted and not self._running):
                    room = min(self.executor.slots(self._avoid), self.trials.left) - len(self._running)
                    if not exhausted:
                        exhausted = not self._start(room)
                    self._finish()
                if exhausted and self.trials.left:
                    self.trials.report_exhausted()
            except BaseException:
                for proposal in self._open.values():
                    self.trials.interrupt(proposal)
                raise

    def _start(self, room: int) -> bool:
        """Start trials; return whether the space may have more."""
        here = not self.latency_node
        in_rounds = here and self.executor.runs_here and not self.latency.is_predicted
        if in_rounds and self._running:
            return True
        started: list[tuple[Proposal, Task]] = []
        has_more = True
        while room > len(started):
            proposal = self.trials.propose()
            if proposal is None:
                has_more = False
                break
            self._open[proposal.trial.number] = proposal
            try:
                costs = costs_of(proposal.config, self.latency.size)
                if here:
                    with time_limit(self.definition.trial_limit):
                        costs |= self.latency.measure_or_predict(proposal.config)
            except Exception as error:  # a runtime can raise anything for a network
                self._fail(proposal, error)
                continue
            task = Task(proposal.config, costs, bool(proposal.named), work="accuracy" if here else "latency")
            started.append((proposal, task))
            if not in_rounds:
                self._submit(*started.pop())
                room -= 1
        for proposal, task in started:
            self._submit(proposal, task)
        return has_more

    def _submit(self, proposal: Proposal, task: Task) -> None:
        if task.work == "accuracy":
            task = replace(task, rungs=self.trials.rungs)
        self._running[self.executor.submit(task, self._avoid)] = proposal, task

    def _finish(self) -> None:
        """Wait until a task is done or the next check of the cluster is due, and record the finished tasks."""
        if not self._running:
            time.sleep(_POLL if self.executor.missing() else 0)
        done = wait(self._running, timeout=_POLL, return_when=FIRST_COMPLETED).done if self._running else ()
        for future in done:
            proposal, task = self._running.pop(future)
            try:
                line = self._note(proposal, task, future.result())
            except (ClusterError, OutputError, RunFolderError):
                raise
            except Exception as error:  # an error in one trial must not end the search
                if is_unwritable(error):
                    raise
                self._fail(proposal, error)
            else:
                if line:
                    del self._open[proposal.trial.number]
                    self._advance(1, line)
                    self.log(self.study)
        now = time.monotonic()
        if done:
            self._waiting_since = now
        elif now - self._waiting_since > _REPORT_INTERVAL and (missing := self.executor.missing()):
            self._waiting_since = now
            say(f"Waiting for {missing}.")

    def _note(self, proposal: Proposal, task: Task, outcome: Outcome) -> str:
        """Record the outcome of a task; return a line about the trial if it is finished."""
        if task.work == "latency":
            self._check_latency(outcome)
            latency = self.latency.pooled(proposal.config, dict(outcome.notes))
            self._submit(proposal, replace(task, costs={**task.costs, **latency}, work="accuracy"))
            return ""
        difference = outcome.unfit or image_count_difference(outcome.notes, self.study)
        if difference:
            self._avoid |= {outcome.node}
            if not self.executor.slots(self._avoid):
                if outcome.unfit:
                    raise ClusterError(f"no node can evaluate: {difference}")
                raise RunFolderError(f"{difference}: restore them as they were, or choose another folder with --out")
            say(f"Node {outcome.host} receives no more trials: {difference}.")
            self._submit(proposal, task)
            return ""
        for name, content in outcome.files.items():
            target = self.folder / name
            if "/" not in name or not target.resolve().is_relative_to(self.folder.resolve()):
                raise EvaluationError(f"the evaluator wrote {name!r}, which is not in a folder below the run folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, content.tofile)
        if outcome.unreadable:
            note_unreadable(self.study, outcome.unreadable)
        return self.trials.complete(proposal, {**task.costs, **outcome.notes}, outcome.stopped)

    def measure_contenders(self) -> None:
        """Measure the latency of front members and their rivals again, where the latencies of trials are measured."""
        if not needs_looks(self.latency, self.study):
            return
        measure = self._measure_on_node if self.latency_node else None
        self.latency.measure_again(self.study, uncertain_contenders, measure)
        count = len(latency_contenders(with_measured_latency(self.study)))
        wide = len(uncertain_contenders(self.study, self.latency.target))
        say(
            f"The latency of {count - wide} of {count} front members and rivals is within "
            f"±{100 * self.latency.target:g} %."
        )

    def _measure_on_node(self, config: SEConfig) -> dict[str, Any]:
        outcome = self.executor.submit(Task(config, work="latency"), self._avoid).result()
        self._check_latency(outcome)
        return dict(outcome.notes)

    def _check_latency(self, outcome: Outcome) -> None:
        if outcome.unfit:
            raise ClusterError(f"node {outcome.host} cannot measure latency: {outcome.unfit}")
        try:
            self.latency.check_comparable(outcome.notes["latency_conditions"])
        except EvaluationError as error:
            raise RunFolderError(f"node {outcome.host} cannot measure latency for this run: {error}") from error

    def _fail(self, proposal: Proposal, error: Exception) -> None:
        self._advance(0, self.trials.fail(proposal, error))
        del self._open[proposal.trial.number]


def needs_looks(latency: StudyLatency, study: SearchStudy) -> bool:
    """Return whether :meth:`StudyLoop.measure_contenders` would measure."""
    return latency.looks_left(study) > 0 and bool(uncertain_contenders(study, latency.target))
