"""Intervals: no accuracy and no latency is reported without one."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def accuracy_estimate(correct: npt.NDArray[np.bool_]) -> Estimate:
    """Return the part of images that is ``correct`` with its Wilson interval."""
    result = stats.binomtest(int(correct.sum()), correct.size).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(float(correct.mean()), float(result.low), float(result.high))


def mean_estimate(values: npt.NDArray[Any], seed: int = 0) -> Estimate:
    """Return the mean of ``values`` with its percentile bootstrap interval."""
    return _bootstrap(values, np.mean, seed)


def median_estimate(values: npt.NDArray[Any], seed: int = 0) -> Estimate:
    """Return the median of ``values`` with its percentile bootstrap interval."""
    return _bootstrap(values, np.median, seed)


def _bootstrap(values: npt.NDArray[Any], statistic: Any, seed: int) -> Estimate:
    result = stats.bootstrap(
        (values,),
        statistic,
        n_resamples=2000,
        batch=500,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(float(statistic(values)), float(result.low), float(result.high))


def paired_accuracy_difference(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> Estimate:
    """Return the accuracy of ``first`` minus that of ``second`` on the same images, with its interval.

    The interval is Wald's for paired proportions with half an image added to each of the four cells
    (Agresti and Min 2005), which keeps its coverage when few images tell the two apart.

    Args:
        first: Whether each image was classified correctly by the first network.
        second: The same of the second, in the same order.
    """
    only_first = float(np.sum(first & ~second)) + 0.5
    only_second = float(np.sum(second & ~first)) + 0.5
    images = first.size + 2.0
    centre = (only_first - only_second) / images
    spread = math.sqrt(only_first + only_second - (only_first - only_second) ** 2 / images) / images
    margin = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) * spread
    return Estimate(float(first.mean() - second.mean()), centre - margin, centre + margin)
