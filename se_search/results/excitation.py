"""Analyses of excitation that a run folder holds."""

import re
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState

from ..trials.folder import EXCITATION, PAGE_FILE, load_trials

_OF_A_TRIAL = re.compile(r"trial-(0|[1-9][0-9]{0,8})(-verified)?")


def analysis_folder(folder: Path, trial: int, verified: bool = False) -> Path:
    """Where the analysis of a trial's network is kept.

    Args:
        folder: A run folder.
        trial: Number of the trial.
        verified: Whether the weights are those of its verification.
    """
    return folder / EXCITATION / f"trial-{trial}{'-verified' if verified else ''}"


@dataclass(frozen=True, order=True)
class AnalysisPage:
    """An analysis of excitation in a run folder.

    Attributes:
        trial: Number of the trial whose network was analysed.
        verified: Whether its weights are those of verification.
        page: Path of the page within the run folder.
    """

    trial: int
    verified: bool
    page: str


def find_analyses(folder: Path) -> tuple[AnalysisPage, ...]:
    """List the analyses of complete trials that a run folder holds, by number.

    Raises:
        RunFolderError: If there is an analysis and the folder's trials cannot be read.
    """
    found = []
    for page in (folder / EXCITATION).glob(f"*/{PAGE_FILE}"):
        name = _OF_A_TRIAL.fullmatch(page.parent.name)
        if name and page.is_file():
            where = f"{EXCITATION}/{page.parent.name}/{PAGE_FILE}"
            found.append(AnalysisPage(int(name[1]), name[2] is not None, where))
    if not found:
        return ()
    complete = {trial.number for trial in load_trials(folder).get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
    return tuple(sorted(one for one in found if one.trial in complete))
