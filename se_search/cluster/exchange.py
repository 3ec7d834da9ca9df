"""What a search and its workers tell each other, as attributes of the Optuna study that they share.

The search alone proposes trials, ends them, and says who does what; a worker only answers. So no trial is evaluated by
two workers whose answers both count, and every storage of Optuna's will do.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import optuna

from ..errors import RunFolderError, SeSearchError
from ..progress import say
from ..trials.notes import refusing_foreign_trials

SEARCH = "search"
"""A study's attribute: the state of the search, and its beat."""

WORKER = "worker:"
"""A study's attribute whose name is this and a worker's: what that worker is, and its beat."""

DEFINITION = "definition"
"""A study's attribute: the study that is searched, as JSON."""

SHARED_FILES = "shared_files"
"""A study's attribute: the files that workers need, with where they are."""

ARTIFACTS = "artifacts"
"""A study's attribute: the store that holds these files, as the search names it."""

TASK = "task"
"""A trial's attribute: who does what with it."""

ANSWER = "answer"
"""A trial's attribute: what a worker has found out."""

BEAT = 3.0
"""Seconds between two beats."""

LONGEST_PAUSE = 1.0
"""Seconds after which everybody looks again."""

State = Literal["preparing", "searching", "stopped", "ended"]
Work = Literal["latency", "accuracy"]


def pauses() -> Iterator[float]:
    """Yield the seconds to wait between two looks for something to do, the longer the longer there was nothing."""
    pause = 0.05
    while True:
        yield pause
        pause = min(LONGEST_PAUSE, pause * 1.3)


def is_of_exchange(name: str) -> bool:
    """Whether a study's attribute is of no more use when the search is over."""
    return name in (SEARCH, DEFINITION, ARTIFACTS, SHARED_FILES) or name.startswith(WORKER)


@dataclass(frozen=True)
class Task:
    """What one worker does with a trial.

    Attributes:
        worker: Its name.
        work: What it finds out.
        turn: Tells the tasks of a trial apart.
    """

    worker: str
    work: Work
    turn: int

    def to_attribute(self) -> dict[str, Any]:
        """Return plain data."""
        return {"worker": self.worker, "work": self.work, "turn": self.turn}

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Task | None":
        """Read the task among the user attributes of a trial.

        Raises:
            RunFolderError: If it is none of ours.
        """
        task = attributes.get(TASK)
        with refusing_foreign_trials():
            return None if task is None else cls(task["worker"], task["work"], task["turn"])


def answer_of(attributes: Mapping[str, Any], task: Task) -> dict[str, Any] | None:
    """Return the answer to a task among the user attributes of a trial."""
    answer = attributes.get(ANSWER)
    return answer if answer and answer["turn"] == task.turn else None


@contextmanager
def beating(
    study: optuna.Study, name: str, content: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Keep an attribute of a study changing, so that others see that this process lives.

    Nobody compares clocks: who watches the attribute looks whether it changes.

    Args:
        study: The study.
        name: The attribute.
        content: What it holds besides.

    Yields:
        A function that gives it another content.
    """
    stop, writing = threading.Event(), threading.Lock()
    held, count = content, 0

    def write(changed: Mapping[str, Any] | None = None) -> None:
        nonlocal held, count
        with writing:
            held, count = changed or held, count + 1
            study.set_user_attr(name, {**held, "beat": count})

    def beat() -> None:
        with suppress(SeSearchError):  # of a storage that is gone, which the other thread notices too
            while not stop.wait(BEAT):
                write()

    write()
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield write
    finally:
        stop.set()
        thread.join(BEAT)


class Watch:
    """Tells which of those that beat are alive, without comparing clocks.

    Args:
        patience: Seconds without a change after which one counts as gone.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._contents: dict[str, Any] = {}
        self._silent: dict[str, float] = {}
        self._looked: dict[str, float] = {}

    def is_alive(self, name: str, content: Any) -> bool:
        """Whether ``content`` has been seen to change, and not too long ago; to be called again and again.

        While nobody can look, as in an outage of the storage, nobody can beat either: of the time between two looks no
        more counts than a few beats.
        """
        now = time.monotonic()
        passed = min(now - self._looked.get(name, now), 2 * BEAT)
        self._looked[name] = now
        before = self._contents.get(name)
        self._contents[name] = content
        if before is not None and before != content:
            self._silent[name] = 0.0
        elif name in self._silent:
            self._silent[name] += passed
        return self._silent.get(name, self._patience) < self._patience


def refuse_second_search(study: optuna.Study) -> None:
    """Check that no other process searches in a study.

    Raises:
        RunFolderError: If one does.
    """
    before = study.user_attrs.get(SEARCH, {})
    if before.get("state") not in ("preparing", "searching"):
        return
    say(f"Looking whether another search of {study.study_name} goes on.")
    for _ in range(6):
        time.sleep(BEAT / 2)
        if study.user_attrs.get(SEARCH, {}) != before:
            raise RunFolderError(
                f"another process searches in study {study.study_name!r}: wait for it, or choose another --study-name"
            )
