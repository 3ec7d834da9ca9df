"""Power: the smallest difference between two networks that a paired comparison can tell from zero.

A difference is told if the interval of :func:`~se_search.statistics.crossed_difference` lies on its side of zero. The
stated power is that of these intervals (``tests/test_paired_power.py``, ``benchmarks/power.py``).
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from .statistics import confidence_of_each, normal_quantile, t_quantile

MOST_IMAGES = 10_000_000
"""Number of images above which nothing is computed."""

POWER = 0.8
"""Probability with which a difference shall be told."""

_STUDIES = 2000
_ELEMENTS_AT_ONCE = 4_000_000
_FEWEST_FOR_A_CLOSED_FORM = 50  # images on which all seeds agree that one network alone is right
_MOST_TO_SIMULATE = 5000  # outcomes of one study
_MOST_SEEDS = 100
_DRAWS_OF_VARIANCE = 400

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Two networks, each trained with the same seeds and judged on the same images.

    Attributes:
        images: Number of images.
        seeds: Number of trainings of each network. With one the difference is that of the two trained networks.
        comparisons: Number of such comparisons that shall hold together, with Bonferroni's correction.
    """

    images: int
    seeds: int = 1
    comparisons: int = 1


@dataclass(frozen=True)
class Variances:
    """Parts of the variance of the difference between two networks, on one image and after one training.

    For accuracy the difference is 1 if only the first network classifies the image correctly, −1 if only the second
    does, else 0. With networks of the same accuracy, ``of_images`` and ``of_both`` then add up to the discordance: the
    share of images on which exactly one of the networks is correct, as in McNemar's test. A difference of accuracies
    adds its square.

    Attributes:
        of_images: Variance between images that seeds have in common.
        of_seeds: Variance between seeds that images have in common.
        of_both: Variance of the rest, which differs between images and seeds.
        kurtosis: Kurtosis of the differences of images, 3 for a normal distribution; used for log-losses.
    """

    of_images: float
    of_seeds: float = 0.0
    of_both: float = 0.0
    kurtosis: float = 3.0

    @property
    def of_an_image(self) -> float:
        """Variance of an image's difference after one training; for equal accuracies the discordance."""
        return self.of_images + self.of_both


def variances_of(differences: npt.NDArray[np.float64], block: int = 1) -> Variances:
    """Estimate the variances from differences, by analysis of variance of a crossed design (Searle et al. 1992).

    Args:
        differences: A row for each seed and a column for each image.
        block: Number of images whose mean each column is.
    """
    seeds, columns = differences.shape
    images = differences.mean(axis=0)
    deviations = images - images.mean()
    spread = float(np.mean(deviations**2))
    kurtosis = 3.0
    if spread > 0:
        kurtosis += max(float(np.mean((deviations / math.sqrt(spread)) ** 4)) - 3, 0.0) * block
    if seeds == 1 or columns == 1:
        return Variances(of_images=spread * block, kurtosis=kurtosis)
    by_seed = differences.mean(axis=1)
    residuals = differences - images - by_seed[:, None] + differences.mean()
    both = float(np.sum(residuals**2)) / ((seeds - 1) * (columns - 1))
    common = max(spread * columns / (columns - 1) - both / seeds, 0.0)
    between = max(float(by_seed.var(ddof=1)) - both / columns, 0.0)
    return Variances(common * block, between, both * block, kurtosis)


def typical_variances(found: Sequence[Variances]) -> Variances:
    """Return the median of each part."""
    return Variances(*(float(np.median(part)) for part in zip(*map(astuple, found), strict=True)))


def accuracy_power(difference: float, comparison: Comparison, noise: Variances) -> float:
    """Return the probability to tell a difference of accuracies.

    With one seed it is exact: the sum over all outcomes of McNemar's table for which the interval of Agresti and Min
    excludes zero. With several it is :func:`_normal_power` where many images decide, and otherwise the share of
    simulated studies.

    Args:
        difference: Of the shares of correctly classified images; positive.
        comparison: The numbers of images, seeds and comparisons.
        noise: Variances of the difference.
    """
    if comparison.seeds == 1:
        return _exact_power(difference, comparison, noise.of_an_image + difference**2)
    few = comparison.images * noise.of_images < _FEWEST_FOR_A_CLOSED_FORM
    large = 2 * difference > noise.of_an_image
    small = comparison.images * comparison.seeds <= _MOST_TO_SIMULATE
    if small and (few or (large and comparison.seeds == 2)):
        return _simulated_power(difference, comparison, noise)
    enlarged = comparison.images + 2  # Agresti and Min add half an image to each of four cells
    shares = noise.of_images + (noise.of_both + noise.of_seeds) / comparison.seeds + difference**2
    centre = comparison.images * difference / enlarged
    variance = ((comparison.images * shares + 1) / enlarged - centre**2) / enlarged
    margin = normal_quantile(_confidence(comparison)) * math.sqrt(variance) + difference - centre
    return _normal_power(difference, comparison, noise, margin)


def log_loss_power(difference: float, comparison: Comparison, noise: Variances) -> float:
    """Return the probability to tell a difference of log-losses.

    Student's interval of the images has degrees of freedom reduced for the kurtosis, as the tool's. With fewer images
    than three times the kurtosis, the power is higher than stated.

    Args:
        difference: In nats; positive.
        comparison: The numbers of images, seeds and comparisons.
        noise: Variances of the difference.
    """
    images = comparison.images
    if images < 2:
        return 0.0
    freedom = 2 / ((noise.kurtosis - 3) / images + 2 / (images - 1))
    variance = noise.of_images + (noise.of_both + noise.of_seeds) / comparison.seeds
    margin = t_quantile(_confidence(comparison), freedom) * math.sqrt(variance / images)
    return _normal_power(difference, comparison, noise, margin)


@functools.lru_cache(maxsize=256)
def smallest_accuracy_difference(comparison: Comparison, noise: Variances) -> float:
    """Return the smallest difference of accuracies that is told with 80 % power; infinite if there is none."""
    return _smallest(
        lambda difference: accuracy_power(difference, comparison, noise), _textbook_difference(comparison, noise), 1.0
    )


def smallest_log_loss_difference(comparison: Comparison, noise: Variances) -> float:
    """Return the smallest difference of log-losses that is told with 80 % power; infinite if there is none."""
    return _smallest(
        lambda difference: log_loss_power(difference, comparison, noise),
        _textbook_difference(comparison, noise),
        1000.0,
    )


@functools.lru_cache(maxsize=256)
def images_needed(difference: float, comparison: Comparison, noise: Variances) -> int | None:
    """Return the number of images with which a difference of accuracies is told with 80 % power.

    The comparison's own number of images is ignored. ``None`` if ten million are too few.
    """
    first = int((_textbook_difference(replace(comparison, images=1), noise) / difference) ** 2)
    return _fewest(
        lambda images: accuracy_power(difference, replace(comparison, images=images), noise) >= POWER,
        min(max(first, 2), MOST_IMAGES),
        MOST_IMAGES,
    )


@functools.lru_cache(maxsize=256)
def seeds_needed(difference: float, comparison: Comparison, noise: Variances) -> int | None:
    """Return the number of seeds with which a difference of accuracies is told with 80 % power.

    The comparison's own number of seeds is ignored. ``None`` if 100 are too few: more seeds leave the images' part.
    """
    return _fewest(
        lambda seeds: accuracy_power(difference, replace(comparison, seeds=seeds), noise) >= POWER, 2, _MOST_SEEDS
    )


def _confidence(comparison: Comparison) -> float:
    return confidence_of_each(comparison.comparisons)


def _exact_power(difference: float, comparison: Comparison, discordance: float) -> float:
    images, quantile = comparison.images, normal_quantile(_confidence(comparison))
    discordance = min(max(discordance, difference), 1.0)
    if discordance == 0:
        return 0.0
    centre, spread = images * discordance, math.sqrt(images * discordance * (1 - discordance))
    discordant = np.arange(max(0, int(centre - 9 * spread)), min(images, int(centre + 9 * spread) + 20) + 1)
    log_share = (
        special.gammaln(images + 1)
        - special.gammaln(discordant + 1)
        - special.gammaln(images - discordant + 1)
        + special.xlogy(discordant, discordance)
        + special.xlog1py(images - discordant, -discordance)
    )
    # The interval excludes zero if the counts of both kinds of discordant images differ by more than this.
    difference_of_counts = quantile * np.sqrt((discordant + 1) / (1 + quantile**2 / (images + 2)))
    at_most = np.floor((discordant + difference_of_counts) / 2)
    share_of_first = (discordance + difference) / (2 * discordance)
    told = special.bdtrc(np.minimum(at_most, discordant), discordant, share_of_first)
    return float(np.sum(np.exp(log_share) * np.where(at_most >= discordant, 0.0, told)))


def _normal_power(difference: float, comparison: Comparison, noise: Variances, margin_of_images: float) -> float:
    """Return the power of the crossed interval for a normally distributed mean, over the seeds' χ² variance."""
    images, seeds = comparison.images, comparison.seeds
    if seeds == 1:
        error = math.sqrt(noise.of_an_image / images)
        return float(special.ndtr((difference - margin_of_images) / error)) if error > 0 else 1.0
    both = noise.of_both / seeds
    between = noise.of_seeds + noise.of_both / images
    variance = noise.of_images / images + between / seeds
    if variance == 0:
        return 1.0
    common = math.sqrt(noise.of_images / (noise.of_images + both)) if noise.of_images > 0 else 0.0
    levels = (np.arange(_DRAWS_OF_VARIANCE) + 0.5) / _DRAWS_OF_VARIANCE
    estimated = between * 2 * special.gammaincinv((seeds - 1) / 2, levels) / (seeds - 1)
    margin_of_seeds = t_quantile(_confidence(comparison), seeds - 1) * np.sqrt(estimated / seeds)
    margin = np.hypot(common * margin_of_images, margin_of_seeds)
    return float(special.ndtr((difference - margin) / math.sqrt(variance)).mean())


def _simulated_power(difference: float, comparison: Comparison, noise: Variances) -> float:
    """Return the share of simulated studies that tell the difference, the same for the same arguments."""
    random = np.random.default_rng(0)
    size = max(1, _ELEMENTS_AT_ONCE // (comparison.images * comparison.seeds))
    told = 0
    for first in range(0, _STUDIES, size):
        outcomes = _paired_outcomes(random, min(size, _STUDIES - first), difference, comparison, noise)
        told += int(np.sum(_lower_ends(outcomes, _confidence(comparison)) > 0))
    return told / _STUDIES


def _paired_outcomes(
    random: np.random.Generator, studies: int, difference: float, comparison: Comparison, noise: Variances
) -> npt.NDArray[np.int8]:
    """Draw differences of correctness: studies × seeds × images.

    On a share of the images one network alone is correct after every training; on the others this is drawn for each
    seed. Shares and probabilities follow from the variances. The difference lies in the first kind of images as far as
    they suffice.
    """
    seeds, images = comparison.seeds, comparison.images
    always = min(noise.of_images + difference**2, 1.0)
    in_always = min(difference, always)
    sometimes = noise.of_both / (1 - always) if always < 1 else 0.0
    drawn = random.random((studies, 1, images), dtype=np.float32)
    settled = (drawn < (always + in_always) / 2).astype(np.int8) - (
        (drawn >= (always + in_always) / 2) & (drawn < always)
    ).astype(np.int8)
    shift = difference - in_always + math.sqrt(noise.of_seeds) * random.standard_normal((studies, seeds, 1))
    shift = np.clip(shift / max(1 - always, 1e-12), -1, 1)
    discordant = np.maximum(sometimes, np.abs(shift))
    drawn_again = random.random((studies, seeds, images), dtype=np.float32)
    open_ones = (drawn_again < (discordant + shift) / 2).astype(np.int8) - (
        (drawn_again >= (discordant + shift) / 2) & (drawn_again < discordant)
    ).astype(np.int8)
    return np.where(drawn < always, settled, open_ones)


def _lower_ends(differences: npt.NDArray[np.int8], confidence: float) -> _Values:
    """Return the lower end of ``crossed_difference`` for many studies of differences of correctness at once."""
    _, seeds, images = differences.shape
    by_image = differences.sum(axis=1, dtype=np.int16) / seeds
    by_seed = differences.sum(axis=2, dtype=np.int64) / images
    squares = np.sum(by_image**2, axis=1)
    value = by_seed.mean(axis=1)
    centre = value * images / (images + 2)
    variance = ((squares + 1) / (images + 2) - centre**2) / (images + 2)
    below_images = value - centre + normal_quantile(confidence) * np.sqrt(variance)
    spread = squares - images * value**2
    of_seeds = np.sum((by_seed - value[:, None]) ** 2, axis=1)
    total = np.count_nonzero(differences, axis=(1, 2)) - seeds * images * value**2
    residual = np.maximum(total - seeds * spread - images * of_seeds, 0.0)
    chance = residual / ((seeds - 1) * seeds)
    common = np.where(spread > 0, np.maximum(1 - chance / np.where(spread > 0, spread, 1.0), 0.0), 1.0)
    margin = t_quantile(confidence, seeds - 1) * np.sqrt(of_seeds / (seeds - 1) / seeds)
    return value - np.hypot(np.sqrt(common) * below_images, margin)


def _textbook_difference(comparison: Comparison, noise: Variances) -> float:
    """Return the smallest difference for normal distributions of known variance without an effect of seeds."""
    variance = noise.of_images + noise.of_both / comparison.seeds
    quantiles = normal_quantile(_confidence(comparison)) + special.ndtri(POWER)
    return float(quantiles) * math.sqrt(variance / comparison.images)


def _smallest(power_of: Callable[[float], float], guess: float, most: float) -> float:
    """Return where the power reaches 80 %, to a thousandth; infinite if not even at ``most``."""
    if power_of(most) < POWER:
        return math.inf
    low = high = min(max(guess, 1e-7), most)
    while low > 1e-9 and power_of(low) >= POWER:
        low /= 1.5
    while power_of(high) < POWER:
        high = min(1.5 * high, most)
    if power_of(low) >= POWER:
        return low
    return float(optimize.bisect(lambda value: power_of(value) - POWER, low, high, rtol=1e-3, xtol=1e-3 * low))


def _fewest(is_enough: Callable[[int], bool], first: int, most: int) -> int | None:
    """Return the smallest number from which on ``is_enough`` holds, to half a percent; ``None`` if above ``most``."""
    high = first
    while not is_enough(high):
        if high == most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > max(1, low // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
