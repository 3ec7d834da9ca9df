"""Known noise of the values of trials, for the sampler."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..statistics import CONFIDENCE, normal_quantile
from ..study.objectives import OBJECTIVES, Objective
from .notes import converting_foreign_trial_errors, unpack

_REFERENCES = 8


class KnownNoise:
    """Variances of the noise of a complete trial's values, by index of the objective.

    All trials see the same validation images, so most of what an accuracy's interval covers is common to all trials and
    does not change their order. The variance of an accuracy or log-loss is therefore that of its mean over images after
    subtraction, image by image, of the mean of the first trials. Other intervals are taken as they are; an objective
    without an interval has no known noise.

    Args:
        study: The study.
        objectives: Names of its objectives, in order.
    """

    def __init__(self, study: Study, objectives: Sequence[str]) -> None:
        self._study = study
        self._measured = {
            place: objective
            for place, name in enumerate(objectives)
            if (objective := OBJECTIVES.get(name)) is not None and objective.interval is not None
        }
        self._reference = cache(self._mean_of_first)
        self._known: dict[int, Mapping[int, float]] = {}

    def __call__(self, trial: FrozenTrial) -> Mapping[int, float]:
        """Return the variances, which are kept by the trial's number.

        Raises:
            RunFolderError: If the trial's attributes were not written by se-search.
        """
        if trial.number not in self._known:
            with converting_foreign_trial_errors():
                self._known[trial.number] = {
                    place: self._variance(trial, objective) for place, objective in self._measured.items()
                }
        return self._known[trial.number]

    def _variance(self, trial: FrozenTrial, objective: Objective) -> float:
        outcomes = objective.outcomes
        if outcomes in trial.user_attrs:
            own = _by_image(trial, outcomes) - self._reference(outcomes)
            return float(own.var(ddof=1) / len(own))
        low, high = (float(trial.user_attrs[end]) for end in objective.interval or ())
        return ((high - low) / (2 * normal_quantile(CONFIDENCE))) ** 2

    def _mean_of_first(self, outcomes: str) -> npt.NDArray[Any]:
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))[:_REFERENCES]
        return np.mean([_by_image(one, outcomes) for one in trials], axis=0)


def _by_image(trial: FrozenTrial, outcomes: str) -> npt.NDArray[Any]:
    """Mean over seeds of each image's outcome, of shape (images,)."""
    return unpack(trial.user_attrs[outcomes]).mean(axis=0, dtype=float)
