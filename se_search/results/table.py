"""Results of a study: the table of trials, the Pareto front, and the gain from attention."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from ..network.attention import DEFAULT_KIND, KINDS
from ..network.config import read_config as read_config
from ..statistics import CONFIDENCE, Estimate, Interval, confidence_of_each, crossed_difference, difference_in_words
from ..study.objectives import COLUMNS, OBJECTIVES, Objective
from ..trials.notes import PREDICTED, converting_foreign_trial_errors, quality_of, unpack
from ..words import counted, percent, upper_first
from .front import TrialValues, find_front, front_probabilities
from .values import feasible_fronts, is_feasible, values_of

SE = KINDS[DEFAULT_KIND].word
"""The word for the kind of attention of studies that name none."""

_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped", TrialState.FAIL: "failed"}
_MEASURED = {
    "latency_measured": "latency_ratio",
    "latency_measured_low": "latency_low",
    "latency_measured_high": "latency_high",
}


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """Return one row for each trial that is complete, was stopped early, or failed with an error.

    Failed trials have missing values; custom objectives are the last columns. ``on_front`` marks the front of
    :func:`~se_search.results.front.find_front` within the study's limits. ``tied_with`` is, for a trial that only its
    estimates put on a front, the cheaper trial over which it has no measurable advantage. ``front_probability`` is the
    probability that no other trial dominates a trial, given the uncertainty of all values.
    """
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in _STATES and (trial.state != TrialState.FAIL or "error" in trial.user_attrs)
    ]
    columns = COLUMNS | {name: "float64" for name in study.metric_names or () if name not in COLUMNS}
    with converting_foreign_trial_errors():
        compared = feasible_fronts(study)
        places = _places(values_of(compared, study), [trial.number for trial in compared])
        rows = [_row(trial, columns) | places.get(trial.number, {}) for trial in trials]
        return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def _places(values: TrialValues, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return the columns about the front for the trials that were compared."""
    front, probabilities = find_front(values), front_probabilities(values)
    return {
        number: {
            "on_front": bool(front.members[place]),
            "tied_with": None if front.tied_with[place] < 0 else numbers[front.tied_with[place]],
            "front_probability": float(probabilities[place]),
        }
        for place, number in enumerate(numbers)
    }


@dataclass(frozen=True)
class Advantage:
    """Paired differences of a network with attention to the network without.

    Attributes:
        config_id: Id of its configuration.
        number: Number of its trial; ``None`` for a baseline that the search did not evaluate.
        name: Name of a baseline; empty for others.
        accuracy: Difference of accuracies, as a share; the interval is corrected for the number of networks.
        judged: The same of the objective that decides, with the name of ``quality``.
        quality: Name of that objective: ``accuracy`` or ``log_loss``.
    """

    config_id: str
    number: int | None
    name: str
    accuracy: Interval
    judged: Interval
    quality: str

    @property
    def measurable(self) -> bool:
        """Whether the network is significantly better than the one without attention."""
        sign = OBJECTIVES[self.quality].sign
        return min(sign * self.judged[1], sign * self.judged[2]) > 0

    @property
    def harmful(self) -> bool:
        """Whether the network is significantly worse than the one without attention."""
        sign = OBJECTIVES[self.quality].sign
        return max(sign * self.judged[1], sign * self.judged[2]) < 0


@dataclass(frozen=True)
class Gain:
    """The gain of the best network with attention over the network without, in words, and whether it is significant.

    Attributes:
        measurable: Whether it is significant.
        sentence: The same in words.
        networks: Networks with attention: the best first, then others on the front or, in a verification, all others.
    """

    measurable: bool
    sentence: str
    networks: tuple[Advantage, ...] = ()


def gain_over_none(study: optuna.Study, table: pd.DataFrame, attention: str = SE) -> Gain | None:
    """Return the estimated gain of the best complete trial with attention over the network without.

    Differences are paired by image. The interval has Bonferroni's correction for the number of trials with attention,
    because the best of many trials has a selection bias. ``None`` if the network without or one with it is missing.

    Args:
        study: The trials.
        table: From :func:`trials_table`, for the front.
        attention: The word for the kinds of attention that were searched.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    with converting_foreign_trial_errors():
        none = next((trial for trial in complete if trial.user_attrs["se_blocks"] == 0), None)
        others = [trial for trial in complete if trial.user_attrs["se_blocks"] > 0]
        if none is None or not others:
            return None
        quality = quality_of(study)
        best = max(others, key=lambda trial: quality.sign * trial.user_attrs[quality.name])
        front = set(table["number"][table["on_front"]])
        described = [best, *(trial for trial in others if trial.number in front and trial is not best)]
        networks = tuple(_advantage(trial, none, quality, confidence_of_each(len(others))) for trial in described)
    return describe_gain(
        f"trial {best.number}", networks, len(others), "image", attention, " (estimated by the search)"
    )


def describe_gain(
    best: str,
    networks: tuple[Advantage, ...],
    comparisons: int,
    paired_by: str,
    attention: str = SE,
    source: str = "",
) -> Gain:
    """Return whether the best network is significantly better than the one without attention, also in words.

    Args:
        best: Name of the best network with attention.
        networks: Networks with attention, the best one first.
        comparisons: Number of networks with attention, for which their intervals are corrected.
        paired_by: Unit of the pairs.
        attention: The word for the kinds of attention that were searched.
        source: Source of the values, if the context does not name it.
    """
    first = networks[0]
    change = (
        f"changes {OBJECTIVES[first.quality].words} by {difference_in_words(first.quality, Estimate(*first.judged))} "
        f"relative to no {attention} (paired by {paired_by}, corrected for {counted(comparisons, 'comparison')})"
    )
    if first.measurable:
        return Gain(True, f"Significant gain from {attention}{source}. {upper_first(best)} {change}.", networks)
    best_of = f"The best of {counted(comparisons, 'configuration')}, {best}, {change}."
    return Gain(False, f"No significant gain from {attention}{source}. {best_of}", networks)


def front_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows on the Pareto front, from the smallest network to the largest."""
    return _by_size(table[table["on_front"]])


def candidates_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the front and the trials not distinguishable from it: those of which more should be known."""
    return _by_size(table[table["on_front"] | table["tied_with"].notna()])


def _by_size(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sort_values(["parameter_overhead", "accuracy"], ascending=[True, False])


def cautions(table: pd.DataFrame, chance: float, attention: str = SE, helps: bool = False) -> list[str]:
    """Return sentences about the limits of the front.

    Args:
        table: From :func:`trials_table`.
        chance: Accuracy at chance level.
        attention: The word for the kinds of attention that were searched.
        helps: Whether verification has shown that attention helps, whatever the search's estimates show.
    """
    front = front_of(table)
    if not (table["state"] == "complete").any():
        return ["No configuration has been evaluated yet."]
    if front.empty:
        return ["No evaluated configuration keeps the limits, so the Pareto front is empty."]
    said = []
    if front["accuracy_low"].max() <= chance:
        said.append(
            f"No front member is significantly better than chance ({percent(chance, 0)}): the networks have not "
            "learned. Train for more epochs or with a lower learning_rate."
        )
    tied = int(table["tied_with"].notna().sum())
    if tied:
        said.append(
            f"{tied} of {counted(len(front) + tied, 'candidate')} for the front {'is' if tied == 1 else 'are'} not "
            "measurably better than a cheaper one: the apparent gain may be noise."
        )
    if front["se_blocks"].max() == 0 and not helps:
        said.append(
            f"No configuration with {attention} is on the front: none was measurably better than no {attention}."
        )
    elif front["counted_parameters"].nunique() == 1 and front["se_blocks"].max() > 0:
        said.append("All front members have the same number of parameters: no larger network was measurably better.")
    return said


def _row(trial: FrozenTrial, columns: Iterable[str]) -> dict[str, Any]:
    attributes = trial.user_attrs
    placed = read_config(attributes["config"]).placed
    texts = {name: attributes.get(name, "") for name in ("name", "latency_stopped", "error")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} is not a string")
    seconds = trial.duration.total_seconds() if trial.duration else math.nan
    is_measured = texts["latency_stopped"] != PREDICTED
    return (
        # A latency that is not pooled is what was measured.
        {measured: attributes.get(name, math.nan) for measured, name in _MEASURED.items() if is_measured}
        | {name: attributes[name] for name in columns if name in attributes}
        | texts
        | {
            "number": trial.number,
            "state": _STATES[trial.state],
            "config_id": str(attributes["config_id"]),
            "feasible": is_feasible(trial),
            "on_front": False,
            "tied_with": None,
            "front_probability": 0.0 if is_feasible(trial) else math.nan,
            "gate": placed[0].gate if placed else "",
            "se_blocks": int(attributes["se_blocks"]),
            "seconds": seconds if seconds >= 0 else math.nan,  # negative: the clock was set back meanwhile
        }
    )


def _advantage(trial: FrozenTrial, none: FrozenTrial, quality: Objective, confidence: float) -> Advantage:
    accuracy, judged = (astuple(_difference(trial, none, one, confidence)) for one in (OBJECTIVES["accuracy"], quality))
    config_id, name = (str(trial.user_attrs.get(key, "")) for key in ("config_id", "name"))
    return Advantage(config_id, trial.number, name, accuracy, judged, quality.name)


def _difference(
    first: FrozenTrial, second: FrozenTrial, quality: Objective, confidence: float = CONFIDENCE
) -> Estimate:
    one, other = (unpack(trial.user_attrs[quality.outcomes]) for trial in (first, second))
    return crossed_difference(one, other, confidence)


_FORMULA = ("=", "+", "-", "@", "\t", "\n")


def to_csv(table: pd.DataFrame, header: bool = True) -> str:
    """Return a table as CSV in which no text is a formula for a spreadsheet: an apostrophe precedes such a text.

    Texts can come from somebody else's run folder, and a spreadsheet would execute them.
    """

    def safe(cell: Any) -> Any:
        if not isinstance(cell, str):
            return cell
        text = cell.replace("\r", "\n")  # not every version of Python quotes a carriage return, which begins a row
        return f"'{text}" if text.startswith(_FORMULA) else text

    texts = table.select_dtypes(exclude=["number", "bool", "datetime"])
    return table.assign(**{str(name): texts[name].map(safe) for name in texts}).to_csv(index=False, header=header)
