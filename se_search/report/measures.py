"""What is measured of trials: its titles, units and intervals, in figures and under the pointer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from .configuration import draw_configuration, draw_squares
from .style import cut, error_bars

_SHORT = {
    "accuracy": "accuracy %",
    "log_loss": "log-loss",
    "parameter_overhead": "params %",
    "flops_overhead": "FLOPs %",
    "latency_ratio": "latency",
}


@dataclass(frozen=True)
class Measure:
    """A measured column as figures show it: title, factor to the unit there, columns of its interval."""

    column: str
    title: str
    factor: float = 1.0
    interval: tuple[str, str] | None = None
    decimals: int = 3


MEASURES = {
    one.column: one
    for one in (
        Measure("accuracy", "accuracy (%)", 100.0, ("accuracy_low", "accuracy_high"), 2),
        Measure("log_loss", "log-loss (lower is better)", 1.0, ("log_loss_low", "log_loss_high"), 4),
        Measure("parameter_overhead", "parameter overhead (%)", 100.0, None, 2),
        Measure("flops_overhead", "FLOPs overhead (%)", 100.0, None, 2),
        Measure("latency_ratio", "latency ratio", 1.0, ("latency_low", "latency_high"), 3),
    )
}


def hover_text(row: Mapping[Any, Any], run: dict[str, Any]) -> str:
    """Return what figures show of a trial under the pointer: its configuration drawn, and its values with intervals.

    The text is for Plotly, which reads a few tags in it; what users have named is escaped.

    Args:
        row: The trial's row of the table.
        run: The description of the run, as in ``run.json``.
    """
    lines = [f"<b>trial {row['number']}</b>" + (f" – {cut(row['name'])}" if row["name"] else "")]
    for stage in draw_configuration(json.loads(row["config"]), run["sites"]):
        squares = draw_squares(stage["cells"])
        lines.append(f"stage {stage['stage']} {squares} {escape(stage['label'])}")
    if row["gate"]:
        lines.append(f"gate {cut(row['gate'])}")
    for name in ("accuracy", "log_loss"):
        measure = MEASURES[name]
        lines.append(f"{in_words(name)} {with_interval(interval_of(row, measure), measure)}")
    lines.append(
        f"parameters {signed_share(row['parameter_overhead'])}" + counted_parameters(row["counted_parameters"])
    )
    predicted = ", predicted" if row["latency_stopped"] == "model" else ""
    latency = MEASURES["latency_ratio"]
    lines.append(f"latency ×{with_interval(interval_of(row, latency), latency)}{predicted}")
    lines += [
        f"{escape(in_words(name))} {plain_number(row[name])}"
        for name in run["objectives"]
        if name not in ("accuracy", "log_loss", "parameter_overhead", "latency_ratio")
    ]
    if not pd.isna(row["verified_accuracy"]):
        for name in ("accuracy", "log_loss"):
            measure = MEASURES[name]
            verified = with_interval(interval_of(row, measure, "verified_"), measure)
            lines.append(f"verified {in_words(name)} {verified}")
    if not pd.isna(row["tied_with"]):
        lines.append(f"{run['quality']} cannot be told from trial {int(row['tied_with'])}'s")
    if not row["feasible"]:
        lines.append("beyond the limits")
    return "<br>".join(lines)


def quality_of_run(run: dict[str, Any]) -> Measure:
    """Return what the study judges networks by: accuracy or log-loss."""
    return MEASURES[run["quality"].replace("-", "_")]


def measure_of(name: str) -> Measure:
    """Return how a column is shown; one of the user's own as it is."""
    return MEASURES.get(name, Measure(name, in_words(name)))


def short_title(measure: Measure) -> str:
    """Return the title of a narrow axis."""
    return _SHORT.get(measure.column, measure.title)


def in_words(name: str) -> str:
    """Return a column's name as a sentence has it."""
    return "log-loss" if name == "log_loss" else name.replace("_", " ").replace("flops", "FLOPs")


def interval_of(row: Mapping[Any, Any], measure: Measure, prefix: str = "") -> list[float]:
    """Return a value with the ends of its interval; the value thrice where it is exact."""
    low, high = measure.interval or (measure.column, measure.column)
    return [row[prefix + measure.column], row[prefix + low], row[prefix + high]]


def with_interval(values: Sequence[float], measure: Measure, signed: bool = False) -> str:
    """Write a value with its interval, in the unit of figures."""
    unit = " %" if measure.factor == 100.0 else ""
    pattern = f"{{:{'+' if signed else ''}.{measure.decimals}f}}"
    value, low, high = (filled(pattern, value * measure.factor) for value in values)
    return f"{value}{unit} [{low}, {high}]"


def filled(pattern: str, value: float) -> str:
    """Write a number, or a dash where it is missing."""
    return "–" if pd.isna(value) else pattern.format(value)


def signed_share(share: float) -> str:
    """Write a share in per cent with its sign."""
    return filled("{:+.2f} %", share * 100)


def counted_parameters(parameters: Any) -> str:
    """Write a number of parameters in brackets; nothing where it is missing."""
    return "" if pd.isna(parameters) else f" ({int(parameters):+,})"


def plain_number(value: float) -> str:
    """Write a number of unknown size."""
    return filled("{:.4g}", value)


def bars_of(rows: pd.DataFrame, measure: Measure, colour: str, prefix: str = "") -> dict[str, Any]:
    """Return Plotly's error bars for a column of rows."""
    low, high = measure.interval or (measure.column, measure.column)
    return error_bars(colour, *(rows[prefix + name] * measure.factor for name in (measure.column, low, high)))
