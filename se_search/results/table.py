"""What a study has found: one table of trials, its Pareto front, and the members worth a name."""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from ..network.config import SEConfig
from ..statistics import CONFIDENCE, Estimate, confidence_of_each, crossed_difference, difference_in_words
from ..study.objectives import COLUMNS, OBJECTIVES, Objective
from ..trials.notes import quality_of, refusing_foreign_trials, unpack
from ..words import counted, percent

PICKS = ("knee", "accurate", "small", "fast")


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """Return one row for each trial that is complete, was stopped, or has failed for a reason of its own.

    Values that a failed trial lacks are missing; objectives of the user's own are the last columns. ``on_front`` marks
    the trials that no other one dominates in the study's objectives, among those that keep its limits. ``tied_with``
    holds, for a member of the front, the cheapest other member (fewest parameters) from which its accuracy (log-loss,
    where that is the study's objective) on the same images cannot be told apart.
    """
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in _STATES and (trial.state != TrialState.FAIL or "error" in trial.user_attrs)
    ]
    columns = COLUMNS | {name: "float64" for name in study.metric_names or () if name not in COLUMNS}
    with refusing_foreign_trials():
        members = sorted(study.best_trials, key=_cost)
        quality = quality_of(study)
        tied = {
            trial.number: next((other.number for other in members if _is_tied(other, trial, quality)), None)
            for trial in members
        }
        rows = [_row(trial, columns, trial.number in tied, tied.get(trial.number)) for trial in trials]
        return pd.DataFrame(rows, columns=list(columns)).astype(columns)


@dataclass(frozen=True)
class Gain:
    """What SE gains over the network without, by the estimates of a search.

    Attributes:
        measurable: Whether any configuration is measurably better.
        sentence: The same in words, with the best one's difference and its interval.
    """

    measurable: bool
    sentence: str


def gain_over_none(study: optuna.Study) -> Gain | None:
    """Say whether any configuration with SE is measurably better than the network without.

    All complete trials are compared with it on the same images, and the best is told; its interval is as wide as
    Bonferroni's correction for that many comparisons wants, as the best of many looks good by chance. ``None`` where
    the network without SE or anything to compare has not been evaluated.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    with refusing_foreign_trials():
        none = next((trial for trial in complete if trial.user_attrs["se_blocks"] == 0), None)
        others = [trial for trial in complete if trial.user_attrs["se_blocks"] > 0]
        if none is None or not others:
            return None
        quality = quality_of(study)
        best = max(others, key=lambda trial: quality.sign * trial.user_attrs[quality.name])
        difference = _difference(best, none, quality, confidence_of_each(len(others)))
    told = (
        f"trial {best.number}'s {quality.words} differs from that of the network without SE by "
        f"{difference_in_words(quality.name, difference)} "
        f"(paired on the same images, corrected for {counted(len(others), 'comparison')})"
    )
    if quality.sign * difference.value > 0 and not _contains_zero(difference):
        return Gain(True, f"SE helps measurably by the search's estimates: {told}.")
    with_se = counted(len(others), "configuration")
    return Gain(False, f"No measurable difference: of {with_se} with SE none is measurably better; {told}.")


def front_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows on the Pareto front, from the smallest network to the largest."""
    return table[table["on_front"]].sort_values(["parameter_overhead", "accuracy"], ascending=[True, False])


def pick_trials(table: pd.DataFrame, quality: Objective = OBJECTIVES["accuracy"]) -> dict[str, int]:
    """Name the members of the front that most users want; empty without a front.

    ``accurate`` has the highest accuracy, ``small`` the fewest parameters, ``fast`` the lowest latency ratio; the
    fewest parameters break ties. ``knee`` is the member that lies highest above the straight line from the smallest
    member to the most accurate one, both axes scaled to the range of the front: beyond it accuracy costs ever more.
    For the knee, members whose accuracy cannot be told apart from a cheaper one's are left out. Where a study judges by
    log-loss, that takes the place of accuracy.

    Args:
        table: From ``trials_table``.
        quality: Accuracy or log-loss.
    """
    front = front_of(table)
    if front.empty:
        return {}
    worth = quality.sign * front[quality.name]
    height = _scaled(worth) - _scaled(front["parameter_overhead"])
    distinct = front["tied_with"].isna()
    return {
        "knee": int(front["number"][distinct].iloc[int(height[distinct].argmax())]),
        "accurate": int(front["number"].iloc[int(worth.argmax())]),
        "small": int(front["number"].iloc[0]),
        "fast": int(front["number"].iloc[int(front["latency_ratio"].argmin())]),
    }


def cautions(table: pd.DataFrame, chance: float) -> list[str]:
    """Say in sentences what the front does not show; empty where there is nothing to be careful about.

    Args:
        table: From :func:`trials_table`.
        chance: Accuracy of guessing.
    """
    front = front_of(table)
    if not (table["state"] == "complete").any():
        return ["No configuration has been evaluated yet."]
    if front.empty:
        return ["No evaluated configuration keeps the limits, so the Pareto front is empty."]
    said = []
    if front["accuracy_low"].max() <= chance:
        said.append(
            f"No member of the front is better than guessing ({percent(chance, 0)}): the networks have not learned. "
            "Train for more epochs or with a lower learning_rate."
        )
    tied = int(front["tied_with"].notna().sum())
    if tied:
        members = "One member of the front" if tied == 1 else f"{tied} members of the front"
        said.append(
            f"{members} cannot be told apart from a smaller one, image by image: "
            "what looks like a gain there may be noise."
        )
    if front["se_blocks"].max() == 0:
        said.append(
            "No configuration with SE is on the front: none was more accurate on these images than the network without."
        )
    elif front["counted_parameters"].nunique() == 1:
        said.append("All of the front has one cost: no larger network was more accurate on these images.")
    return said


def _row(trial: FrozenTrial, columns: Iterable[str], on_front: bool, tied_with: int | None) -> dict[str, Any]:
    attributes = trial.user_attrs
    row: dict[str, Any] = {name: attributes.get(name, math.nan) for name in columns}
    placed = read_config(attributes["config"]).placed
    texts = {name: attributes.get(name, "") for name in ("name", "latency_stopped", "error")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} is no text")
    row |= texts
    return row | {
        "number": trial.number,
        "state": _STATES[trial.state],
        "config_id": str(attributes["config_id"]),
        "feasible": trial.state == TrialState.COMPLETE and all(value <= 0 for value in trial.constraints.values()),
        "on_front": on_front,
        "tied_with": tied_with,
        "gate": placed[0].gate if placed else "",
        "se_blocks": int(attributes["se_blocks"]),
        "seconds": _seconds(trial),
    }


@functools.lru_cache(maxsize=4096)
def read_config(text: str) -> SEConfig:
    """Read the configuration of a trial, each text once.

    Raises:
        ConfigurationError: If it is none.
    """
    return SEConfig.from_json(text)


def _seconds(trial: FrozenTrial) -> float:
    """Seconds that a trial took, as far as the clock tells: one that was set back meanwhile does not."""
    seconds = trial.duration.total_seconds() if trial.duration else math.nan
    return seconds if seconds >= 0 else math.nan


def _cost(trial: FrozenTrial) -> tuple[float, float]:
    return trial.user_attrs["parameter_overhead"], trial.user_attrs["latency_ratio"]


def _is_tied(cheaper: FrozenTrial, trial: FrozenTrial, quality: Objective) -> bool:
    if cheaper.user_attrs["counted_parameters"] >= trial.user_attrs["counted_parameters"]:
        return False
    return _contains_zero(_difference(trial, cheaper, quality))


def _difference(
    first: FrozenTrial, second: FrozenTrial, quality: Objective, confidence: float = CONFIDENCE
) -> Estimate:
    one, other = (unpack(trial.user_attrs[quality.outcomes]) for trial in (first, second))
    return crossed_difference(one, other, confidence)


def _contains_zero(difference: Estimate) -> bool:
    return difference.low <= 0 <= difference.high


def _scaled(values: "pd.Series[float]") -> "pd.Series[float]":
    width = values.max() - values.min()
    return (values - values.min()) / width if width > 0 else values * 0.0


_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}
