"""Values of objectives in words: with their units and intervals, in tables and under the pointer."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from ..results.record import RunRecord
from ..study.objectives import OBJECTIVES, Objective
from ..trials.notes import PREDICTED
from .configuration import draw_configuration, draw_squares
from .style import cut, error_bars


def objectives_shown(run: RunRecord) -> list[Objective]:
    """Return what is shown of a run's trials: accuracy, the costs of SE, and all that was searched for."""
    shown = {"accuracy", run.quality.name, "parameter_overhead", "latency_ratio", *(one.name for one in run.objectives)}
    own = [one for one in run.objectives if one.name not in OBJECTIVES]
    return [one for one in (*OBJECTIVES.values(), *own) if one.name in shown]


def hover_text(row: Mapping[Any, Any], run: RunRecord) -> str:
    """Return what figures show of a trial under the pointer: its configuration drawn, and its values with intervals.

    The text is for Plotly, which reads a few tags in it; what users have named is escaped.

    Args:
        row: The trial's row of the table.
        run: The description of the run.
    """
    lines = [f"<b>trial {row['number']}</b>" + (f" – {cut(row['name'])}" if row["name"] else "")]
    for stage in draw_configuration(row["config"], run.sites):
        squares = draw_squares(stage["cells"])
        lines.append(f"stage {stage['stage']} {squares} {escape(stage['label'])}")
    if row["gate"]:
        lines.append(f"gate {cut(row['gate'])}")
    columns = objectives_shown(run)
    if OBJECTIVES["log_loss"] not in columns:
        columns.insert(1, OBJECTIVES["log_loss"])
    for column in columns:
        added = counted_parameters(row["counted_parameters"]) if column.name == "parameter_overhead" else ""
        lines.append(f"{escape(column.heading)} {value_in_words(row, column)}{added}")
    if not pd.isna(row["verified_accuracy"]):
        for column in (OBJECTIVES["accuracy"], OBJECTIVES["log_loss"]):
            lines.append(f"verified {column.heading} {with_interval(interval_of(row, column, 'verified_'), column)}")
    if not pd.isna(row["tied_with"]):
        lines.append(f"{run.quality.words} cannot be told from trial {int(row['tied_with'])}'s")
    if not row["feasible"]:
        lines.append("beyond the limits")
    return "<br>".join(lines)


def value_in_words(row: Mapping[Any, Any], column: Objective) -> str:
    """Write a trial's value, with its interval where it has one, and whether it was predicted."""
    if column.interval is None:
        return write_value(row[column.name], column)
    predicted = column.name == "latency_ratio" and row["latency_stopped"] == PREDICTED
    return with_interval(interval_of(row, column), column) + (", predicted" if predicted else "")


def interval_of(row: Mapping[Any, Any], column: Objective, prefix: str = "") -> list[float]:
    """Return a value with the ends of its interval; the value thrice where it is exact."""
    low, high = column.interval or (column.name, column.name)
    return [row[prefix + column.name], row[prefix + low], row[prefix + high]]


def with_interval(values: Sequence[float], column: Objective, signed: bool = False) -> str:
    """Write a value with the ends of its interval, in the unit that is shown."""
    value, low, high = values
    return f"{write_value(value, column, signed)} {write_interval(low, high, column, signed)}"


def write_value(value: float, column: Objective, signed: bool = False) -> str:
    """Write a value in the unit that is shown."""
    return filled(column.form.replace("{:", "{:+") if signed else column.form, value * column.factor)


def write_interval(low: float, high: float, column: Objective, signed: bool = False) -> str:
    """Write the ends of an interval, in the unit that is shown."""
    pattern = f"{{:{'+' if signed else ''}.{column.decimals}f}}"
    return f"[{filled(pattern, low * column.factor)}, {filled(pattern, high * column.factor)}]"


def write_limit(limit: float, one: Objective) -> str:
    """Write the greatest value that an objective may have, with no more digits than it has."""
    return re.sub(r"\.\d+f", "g", one.form).format(limit * one.factor)


def filled(pattern: str, value: float) -> str:
    """Write a number, or a dash where it is missing."""
    return "–" if pd.isna(value) else pattern.format(value)


def counted_parameters(parameters: Any) -> str:
    """Write a number of parameters in brackets; nothing where it is missing."""
    return "" if pd.isna(parameters) else f" ({int(parameters):+,})"


def bars_of(rows: pd.DataFrame, column: Objective, colour: str, prefix: str = "") -> dict[str, Any]:
    """Return Plotly's error bars for a column of rows."""
    low, high = column.interval or (column.name, column.name)
    return error_bars(colour, *(rows[prefix + name] * column.factor for name in (column.name, low, high)))
