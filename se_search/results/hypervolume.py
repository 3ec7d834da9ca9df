"""Hypervolume of a front: the volume that it dominates, bounded by a reference point."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

Values = npt.NDArray[np.float64]


def hypervolume_history(study: optuna.Study, reference: Sequence[float]) -> list[float]:
    """Return the front's hypervolume after each complete trial, as ``optuna.visualization`` draws it.

    Optuna's public interface has hypervolumes only in a Plotly figure, so they are computed from
    :func:`areas_of_the_best`. A test compares both.

    Args:
        study: A study of two or three objectives.
        reference: Reference value of each objective.
    """
    signs = np.array([1.0 if one == StudyDirection.MINIMIZE else -1.0 for one in study.directions])
    front = np.empty((0, len(signs)))
    history = [0.0]
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        room = signs * (np.asarray(reference) - trial.values)
        kept = all(value <= 0 for value in trial.constraints.values())
        if kept and (room > 0).all() and not (front >= room).all(axis=1).any():
            front = np.vstack([front[(front > room).any(axis=1)], room])
            history.append(float(areas_of_the_best(front[:, 1:], front[:, 0]) @ front[:, 0]))
        else:
            history.append(history[-1])
    return history[1:]


def areas_of_the_best(room: Values, gains: Values) -> Values:
    """Return for each trial the area of the costs at which it is the best affordable one.

    The sum of areas times gains is the hypervolume.

    Args:
        room: Reference minus cost, for the one or two costs of each trial: trials x costs.
        gains: Improvement of each trial over the reference.
    """
    room = np.column_stack([room, np.ones(len(room))])[:, :2]
    areas = np.zeros(len(gains))
    inside = np.flatnonzero((room > 0).all(axis=1) & (gains > 0))
    order = inside[np.lexsort((*room[inside].T, gains[inside]))]  # the best last; the cheapest of equal ones
    if order.size == 0:
        return areas
    steps, at = zip(*(np.unique(column, return_inverse=True) for column in room[order].T), strict=True)
    holder = np.full([len(one) for one in steps], -1)
    np.maximum.at(holder, at, np.arange(order.size))
    for axis in (0, 1):  # a trial is affordable at all costs above its own, where room is smaller
        holder = np.flip(np.maximum.accumulate(np.flip(holder, axis), axis), axis)
    sizes = np.multiply.outer(*(np.diff(one, prepend=0.0) for one in steps))
    held = holder >= 0
    areas[order] = np.bincount(holder[held], weights=sizes[held], minlength=order.size)
    return areas
