"""Trials whose latency decides whether they are on the Pareto front."""

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..trials.notes import with_measured_latency
from .front import undecided
from .values import first_fronts, values_of


def latency_contenders(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are on the front, or that a more precise latency could put there.

    A trial is not one if its limits exclude the whole interval of its latency. Without latency among objectives and
    limits there are none.

    Args:
        study: From :func:`~se_search.trials.notes.with_measured_latency`.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = list(study.metric_names or ())
    if not trials or ("latency_ratio" not in names and "max_latency" not in trials[0].constraints):
        return []
    compared = first_fronts([trial for trial in trials if _is_possible(trial)], study)
    return [trial for trial, one in zip(compared, undecided(values_of(compared, study)), strict=True) if one]


def uncertain_contenders(study: optuna.Study, target: float) -> list[FrozenTrial]:
    """Return the contenders whose latency has an interval wider than the target, the widest first."""

    def half_width(trial: FrozenTrial) -> float:
        low, ratio, high = (trial.user_attrs[name] for name in ("latency_low", "latency_ratio", "latency_high"))
        return float((high - low) / 2 / ratio)

    wide = [one for one in latency_contenders(with_measured_latency(study)) if half_width(one) > target]
    return sorted(wide, key=half_width, reverse=True)


def _is_possible(trial: FrozenTrial) -> bool:
    """Return whether a latency within its interval is within the study's limits."""
    slack = trial.user_attrs["latency_ratio"] - trial.user_attrs["latency_low"]
    return all(value - (slack if name == "max_latency" else 0.0) <= 0 for name, value in trial.constraints.items())
