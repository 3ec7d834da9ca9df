"""The named members of the front: the networks that a run recommends."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from ..study.objectives import OBJECTIVES, Objective
from .table import candidates_of
from .verified import Schedule

PICKS = ("knee", "accurate", "small", "fast")


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

    Values are the means over seeds, failed trainings included. The knee's axes are scaled to the range of this front.

    Args:
        table: From :func:`~se_search.results.table.trials_table`; of it parameters and latencies are used.
        schedule: The longest schedule of verification.
        quality: Accuracy or log-loss.
    """
    reached = {
        one.number: quality.sign * (one.log_loss if quality.name == "log_loss" else one.accuracy)[0]
        for one in schedule.members
    }
    rows = table.set_index("number", drop=False).rename_axis(None).loc[list(schedule.front)]
    rows = rows.assign(value=[reached[number] for number in schedule.front]).reset_index(drop=True)
    return _named("verified", rows, rows)


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
