"""What is published about SE in a backbone, in its family, and what the nearest evidence is."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import linear_regression, mean, median
from typing import Any

from ..errors import BackboneError
from ..words import by, counted, percent, percent_with_interval
from .atlas import RATIOS, ArchitectureCosts, known_costs
from .latencies import UNIFORM, LatencyRow, atlas_latencies
from .published import QUANTILE, PublishedPair, check_known, family_of, gains_of, related_pairs, se_pairs

_FEWEST_SIZES = 5
_NEAREST = 5
_RATIO = 16

LIMITS = (
    "Intervals are binomial (95 %), as for two networks tested on different images. They do not include the variation "
    "between trainings: each result is one checkpoint. On other data SE can gain more or less than on ImageNet."
)
"""What the intervals leave out."""


@dataclass(frozen=True)
class Trend:
    """How the gain changes with the size of the networks of a family that were trained alike.

    The line is fitted by least squares to the gains over the logarithm of the size; its interval has their binomial
    variances.

    Attributes:
        family: The family.
        recipe: How they were trained.
        pairs: Number of pairs.
        smallest: Parameters of the smallest network without attention, in millions.
        largest: Parameters of the largest.
        slope: Change of the gain (share) when the parameters double.
        low: Lower end of its 95 % interval.
        high: Upper end.
        what_else_differs: As of the pairs.
    """

    family: str
    recipe: str
    pairs: int
    smallest: float
    largest: float
    slope: float
    low: float
    high: float
    what_else_differs: str


@dataclass(frozen=True)
class Evidence:
    """What is published about SE in a backbone.

    Attributes:
        backbone: The architecture.
        own: Its own results on ImageNet, of any kind of attention, without ablations.
        ablations: Its results in the SENet paper's ablations.
        family: Other results of its family.
        nearest: If there are none with SE: the results of networks of the nearest sizes.
        trends: How the gain changes with size in its family.
        costs: What SE costs in it, from the atlas or counted; ``None`` if it has no place for SE.
        latencies: What SE costs in time, as measured for the atlas.
        sentences: The same in words.
    """

    backbone: str
    own: tuple[PublishedPair, ...]
    ablations: tuple[PublishedPair, ...]
    family: tuple[PublishedPair, ...]
    nearest: tuple[PublishedPair, ...]
    trends: tuple[Trend, ...]
    costs: ArchitectureCosts | None
    latencies: tuple[LatencyRow, ...]
    sentences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        pairs = {
            name: [one.to_json() for one in getattr(self, name)] for name in ("own", "ablations", "family", "nearest")
        }
        return asdict(self) | pairs | {"sentences": list(self.sentences)}


def evidence(backbone: str) -> Evidence:
    """Return what is published about SE in a backbone; PyTorch is loaded only for costs that the atlas does not have.

    Args:
        backbone: A timm architecture name.

    Raises:
        BackboneError: If timm does not have it.
    """
    check_known(backbone)
    own, family = related_pairs(backbone)
    family = tuple(pair for pair in family if not pair.varies and pair.dataset == "ImageNet-1k")
    ablations = tuple(pair for pair in own if pair.varies)
    own = tuple(pair for pair in own if not pair.varies)
    costs = _costs_of(backbone)
    without_se = not any(pair.attention == "se" for pair in (*own, *family))
    nearest = _nearest(costs.parameters) if without_se and costs else ()
    trends = tuple(_trends((*own, *family)))
    latencies = tuple(row for row in atlas_latencies() if row.backbone == backbone.partition(".")[0])
    uniform = (row for row in latencies if row.configuration == UNIFORM)
    sentences = (*_sentences(backbone, own, family, trends, costs), *map(_latency, uniform), LIMITS)
    return Evidence(backbone, own, ablations, family, nearest, trends, costs, latencies, sentences)


def _costs_of(backbone: str) -> ArchitectureCosts | None:
    if known := known_costs(backbone):
        return known
    from .counted import count_costs  # PyTorch takes seconds to load

    try:
        return count_costs(backbone)
    except BackboneError:  # no place for SE
        return None


def _nearest(parameters: int) -> tuple[PublishedPair, ...]:
    """Return the pairs with SE, with nothing else changed, whose sizes are nearest."""
    pairs = [pair for pair in se_pairs() if pair.params_m_without and not pair.what_else_differs]
    millions = parameters / 1e6
    return tuple(sorted(pairs, key=lambda pair: abs(math.log((pair.params_m_without or 0) / millions)))[:_NEAREST])


def _trends(pairs: Iterable[PublishedPair]) -> Iterator[Trend]:
    alike: dict[tuple[str, str], dict[float, PublishedPair]] = {}
    for pair in pairs:
        if pair.attention == "se" and pair.params_m_without:
            group = alike.setdefault((family_of(pair.without), pair.recipe), {})
            group.setdefault(pair.params_m_without, pair)
    for (family, recipe), by_size in alike.items():
        if len(by_size) >= _FEWEST_SIZES:
            yield _fit(family, recipe, by_size)


def _fit(family: str, recipe: str, by_size: dict[float, PublishedPair]) -> Trend:
    doublings = [math.log2(size) for size in by_size]
    slope = linear_regression(doublings, [pair.gain for pair in by_size.values()]).slope
    center = mean(doublings)
    squares = math.fsum((one - center) ** 2 for one in doublings)
    errors = zip(doublings, by_size.values(), strict=True)
    error = math.sqrt(math.fsum(((one - center) / squares * pair.standard_error) ** 2 for one, pair in errors))
    others = next(iter(by_size.values())).what_else_differs
    ends = slope - QUANTILE * error, slope + QUANTILE * error
    return Trend(family, recipe, len(by_size), min(by_size), max(by_size), slope, *ends, others)


def _sentences(
    backbone: str,
    own: Sequence[PublishedPair],
    family: Sequence[PublishedPair],
    trends: Iterable[Trend],
    costs: ArchitectureCosts | None,
) -> Iterator[str]:
    own_se, family_se = ([pair for pair in pairs if pair.attention == "se"] for pairs in (own, family))
    name = family_of(backbone)
    if own_se:
        yield f"SE in {backbone}: {_range(own_se)}."
    if family_se:
        others = "Other" if own_se else f"No result with and without SE is published for {backbone}. The nearest are"
        yield f"{others} {name} networks: {_range(family_se)}."
    if not own_se and not family_se:
        yield f"No result with and without SE is published for {backbone} or other {name} networks."
        if family:
            kinds = ", ".join(dict.fromkeys(f"{pair.attention} in {pair.without}" for pair in family))
            yield f"The nearest is other attention: {kinds}."
        yield f"SE in networks of all kinds: {_range(se_pairs())}."
    for trend in trends:
        yield _in_words(trend)
    if costs:
        yield from _costs(costs)


def known_in_brief(backbone: str) -> str:
    """Return one sentence about the published gains of SE that are nearest to a backbone, which may be unknown."""
    own, family = related_pairs(backbone)
    name = family_of(backbone)
    for networks, pairs in ((backbone, own), (f"{name} networks", family)):
        with_se = [pair for pair in pairs if pair in se_pairs()]
        if with_se:
            return f"Published for SE in {networks}: {_in_brief(with_se)}."
    return f"Nothing is published for SE in {name} networks; in networks of all kinds: {_in_brief(se_pairs())}."


def _in_brief(pairs: Sequence[PublishedPair]) -> str:
    gains = gains_of(pairs, "")
    span = points(gains.low) if gains.count == 1 else f"{points(gains.low)} to {points(gains.high)}"
    others = "; other parts differ too" if gains.others_differ else ""
    results = counted(gains.count, "result")
    return f"{span} points of ImageNet top-1 accuracy ({results}, one checkpoint each{others})"


def _range(pairs: Sequence[PublishedPair]) -> str:
    """Describe gains: of pairs that differ in the attention only, if there are any."""
    only = [pair for pair in pairs if not pair.what_else_differs]
    chosen = only or pairs
    gains = sorted(pair.gain for pair in chosen)
    results = f"{counted(len(chosen), 'published ImageNet result')}, one checkpoint each"
    notes = "" if only else f"; {_others(chosen)}"
    if only and len(only) < len(pairs):
        notes = f"; {len(pairs) - len(only)} more, in which other parts differ, left out"
    if len(gains) == 1:
        return f"{points(gains[0])} points of top-1 accuracy ({results}{notes})"
    above, below = (sum(sign * end > 0 for end in ends) for sign, ends in _ends(chosen))
    told = f"{above} significantly above zero and {below} significantly below"
    span = f"{points(gains[0])} to {points(gains[-1])} points of top-1 accuracy, median {points(median(gains))}"
    return f"{span} ({results}; {told}{notes})"


def _ends(pairs: Sequence[PublishedPair]) -> tuple[tuple[int, list[float]], tuple[int, list[float]]]:
    return (1, [pair.interval[0] for pair in pairs]), (-1, [pair.interval[1] for pair in pairs])


def _others(pairs: Iterable[PublishedPair]) -> str:
    return "; ".join(dict.fromkeys(pair.what_else_differs for pair in pairs))


def _in_words(trend: Trend) -> str:
    told = "shrinks" if trend.high < 0 else "grows" if trend.low > 0 else "does not measurably change"
    others = f"; {trend.what_else_differs}" if trend.what_else_differs else ""
    return (
        f"From {trend.smallest:.3g} to {trend.largest:.3g} M parameters ({trend.family}, {trend.recipe}, "
        f"{counted(trend.pairs, 'pair')}{others}) the gain {told} with size: {points(trend.slope)} points per doubling "
        f"[{points(trend.low)}, {points(trend.high)}]."
    )


def _costs(costs: ArchitectureCosts) -> Iterator[str]:
    own = costs.attention_sites
    if own:
        saved = percent(costs.attention_parameters / costs.parameters)
        yield (
            f"It has attention of its own in {counted(own, 'block')}: {costs.attention_parameters:,} parameters "
            f"({saved}) and {percent(costs.attention_flops / costs.flops)} of the FLOPs."
        )
        return
    position = costs.default_position
    groups = costs.at(position)
    place = RATIOS.index(_RATIO)
    parameters, flops = (sum(getattr(group, name)[place] for group in groups) for name in ("parameters", "flops"))
    yield (
        f"SE with r={_RATIO} at its {counted(sum(group.sites for group in groups), f'{position} site')} adds "
        f"{parameters:,} parameters ({percent(parameters / costs.parameters, sign='+')}) and "
        f"{percent(flops / costs.flops, sign='+')} FLOPs."
    )


def _latency(row: LatencyRow) -> str:
    ratio = percent_with_interval(
        *(end - 1 for end in (row.latency_ratio, row.latency_low, row.latency_high)), decimals=1, sign="+"
    )
    return (
        f"Latency of {row.configuration}: {ratio}, measured with images of {by(row.size)} at batch {row.batch}, "
        f"{row.runtime}, on {row.processor}, {counted(row.threads, 'thread')}."
    )


def points(share: float, decimals: int = 2) -> str:
    """Format a difference of accuracies as percentage points with a sign."""
    return f"{round(100 * share, decimals) + 0.0:+.{decimals}f}"
