"""Trials whose latency decides whether they are on the Pareto front."""

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .notes import with_measured_latency


def latency_contenders(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials that the intervals of latencies allow on the front; its members are among them.

    A trial is one unless another dominates it with the higher end of its own interval against the lower end of the
    trial's. Without latency among objectives and limits there are none.

    Args:
        study: From :func:`~se_search.trials.notes.with_measured_latency`.
    """
    names = list(study.metric_names or ())
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not trials or ("latency_ratio" not in names and "max_latency" not in trials[0].constraints):
        return []
    signs = [1 if direction == StudyDirection.MINIMIZE else -1 for direction in study.directions]
    ends = []
    for end in ("latency_low", "latency_high"):
        values = np.array([one.values for one in trials]) * signs
        latencies = np.array([one.user_attrs[end] for one in trials])
        if "latency_ratio" in names:
            values[:, names.index("latency_ratio")] = latencies
        over = [
            [
                limit + (latency - one.user_attrs["latency_ratio"] if name == "max_latency" else 0.0)
                for name, limit in one.constraints.items()
            ]
            for one, latency in zip(trials, latencies, strict=True)
        ]
        ends.append((values, np.array([all(one <= 0 for one in limits) for limits in over])))
    (best, is_possible), (worst, is_sure) = ends
    worst = worst[is_sure]
    dominated = [bool(((worst <= one).all(1) & (worst < one).any(1)).any()) for one in best]
    return [
        one for one, is_out, possible in zip(trials, dominated, is_possible, strict=True) if possible and not is_out
    ]


def uncertain_contenders(study: optuna.Study, target: float) -> list[FrozenTrial]:
    """Return the contenders whose latency has an interval wider than the target, the widest first."""

    def half_width(trial: FrozenTrial) -> float:
        low, ratio, high = (trial.user_attrs[name] for name in ("latency_low", "latency_ratio", "latency_high"))
        return float((high - low) / 2 / ratio)

    wide = [one for one in latency_contenders(with_measured_latency(study)) if half_width(one) > target]
    return sorted(wide, key=half_width, reverse=True)
