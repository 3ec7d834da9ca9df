"""Live report of a search that runs in another process."""

import os
import time
from contextlib import suppress
from pathlib import Path

from ..errors import DefinitionError, RunFolderError, SeSearchError, as_given
from ..progress import say
from ..report.page import render_report
from ..results.record import read_results
from ..trials.folder import REPORT_FILE, STORAGE_FILE, STUDY_FILE, load_trials, read_definition
from .run import write_report


def follow_run(path: str | os.PathLike[str], every: int = 10) -> Path:
    """Update a run's report while another process searches; ``se-search watch`` calls this.

    It waits for a run that has not started. It writes only ``report.html``. The page reloads itself until the run is
    finished or this call is interrupted.

    Args:
        path: The run folder.
        every: Interval of updates in seconds.

    Returns:
        The report's path.

    Raises:
        RunFolderError: If the folder is not a run folder or is damaged.
    """
    if every < 1:
        raise DefinitionError(f"{as_given('every')} is {every}: it must be at least 1 second")
    folder = Path(path)
    shown = ""
    try:
        while True:
            state, finished = _write_live(folder, every)
            if state != shown:
                say(shown := state)
            if finished:
                break
            time.sleep(every)
    except KeyboardInterrupt:
        with suppress(SeSearchError):  # the folder may be deleted or damaged by now
            _write_last(folder)
        raise
    _write_last(folder)
    return folder / REPORT_FILE


def _write_last(folder: Path) -> None:
    """Write the report of a run that has started, as a page that does not reload itself."""
    if _has_begun(folder):
        write_report(folder / REPORT_FILE, render_report(*read_results(folder)))


def _write_live(folder: Path, every: int) -> tuple[str, bool]:
    """Write the report of an unfinished run; return a line about it, and whether the run is finished."""
    waiting = f"Waiting for a run in {folder}; Ctrl-C ends this.", False
    try:
        if not _has_begun(folder):
            return waiting
        trials, description = read_results(folder)
    except RunFolderError:
        if _has_begun(folder):  # else it was deleted during the read
            raise
        return waiting
    try:
        write_report(folder / REPORT_FILE, render_report(trials, description, live=every))
    except RunFolderError as error:
        # A resumed run deletes the temporary files of killed processes, and this one's too.
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    done = int((trials["state"] != "failed").sum())
    return f"{done} of {description.budget}: {folder / REPORT_FILE}", description.finished


def _has_begun(folder: Path) -> bool:
    """Return whether a run folder has what a report shows.

    Raises:
        RunFolderError: If the folder is not a run folder.
    """
    if not folder.exists() or (
        folder.is_dir()
        and not (folder / STUDY_FILE).exists()
        and all(entry.name.startswith(".") for entry in folder.iterdir())
    ):
        return False
    read_definition(folder)
    return (folder / STORAGE_FILE).exists() and "data" in load_trials(folder).user_attrs
