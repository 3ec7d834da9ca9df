"""What is measured of trials: its titles, units and intervals, in figures and under the pointer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from ..trials.notes import PREDICTED
from .configuration import draw_configuration, draw_squares
from .style import cut, error_bars


@dataclass(frozen=True)
class Column:
    """A measured column of the table of trials, as figures and tables show it.

    Attributes:
        name: In the table of trials.
        heading: In tables, and under the pointer.
        title: Of an axis, with its unit.
        short_title: Of a narrow axis.
        form: How a value is written, once it is multiplied by ``factor``.
        factor: From the table's unit to the one that is shown.
        interval: Names of the columns of its interval; ``None`` where it is exact.
        decimals: Of the ends of its interval.
    """

    name: str
    heading: str
    title: str
    short_title: str
    form: str
    factor: float = 1.0
    interval: tuple[str, str] | None = None
    decimals: int = 3


MEASURED = {
    one.name: one
    for one in (
        Column(
            "accuracy",
            "accuracy",
            "accuracy (%)",
            "accuracy %",
            "{:.2f} %",
            100.0,
            ("accuracy_low", "accuracy_high"),
            2,
        ),
        Column(
            "log_loss",
            "log-loss",
            "log-loss (lower is better)",
            "log-loss",
            "{:.4f}",
            1.0,
            ("log_loss_low", "log_loss_high"),
            4,
        ),
        Column("parameter_overhead", "parameters", "parameter overhead (%)", "params %", "{:+.2f} %", 100.0, None, 2),
        Column("flops_overhead", "FLOPs", "FLOPs overhead (%)", "FLOPs %", "{:+.2f} %", 100.0, None, 2),
        Column("latency_ratio", "latency", "latency ratio", "latency", "×{:.3f}", 1.0, ("latency_low", "latency_high")),
    )
}
"""What is always measured, in the order in which it is shown."""


def column_of(name: str) -> Column:
    """Return how a column is shown; an objective of the user's own as a number of unknown size."""
    if name in MEASURED:
        return MEASURED[name]
    words = in_words(name)
    taken = {"trial", "SE blocks", *(one.heading for one in MEASURED.values())}
    heading = f"own {words}" if words in taken else words
    return Column(name, heading, words, words, "{:.4g}")


def quality_of_run(run: Mapping[str, Any]) -> Column:
    """Return what the study judges networks by: accuracy or log-loss."""
    return MEASURED[run["quality"].replace("-", "_")]


def columns_of_run(run: Mapping[str, Any]) -> list[Column]:
    """Return what is shown of a run's trials: accuracy, the costs of SE, and all that was searched for."""
    shown = {"accuracy", quality_of_run(run).name, "parameter_overhead", "latency_ratio", *run["objectives"]}
    own = [name for name in run["objectives"] if name not in MEASURED]
    return [column_of(name) for name in (*MEASURED, *own) if name in shown]


def hover_text(row: Mapping[Any, Any], run: dict[str, Any]) -> str:
    """Return what figures show of a trial under the pointer: its configuration drawn, and its values with intervals.

    The text is for Plotly, which reads a few tags in it; what users have named is escaped.

    Args:
        row: The trial's row of the table.
        run: The description of the run, as in ``run.json``.
    """
    lines = [f"<b>trial {row['number']}</b>" + (f" – {cut(row['name'])}" if row["name"] else "")]
    for stage in draw_configuration(row["config"], run["sites"]):
        squares = draw_squares(stage["cells"])
        lines.append(f"stage {stage['stage']} {squares} {escape(stage['label'])}")
    if row["gate"]:
        lines.append(f"gate {cut(row['gate'])}")
    columns = columns_of_run(run)
    if MEASURED["log_loss"] not in columns:
        columns.insert(1, MEASURED["log_loss"])
    for column in columns:
        added = counted_parameters(row["counted_parameters"]) if column.name == "parameter_overhead" else ""
        lines.append(f"{escape(column.heading)} {value_in_words(row, column)}{added}")
    if not pd.isna(row["verified_accuracy"]):
        for column in (MEASURED["accuracy"], MEASURED["log_loss"]):
            lines.append(f"verified {column.heading} {with_interval(interval_of(row, column, 'verified_'), column)}")
    if not pd.isna(row["tied_with"]):
        lines.append(f"{run['quality']} cannot be told from trial {int(row['tied_with'])}'s")
    if not row["feasible"]:
        lines.append("beyond the limits")
    return "<br>".join(lines)


def in_words(name: str) -> str:
    """Return a column's name as a sentence has it."""
    return "log-loss" if name == "log_loss" else name.replace("_", " ").replace("flops", "FLOPs")


def value_in_words(row: Mapping[Any, Any], column: Column) -> str:
    """Write a trial's value, with its interval where it has one, and whether it was predicted."""
    if column.interval is None:
        return write_value(row[column.name], column)
    predicted = column.name == "latency_ratio" and row["latency_stopped"] == PREDICTED
    return with_interval(interval_of(row, column), column) + (", predicted" if predicted else "")


def interval_of(row: Mapping[Any, Any], column: Column, prefix: str = "") -> list[float]:
    """Return a value with the ends of its interval; the value thrice where it is exact."""
    low, high = column.interval or (column.name, column.name)
    return [row[prefix + column.name], row[prefix + low], row[prefix + high]]


def with_interval(values: Sequence[float], column: Column, signed: bool = False) -> str:
    """Write a value with the ends of its interval, in the unit that is shown."""
    value, low, high = values
    return f"{write_value(value, column, signed)} {write_interval(low, high, column, signed)}"


def write_value(value: float, column: Column, signed: bool = False) -> str:
    """Write a value in the unit that is shown."""
    return filled(column.form.replace("{:", "{:+") if signed else column.form, value * column.factor)


def write_interval(low: float, high: float, column: Column, signed: bool = False) -> str:
    """Write the ends of an interval, in the unit that is shown."""
    pattern = f"{{:{'+' if signed else ''}.{column.decimals}f}}"
    return f"[{filled(pattern, low * column.factor)}, {filled(pattern, high * column.factor)}]"


def filled(pattern: str, value: float) -> str:
    """Write a number, or a dash where it is missing."""
    return "–" if pd.isna(value) else pattern.format(value)


def counted_parameters(parameters: Any) -> str:
    """Write a number of parameters in brackets; nothing where it is missing."""
    return "" if pd.isna(parameters) else f" ({int(parameters):+,})"


def bars_of(rows: pd.DataFrame, column: Column, colour: str, prefix: str = "") -> dict[str, Any]:
    """Return Plotly's error bars for a column of rows."""
    low, high = column.interval or (column.name, column.name)
    return error_bars(colour, *(rows[prefix + name] * column.factor for name in (column.name, low, high)))
