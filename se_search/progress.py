"""Progress of long operations: a bar on an interactive terminal, plain lines elsewhere, and the time left."""

import math
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .errors import OutputError, printable
from .words import duration

_FEWEST_STEPS = 3
"""Steps after which the observed speed of a phase replaces the estimated one."""

_WIDTH_OF_PLAIN_LINES = 180


class _Output(Console):
    """Standard output; a full device ends a command in one sentence."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError as error:
            raise OutputError(f"the output cannot be written ({error.strerror or error})") from error


console = _Output(highlight=False, emoji=False)
if not console.is_terminal:
    console.soft_wrap = True
    console.width = _WIDTH_OF_PLAIN_LINES

_running: list[Progress] = []


def say(line: str, to_copy: bool = False) -> None:
    """Print one line. Markup in it is not interpreted and unprintable characters are escaped: it may come from a file.

    A terminal wraps a long line between words, except one ``to_copy``, such as a path or command.

    Raises:
        OutputError: If it cannot be written.
    """
    console.print(printable(line), markup=False, soft_wrap=to_copy or None)


def complain(line: str) -> None:
    """Print one line to standard error, with unprintable characters escaped."""
    with suppress(OSError):  # there is no other place to say it
        print(printable(line), file=sys.stderr)


def width_of_table(headings: Sequence[str], rows: Iterable[Sequence[str]], gap: int = 2) -> int:
    """Return the columns that a table takes without wrapping."""
    return sum(max(map(_widest_line, column)) + gap for column in zip(headings, *rows, strict=True)) - gap


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = (), gap: int = 2
) -> None:
    """Print a table of texts, in which markup is not interpreted. A cell is wrapped between words only.

    Where the longest words do not fit beside each other, each row is printed as a paragraph.

    Args:
        headings: Headings of the columns.
        rows: Cells of each row.
        right: Headings of the columns that are flush right.
        gap: Spaces between two columns.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    columns = list(zip(headings, *rows, strict=True))
    most = [max(map(_widest_line, column)) for column in columns]
    least = [max(map(_longest_word, column)) for column in columns]
    room = console.width - gap * (len(columns) - 1)
    if sum(least) > room:
        for row in rows:
            first, *others = zip(headings, row, strict=True)
            say(" ".join(filter(None, first)))
            cells = (": ".join(filter(None, (" ".join(heading.split()), cell))) for heading, cell in others if cell)
            for line in textwrap.wrap(
                "; ".join(cells),
                console.width,
                initial_indent="  ",
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            ):
                say(line)
        return
    spare = max(room - sum(least), 0)
    wanted = sum(most) - sum(least)
    share = min(spare / wanted, 1.0) if wanted else 1.0
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for heading, low, high in zip(headings, least, most, strict=True):
        width = low + math.floor((high - low) * share)
        table.add_column(escape(heading), justify="right" if heading in right else "left", width=width)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def _widest_line(text: str) -> int:
    return max(map(cell_len, text.split("\n")), default=0)


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


@dataclass(frozen=True)
class Phase:
    """A part of a long operation that has a progress bar of its own.

    Attributes:
        title: Title of the progress bar.
        steps: Number of steps.
        seconds: Estimated duration of a step (s); ``None`` if it is unknown.
    """

    title: str
    steps: int
    seconds: float | None = None

    @property
    def duration(self) -> float | None:
        """Estimated duration (s)."""
        return None if self.seconds is None else self.steps * self.seconds


class Schedule:
    """The phases of a long operation, which it goes through in order, and the time left.

    The time left is that of the estimates. In the running phase, the observed speed replaces the estimate after some
    steps. Phases that never begin are skipped.
    """

    def __init__(self, phases: Iterable[Phase] = ()) -> None:
        self._ahead = list(phases)
        self._running: Phase | None = None
        self._done = 0
        self._steps = 0
        self._since = 0.0

    def begin(self, title: str, total: int, completed: int) -> None:
        """Begin a phase, whose estimate is that of the phase with this title."""
        known = next((place for place, phase in enumerate(self._ahead) if phase.title == title), None)
        seconds = None
        if known is not None:
            seconds = self._ahead[known].seconds
            del self._ahead[: known + 1]
        self._running = Phase(title, total, seconds)
        self._done, self._steps, self._since = completed, 0, time.perf_counter()

    def advance(self, steps: int) -> None:
        """Count finished steps."""
        self._done += steps
        self._steps += steps

    def end(self) -> None:
        """End the running phase."""
        self._running = None

    @property
    def seconds_left(self) -> float | None:
        """Time left (s); ``None`` if it is unknown."""
        times = [phase.duration for phase in self._ahead]
        if self._running is not None:
            seconds = self._running.seconds
            if self._steps >= (1 if seconds is None else _FEWEST_STEPS):
                seconds = (time.perf_counter() - self._since) / self._steps
            left = max(self._running.steps - self._done, 0)
            times.append(0.0 if left == 0 else None if seconds is None else left * seconds)
        known = [one for one in times if one is not None]
        return sum(known) if len(known) == len(times) else None

    def in_words(self) -> str:
        """Return the time left as text that follows a line about a step; empty below a second or if it is unknown."""
        seconds = self.seconds_left
        return "" if seconds is None or seconds < 1 else f"; about {duration(seconds)} left"


_schedule: Schedule | None = None


@contextmanager
def following(schedule: Schedule) -> Iterator[None]:
    """Let the progress bars of a block tell the time left of a schedule."""
    global _schedule  # one process shows one progress, as with the running bars
    before, _schedule = _schedule, schedule
    try:
        yield
    finally:
        _schedule = before


@contextmanager
def progress_bar(description: str, total: int, completed: int = 0) -> Iterator[Callable[..., None]]:
    """Show progress through ``total`` steps, some ``completed`` by an earlier run; a nested bar is below the outer one.

    Yields:
        A function to call after steps: ``advance(steps=1, line=None)`` prints ``line``, above the bars on a terminal.
        Outside a terminal a nested bar prints no description: a search trains hundreds of networks. Lines of an outer
        bar end with the time left of the schedule that the process follows.
    """
    outermost = not _running
    schedule = _schedule if outermost else None
    if schedule is not None:
        schedule.begin(description, total, completed)
    description = printable(description)
    if outermost:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        _running.append(Progress(*columns, *times, console=console, transient=True, disable=not console.is_interactive))
        if console.is_interactive:
            _running[0].start()
        else:
            say(f"{description} ({completed}/{total})")
    bars = _running[0]
    task = bars.add_task(escape(description), total=total, completed=completed)

    def advance(steps: int = 1, line: str | None = None) -> None:
        bars.advance(task, steps)
        if schedule is not None:
            schedule.advance(steps)
        if line:
            say(line if schedule is None else f"{line}{schedule.in_words()}")

    try:
        yield advance
    finally:
        bars.remove_task(task)
        if schedule is not None:
            schedule.end()
        if outermost:
            _running.clear()
            if console.is_interactive:  # elsewhere stopping would print an empty line
                bars.stop()
