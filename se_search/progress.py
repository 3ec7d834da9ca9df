"""Progress of long operations: a bar on an interactive terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_WIDTH_OF_PLAIN_LINES = 160

console = Console(highlight=False)
if not console.is_terminal:
    console.soft_wrap = True
    console.width = _WIDTH_OF_PLAIN_LINES

_running: list[Progress] = []


def say(line: str, to_copy: bool = False) -> None:
    """Print one line without interpreting markup in it, since it may come from a user's file.

    A terminal wraps a long line between words, except one ``to_copy``, such as a path or command.
    """
    console.print(line, markup=False, soft_wrap=to_copy or None)


@contextmanager
def progress_bar(description: str, total: int, completed: int = 0) -> Iterator[Callable[..., None]]:
    """Show progress through ``total`` steps, some ``completed`` by an earlier run; a nested bar is below the outer one.

    Yields:
        A function to call after steps: ``advance(steps=1, line=None)`` prints ``line``, above the bars on a terminal.
        Outside a terminal a nested bar prints no description: a search trains hundreds of networks.
    """
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
    task = bars.add_task(description, total=total, completed=completed)

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
