"""Executors run the tasks of a search: their interface, and the executor that runs tasks in this process."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import DefinitionError, as_given
from ..network.config import SEConfig
from ..study.definitions import StudyDefinition


@dataclass(frozen=True)
class Task:
    """A unit of work for a trial.

    Attributes:
        config: Its configuration.
        costs: Its known costs; successive halving compares some of them.
        is_known: Whether it is one of the known answers, which are trained to the end.
        rungs: Values of other trials at the rungs of successive halving.
        work: Whether to evaluate the configuration or to measure its latency.
    """

    config: SEConfig
    costs: Mapping[str, Any] = field(default_factory=dict)
    is_known: bool = False
    rungs: Sequence[Mapping[str, list[float]]] = ()
    work: Literal["accuracy", "latency"] = "accuracy"


@dataclass(frozen=True)
class Outcome:
    """The result of a task.

    Attributes:
        notes: Attributes for the trial.
        stopped: Whether successive halving stopped the trial.
        files: Contents of the files that the evaluator wrote elsewhere, by their path in the run folder.
        unreadable: Images that could not be read elsewhere.
        node: The node of a cluster that ran the task; empty for this process.
        host: Host name of that node.
        unfit: Why the node cannot run tasks of this search; empty if it can.
    """

    notes: Mapping[str, Any] = field(default_factory=dict)
    stopped: bool = False
    files: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    node: str = ""
    host: str = ""
    unfit: str = ""


class Executor(Protocol):
    """Runs tasks."""

    @property
    def runs_here(self) -> bool:
        """Whether tasks run on this machine, where they would disturb a latency measurement."""

    def slots(self, avoid: frozenset[str] = frozenset()) -> int:
        """Return the number of tasks that can run at once now.

        Args:
            avoid: Excluded nodes.

        Raises:
            ClusterError: If the cluster is lost.
        """

    def missing(self) -> str:
        """Return what must join before tasks can run; empty if nothing must."""

    def submit(self, task: Task, avoid: frozenset[str] = frozenset()) -> "Future[Outcome]":
        """Start a task.

        Args:
            task: The task.
            avoid: Excluded nodes.
        """

    def close(self) -> None:
        """Stop everything that was started."""


class InProcess:
    """Runs one task at a time in this process, within ``submit``, by calling ``do``."""

    runs_here = True

    def __init__(self, do: Callable[[Task], Outcome]) -> None:
        self._do = do

    def slots(self, avoid: frozenset[str] = frozenset()) -> int:
        """Return 1, or 0 if this process is excluded."""
        return int("" not in avoid)

    def missing(self) -> str:
        """Return an empty string: nothing is missing."""
        return ""

    def submit(self, task: Task, avoid: frozenset[str] = frozenset()) -> "Future[Outcome]":
        """Run a task."""
        future: Future[Outcome] = Future()
        try:
            future.set_result(self._do(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class ClusterOptions:
    """How a search uses other processes and machines.

    Attributes:
        workers: Number of parallel trials on this machine; 1 evaluates in this process.
        ray: ``"auto"`` or ``"HOST:PORT"`` of a running Ray cluster that evaluates instead.
        gpus_per_trial: GPUs of each trial; by default one if the study's device is CUDA.
        latency_node: Whether the node that offers the resource ``latency`` measures latency, instead of this process.
    """

    workers: int = 1
    ray: str | None = None
    gpus_per_trial: float | None = None
    latency_node: bool = False

    @property
    def uses_ray(self) -> bool:
        """Whether other processes evaluate trials."""
        return self.workers != 1 or self.ray is not None

    @property
    def parallel(self) -> int | None:
        """Number of trials at once; ``None`` if the nodes of a cluster decide it."""
        return None if self.ray is not None else self.workers

    def check(self, study: StudyDefinition) -> None:
        """Check that a study can be searched with these options.

        Raises:
            SeSearchError: If it cannot.
        """
        gpus, predicts = self.gpus_per_trial, study.latency.source == "model"
        names = ("workers", "ray", "gpus_per_trial", "latency_node", "latency")
        workers, ray, gpus_per_trial, latency_node, latency = map(as_given, names)
        given = f"{ray} {self.ray}" if self.ray else f"{workers} {self.workers}"
        for is_wrong, message in (
            (self.workers < 1, f"{workers} is {self.workers}: it must be at least 1"),
            (self.workers > 1 and self.ray is not None, f"{workers} evaluates here, {ray} elsewhere: omit one of them"),
            (gpus is not None and not self.uses_ray, f"{gpus_per_trial} requires {workers} or {ray}"),
            (gpus is not None and not gpus >= 0, f"{gpus_per_trial} is {gpus}: it must be at least 0"),
            (self.latency_node and self.ray is None, f"{latency_node} requires {ray}: it is a node of a cluster"),
            (self.latency_node and predicts, f"{latency_node} measures what {latency} model predicts: omit one"),
            (self.uses_ray and find_spec("ray") is None, f'{given} requires Ray: pip install "se-search[ray]"'),
        ):
            if is_wrong:
                raise DefinitionError(message)
        if self.ray is not None:
            from .ray_executor import find_cluster

            find_cluster(self.ray)
