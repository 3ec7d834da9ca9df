"""The terms whose costs add up to the latency of a configuration, and measured latencies as JSON."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

from ..errors import ConfigurationError
from ..network.config import SEConfig
from ..network.sites import Site
from .meter import LatencyConditions, Ratio


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
        ConfigurationError: If ``text`` is not such JSON.
    """
    try:
        return [
            MeasuredLatency(
                SEConfig.from_dict(one["config"]),
                Ratio(**one["ratio"] | {"conditions": LatencyConditions.from_dict(one["ratio"]["conditions"])}),
            )
            for one in json.loads(text)
        ]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"these are not measured latencies: {type(error).__name__} {error}") from error
