"""Published gains of SE: pairs of networks with and without it."""

import csv
import functools
import re
from dataclasses import dataclass
from importlib import resources
from statistics import median

_FILE = "published_gains.csv"


@dataclass(frozen=True)
class PublishedPair:
    """Two published networks, one checkpoint of each.

    Attributes:
        without: The network without SE: timm's name if timm has it.
        with_se: The network with SE.
        image_size: Height and width of the test images (pixels).
        top1_without: Accuracy on the validation images of ImageNet-1k (%).
        top1_with: The same with SE.
        what_else_differs: Other known differences between both; empty if only the attention differs.
        source: Where the accuracies are from.
    """

    without: str
    with_se: str
    image_size: int
    top1_without: float
    top1_with: float
    what_else_differs: str
    source: str

    @property
    def gain(self) -> float:
        """Difference of accuracies, as a share."""
        return (self.top1_with - self.top1_without) / 100


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
    """Return all pairs."""
    text = resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8")
    return tuple(
        PublishedPair(
            row["without"],
            row["with"],
            int(row["image_size"]),
            float(row["top1_without"]),
            float(row["top1_with"]),
            row["what_else_differs"],
            row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def published_architectures() -> frozenset[str]:
    """Return timm's names of the networks in all pairs, without tags of pretrained weights."""
    return frozenset(name.partition(".")[0] for pair in published_pairs() for name in (pair.without, pair.with_se))


def published_gains(backbone: str | None = None) -> PublishedGains:
    """Return the range of gains in the backbone's family, or in all if none is published for it.

    Pairs that differ in the attention only are preferred.

    Args:
        backbone: A timm architecture name.
    """
    pairs = published_pairs()
    family = family_of(backbone) if backbone else ""
    related = [pair for pair in pairs if family in (family_of(pair.without), family_of(pair.with_se))]
    networks = f"{family} networks" if related else "networks of all kinds"
    chosen = related or pairs
    only_attention = [pair for pair in chosen if not pair.what_else_differs]
    gains = [pair.gain for pair in only_attention or chosen]
    typical = median(gain for gain in gains if gain > 0)
    return PublishedGains(networks, min(gains), max(gains), typical, len(gains), not only_attention)


def family_of(name: str) -> str:
    """Return the family in an architecture's name: ``resnet`` of ``resnet33ts``, ``regnetx`` of ``regnetx_002``."""
    first = re.sub(r"^(tf_|test_|legacy_)+", "", name.lower()).partition(".")[0].partition("_")[0]
    return re.sub(r"(?<!v)\d+[a-z]{0,2}$", "", first)
