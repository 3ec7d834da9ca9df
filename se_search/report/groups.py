"""Trials that figures draw alike: the front, those tied on it, baselines, others."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..results.record import RunRecord
from ..study.objectives import Objective
from .measures import hover_text
from .style import BARS, FAINT_LINES, INK, SHADES, short_numbers

MANY = 200


@dataclass(frozen=True)
class Group:
    """Trials that are drawn alike.

    Attributes:
        label: In the legend.
        rows: The trials.
        symbol: Of their markers.
        size: Of the markers in pixels.
        edge: Width of the markers' edges.
        line: Colour of their lines in parallel coordinates, and ``dash`` their pattern.
        prominent: Whether they are drawn strongly.
    """

    label: str
    rows: pd.DataFrame
    symbol: str
    size: int
    edge: float
    line: str
    dash: str
    prominent: bool


def group_trials(complete: pd.DataFrame) -> list[Group]:
    """Return complete trials in groups, those of the front last: what is drawn later lies above."""
    named, front = complete["name"] != "", complete["on_front"]
    feasible, tied = complete["feasible"], complete["on_front"] & complete["tied_with"].notna()
    verified = complete["verified_accuracy"].notna().any()
    front_label = "Pareto front (estimates)" if verified else "Pareto front"
    tied_label, baseline_label = "front, tied with a smaller one", "baselines (thick edge: on the front)"
    kinds: tuple[tuple[Any, ...], ...] = (
        ("beyond the limits", ~feasible & ~named, "x", 8, 1, FAINT_LINES, "dot", False),
        ("other trials", feasible & ~front & ~named, "circle", 8, 1, FAINT_LINES, "solid", False),
        (baseline_label, named & ~front, "diamond", 14, 1, BARS, "dash", True),
        (tied_label, tied & ~named, "circle-open", 13, 3, SHADES[3], "dot", True),
        (front_label, front & ~tied & ~named, "circle", 13, 2, SHADES[1], "solid", True),
        (baseline_label, named & tied, "diamond-open", 14, 4, SHADES[3], "dashdot", True),
        (baseline_label, named & front & ~tied, "diamond", 14, 4, SHADES[1], "dash", True),
    )
    return [Group(label, complete[rows], *rest) for label, rows, *rest in kinds if rows.any()]


def trial_data(rows: pd.DataFrame, before: str = "") -> dict[str, Any]:
    """Return what a trace of trials carries: their numbers; :func:`add_texts` adds what follows ``before``."""
    return {
        "customdata": rows["number"].tolist(),
        "hovertemplate": before + "%{text}<extra></extra>",
    }


def add_texts(figures: Iterable[go.Figure], trials: pd.DataFrame, run: RunRecord) -> None:
    """Give traces of trials the texts that are shown under the pointer; a page has each text once, for all figures.

    Args:
        figures: Figures of these trials.
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run.
    """
    texts = {int(row["number"]): hover_text(row, run) for row in complete_trials(trials).to_dict("records")}
    for figure in figures:
        for trace in figure.data:
            if trace.customdata is not None and trace.text is None:
                trace.text = [texts.get(number) for number in trace.customdata]


def connect_front(figure: go.Figure, front: pd.DataFrame, x: Objective, y: Objective) -> None:
    """Draw the best quality that the front reaches up to each value of ``x``."""
    ordered = front.assign(height=y.sign * front[y.name]).sort_values([x.name, "height"], ascending=[True, False])
    better = ordered[ordered["height"] > ordered["height"].cummax().shift(fill_value=-math.inf)]
    if len(better) > 1:
        line = go.Scatter(
            x=short_numbers(better[x.name] * x.factor),
            y=short_numbers(better[y.name] * y.factor),
            mode="lines",
            line={"shape": "hv", "color": INK, "width": 1, "dash": "dot"},
            name="best up to here",
            hoverinfo="skip",
        )
        figure.add_trace(line)


def complete_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the complete trials."""
    return trials[trials["state"] == "complete"]
