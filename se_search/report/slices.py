"""Quality by each choice of the configuration."""

import pandas as pd
import plotly.graph_objects as go

from ..results.record import RunRecord
from .groups import complete_trials, group_trials, trial_data
from .parallel import axes_of_choices, spread
from .scatter import quality_range
from .style import EDGE, GRID, INK, LABEL, SELECTABLE, category_axis, cut, empty_figure, short_numbers, style_figure

_SPREAD = 0.6


def quality_by_choice(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw the quality of each complete trial over its choice in each stage, and its gate and positions.

    Trials with the same choice are spread a little. They also differ in their other choices. Triangles at the edge mark
    trials beyond the axis.
    """
    complete = complete_trials(trials).dropna(subset=[run.quality.name])
    if complete.empty:
        return empty_figure("No complete trial yet.")
    axes = axes_of_choices(complete, run)
    starts = [sum(len(axis.choices) + 1 for axis in axes[:index]) for index in range(len(axes))]
    places = {number: index for index, number in enumerate(complete["number"].tolist())}
    ticks: list[str] = []
    low, high = quality_range(complete, run.quality)
    edge = 0.02 * (high - low)
    figure = go.Figure()
    for axis, start in zip(axes, starts, strict=True):
        figure.add_annotation(
            **LABEL,
            x=start + (len(axis.choices) - 1) / 2,
            y=1,
            yref="paper",
            yanchor="bottom",
            text=f"<b>{axis.title}</b>",
        )
        if start:
            figure.add_vline(x=start - 1, line={"color": GRID, "width": 1})
        ticks += [*map(cut, axis.choices), ""]
    for group in group_trials(complete):
        rows = pd.concat([group.rows] * len(axes))
        values = rows[run.quality.name] * run.quality.factor
        figure.add_scatter(
            x=short_numbers(
                start + axis.choices.index(axis.chosen[places[number]]) + _SPREAD * spread(number)
                for axis, start in zip(axes, starts, strict=True)
                for number in group.rows["number"].tolist()
            ),
            y=short_numbers(values.clip(low + edge, high - edge)),
            mode="markers",
            name=group.label,
            legendgroup=group.label,
            showlegend=group.label not in {trace.name for trace in figure.data},
            marker={
                "symbol": [
                    "triangle-up" if one > high else "triangle-down" if one < low else group.symbol for one in values
                ],
                "size": 0.7 * group.size,
                "color": INK if group.prominent else EDGE,
                "opacity": 0.9 if group.prominent else 0.6,
            },
            **trial_data(rows),
            **SELECTABLE,
        )
    style_figure(figure, "", run.quality.title)
    return figure.update_layout(
        height=400,
        margin={"t": 60},
        legend={"y": 1.1},
        xaxis=category_axis(ticks[:-1]) | {"tickangle": -90},
        yaxis={"range": short_numbers([low, high])},
        showlegend=True,
    )
