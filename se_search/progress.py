"""Progress for what takes long: a bar on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_WIDTH_OF_PLAIN_LINES = 160

console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = _WIDTH_OF_PLAIN_LINES


def say(line: str) -> None:
    """Print one line, which may come from a user's file: markup in it is not interpreted."""
    console.print(line, markup=False)


@contextmanager
def progress_bar(description: str, total: int, completed: int = 0) -> Iterator[Callable[..., None]]:
    """Show progress through ``total`` steps.

    Args:
        description: What is going on.
        total: Number of steps.
        completed: Steps that an earlier run has done.

    Yields:
        A function to call after steps: ``advance(steps=1, line=None)``; ``line`` is printed, above the bar on a
        terminal.
    """
    if not console.is_terminal:

        def advance_plainly(steps: int = 1, line: str | None = None) -> None:
            if line:
                say(line)

        say(f"{description} ({completed}/{total})")
        yield advance_plainly
        return

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(description, total=total, completed=completed)

        def advance(steps: int = 1, line: str | None = None) -> None:
            progress.advance(task, steps)
            if line:
                progress.console.print(line, markup=False)

        yield advance
