"""The protocol between a search and its workers, stored as attributes of the Optuna study that they share.

Only the search proposes, assigns and ends trials; a worker only answers. Therefore at most one answer counts for each
trial, and every Optuna storage works.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import optuna

from ..errors import RunFolderError, SeSearchError, as_given
from ..progress import say
from ..trials.notes import refusing_foreign_trials

SEARCH = "search"
"""Study attribute: the state and heartbeat of the search."""

WORKER = "worker:"
"""Prefix of the study attribute that holds the device and heartbeat of one worker."""

DEFINITION = "definition"
"""Study attribute: the study definition, as JSON."""

SHARED_FILES = "shared_files"
"""Study attribute: the files that workers need, from :func:`se_search.cluster.shared_files.share_files`."""

ARTIFACTS = "artifacts"
"""Study attribute: the location of the artifact store that holds these files."""

TASK = "task"
"""Trial attribute: the current :class:`Task`."""

ANSWER = "answer"
"""Trial attribute: a worker's answer to the current task."""

HEARTBEAT_INTERVAL = 3.0
"""Heartbeat interval (s)."""

MAX_BACKOFF = 1.0
"""Longest interval between two polls (s)."""

State = Literal["preparing", "searching", "stopped", "ended"]
Work = Literal["latency", "accuracy"]


def backoff() -> Iterator[float]:
    """Yield the seconds to wait before each poll: exponential backoff from 0.05 up to ``MAX_BACKOFF``."""
    delay = 0.05
    while True:
        yield delay
        delay = min(MAX_BACKOFF, delay * 1.3)


def is_transient(name: str) -> bool:
    """Whether a study attribute serves only the running search, and is not copied to another study."""
    return name in (SEARCH, DEFINITION, ARTIFACTS, SHARED_FILES) or name.startswith(WORKER)


@dataclass(frozen=True)
class Task:
    """A trial assigned to a worker.

    Attributes:
        worker: Name of the worker.
        work: The value to determine.
        turn: Number of this assignment among those of the trial.
    """

    worker: str
    work: Work
    turn: int

    def to_attribute(self) -> dict[str, Any]:
        """Return the task as plain data."""
        return {"worker": self.worker, "work": self.work, "turn": self.turn}

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Task | None":
        """Read the task from the user attributes of a trial.

        Raises:
            RunFolderError: If the attribute was not written by se-search.
        """
        task = attributes.get(TASK)
        with refusing_foreign_trials():
            return None if task is None else cls(task["worker"], task["work"], task["turn"])


def answer_of(attributes: Mapping[str, Any], task: Task) -> dict[str, Any] | None:
    """Return the answer to ``task`` from the user attributes of a trial; ``None`` if there is none yet."""
    answer = attributes.get(ANSWER)
    return answer if answer and answer["turn"] == task.turn else None


@contextmanager
def heartbeat(
    study: optuna.Study, name: str, content: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Write a heartbeat to a study attribute while the block runs.

    A counter changes at each heartbeat. Observers only check whether it changes, so clocks need not agree.

    Args:
        study: The study.
        name: Name of the attribute.
        content: Other entries of the attribute.

    Yields:
        A function that replaces ``content``.
    """
    stop, writing = threading.Event(), threading.Lock()
    held, count = content, 0

    def write(changed: Mapping[str, Any] | None = None) -> None:
        nonlocal held, count
        with writing:
            held, count = changed or held, count + 1
            study.set_user_attr(name, {**held, "beat": count})

    def beat() -> None:
        with suppress(SeSearchError):  # the main thread notices an unreachable storage too
            while not stop.wait(HEARTBEAT_INTERVAL):
                write()

    write()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield write
    finally:
        stop.set()
        thread.join(HEARTBEAT_INTERVAL)


class LivenessMonitor:
    """Decides from heartbeats which processes are alive, without comparing clocks.

    Args:
        patience: Seconds without a heartbeat after which a process counts as lost.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._contents: dict[str, Any] = {}
        self._silent: dict[str, float] = {}
        self._looked: dict[str, float] = {}

    def is_alive(self, name: str, content: Any) -> bool:
        """Whether ``content`` changed within the patience; call this at every poll.

        During a storage outage nobody can poll or write heartbeats, so the time between two polls counts as at most
        two heartbeat intervals.
        """
        now = time.monotonic()
        passed = min(now - self._looked.get(name, now), 2 * HEARTBEAT_INTERVAL)
        self._looked[name] = now
        before = self._contents.get(name)
        self._contents[name] = content
        if before is not None and before != content:
            self._silent[name] = 0.0
        elif name in self._silent:
            self._silent[name] += passed
        return self._silent.get(name, self._patience) < self._patience


def refuse_second_search(study: optuna.Study) -> None:
    """Check that no other process is running a search in this study.

    Raises:
        RunFolderError: If one is.
    """
    before = study.user_attrs.get(SEARCH, {})
    if before.get("state") not in ("preparing", "searching"):
        return
    say(f"Checking whether another search of {study.study_name} is running.")
    for _ in range(6):
        time.sleep(HEARTBEAT_INTERVAL / 2)
        if study.user_attrs.get(SEARCH, {}) != before:
            raise RunFolderError(
                f"another process is running study {study.study_name!r}: wait for it, or choose another "
                f"{as_given('study_name')}"
            )
