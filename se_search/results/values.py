"""What is known about the objectives of a study's trials: values, and how uncertain they are together."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..sampling.fronts import is_on_front
from ..statistics import CONFIDENCE, normal_quantile
from ..study.objectives import JUDGED
from ..trials.notes import unpack
from ..trials.pooling import pooled_trials
from .front import Judged, Measured, TrialValues, Uncertain

MOST = 500
"""Trials among which the front is looked for: thousands of dominated ones would only cost time."""


def is_feasible(trial: FrozenTrial) -> bool:
    """Return whether a trial is complete and within the study's limits."""
    return trial.state == TrialState.COMPLETE and all(value <= 0 for value in trial.constraints.values())


def feasible_fronts(study: optuna.Study) -> list[FrozenTrial]:
    """Return the feasible trials that may be on the front (:func:`first_fronts`)."""
    return first_fronts([trial for trial in study.get_trials(deepcopy=False) if is_feasible(trial)], study)


def first_fronts(trials: Sequence[FrozenTrial], study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials of the first fronts of estimates, until they are :data:`MOST` trials."""
    values, left = _minimised(trials, study), np.arange(len(trials))
    chosen = np.zeros(len(trials), dtype=bool)
    while left.size and chosen.sum() < MOST:
        on_front = is_on_front(values[left])
        chosen[left[on_front]] = True
        left = left[~on_front]
    return [trial for trial, one in zip(trials, chosen, strict=True) if one]


def values_of(trials: Sequence[FrozenTrial], study: optuna.Study) -> TrialValues:
    """Return the objectives of trials with their uncertainty.

    Accuracy and log-loss are compared image by image. Latencies have the covariance of pooling, or the errors of their
    intervals. Other objectives are exact, also a user's own, whose noise is unknown.

    Args:
        trials: Complete trials of the study.
        study: The study, with measured latencies in place.
    """
    values = _minimised(trials, study)
    judged = {one.name: one for one in JUDGED}
    uncertain: dict[int, Uncertain] = {}
    for column, name in enumerate(study.metric_names or () if trials else ()):
        if name in judged:
            outcomes = [unpack(trial.user_attrs[judged[name].outcomes]) for trial in trials]
            uncertain[column] = Judged(outcomes, judged[name].sign)
        elif name == "latency_ratio":
            uncertain[column] = Measured(values[:, column], _latency_covariance(trials, study))
    parameters = np.array([int(trial.user_attrs["counted_parameters"]) for trial in trials], dtype=float)
    return TrialValues(values, uncertain, parameters)


def signs_of(study: optuna.Study) -> npt.NDArray[np.float64]:
    """Return 1 for each objective that is minimised, and -1 for the others."""
    return np.array([1.0 if one == StudyDirection.MINIMIZE else -1.0 for one in study.directions])


def _minimised(trials: Sequence[FrozenTrial], study: optuna.Study) -> npt.NDArray[np.float64]:
    signs = signs_of(study)
    return np.array([trial.values for trial in trials], dtype=float).reshape(-1, len(signs)) * signs


def _latency_covariance(trials: Sequence[FrozenTrial], study: optuna.Study) -> npt.NDArray[np.float64]:
    ends = np.array([[trial.user_attrs[name] for name in ("latency_low", "latency_high")] for trial in trials])
    covariance = np.diag((np.diff(ends.reshape(-1, 2), axis=1)[:, 0] / (2 * normal_quantile(CONFIDENCE))) ** 2)
    pooled = pooled_trials(study)
    if pooled is not None:  # a resumed run of an earlier version has trials that are not pooled
        of_trial = {number: place for place, number in enumerate(pooled.numbers)}
        here = [place for place, trial in enumerate(trials) if trial.number in of_trial]
        there = [of_trial[trials[place].number] for place in here]
        covariance[np.ix_(here, here)] = pooled.covariance[np.ix_(there, there)]
    return covariance
