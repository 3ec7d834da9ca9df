"""What data can show: the smallest differences that a search and its verification detect, and published gains."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..data.counts import count_images
from ..data.folders import ImageCounts
from ..errors import DefinitionError, as_given
from ..paired_power import (
    MOST_IMAGES,
    Comparison,
    Variances,
    images_needed,
    seeds_needed,
    smallest_accuracy_difference,
    smallest_log_loss_difference,
)
from ..words import counted, percent
from .published import PublishedGains, check_known, published_gains

MEMBERS = 5
"""Assumed number of networks that a verification compares with the one without SE."""

_LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class Noise:
    """Noise of the differences between two networks.

    Attributes:
        accuracy: Variances of differences of correctness.
        log_loss: Variances of differences of log-loss.
        assumed: Whether it is assumed, not seen in the run.
    """

    accuracy: Variances
    log_loss: Variances
    assumed: bool = False


SEARCH_NOISE = Noise(Variances(0.03), Variances(0.0025, kurtosis=6.0), assumed=True)
"""Assumed for the search; see ``benchmarks/README.md``."""

VERIFICATION_NOISE = Noise(Variances(0.01, 0.00001, 0.10), Variances(0.01, 0.0003, 0.06, 7.0), assumed=True)
"""Assumed for verification; see ``benchmarks/README.md``."""


@dataclass(frozen=True)
class Reach:
    """The smallest differences that a comparison tells with 80 % power at 95 % confidence.

    Attributes:
        images: Number of images on which networks are compared.
        seeds: Number of trainings of each network.
        comparisons: Number of networks with attention, for which the confidence is corrected.
        accuracy: Smallest difference of accuracies (share); ``None`` if there is none.
        log_loss: Smallest difference of log-losses (nats); ``None`` if there is none.
        disagreement: Share of images on which exactly one of two networks is correct.
        assumed: Whether the noise is assumed, not seen in the run.
        images_needed: Number of images that would detect a typical published gain; ``None`` if no number does.
        with_seeds: Number of seeds of each network with these: ``seeds``, or more if no number of images tells it.
        seeds_needed: Number of seeds that would detect it on these images; ``None`` if no number does.
    """

    images: int
    seeds: int
    comparisons: int
    accuracy: float | None
    log_loss: float | None
    disagreement: float
    assumed: bool
    images_needed: int | None
    with_seeds: int
    seeds_needed: int | None


@dataclass(frozen=True)
class Power:
    """What the data can show, as numbers and in words.

    Attributes:
        search: Of the search, on validation images.
        verification: Of verification, on test images.
        published: Published gains of SE.
        sentences: The differences that the search and verification can detect, the conditions, the published gains,
            and what would detect these; one line each.
    """

    search: Reach
    verification: Reach
    published: PublishedGains
    sentences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"sentences": list(self.sentences)}

    def __str__(self) -> str:
        """Return the sentences, one in a line."""
        return "\n".join(self.sentences)


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        budget: Number of configurations of the search, one of which has no attention.
        search_seeds: Trainings of each configuration in the search.
        seeds: Trainings of each network in verification.
        members: Networks with attention in verification.
    """

    budget: int = 50
    search_seeds: int = 1
    seeds: int = 3
    members: int = MEMBERS


def power(
    data: str = "digits",
    backbone: str | None = None,
    *,
    seeds: int = 3,
    budget: int = 50,
    images: int | None = None,
) -> Power:
    """Return the smallest differences that a search on these data and its verification can detect, without training.

    Noise is assumed: of run folders the report states the power with the noise seen. ``se-search power`` calls this.

    Args:
        data: Embedded dataset, image folder or timm dataset, whose images are counted.
        backbone: A timm architecture name, for published gains of its family; all by default.
        seeds: Trainings of each network in verification.
        budget: Number of configurations of the search.
        images: Number of validation and of test images, instead of those of ``data``.

    Raises:
        BackboneError: If timm has no such architecture.
        DataError: If the data are unknown or cannot be used.
        DefinitionError: If a number is too small.

    Example:
        >>> import se_search
        >>> found = se_search.power("digits", "resnet50", budget=20)
        >>> found.search.images, found.search.comparisons
        (400, 19)
    """
    for option, value, least in (("seeds", seeds, 1), ("budget", budget, 2), ("images", images, 2)):
        if value is not None and value < least:
            raise DefinitionError(f"{as_given(option)} is {value}: it must be at least {least}")
    if backbone is not None:
        check_known(backbone)
    counts = count_images(data, backbone) if images is None else ImageCounts(0, images, images)
    return describe_power(counts, backbone, Plan(budget, 1, seeds))


def describe_power(
    counts: ImageCounts,
    backbone: str | None,
    plan: Plan,
    search: Noise = SEARCH_NOISE,
    verification: Noise = VERIFICATION_NOISE,
) -> Power:
    """Return the power of a search and its verification for known numbers of images and noise."""
    published = published_gains(backbone)
    validation, test = (min(images, MOST_IMAGES) for images in (counts.validation, counts.test))
    in_search = Comparison(validation, plan.search_seeds, max(plan.budget - 1, 1))
    verified = Comparison(test, plan.seeds, max(plan.members, 1))
    reaches = _reach(in_search, search, published), _reach(verified, verification, published)
    sentences = *_can_be_told(*reaches), _published(published), _verdict(*reaches, published)
    return Power(*reaches, published, sentences)


def _reach(comparison: Comparison, noise: Noise, published: PublishedGains) -> Reach:
    accuracy = smallest_accuracy_difference(comparison, noise.accuracy)
    log_loss = smallest_log_loss_difference(comparison, noise.log_loss)
    return Reach(
        comparison.images,
        comparison.seeds,
        comparison.comparisons,
        accuracy if math.isfinite(accuracy) else None,
        log_loss if math.isfinite(log_loss) else None,
        noise.accuracy.of_an_image,
        noise.assumed,
        *_images_and_seeds(published.typical, comparison, noise.accuracy),
        seeds_needed(published.typical, comparison, noise.accuracy) if comparison.seeds > 1 else None,
    )


def _images_and_seeds(difference: float, comparison: Comparison, noise: Variances) -> tuple[int | None, int]:
    """Return the images needed with as many seeds, or with twice as many, and so on where images do not suffice."""
    for factor in (1, 2, 4, 8):
        seeds = factor * comparison.seeds
        images = images_needed(difference, replace(comparison, seeds=seeds), noise)
        if images is not None or seeds == 1:
            break
    return images, seeds


def _can_be_told(search: Reach, verification: Reach) -> tuple[str, ...]:
    of_search = counted(search.comparisons, "configuration")
    return (
        f"With {search.images:,} validation images, the search can detect {_differences(search)}.",
        f"With {verification.images:,} test images and {counted(verification.seeds, 'seed')}, verification can detect "
        f"{_differences(verification)}.",
        f"That is with 80 % power at 95 % confidence, corrected for {of_search} and {verification.comparisons} in "
        "verification.",
        f"Differences are to the network without attention, paired by image; {_noise(search, verification)}.",
    )


def _differences(reach: Reach) -> str:
    if reach.accuracy is None:
        return "no difference in accuracy"
    loss = "" if reach.log_loss is None else f" or {reach.log_loss:.2g} nats in log-loss"
    return f"differences of at least {_points(reach.accuracy)} in accuracy{loss}"


def _noise(search: Reach, verification: Reach) -> str:
    origins = ["noise assumed" if reach.assumed else "noise seen in this run" for reach in (search, verification)]
    shares = [percent(reach.disagreement, 1) for reach in (search, verification)]
    if origins[0] == origins[1]:
        return (
            f"{origins[0]}: two networks differ on {shares[0]} of the images in the search, {shares[1]} in verification"
        )
    return (
        f"{origins[0]} for the search: two networks differ on {shares[0]} of the images; {origins[1]} for "
        f"verification: {shares[1]}"
    )


def _published(published: PublishedGains) -> str:
    results = counted(published.count, "ImageNet result")
    others = "; other parts differ too" if published.others_differ else ""
    if published.count == 1:
        gain = f"The published gain of SE for {published.networks} is {_signed(published.high)} points"
        return f"{gain} ({results}, one checkpoint each{others})."
    return (
        f"Published gains of SE for {published.networks} are {_signed(published.low)} to {_signed(published.high)} "
        f"points (typically {_signed(published.typical)}; {results}, one checkpoint each{others})."
    )


def _verdict(search: Reach, verification: Reach, published: PublishedGains) -> str:
    told = [
        name
        for name, reach in (("the search", search), ("verification", verification))
        if reach.accuracy is not None and reach.accuracy <= published.typical
    ]
    gain = f"a gain of {_points(published.typical)}"
    if len(told) == 2:
        return f"So both the search and verification can detect {gain}."
    lacking = ", and ".join(
        _in_need(reach, name, kind)
        for name, kind, reach in (("the search", "validation", search), ("verification", "test", verification))
        if name not in told
    )
    can = f"{told[0]} can detect {gain}, but " if told else f"neither the search nor verification can detect {gain}: "
    return f"So {can}{lacking}."


def _in_need(reach: Reach, name: str, kind: str) -> str:
    ways = []
    if reach.images_needed is not None:
        seeds = f" and {counted(reach.with_seeds, 'seed')}" if reach.with_seeds > reach.seeds else ""
        ways.append(f"about {_rounded(reach.images_needed):,} {kind} images{seeds}")
    if reach.seeds_needed is not None:
        ways.append(f"{counted(reach.seeds_needed, 'seed')} on these images")
    return f"{name} needs {' or '.join(ways)}" if ways else f"{name} cannot: trainings differ too much"


def _rounded(number: int) -> int:
    """Round up to two digits."""
    unit = 10 ** max(len(str(number)) - 2, 0)
    return -(-number // unit) * unit


def _points(share: float) -> str:
    return f"{100 * max(share, _LEAST_SHARE):.2g} points" if share < 0.1 else f"{100 * share:.0f} points"


def _signed(share: float) -> str:
    return f"{100 * share:+.2f}"
