"""The terms whose costs add up to the latency of a configuration, and measured latencies as JSON."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from ..errors import ConfigurationError
from ..network.config import SEConfig
from ..network.sites import Site
from .meter import LatencyConditions, Ratio

_RATIO = TypeAdapter(Ratio)
_MOST_ROUNDS = 10**9


class SiteGroup(NamedTuple):
    """Sites of the same cost, with the fields of :class:`se_search.network.sites.Site`; a stage has one resolution."""

    stage: int
    position: str
    channels: int
    layout: str


@dataclass(frozen=True)
class MeasuredLatency:
    """A configuration with its measured latency ratio."""

    config: SEConfig
    ratio: Ratio


def group_of(site: Site) -> SiteGroup:
    """Return the group of a site."""
    return SiteGroup(site.stage, site.position, site.channels, site.layout)


def count_terms(config: SEConfig) -> dict[tuple[SiteGroup, str], float]:
    """Return the multiplicity of each term of the model in a configuration."""
    amounts: defaultdict[tuple[SiteGroup, str], float] = defaultdict(float)
    for placed in config.placed:
        for name, amount in placed.latency_terms().items():
            amounts[group_of(placed.site), name] += amount
    for site in (*config.removed, *config.constant):  # the same network
        amounts[group_of(site), "removed"] += 1
    return dict(amounts)


def measurements_to_json(measured: Iterable[MeasuredLatency]) -> str:
    """Return JSON that :func:`measurements_from_json` reads."""
    plain = [
        {"config": one.config.to_dict(), "ratio": asdict(one.ratio) | {"conditions": one.ratio.conditions.to_dict()}}
        for one in measured
    ]
    return json.dumps(plain, indent=1, allow_nan=False)


def measurements_from_json(text: str) -> list[MeasuredLatency]:
    """Read the JSON of :func:`measurements_to_json`.

    Raises:
        ConfigurationError: If ``text`` is not such JSON, or a value in it is impossible.
    """
    try:
        return [
            MeasuredLatency(SEConfig.from_dict(one["config"]), _read_ratio(one["ratio"])) for one in json.loads(text)
        ]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"these are not measured latencies: {type(error).__name__} {error}") from error


def _read_ratio(plain: dict[str, Any]) -> Ratio:
    LatencyConditions.from_dict(plain["conditions"])  # which no key may miss
    return checked_ratio(_RATIO.validate_python(plain))


def checked_ratio(ratio: Ratio) -> Ratio:
    """Return a measurement that was read from a file.

    Raises:
        ValueError: If a value in it is impossible.
    """
    low, median, high = ratio.low, ratio.median, ratio.high
    if not (0 < low <= median <= high < math.inf and 1 < ratio.rounds < _MOST_ROUNDS):
        raise ValueError(f"a latency of {median} [{low}, {high}] in {ratio.rounds} rounds is impossible")
    return ratio
