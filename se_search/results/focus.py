"""Whether attention with local focus is better than attention over the whole map: the best of both, compared."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.trial import TrialState

from ..network.config import SEConfig
from ..statistics import Estimate, confidence_of_each, crossed_difference, difference_in_words
from ..study.objectives import Objective
from ..trials.notes import converting_foreign_trial_errors, unpack
from ..words import counted
from .table import read_config


@dataclass(frozen=True)
class Focused:
    """A network and its outcomes.

    Attributes:
        label: Its name in sentences.
        config: Its configuration.
        outcomes: Correctness or log-loss: seeds x images, the same ones for all networks.
    """

    label: str
    config: SEConfig
    outcomes: npt.NDArray[Any]


def compare_focus(networks: Sequence[Focused], quality: Objective, paired_by: str, source: str = "") -> str:
    """Say whether the best network with local focus is better than the best one whose attention is all global.

    A network has local focus if one of its blocks has. The interval is corrected for all pairs of such networks
    (Bonferroni), because both are the best of several.

    Args:
        networks: Networks; those without attention do not count.
        quality: Accuracy or log-loss.
        paired_by: Unit of the pairs.
        source: Source of the values, if the context does not name it.

    Returns:
        A sentence; empty unless there are networks of both kinds.
    """
    local = [one for one in networks if one.config.is_local]
    whole = [one for one in networks if one.config.placed and not one.config.is_local]
    if not local or not whole:
        return ""
    best, other = (max(group, key=lambda one: quality.sign * float(np.mean(one.outcomes))) for group in (local, whole))
    pairs = len(local) * len(whole)
    difference = crossed_difference(best.outcomes, other.outcomes, confidence_of_each(pairs))
    return (
        f"{_verdict(difference, quality)}{source}: the best network with it, {best.label}, changes {quality.words} by "
        f"{difference_in_words(quality.name, difference)} relative to the best one with global attention only, "
        f"{other.label} (paired by {paired_by}, corrected for {counted(pairs, 'pair')})."
    )


def focus_of_trials(study: optuna.Study, table: pd.DataFrame, quality: Objective) -> str:
    """Return the sentence of :func:`compare_focus` for the complete trials within the limits.

    Args:
        study: The trials.
        table: Their table, from :func:`~se_search.results.table.trials_table`.
        quality: Accuracy or log-loss.
    """
    within = set(table["number"][(table["state"] == "complete") & table["feasible"]])
    with converting_foreign_trial_errors():
        networks = [
            Focused(
                f"trial {trial.number}",
                read_config(trial.user_attrs["config"]),
                unpack(trial.user_attrs[quality.outcomes]),
            )
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.number in within
        ]
        return compare_focus(networks, quality, "image", " (estimated by the search)")


def _verdict(difference: Estimate, quality: Objective) -> str:
    _, *ends = astuple(difference)
    if min(quality.sign * end for end in ends) > 0:
        return "Local focus helps here"
    if max(quality.sign * end for end in ends) < 0:
        return "Local focus does not help here"
    return "No measurable difference between local and global attention"
