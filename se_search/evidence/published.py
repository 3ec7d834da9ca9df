"""Published gains of SE: pairs of networks with and without it."""

import csv
import functools
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import resources
from statistics import NormalDist, median
from typing import TYPE_CHECKING, Any

from .atlas import atlas

if TYPE_CHECKING:
    import pandas as pd

IMAGES = {"ImageNet-1k": 50_000, "CIFAR-10": 10_000, "CIFAR-100": 10_000}
"""Number of test images of each dataset."""

_FILE = "published.csv"
QUANTILE = NormalDist().inv_cdf(0.975)
"""Two-sided quantile of the standard normal distribution at 95 %; SciPy takes too long to load."""


@dataclass(frozen=True)
class PublishedPair:
    """Two published networks, one checkpoint of each.

    Attributes:
        without: The network without attention: timm's name if timm has it.
        with_attention: The network with attention; of an ablation, the varied value.
        attention: Kind of attention: ``se``, ``eca``, ``gc``, ``cbam``, ``coordinate`` or ``local``.
        varies: What an ablation varies: ``ratio``, ``squeeze``, ``gate``, ``stage``, ``position`` or ``extent``; empty
            for other pairs.
        dataset: Name of the dataset.
        image_size: Height and width of the test images (pixels).
        top1_without: Accuracy on the test images (%).
        top1_with: The same with attention.
        decimals: Decimal places of both.
        top5_without: Top-5 accuracy (%); ``None`` if it is not published, as all that follow.
        top5_with: The same with attention.
        real_without: Accuracy by the ReaL labels of ImageNet (%).
        real_with: The same with attention.
        v2_without: Accuracy on ImageNetV2 (%).
        v2_with: The same with attention.
        params_m_without: Parameters in millions.
        params_m_with: The same with attention.
        gflops_without: Multiply-additions of one image in 10⁹.
        gflops_with: The same with attention.
        recipe: How both were trained: timm's tag or the source.
        what_else_differs: Other known differences between both; empty if only the attention differs as far as known.
        source: Where the values are from.
    """

    without: str
    with_attention: str
    attention: str
    varies: str
    dataset: str
    image_size: int
    top1_without: float
    top1_with: float
    decimals: int
    top5_without: float | None
    top5_with: float | None
    real_without: float | None
    real_with: float | None
    v2_without: float | None
    v2_with: float | None
    params_m_without: float | None
    params_m_with: float | None
    gflops_without: float | None
    gflops_with: float | None
    recipe: str
    what_else_differs: str
    source: str

    @property
    def gain(self) -> float:
        """Difference of accuracies, as a share."""
        return (self.top1_with - self.top1_without) / 100

    @property
    def standard_error(self) -> float:
        """Binomial standard error of :attr:`gain`, as if both networks had been tested on images of their own."""
        return math.sqrt(
            sum(top1 / 100 * (1 - top1 / 100) for top1 in (self.top1_without, self.top1_with)) / IMAGES[self.dataset]
        )

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval of :attr:`gain`, as shares.

        It leaves out how much another training of the same network would differ.
        """
        margin = QUANTILE * self.standard_error
        return self.gain - margin, self.gain + margin

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON, with the gain and its interval as shares."""
        return asdict(self) | {"gain": self.gain, "interval": list(self.interval)}

    @property
    def names(self) -> frozenset[str]:
        """The architectures of both networks, without tags."""
        networks = (self.without,) if self.varies else (self.without, self.with_attention)
        return frozenset(name.partition(".")[0] for name in networks)

    @property
    def families(self) -> frozenset[str]:
        """The families of both networks."""
        return frozenset(map(family_of, self.names))


@dataclass(frozen=True)
class PublishedGains:
    """The range of published gains, as differences of accuracies (shares).

    Attributes:
        networks: The networks, in words.
        low: The smallest.
        high: The largest.
        typical: The median of those above zero.
        count: Number of results.
        others_differ: Whether more than the attention differs in these pairs.
    """

    networks: str
    low: float
    high: float
    typical: float
    count: int
    others_differ: bool


@functools.cache
def published_pairs() -> tuple[PublishedPair, ...]:
    """Return all pairs, also of other attention than SE, of other datasets than ImageNet, and of ablations."""
    return tuple(map(_pair, csv.DictReader(_text().splitlines())))


def _text() -> str:
    return resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")


def _pair(row: dict[str, str]) -> PublishedPair:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    return PublishedPair(
        without=row["without"],
        with_attention=row["with"],
        attention=row["attention"],
        varies=row["varies"],
        dataset=row["dataset"],
        image_size=int(row["image_size"]),
        top1_without=float(row["top1_without"]),
        top1_with=float(row["top1_with"]),
        decimals=len(row["top1_with"].partition(".")[2]),
        top5_without=number("top5_without"),
        top5_with=number("top5_with"),
        real_without=number("real_without"),
        real_with=number("real_with"),
        v2_without=number("v2_without"),
        v2_with=number("v2_with"),
        params_m_without=number("params_m_without"),
        params_m_with=number("params_m_with"),
        gflops_without=number("gflops_without"),
        gflops_with=number("gflops_with"),
        recipe=row["recipe"],
        what_else_differs=row["what_else_differs"],
        source=row["source"],
    )


def se_pairs() -> tuple[PublishedPair, ...]:
    """Return the pairs with and without SE on ImageNet, without ablations."""
    return tuple(
        pair
        for pair in published_pairs()
        if pair.attention == "se" and pair.dataset == "ImageNet-1k" and not pair.varies
    )


def published_gains(backbone: str | None = None) -> PublishedGains:
    """Return the range of gains in the backbone's family, or in all if none is published for it.

    Pairs that differ in the attention only are preferred.

    Args:
        backbone: A timm architecture name.
    """
    pairs = se_pairs()
    family = family_of(backbone) if backbone else ""
    related = [pair for pair in pairs if family in pair.families]
    networks = f"{family} networks" if related else "networks of all kinds"
    return gains_of(related or pairs, networks)


def gains_of(pairs: Iterable[PublishedPair], networks: str) -> PublishedGains:
    """Return the range of gains of pairs, of those that differ in the attention only if there are any.

    Args:
        pairs: At least one pair with a gain above zero.
        networks: Their networks, in words.
    """
    chosen = tuple(pairs)
    only_attention = [pair for pair in chosen if not pair.what_else_differs]
    gains = [pair.gain for pair in only_attention or chosen]
    typical = median(gain for gain in gains if gain > 0)
    return PublishedGains(networks, min(gains), max(gains), typical, len(gains), not only_attention)


def published_results(backbone: str | None = None) -> "pd.DataFrame":
    """Return published results with and without attention, one row each; PyTorch is not loaded.

    Args:
        backbone: A timm architecture name: only its own results and those of its family, the former first; all by
            default.

    Returns:
        The columns of :class:`~se_search.evidence.published.PublishedPair`, with ``gain`` and the ends ``gain_low`` and
        ``gain_high`` of its 95 % interval as shares, ``family``, and ``own``: whether the result is the backbone's.

    Raises:
        BackboneError: If timm does not have the architecture.

    Example:
        >>> import se_search
        >>> found = se_search.published_results("regnety_032")
        >>> found.loc[found["own"], ["recipe", "gain"]].round(4).values.tolist()
        [['pycls_in1k', 0.0074], ['tv2_in1k', 0.0087]]
    """
    import pandas as pd

    if backbone:
        check_known(backbone)
    own, family = related_pairs(backbone) if backbone else ((), published_pairs())
    rows = [
        asdict(pair)
        | {"gain": pair.gain, "gain_low": pair.interval[0], "gain_high": pair.interval[1]}
        | {"family": family_of(pair.without), "own": place < len(own)}
        for place, pair in enumerate((*own, *family))
    ]
    return pd.DataFrame(rows)


def check_known(backbone: str) -> None:
    """Check that timm has an architecture; PyTorch is loaded only for a name that no table has.

    Raises:
        BackboneError: If it does not.
    """
    published = {name for pair in published_pairs() for name in pair.names}
    if backbone.partition(".")[0] not in atlas().names | published:
        from ..network.backbones import check_backbone

        check_backbone(backbone)


def related_pairs(backbone: str) -> tuple[tuple[PublishedPair, ...], tuple[PublishedPair, ...]]:
    """Return the pairs of an architecture, then the others of its family."""
    name, family = backbone.partition(".")[0], family_of(backbone)
    own = tuple(pair for pair in published_pairs() if name in pair.names)
    return own, tuple(pair for pair in published_pairs() if family in pair.families and pair not in own)


def family_of(name: str) -> str:
    """Return the family in an architecture's name: ``resnet`` of ``resnet33ts``, ``regnetx`` of ``regnetx_002``.

    DeiT is a ViT with another recipe.
    """
    first = re.sub(r"^(tf_|test_|legacy_)+", "", name.lower()).partition(".")[0].partition("_")[0]
    family = re.sub(r"((?<!v)-?\d+[a-z]{0,2})+$", "", first)
    return "vit" if family in ("deit", "localvit-t") else family
