"""Values of objectives as text, with units and intervals, for tables and hover texts."""

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
    """Return the objectives to show: accuracy, the costs of SE, and the study's own."""
    shown = {"accuracy", run.quality.name, "parameter_overhead", "latency_ratio", *(one.name for one in run.objectives)}
    own = [one for one in run.objectives if one.name not in OBJECTIVES]
    return [one for one in (*OBJECTIVES.values(), *own) if one.name in shown]


def hover_text(row: Mapping[Any, Any], run: RunRecord) -> str:
    """Return the hover text of a trial, its configuration and values, as Plotly's HTML with names escaped."""
    lines = [f"<b>trial {row['number']}</b>" + (f" – {cut(row['name'])}" if row["name"] else "")]
    for stage in draw_configuration(row["config"], run.sites, run.attention):
        lines.append(f"stage {stage.stage} {draw_squares(stage.cells)} {escape(stage.label)}")
    if row["gate"]:
        lines.append(f"gate {cut(row['gate'])}")
    columns = objectives_shown(run)
    if OBJECTIVES["log_loss"] not in columns:
        columns.insert(1, OBJECTIVES["log_loss"])
    for column in columns:
        counted = column.name == "parameter_overhead" and not pd.isna(row["counted_parameters"])
        added = f" ({int(row['counted_parameters']):+,})" if counted else ""
        lines.append(f"{escape(column.heading)} {value_in_words(row, column)}{added}")
    if not pd.isna(row["verified_accuracy"]):
        for column in (OBJECTIVES["accuracy"], OBJECTIVES["log_loss"]):
            lines.append(f"verified {column.heading} {with_interval(interval_of(row, column, 'verified_'), column)}")
    if not pd.isna(row["tied_with"]):
        lines.append(tie_in_words(row))
    if not row["feasible"]:
        lines.append("beyond the limits")
    return "<br>".join(lines)


def tie_in_words(row: Mapping[Any, Any]) -> str:
    """Say over which trial one has no measurable advantage."""
    return f"no measurable advantage over trial {int(row['tied_with'])}"


def value_in_words(row: Mapping[Any, Any], column: Objective) -> str:
    """Format a trial's value with its interval, if any, and whether it was predicted."""
    if column.interval is None:
        return write_value(row[column.name], column)
    predicted = column.name == "latency_ratio" and row["latency_stopped"] == PREDICTED
    return with_interval(interval_of(row, column), column) + (", predicted" if predicted else "")


def interval_of(row: Mapping[Any, Any] | pd.DataFrame, column: Objective, prefix: str = "") -> list[Any]:
    """Return a value with the ends of its interval; an exact value three times."""
    return [row[prefix + name] for name in (column.name, *(column.interval or [column.name] * 2))]


def with_interval(values: Sequence[float], column: Objective, signed: bool = False) -> str:
    """Format a value with the ends of its interval, in the displayed unit."""
    value, low, high = values
    return f"{write_value(value, column, signed)} {write_interval(low, high, column, signed)}"


def write_value(value: float, column: Objective, signed: bool = False) -> str:
    """Format a value in the displayed unit."""
    return _filled(column.form.replace("{:", "{:+") if signed else column.form, value * column.factor)


def write_interval(low: float, high: float, column: Objective, signed: bool = False) -> str:
    """Format the ends of an interval in the displayed unit."""
    pattern = f"{{:{'+' if signed else ''}.{column.decimals}f}}"
    return f"[{_filled(pattern, low * column.factor)}, {_filled(pattern, high * column.factor)}]"


def write_limit(limit: float, one: Objective) -> str:
    """Format the limit of an objective, without trailing zeros."""
    return re.sub(r"\.\d+f", "g", one.form).format(limit * one.factor)


def _filled(pattern: str, value: float) -> str:
    """Format a number; a missing one is a dash."""
    return "–" if pd.isna(value) else pattern.format(value)


def bars_of(rows: pd.DataFrame, column: Objective, colour: str, prefix: str = "") -> dict[str, Any]:
    """Return Plotly's error bars for a column of the table of trials."""
    return error_bars(colour, *(one * column.factor for one in interval_of(rows, column, prefix)))
