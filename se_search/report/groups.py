"""Groups of trials that figures draw alike: the front, what is not distinguishable from it, baselines, others."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.basedatatypes import BaseTraceType

from ..results.record import RunRecord
from ..study.objectives import Objective
from .measures import hover_text
from .style import BARS, EDGE, FAINT_LINES, INK, SHADES, short_numbers

MANY = 200


@dataclass(frozen=True)
class Group:
    """Trials that are drawn alike, with the style of their markers and of their lines in parallel coordinates.

    Attributes:
        label: Text in the legend.
        rows: Rows of the table of trials.
        symbol: Marker symbol.
        size: Marker size in pixels.
        edge: Width of the marker's outline.
        line: Colour of lines.
        dash: Dash style of lines.
        prominent: Whether they stand out from the other trials.
    """

    label: str
    rows: pd.DataFrame
    symbol: str
    size: int
    edge: float
    line: str
    dash: str
    prominent: bool

    @property
    def outline(self) -> dict[str, Any]:
        """Outline of the markers; that of an open symbol has the marker's own colour."""
        return {"width": self.edge} | ({} if "open" in self.symbol else {"color": INK if self.prominent else EDGE})


def group_trials(complete: pd.DataFrame) -> list[Group]:
    """Group complete trials, the front last, so that it is drawn on top."""
    named, front = complete["name"] != "", complete["on_front"]
    feasible, tied = complete["feasible"], complete["tied_with"].notna()
    verified = complete["verified_accuracy"].notna().any()
    front_label = "Pareto front (estimates)" if verified else "Pareto front"
    tied_label, baseline_label = "not distinguishable from a cheaper trial", "baselines (thick edge: on the front)"
    kinds: tuple[tuple[Any, ...], ...] = (
        ("beyond the limits", ~feasible & ~named, "x", 8, 1, FAINT_LINES, "dot", False),
        ("other trials", feasible & ~front & ~tied & ~named, "circle", 8, 1, FAINT_LINES, "solid", False),
        (tied_label, tied & ~named, "circle-open", 10, 2, FAINT_LINES, "dash", False),
        (baseline_label, named & ~front & ~tied, "diamond", 14, 1, BARS, "dash", True),
        (baseline_label, named & tied, "diamond-open", 14, 2, BARS, "dashdot", True),
        (front_label, front & ~named, "circle", 13, 2, SHADES[1], "solid", True),
        (baseline_label, named & front, "diamond", 14, 4, SHADES[1], "dash", True),
    )
    return [Group(label, complete[rows], *rest) for label, rows, *rest in kinds if rows.any()]


def legend_entry(name: str, marker: dict[str, Any], kind: type[BaseTraceType] = go.Scatter) -> BaseTraceType:
    """Return a trace without points: Plotly warns about the colour of a legend entry whose points differ in colour."""
    nowhere = {axis: [None] for axis in ("xyz" if kind is go.Scatter3d else "xy")}
    return kind(**nowhere, mode="markers", name=name, marker=marker, legendgroup=name)


def trial_data(rows: pd.DataFrame, before: str = "") -> dict[str, Any]:
    """Return trial numbers for a trace, and its hover template: ``before``, then the text from :func:`add_texts`."""
    return {"customdata": rows["number"].tolist(), "hovertemplate": before + "%{text}<extra></extra>"}


def add_texts(figures: Iterable[go.Figure], trials: pd.DataFrame, run: RunRecord) -> None:
    """Add hover texts to traces of trials. A page does not need them: it stores each text once for all figures."""
    texts = {int(row["number"]): hover_text(row, run) for row in complete_trials(trials).to_dict("records")}
    for figure in figures:
        for trace in figure.data:
            if trace.customdata is not None and trace.text is None:
                trace.text = [texts.get(number) for number in trace.customdata]


def connect_front(figure: go.Figure, front: pd.DataFrame, x: Objective, y: Objective) -> None:
    """Draw the best quality of the front up to each value of ``x``."""
    better = steps_of_front(front, x, y)
    if len(better) > 1:
        figure.add_scatter(
            x=short_numbers(better[x.name] * x.factor),
            y=short_numbers(better[y.name] * y.factor),
            mode="lines",
            line={"shape": "hv", "color": INK, "width": 1, "dash": "dot"},
            name="best up to this cost",
            hoverinfo="skip",
        )


def steps_of_front(trials: pd.DataFrame, x: Objective, y: Objective) -> pd.DataFrame:
    """Return the trials that are better in ``y`` than every trial with a smaller ``x``, the smallest first."""
    ordered = trials.assign(height=y.sign * trials[y.name]).sort_values([x.name, "height"], ascending=[True, False])
    return ordered[ordered["height"] > ordered["height"].cummax().shift(fill_value=-math.inf)]


def complete_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the complete trials."""
    return trials[trials["state"] == "complete"]
