"""Hypervolume of a front: the volume that it dominates, bounded by a reference point."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import TrialState

from ..statistics import CONFIDENCE
from ..trials.notes import converting_foreign_trial_errors
from .front import TrialValues
from .values import feasible_fronts, is_feasible, signs_of, values_of

Values = npt.NDArray[np.float64]

_DRAWS = 200


def hypervolume_history(study: optuna.Study, reference: Sequence[float]) -> list[float]:
    """Return the front's hypervolume after each complete trial, as ``optuna.visualization`` draws it.

    Optuna's public interface has hypervolumes only in a Plotly figure, so they are computed from
    :func:`areas_of_the_best`. A test compares both.

    Args:
        study: A study of two or three objectives.
        reference: Reference value of each objective.
    """
    signs = signs_of(study)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    rooms = [signs * (np.asarray(reference) - trial.values) if is_feasible(trial) else 0 * signs for trial in complete]
    return _history(np.array(rooms).reshape(-1, len(signs)))


def hypervolume_intervals(study: optuna.Study, reference: Sequence[float]) -> list[tuple[float, float]]:
    """Return the 95 % interval of the hypervolume after each complete trial, from :func:`hypervolume_bounds`.

    Args:
        study: A study of two or three objectives, with measured latencies in place.
        reference: Reference value of each objective.
    """
    with converting_foreign_trial_errors():
        compared = feasible_fronts(study)
        bounds = hypervolume_bounds(values_of(compared, study), signs_of(study) * np.asarray(reference))
    ends = dict(zip((trial.number for trial in compared), bounds.tolist(), strict=True))
    last, intervals = (0.0, 0.0), []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        low, high = ends.get(trial.number, last)
        last = (low, high)
        intervals.append(last)
    return intervals


def hypervolume_bounds(trials: TrialValues, reference: Values) -> Values:
    """Return the ends of the nominal 95 % interval of the hypervolume after each trial: trials x 2.

    They are those of joint draws of all uncertain values, reflected at the estimate (the basic bootstrap): noise makes
    the front of estimates look better than it is, and draws around noisy estimates look better still. The draws show
    about half of that bias, so the lower end is below by the bias once more. In simulated searches the interval
    contains the true value in 86 % (``benchmarks/front_noise.py``).

    Args:
        trials: The trials, in the order of the history.
        reference: Reference value of each objective, all minimised.
    """
    histories = np.array([_history(reference - drawn) for drawn in trials.draws(_DRAWS)]).reshape(_DRAWS, -1)
    low, high = np.quantile(histories, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], axis=0)
    estimate = np.array(_history(reference - trials.values))
    bias = np.maximum(histories.mean(axis=0) - estimate, 0.0)
    return np.maximum(np.stack([2 * estimate - high - bias, 2 * estimate - low], axis=1), 0.0)


def _history(rooms: Values) -> list[float]:
    """Return the hypervolume after each row of distances to the reference point; those within are positive."""
    front, history = np.empty((0, rooms.shape[1])), np.zeros(len(rooms))
    left = np.flatnonzero((rooms > 0).all(axis=1))
    while left.size:  # the first of those that no row before dominates
        place, room = left[0], rooms[left[0]]
        front = np.vstack([front[(front > room).any(axis=1)], room])
        history[place:] = areas_of_the_best(front[:, 1:], front[:, 0]) @ front[:, 0]
        left = left[(rooms[left] > room).any(axis=1)]
    return history.tolist()


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
