"""Intervals: no accuracy and no latency is reported without one.

Each method kept its coverage in simulated studies (``tests/test_interval_coverage.py``). Networks are compared on the
same images, so the intervals of differences are paired.
"""

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from .words import points_with_interval

CONFIDENCE = 0.95

_Values = npt.NDArray[np.float64]


Interval = tuple[float, float, float]
"""A value with the ends of its interval, as JSON has it."""


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval: 95 % unless another confidence was asked for."""

    value: float
    low: float
    high: float


def difference_in_words(quality: str, difference: Estimate) -> str:
    """Return a difference of accuracies or log-losses with its interval."""
    if quality == "accuracy":
        return points_with_interval(*astuple(difference))
    return f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def normal_quantile(confidence: float) -> float:
    """Return the two-sided quantile of the standard normal distribution."""
    return float(special.ndtri(0.5 + confidence / 2))


def t_quantile(confidence: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t distribution with ``freedom`` degrees of freedom."""
    return float(special.stdtrit(freedom, 0.5 + confidence / 2))


def confidence_of_each(comparisons: int) -> float:
    """Return the confidence of each of several intervals such that all hold together at 95 % (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / comparisons


def accuracy_estimate(correct: npt.NDArray[np.bool_]) -> Estimate:
    """Return the share of images that is ``correct`` with its Wilson interval."""
    return _wilson(correct.astype(float), CONFIDENCE)


def mean_estimate(values: npt.NDArray[Any]) -> Estimate:
    """Return the mean of log-losses with its interval.

    Log-losses are skewed to the right: a few misclassified images make up most of the mean, and samples that lack them
    have a low mean and a low spread at once. Student's and the bootstrap intervals then miss the truth from below. This
    is Hall's interval (1992), whose cubic transformation of the t statistic removes the skewness, with degrees of
    freedom reduced for heavy tails (as in :func:`crossed_difference`). A single value has an unbounded
    interval, and equal values have one without width.
    """
    return _hall(values.astype(float), CONFIDENCE)


def rounds_needed(pilot: npt.NDArray[Any], half_width: float, confidence: float = CONFIDENCE) -> int:
    """Return the number of values, the pilot's among them, that gives their mean this half-width (Stein 1945)."""
    standard_deviation = float(pilot.std(ddof=1))
    return max(pilot.size, math.ceil((t_quantile(confidence, pilot.size - 1) * standard_deviation / half_width) ** 2))


def two_stage_mean(values: npt.NDArray[Any], pilot: int, confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean of values whose number :func:`rounds_needed` decided from a pilot, with its interval.

    It is Student's interval with the pilot's degrees of freedom: where the first values happen to lie close together,
    few values follow and their spread is too low. Stein's interval uses the pilot's spread. Where all values have a
    larger spread, as when another process starts meanwhile, that is used.

    The first ``pilot`` of the values are the pilot's. If these are all, it is Student's interval.
    """
    spread = max(float(values[:pilot].std(ddof=1)), float(values.std(ddof=1)))
    mean = float(values.mean())
    margin = t_quantile(confidence, pilot - 1) * spread / math.sqrt(values.size)
    return Estimate(mean, mean - margin, mean + margin)


def crossed_mean(values: npt.NDArray[Any], confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean over seeds and images of one network's log-loss or correctness.

    The interval covers the choice of images and the randomness of training, as :func:`crossed_difference` has it. The
    images' part is that of :func:`mean_estimate`, or for correctness that of :func:`accuracy_estimate` with the number
    of images that has the same variance. ``values`` have a row for each seed and a column for each image: log-losses,
    or of dtype bool whether it was classified correctly.
    """
    interval, highest = (_wilson, 1.0) if values.dtype == bool else (_hall, math.inf)
    estimate = _crossed(values.astype(float), interval, confidence)
    return Estimate(estimate.value, max(estimate.low, 0.0), min(estimate.high, highest))


def crossed_difference(first: npt.NDArray[Any], second: npt.NDArray[Any], confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean difference of two networks, each trained with the same seeds and judged on the same images.

    The interval covers two sources of chance: which images were drawn, and the seeds of training. The variance between
    images that seeds have in common and the variance between the seeds' means give a margin each; the margins are
    squared and added (Zou and Donner 2008). The interval covers 94 to 98 % with three seeds and more, up to 99 % with
    two. Student's interval with the sum of both variances and Satterthwaite's degrees of freedom is narrower, but
    covers as little as 92 % with three seeds and 87 % with two. With one seed the interval covers the choice of images
    only: it is about these two trained networks, not about another seed.

    The seeds' margin is Student's. The images' margin depends on what is compared:

    - Correctness: Wald's for paired proportions with half an image added to each of the four cells (Agresti and Min
      2005), which keeps its coverage when few images distinguish the two networks.
    - Log-losses: Student's. The differences have heavy tails on both sides, so the degrees of freedom are those of a
      variance estimated from values of the sample's kurtosis (Satterthwaite 1946): images less one for a normal
      distribution's kurtosis or a lower one, far fewer if few images decide. Bootstrap intervals and Hall's (see
      :func:`mean_estimate`) cover less here: they follow a skewness that those few images happen to have.

    ``first`` and ``second`` have a row for each seed and a column for each image, in the same order: log-losses, or of
    dtype bool whether it was classified correctly. For ``k`` comparisons that shall all hold at 95 % the confidence is
    ``1 - 0.05 / k`` (Bonferroni).
    """
    interval = _agresti_min if first.dtype == bool else _student
    return _crossed(np.subtract(first, second, dtype=float), interval, confidence)


def rank_agreement(first: npt.NDArray[Any], second: npt.NDArray[Any], confidence: float = CONFIDENCE) -> Estimate:
    """Return Kendall's τ-b between two scores of the same configurations, with its interval.

    The interval holds every τ that a test would not reject, with the variance of the estimate for a sample of a
    bivariate normal distribution of any two scales (Esscher 1924). From five configurations on it covers 92 to 98 %.
    The bootstrap over configurations covers 35 % for five that agree well: it cannot see disagreement that the sample
    lacks. For scores that are all equal the value is 0 and the interval reaches from -1 to 1.

    Raises:
        ValueError: If a score is not finite, or their numbers differ.
    """
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} scores cannot be compared with {len(second)}: each configuration needs one of each"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("scores that are not finite have no rank")
    tau = _kendall(first, second)
    if math.isnan(tau):
        return Estimate(0.0, -1.0, 1.0)
    quantile = normal_quantile(confidence)
    count = len(first)

    def excess(candidate: float) -> float:
        return abs(candidate - tau) - quantile * math.sqrt(max(_kendall_variance(candidate, count), 0.0))

    # The variance is 0 at both ends, and so is the excess of an estimate of ±1: start the search inside.
    inside = min(max(tau, -1 + 1e-9), 1 - 1e-9)
    low = optimize.brentq(excess, -1.0, inside) if tau > -1 else -1.0
    high = optimize.brentq(excess, inside, 1.0) if tau < 1 else 1.0
    return Estimate(tau, low, high)


def noise_ceiling(scores: npt.NDArray[Any], draws: int = 1000, seed: int = 0) -> Estimate:
    """Return Kendall's τ that a perfect evaluator would reach with the mean of these seeds, and its 95 % range.

    Seeds are paired: an effect of a seed on all configurations does not count. The variance of the rest is the noise.
    The configurations' means are shrunk until their variance is the observed one less the noise (Morris 1983). They are
    taken for the truth, and noise is added to it many times. Each time the noise's variance is drawn from its
    distribution given the residuals, so the range includes its uncertainty.

    On average the value is within 0.05 of the truth where the true scores have a normal or an exponential distribution
    (0.08 for five configurations), up to 0.1 too high where they form two groups, and about 0.2 where there is only
    noise. For two or three configurations all the spread counts as real. ``scores`` have a row for each seed and a
    column for each configuration.

    Raises:
        ValueError: If a score is not finite, or there are fewer than two seeds or configurations.
    """
    seeds, configurations = scores.shape
    if seeds < 2 or configurations < 2:
        raise ValueError(
            f"{seeds} seeds of {configurations} configurations cannot estimate noise: two of each are needed"
        )
    if not np.isfinite(scores).all():
        raise ValueError("scores that are not finite have no rank")
    means = scores.mean(axis=0)
    residuals = scores - means - scores.mean(axis=1, keepdims=True) + scores.mean()
    freedom = (seeds - 1) * (configurations - 1)
    rng = np.random.default_rng(seed)
    noise = np.sum(residuals**2) / rng.chisquare(freedom, draws) / seeds
    between = means.var(ddof=1)
    part = max(configurations - 3, 0) / (configurations - 1)  # corrects the mean of noise over variance
    kept = np.sqrt(np.maximum(1 - part * noise / between, 0.0)) if between > 0 else np.zeros(draws)
    drawn = kept[:, None] * means + np.sqrt(noise)[:, None] * rng.standard_normal((draws, configurations))
    taus = np.nan_to_num([_kendall(means, one) for one in drawn])
    low, high = np.quantile(taus, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return Estimate(float(taus.mean()), float(low), float(high))


def _wilson(shares: _Values, confidence: float) -> Estimate:
    """Return Wilson's interval of a mean of shares, for the number of binary values of the same variance."""
    share, variance = float(shares.mean()), float(shares.var())
    count = shares.size * share * (1 - share) / variance if variance > 0 else shares.size
    square = normal_quantile(confidence) ** 2
    centre = (share + square / (2 * count)) / (1 + square / count)
    margin = math.sqrt(square * (share * (1 - share) + square / (4 * count)) / count) / (1 + square / count)
    return Estimate(share, max(centre - margin, 0.0), min(centre + margin, 1.0))


def _agresti_min(differences: _Values, confidence: float) -> Estimate:
    images = differences.size + 2
    centre = float(differences.sum()) / images
    variance = ((float(np.sum(differences**2)) + 1) / images - centre**2) / images
    margin = normal_quantile(confidence) * math.sqrt(variance)
    return Estimate(float(differences.mean()), centre - margin, centre + margin)


def _student(values: _Values, confidence: float) -> Estimate:
    mean = float(values.mean())
    if values.size == 1:
        return Estimate(mean, -math.inf, math.inf)
    margin = t_quantile(confidence, _degrees_of_freedom(values)) * _standard_error(values)
    return Estimate(mean, mean - margin, mean + margin)


def _hall(values: _Values, confidence: float) -> Estimate:
    mean = float(values.mean())
    if values.size == 1:
        return Estimate(mean, -math.inf, math.inf)
    quantile = t_quantile(confidence, _degrees_of_freedom(values))
    skewness = _standardised_moment(values, 3) / math.sqrt(values.size)

    def t_statistic(transformed: float) -> float:
        if abs(skewness) < 1e-6:
            return transformed
        return 3 / skewness * (float(np.cbrt(1 + skewness * (transformed - skewness / 6))) - 1)

    error = _standard_error(values)
    return Estimate(mean, mean - t_statistic(quantile) * error, mean - t_statistic(-quantile) * error)


def _crossed(values: _Values, interval: Callable[[_Values, float], Estimate], confidence: float) -> Estimate:
    images = values.mean(axis=0)
    estimate = interval(images, confidence)
    if len(values) == 1:
        return estimate
    seeds = values.mean(axis=1)
    value = float(seeds.mean())
    residuals = values - images - seeds[:, None] + value
    # Averages over few seeds also differ between images by chance of training, which the seeds' margin includes.
    spread = float(np.sum((images - value) ** 2))
    chance = float(np.sum(residuals**2)) / (len(values) - 1) / len(values)
    common = math.sqrt(max(1 - chance / spread, 0.0)) if spread > 0 else 1.0
    margin = t_quantile(confidence, len(values) - 1) * _standard_error(seeds)
    below = math.hypot(common * (value - estimate.low), margin)
    above = math.hypot(common * (estimate.high - value), margin)
    return Estimate(value, value - below, value + above)


def _degrees_of_freedom(values: _Values) -> float:
    """Return those of a variance for the sample's kurtosis, or for a normal distribution's if that is larger."""
    excess = max(_standardised_moment(values, 4) - 3, 0.0)
    return 2 / (excess / values.size + 2 / (values.size - 1))


def _standardised_moment(values: _Values, order: int) -> float:
    deviations = values - values.mean()
    largest = float(np.abs(deviations).max())
    if largest == 0:
        return 0.0
    deviations /= largest  # the powers of tiny deviations would underflow
    return float(np.mean(deviations**order) / np.mean(deviations**2) ** (order / 2))


def _standard_error(values: _Values) -> float:
    return float(values.std(ddof=1)) / math.sqrt(values.size)


def _kendall(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    # scipy.stats.kendalltau computes p-values too: it takes several times as long and fails for two scores.
    one, other = (np.sign(np.subtract.outer(scores, scores)) for scores in (first.astype(float), second.astype(float)))
    untied = math.sqrt(np.sum(one**2) * np.sum(other**2))
    return float(np.sum(one * other)) / untied if untied > 0 else math.nan


def _kendall_variance(tau: float, count: int) -> float:
    correlation = math.sin(math.pi / 2 * tau)
    triples = 1 / 9 - (2 / math.pi * math.asin(correlation / 2)) ** 2
    return 2 / (count * (count - 1)) * (1 - tau**2 + 2 * (count - 2) * triples)
