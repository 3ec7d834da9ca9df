"""Progress of long operations: a bar on an interactive terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .errors import OutputError, printable

_WIDTH_OF_PLAIN_LINES = 160


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


@contextmanager
def progress_bar(description: str, total: int, completed: int = 0) -> Iterator[Callable[..., None]]:
    """Show progress through ``total`` steps, some ``completed`` by an earlier run; a nested bar is below the outer one.

    Yields:
        A function to call after steps: ``advance(steps=1, line=None)`` prints ``line``, above the bars on a terminal.
        Outside a terminal a nested bar prints no description: a search trains hundreds of networks.
    """
    description = printable(description)
    outermost = not _running
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
        if line:
            say(line)

    try:
        yield advance
    finally:
        bars.remove_task(task)
        if outermost:
            _running.clear()
            if console.is_interactive:  # elsewhere stopping would print an empty line
                bars.stop()
