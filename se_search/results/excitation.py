"""Analyses of excitation in a run folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState

from ..trials.folder import EXCITATION, PAGE_FILE, load_trials

_OF_A_TRIAL = re.compile(r"trial-(0|[1-9][0-9]{0,8})(-verified)?")


def analysis_folder(folder: Path, trial: int, verified: bool = False) -> Path:
    """Return the folder of the analysis of a trial's network, with the weights of the search or of verification."""
    return folder / EXCITATION / f"trial-{trial}{'-verified' if verified else ''}"


@dataclass(frozen=True, order=True)
class AnalysisPage:
    """An analysis of excitation in a run folder; ``page`` is the path of its page within the folder."""

    trial: int
    verified: bool
    page: str


def find_analyses(folder: Path) -> tuple[AnalysisPage, ...]:
    """List the analyses of complete trials in a run folder, by trial number.

    Raises:
        RunFolderError: If there is an analysis and the folder's trials cannot be read.
    """
    found = [
        AnalysisPage(int(name[1]), name[2] is not None, page.relative_to(folder).as_posix())
        for page in (folder / EXCITATION).glob(f"*/{PAGE_FILE}")
        if (name := _OF_A_TRIAL.fullmatch(page.parent.name)) and page.is_file()
    ]
    if not found:
        return ()
    complete = {trial.number for trial in load_trials(folder).get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    return tuple(sorted(one for one in found if one.trial in complete))
