"""A report that follows a search of another process."""

import os
import time
from contextlib import suppress
from pathlib import Path

from ..errors import DefinitionError, RunFolderError, SeSearchError, as_given
from ..files import refusing_unwritable, write_text
from ..progress import say
from ..report.page import render_report
from ..results.record import read_results
from ..trials.folder import REPORT_FILE, STORAGE_FILE, STUDY_FILE, load_trials, read_definition


def follow_run(path: str | os.PathLike[str], every: int = 10) -> Path:
    """Write a run's report again and again while another process makes it; what ``se-search watch`` calls.

    It waits for a run that has not begun. Only ``report.html`` is written: everything else is the other process's. The
    report reads itself anew until the run is finished or this is interrupted.

    Args:
        path: The run folder.
        every: Seconds between two reports.

    Returns:
        The report's path.

    Raises:
        RunFolderError: If the folder holds something else or is damaged.
    """
    if every < 1:
        raise DefinitionError(f"{as_given('every')} is {every}: it must be at least 1 second")
    folder = Path(path)
    told = ""
    try:
        while True:
            state, finished = _write_live(folder, every)
            if state != told:
                say(told := state)
            if finished:
                break
            time.sleep(every)
    except KeyboardInterrupt:
        with suppress(SeSearchError):  # of a folder that is gone or damaged by now
            _write_last(folder)
        raise
    _write_last(folder)
    return folder / REPORT_FILE


def _write_last(folder: Path) -> None:
    """Write the report of a run, where it has begun, as a page that does not read itself anew."""
    if _has_begun(folder):
        _write(folder, render_report(*read_results(folder)))


def _write(folder: Path, page: str) -> None:
    with refusing_unwritable(folder / REPORT_FILE):
        write_text(folder / REPORT_FILE, page)


def _write_live(folder: Path, every: int) -> tuple[str, bool]:
    """Write the report of a run that is under way; a line about it, and whether it is finished."""
    waiting = f"Waiting for a run in {folder}; Ctrl-C ends this.", False
    try:
        if not _has_begun(folder):
            return waiting
        trials, description = read_results(folder)
    except RunFolderError:
        if _has_begun(folder):  # else it was deleted while it was read
            raise
        return waiting
    try:
        _write(folder, render_report(trials, description, live=every))
    except RunFolderError as error:
        # A run that goes on clears away the unfinished files of killed processes, and with them this one's.
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    done = int((trials["state"] != "failed").sum())
    return f"{done} of {description.budget}: {folder / REPORT_FILE}", bool(description.finished)


def _has_begun(folder: Path) -> bool:
    """Whether a run folder has what a report shows; it is refused where it holds something else."""
    if not folder.exists() or (
        folder.is_dir()
        and not (folder / STUDY_FILE).exists()
        and all(entry.name.startswith(".") for entry in folder.iterdir())
    ):
        return False
    read_definition(folder)
    return (folder / STORAGE_FILE).exists() and "data" in load_trials(folder).user_attrs
