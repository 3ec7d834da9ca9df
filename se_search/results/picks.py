"""The named members of the front: the networks that a run recommends."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from ..study.objectives import OBJECTIVES, Objective
from .table import candidates_of
from .verified import Member, Schedule

PICKS = ("knee", "accurate", "small", "fast")

_COSTS = ("parameter_overhead", "latency_ratio", "latency_low", "latency_high")


@dataclass(frozen=True, eq=False)
class Picks(Mapping[str, int]):
    """Trial numbers by pick; empty without a front.

    Attributes:
        source: Where the values come from: the search's estimates or verification.
        front: Numbers of the trials that the picks are taken from, the smallest network first.
        trials: The number of each pick in :data:`PICKS`.
    """

    source: Literal["search", "verified"] = "search"
    front: tuple[int, ...] = ()
    trials: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, pick: str) -> int:
        return self.trials[pick]

    def __iter__(self) -> Iterator[str]:
        return iter(self.trials)

    def __len__(self) -> int:
        return len(self.trials)


def pick_trials(table: pd.DataFrame, quality: Objective = OBJECTIVES["accuracy"]) -> Picks:
    """Return the front's named members, by the search's estimates.

    ``accurate`` has the highest accuracy, ``small`` the fewest parameters, ``fast`` the lowest latency ratio; the
    fewest parameters break ties. ``knee`` is the member farthest above the straight line from the smallest candidate to
    the most accurate one, with both axes scaled to the range of the candidates; of two the larger, whose advantage is
    measurable. Log-loss replaces accuracy if it is the study's objective.

    Args:
        table: From :func:`~se_search.results.table.trials_table`.
        quality: Accuracy or log-loss.
    """
    candidates = candidates_of(table)
    candidates = candidates.assign(value=quality.sign * candidates[quality.name])
    return _named("search", candidates[candidates["on_front"]], candidates)


def pick_verified(table: pd.DataFrame, schedule: Schedule, quality: Objective) -> Picks:
    """Return the named members of the front of verified networks, as :func:`pick_trials` has them.

    Values are the means over seeds, failed trainings included. The front holds the smallest network and each that is
    significantly better in quality, or faster, than every smaller one on the front. Only the networks whose trainings
    learned most often are considered, and others that are significantly better than each of these. The network without
    SE is compared also if no trial has it. The knee's axes are scaled to the range of this front.

    Args:
        table: From :func:`~se_search.results.table.trials_table`; of it parameters, latencies and limits are used.
        schedule: The longest schedule of verification.
        quality: Accuracy or log-loss.
    """
    within = {row["number"]: row for row in table[table["feasible"]].to_dict("records")}
    rows: list[dict[str, Any]] = [
        {
            "number": one.number,
            "value": quality.sign * (one.log_loss if quality.name == "log_loss" else one.accuracy)[0],
            "better_than": one.better_than,
            "config_id": one.config_id,
            **{name: within[one.number][name] if one.number in within else -math.inf for name in _COSTS},
        }
        for one in _dependable(schedule.members)
        if one.number in within or one.config_id == schedule.members[0].config_id
    ]
    rows.sort(key=lambda row: (row["parameter_overhead"], -row["value"]))
    front: list[dict[str, Any]] = []
    for row in rows:
        if all(_is_distinct(row, smaller) for smaller in front):
            front.append(row)
    trials = pd.DataFrame([row for row in front if row["number"] in within], columns=["number", "value", *_COSTS])
    return _named("verified", trials, trials)


def _dependable(members: Sequence[Member]) -> list[Member]:
    most = max(one.learned for one in members)
    often = {one.config_id for one in members if one.learned == most}
    return [one for one in members if one.config_id in often or often <= set(one.better_than)]


def _is_distinct(row: Mapping[str, Any], smaller: Mapping[str, Any]) -> bool:
    return smaller["config_id"] in row["better_than"] or row["latency_high"] < smaller["latency_low"]


def _named(source: Literal["search", "verified"], front: pd.DataFrame, candidates: pd.DataFrame) -> Picks:
    """Return the picks of a front, a part of the candidates, from the smallest network to the largest.

    Both have a column ``value`` that is better if higher.
    """
    if front.empty:
        return Picks(source)
    height = _scaled(candidates["value"]) - _scaled(candidates["parameter_overhead"])
    rows = {
        "knee": height[front.index][::-1].idxmax(),
        "accurate": front["value"].idxmax(),
        "small": front.index[0],
        "fast": front["latency_ratio"].idxmin(),
    }
    numbers = front["number"].astype(int)
    return Picks(source, tuple(numbers), {pick: int(numbers[row]) for pick, row in rows.items()})


def _scaled(values: "pd.Series[float]") -> "pd.Series[float]":
    width = values.max() - values.min()
    return (values - values.min()) / width if width > 0 else values * 0.0
