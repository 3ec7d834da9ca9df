"""Non-dominated sorting, and successive halving for several objectives.

Optuna's pruners do not support several objectives. The rule here is asynchronous successive halving (Li et al. 2020)
with the rank of non-dominated sorting (Deb et al. 2002) in place of a single value.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def passes_rung(values: Sequence[float], others: Sequence[Sequence[float]], factor: int) -> bool:
    """Whether a training run is in the best ``1/factor`` of those that have reached the same rung.

    Runs rank by non-domination: a cheap network is not stopped for being less accurate than an expensive one. All
    members of the first front continue.

    Args:
        values: Objectives of the run at this rung, all minimised.
        others: Objectives of the runs that reached this rung before.
        factor: Reduction factor of successive halving.
    """
    ranks = non_domination_ranks(np.array([values, *others], dtype=float))
    return bool((ranks < ranks[0]).sum() < np.ceil(len(ranks) / factor))


def is_on_front(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return whether each row is on the first front, faster and with less memory than :func:`non_domination_ranks`.

    Rows are solutions and columns are objectives, all minimised.
    """
    on_front = np.zeros(len(values), dtype=bool)
    # In lexicographic order a row comes after all rows that dominate it, so the first remaining one is on the front.
    left = np.lexsort(values.T[::-1])
    while len(left):
        first = values[left[0]]
        on_front[left[(values[left] == first).all(1)]] = True
        left = left[(values[left] < first).any(1)]
    return on_front


def non_domination_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the front to which each row belongs, 0 for the first; arguments as :func:`is_on_front`."""
    dominates = np.all(values[:, None] <= values[None], axis=2) & np.any(values[:, None] < values[None], axis=2)
    ranks = np.full(len(values), -1)
    rank = 0
    while (ranks < 0).any():
        left = ranks < 0
        front = left & ~np.any(dominates[left], axis=0)
        ranks[front] = rank
        rank += 1
    return ranks
