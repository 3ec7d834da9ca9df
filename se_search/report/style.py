"""Colours, fonts and small parts that all figures share."""

import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif'
INK = "#1f2937"
SOFT = "#6b7280"
GRID = "#e3e6ea"
PAPER = "rgba(255,255,255,0.92)"
BARS = "rgba(31,41,55,0.55)"
FAINT_BARS = "rgba(107,114,128,0.28)"
FAINT_LINES = "rgba(107,114,128,0.30)"
EMPTY_CELL = "rgba(107,114,128,0.12)"
EDGE = "#8b95a1"
CLEAR = "rgba(0,0,0,0)"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""The colour-blind safe palette of Okabe and Ito, without its yellow, which is invisible on white."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Line styles, so that lines differ without colour."""
SCALE = ("#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39")
SHADES = ("#08306b", "#08519c", "#2171b5", "#4292c6", "#6baed6", "#9ecae1")
DARK: dict[str, str] = {
    INK: "#f3f4f6",
    SOFT: "#a8b0bd",
    GRID: "#39424f",
    PAPER: "rgba(17,24,39,0.92)",
    BARS: "rgba(243,244,246,0.6)",
    FAINT_BARS: "rgba(168,176,189,0.35)",
    FAINT_LINES: "rgba(168,176,189,0.36)",
    EMPTY_CELL: "rgba(168,176,189,0.16)",
    SCALE[0]: "#8a74d6",
    PALETTE[0]: "#3d9be0",
    **dict(zip(SHADES, ("#eaf4ff", "#c6e0f7", "#93c5ec", "#5ea3d8", "#3a7fb8", "#2b6193"), strict=True)),
}
"""Dark-page replacement of each theme-dependent colour of a light page.

No replacement is itself a key, so they can be replaced one after the other in a figure's JSON.
"""
SELECTABLE = {"selected": {"marker": {"opacity": 1, "size": 16}}, "unselected": {"marker": {"opacity": 0.25}}}
"""Appearance of points in a selection."""
LABEL: dict[str, Any] = {"showarrow": False, "font": {"size": 12, "color": INK}, "bgcolor": PAPER}
"""An annotation inside a figure."""


_MODE_BAR = 36  # pixels at the right edge for Plotly's buttons, which would cover what is drawn there


def cut(text: str, longest: int = 60) -> str:
    """Return a name as HTML, shortened where it is long."""
    return escape(text if len(text) <= longest else text[: longest - 1] + "…")


def short_numbers(values: Iterable[float], digits: int = 6) -> list[float | None]:
    """Round numbers to significant digits for short JSON; missing ones become ``None``."""
    return [None if pd.isna(value) else float(f"{value:.{digits}g}") for value in values]


def error_bars(colour: str, value: Any, low: Any, high: Any, digits: int = 4) -> dict[str, Any]:
    """Return Plotly's error bars from the ends of intervals; the arguments are arrays or series."""
    return {
        "type": "data",
        "symmetric": False,
        "array": short_numbers(high - value, digits),
        "arrayminus": short_numbers(value - low, digits),
        "color": colour,
        "thickness": 1,
        "width": 2,
    }


def empty_figure(sentence: str, height: int = 200) -> go.Figure:
    """Return a figure that only says why it is empty."""
    figure = go.Figure()
    style_figure(figure, "", "")
    figure.add_annotation(
        text="<br>".join(escape(line) for line in textwrap.wrap(sentence, 44)),
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        font={"size": 14, "color": SOFT},
    )
    return figure.update_layout(height=height, xaxis={"visible": False}, yaxis={"visible": False})


def category_axis(labels: Sequence[str], downwards: bool = False) -> dict[str, Any]:
    """Return an axis with one place for each label, counted from 0."""
    ends = [-0.5, len(labels) - 0.5]
    return {
        "tickvals": list(range(len(labels))),
        "ticktext": labels,
        "range": ends[::-1] if downwards else ends,
        "showgrid": False,
    }


def style_figure(figure: go.Figure, x_title: str, y_title: str) -> None:
    """Give a figure the fonts, light-page colours and axes of the report."""
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": EDGE,
        "tickcolor": EDGE,
        "ticks": "outside",
        "automargin": True,
    }
    figure.update_layout(
        template="none",
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font={"family": _FONT, "size": 13, "color": INK},
        margin={"l": 10, "r": _MODE_BAR, "t": 30, "b": 10},
        legend={
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
            "bgcolor": CLEAR,
            "font": {"size": 12},
        },
        hoverlabel={"align": "left", "bgcolor": PAPER, "bordercolor": EDGE, "font": {"color": INK, "size": 13}},
        hovermode="closest",
        modebar={"orientation": "v", "bgcolor": CLEAR, "color": EDGE, "activecolor": SOFT},
        xaxis=axis | {"title": {"text": x_title, "font": {"size": 13}}},
        yaxis=axis | {"title": {"text": y_title, "font": {"size": 13}}},
    )
