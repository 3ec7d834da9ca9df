"""Which trainings have learned: a training that fails is named, because a mean hides it."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy import special

from ..statistics import accuracy_estimate

_LOST = 0.25
_NOISES = 6.0
_QUARTILE = 0.25


def which_learned(correct: Sequence[npt.NDArray[np.bool_]], chance: float) -> list[npt.NDArray[np.bool_]]:
    """Return for each network which of its trainings have learned.

    A training has not learned if its accuracy is not significantly above chance, or if it is far below the best
    training of the same network: by a quarter of what that one gains over chance, and by six standard deviations of
    the noise between seeds. That noise is Rousseeuw and Croux's (1993) Qn of the pairs of trainings of each network,
    which half of the trainings cannot move, but at least the noise of the number of images.

    `benchmarks/trainings_that_fail.py` simulates how often this is wrong.

    Args:
        correct: For each network an array with a row for each seed and a column for each image.
        chance: Accuracy at chance level.
    """
    accuracies = [values.mean(axis=1) for values in correct]
    seeds = _seed_noise(accuracies)
    learned = []
    for values, reached in zip(correct, accuracies, strict=True):
        best = float(reached.max())
        noise = max(seeds, np.sqrt(best * (1 - best) / values.shape[1]))
        far = best - reached > max(_LOST * (best - chance), _NOISES * noise)
        above = np.array([accuracy_estimate(row).low > chance for row in values])
        learned.append(above & ~far)
    return learned


def _seed_noise(accuracies: Sequence[npt.NDArray[np.float64]]) -> float:
    """Return the standard deviation between trainings of one network, pooled over networks."""
    gaps = [abs(one - other) for reached in accuracies for one, other in combinations(reached, 2)]
    if not gaps:
        return 0.0
    consistent = 1 / (np.sqrt(2) * special.ndtri(0.5 + _QUARTILE / 2))
    return float(consistent * np.quantile(gaps, _QUARTILE, method="lower"))
