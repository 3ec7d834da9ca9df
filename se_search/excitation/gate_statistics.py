"""Statistics of the gates of an SE block over images, with intervals."""

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from ..errors import DataError
from ..statistics import CONFIDENCE, Estimate, normal_quantile, t_quantile

CONSTANT = 0.02
"""A gate is constant if its standard deviation over images is below ``CONSTANT · max(1, |mean|)``."""

NEAR_ONE = 0.1
"""A constant gate is near one if its mean is within this distance of 1."""

LEAST_IMAGES = 3
"""Minimum number of images of a class to compare it with others."""

_GROUPS = 25
_ROUNDING = 1e-6

_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Replicated:
    """A statistic over images with its jackknife replicates, each without one of 25 groups of images."""

    value: float
    replicates: _Values

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """Return the statistic with Student's jackknife interval (Tukey 1958)."""
        count = self.replicates.size
        spread = float(np.sum((self.replicates - self.replicates.mean()) ** 2))
        margin = t_quantile(confidence, count - 1) * np.sqrt((count - 1) / count * spread)
        return Estimate(self.value, float(self.value - margin), float(self.value + margin))


@dataclass(frozen=True)
class GateStatistics:
    """Statistics of the gates of one block over images.

    Attributes:
        specificity: Share of the variance over images, summed over channels, that lies between classes. The noise of
            the class means is subtracted (as in ω²): a block that ignores classes has expectation 0 and can be
            slightly negative.
        near_one: Share of channels whose gate is constant near one, see :data:`CONSTANT` and :data:`NEAR_ONE`.
        constant: Share of channels whose gate is constant at any level.
        similarity: Share of the variance between classes that is explained by one factor per class, applied to the
            mean over all images. Noise is subtracted as above. It is 1 if classes are scaled copies or equal. Its
            interval is [0, 1] if no difference between classes is significant.
        replicated_specificity: :attr:`specificity` with its replicates, to average over blocks.
    """

    specificity: Estimate
    near_one: Estimate
    constant: Estimate
    similarity: Estimate
    replicated_specificity: Replicated


def comparable_classes(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the classes with at least :data:`LEAST_IMAGES` images.

    Raises:
        DataError: If there are fewer than two.
    """
    enough = np.flatnonzero(np.bincount(labels) >= LEAST_IMAGES)
    if enough.size < 2:
        raise DataError(
            f"classes cannot be compared: at least two need {LEAST_IMAGES} images or more, {enough.size} do"
        )
    return enough


def gate_statistics(gates: npt.NDArray[Any], labels: npt.NDArray[np.int64], seed: int = 0) -> GateStatistics:
    """Return the statistics of one block.

    Class k has a share πₖ of the images, nₖ images, mean mₖ and within-class variance vₖ, summed over channels; m is
    the overall mean. The unbiased variance between classes is Σ πₖ|mₖ − m|² − Σ πₖ(1 − πₖ)vₖ/nₖ, the variance within
    is Σ πₖvₖ. Specificity and similarity have Student's jackknife intervals over 25 groups of images, stratified by
    class. The interval of a share of channels runs from the channels whose standard deviation is significantly below
    the limit to those where it is not significantly above.

    ``gates`` have the shape (images, channels), ``labels`` are the classes of the images, and ``seed`` is that of the
    groups. Specificity and similarity ignore classes with fewer than :data:`LEAST_IMAGES` images.

    Raises:
        DataError: If fewer than two classes have enough images.
    """
    values = gates.astype(np.float64)
    constant, near_one = _constant_shares(values)
    enough = comparable_classes(labels)
    kept = np.isin(labels, enough)
    specificity, similarity, differs = _between_classes(values[kept], np.searchsorted(enough, labels[kept]), seed)
    share = specificity.estimate()
    # The true share is not negative, so an interval entirely below 0 is extended to 0.
    share = Estimate(share.value, share.low, max(share.high, 0.0))
    alike, low, high = (min(max(one, 0.0), 1.0) for one in astuple(similarity.estimate()))
    if share.low <= 0 and differs:
        low, high = 0.0, 1.0
    return GateStatistics(share, near_one, constant, Estimate(alike, low, high), specificity)


def _constant_shares(gates: _Values) -> tuple[Estimate, Estimate]:
    """Return the shares of channels that are constant, and constant near one."""
    mean, deviation = gates.mean(0), gates.std(0, ddof=1)
    limit = CONSTANT * np.maximum(1.0, np.abs(mean))
    margin = normal_quantile(CONFIDENCE) / np.sqrt(2 * (len(gates) - 1))
    near = np.abs(mean - 1) <= NEAR_ONE

    def share(which: npt.NDArray[np.bool_]) -> Estimate:
        value, low, high = ((deviation * part < limit) & which for part in (1.0, 1 + margin, 1 - margin))
        return Estimate(float(value.mean()), float(low.mean()), float(high.mean()))

    return share(np.ones_like(near)), share(near)


def _between_classes(gates: _Values, labels: npt.NDArray[np.int64], seed: int) -> tuple[Replicated, Replicated, bool]:
    """Return specificity, similarity, and whether gates differ between images at all."""
    images, classes = len(gates), int(labels.max()) + 1
    order = np.lexsort((np.random.default_rng(seed).random(images), labels))
    group = np.empty(images, np.int64)
    group[order] = np.arange(images) % _GROUPS  # stratified by class
    mean = gates.mean(0)
    gates = gates - mean
    square = np.sum(gates**2, 1)
    # Equal gates in single precision still differ by rounding.
    if square.mean() <= gates.shape[1] * (_ROUNDING * max(1.0, float(np.abs(mean).max()))) ** 2:
        return Replicated(0.0, np.zeros(_GROUPS)), Replicated(1.0, np.ones(_GROUPS)), False

    def by_class(which: npt.NDArray[np.bool_], columns: _Values) -> _Values:
        ones = np.ones(int(which.sum()))
        chosen = sparse.csr_array((ones, (labels[which], np.arange(ones.size))), shape=(classes, ones.size))
        return np.asarray(chosen @ columns[which])

    everything = np.ones(images, np.bool_)
    left_out = [~everything, *(group == one for one in range(_GROUPS))]
    columns = np.column_stack([gates, square, np.ones(images)])
    totals = by_class(everything, columns)
    profiles = np.stack([mean + gates[~out].mean(0) for out in left_out])
    profiles /= np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), np.finfo(float).tiny)
    along = gates @ profiles.T
    found = []
    for out, profile, component in zip(left_out, profiles, along.T, strict=True):
        left = totals - by_class(out, columns)
        count, means = left[:, -1], left[:, :-2] / left[:, -1:]
        part = count / count.sum()
        centre = part @ means
        within = (left[:, -2] - count * np.sum(means**2, 1)) / (count - 1)
        between = part @ np.sum((means - centre) ** 2, 1) - np.sum(part * (1 - part) * within / count)
        squares = np.bincount(labels[~out], component[~out] ** 2, minlength=classes)
        within_along = (squares - count * (means @ profile) ** 2) / (count - 1)
        scaled = part @ ((means - centre) @ profile) ** 2 - np.sum(part * (1 - part) * within_along / count)
        found.append((between, part @ within, scaled))
    between, within, scaled = np.array(found).T
    specificity = between / (between + within)
    with np.errstate(divide="ignore", invalid="ignore"):
        similarity = np.where(between > 0, scaled / between, 1.0)
    shares, alike = (Replicated(float(one[0]), one[1:]) for one in (specificity, similarity))
    return shares, alike, True
