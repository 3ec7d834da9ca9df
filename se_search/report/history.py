"""The search over time: the front and its hypervolume."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..results.record import RunRecord
from ..study.objectives import OBJECTIVES
from ..words import counted
from .groups import complete_trials, steps_of_front, trial_data
from .style import CLEAR, DASHES, FAINT_BARS, SELECTABLE, SHADES, empty_figure, short_numbers, style_figure

_SYMBOLS = ("circle", "square", "diamond", "triangle-up")


def hypervolume_over_trials(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw the front's hypervolume after each complete trial, with its interval."""
    history = run.hypervolume_history
    if not history:
        return empty_figure("No complete trial yet.", 280)
    figure = go.Figure(
        go.Scatter(
            x=list(range(1, len(history) + 1)),
            y=short_numbers(history),
            mode="lines+markers",
            line={"shape": "hv", "color": SHADES[2], "width": 2},
            marker={"size": 5, "color": SHADES[2]},
            showlegend=False,
            **trial_data(complete_trials(trials), "after %{x} trials: %{y:.4f}<br>"),
            **SELECTABLE,
        )
    )
    for end, fill in zip(zip(*run.hypervolume_intervals, strict=True), (None, "tonexty"), strict=False):
        figure.add_scatter(
            x=list(range(1, len(end) + 1)),
            y=short_numbers(end),
            mode="lines",
            line={"shape": "hv", "color": CLEAR, "width": 0},
            fill=fill,
            fillcolor=FAINT_BARS,
            hoverinfo="skip",
            showlegend=False,
        )
    style_figure(figure, "complete trials", "hypervolume")
    return figure.update_layout(height=280, yaxis={"rangemode": "tozero"})


def front_over_trials(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw the best quality up to each parameter overhead after a quarter, half, three quarters and all of the trials.

    As the hypervolume, these are fronts of estimates.
    """
    x, y = OBJECTIVES["parameter_overhead"], run.quality
    shown = complete_trials(trials).dropna(subset=[x.name, y.name])
    shown = shown[shown["feasible"]]
    if shown.empty:
        return empty_figure("No complete trial within the limits yet.", 280)
    figure = go.Figure()
    counts = sorted({int(np.ceil(len(shown) * part / 4)) for part in (1, 2, 3, 4)})
    for place, count in enumerate(counts, start=len(_SYMBOLS) - len(counts)):
        front = steps_of_front(shown.iloc[:count], x, y)
        colour = SHADES[len(SHADES) - 1 - place] if count < len(shown) else SHADES[1]
        figure.add_scatter(
            x=short_numbers(front[x.name] * x.factor),
            y=short_numbers(front[y.name] * y.factor),
            mode="lines+markers",
            name=f"after {counted(count, 'trial')}",
            line={"shape": "hv", "color": colour, "width": 1 + 0.5 * place, "dash": DASHES[len(_SYMBOLS) - 1 - place]},
            marker={"color": colour, "size": 8, "symbol": _SYMBOLS[place]},
            **trial_data(front),
            **SELECTABLE,
        )
    style_figure(figure, x.title, y.title)
    return figure.update_layout(height=340, showlegend=True)
