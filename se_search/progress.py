"""Progress for what takes long: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_WIDTH_OF_PLAIN_LINES = 160

console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = _WIDTH_OF_PLAIN_LINES

_bars: list[Progress] = []
_depth = 0


def say(line: str) -> None:
    """Print one line, which may come from a user's file: markup in it is not interpreted."""
    console.print(line, markup=False)


@contextmanager
def progress_bar(description: str, total: int, completed: int = 0) -> Iterator[Callable[..., None]]:
    """Show progress through ``total`` steps; within another one, as a part of it.

    Args:
        description: What is going on.
        total: Number of steps.
        completed: Steps that an earlier run has done.

    Yields:
        A function to call after steps: ``advance(steps=1, line=None)``; ``line`` is printed, above the bars on a
        terminal. Parts print no line of their own: a search trains hundreds of networks.
    """
    global _depth
    if not _depth and not console.is_terminal:
        say(f"{description} ({completed}/{total})")
    _depth += 1
    try:
        with _bar(description, total, completed) as advance:
            yield advance
    finally:
        _depth -= 1


@contextmanager
def _bar(description: str, total: int, completed: int) -> Iterator[Callable[..., None]]:
    if not console.is_terminal:
        yield lambda steps=1, line=None: say(line) if line else None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    outermost = not _bars
    if outermost:
        bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
        bars.start()
        _bars.append(bars)
    bars = _bars[0]
    task = bars.add_task(description, total=total, completed=completed)

    def advance(steps: int = 1, line: str | None = None) -> None:
        bars.advance(task, steps)
        if line:
            bars.console.print(line, markup=False)

    try:
        yield advance
    finally:
        bars.remove_task(task)
        if outermost:
            _bars.pop().stop()
