"""Successive halving for several objectives: which trainings are not worth going on with.

Optuna's pruners refuse studies of several objectives, so the rule is our own: asynchronous successive halving (Li et
al. 2020), with the place in the order of non-dominated sorting (Deb et al. 2002) instead of a single value.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def is_worth_going_on(values: Sequence[float], others: Sequence[Sequence[float]], factor: int) -> bool:
    """Whether a training belongs to the best ``1/factor`` of those that have reached the same rung.

    Only what dominates a training stands before it: a cheap network is not stopped for being less accurate than a
    dear one. All members of the first front go on.

    Args:
        values: What is known of the training at this rung, each to be minimised.
        others: The same of all that have reached the rung before.
        factor: Factor of successive halving.
    """
    ranks = non_domination_ranks(np.array([values, *others], dtype=float))
    return bool((ranks < ranks[0]).sum() < np.ceil(len(ranks) / factor))


def is_on_front(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return which rows are of the first front alone, in less time and memory than :func:`non_domination_ranks` takes.

    Args:
        values: One row for each solution, one column for each objective, each to be minimised.
    """
    on_front = np.zeros(len(values), dtype=bool)
    # What dominates a row comes before it in this order, so that the first one left is always of the front.
    left = np.lexsort(values.T[::-1])
    while len(left):
        first = values[left[0]]
        on_front[left[(values[left] == first).all(1)]] = True
        left = left[(values[left] < first).any(1)]
    return on_front


def non_domination_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the front to which each row belongs, 0 for the first.

    Args:
        values: One row for each solution, one column for each objective, each to be minimised.
    """
    dominates = np.all(values[:, None] <= values[None], axis=2) & np.any(values[:, None] < values[None], axis=2)
    ranks = np.full(len(values), -1)
    rank = 0
    while (ranks < 0).any():
        left = ranks < 0
        front = left & ~np.any(dominates[left], axis=0)
        ranks[front] = rank
        rank += 1
    return ranks
