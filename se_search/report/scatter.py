"""Quality against a cost: every trial as a point with its intervals; a colour shows another cost."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..results.record import RunRecord
from ..study.objectives import OBJECTIVES, Objective
from ..trials.notes import PREDICTED
from .groups import MANY, Group, complete_trials, connect_front, group_trials, legend_entry, trial_data
from .measures import bars_of, write_limit
from .style import (
    BARS,
    EDGE,
    FAINT_BARS,
    INK,
    LABEL,
    SCALE,
    SELECTABLE,
    SOFT,
    cut,
    empty_figure,
    short_numbers,
    style_figure,
)

_VERIFIED = "#d55e00"
_LIMIT = "#cc79a7"
_HEIGHT = 580
_MARGINS = 240  # pixels of titles, colour bar and a legend of some rows
_LABEL_HEIGHT = 20
_FENCES = 3


def quality_against_overhead(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw accuracy or log-loss against parameter overhead, coloured by latency ratio.

    Groups of more than 200 trials off the front have no error bars; hover texts state their intervals.
    """
    return _scatter(trials, run, OBJECTIVES["parameter_overhead"], OBJECTIVES["latency_ratio"])


def quality_against_latency(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw accuracy or log-loss against latency ratio, coloured by parameter overhead."""
    return _scatter(trials, run, OBJECTIVES["latency_ratio"], OBJECTIVES["parameter_overhead"])


def _scatter(trials: pd.DataFrame, run: RunRecord, x: Objective, colour: Objective) -> go.Figure:
    y, limit = run.quality, run.constraints.most_of(x)
    shown = complete_trials(trials).dropna(subset=[x.name, y.name])
    if shown.empty:
        return empty_figure("No complete trial yet.")
    figure = go.Figure()
    connect_front(figure, shown[shown["on_front"]], x, y)
    verified = _verified(shown, x, y)
    figure.add_traces(verified[:1])
    groups = group_trials(shown)
    figure.add_traces([_points(group, x, y, colour) for group in groups])
    for group in {group.label: group for group in groups}.values():
        marker = {"symbol": group.symbol, "size": group.size, "color": EDGE, "line": group.outline}
        figure.add_trace(legend_entry(group.label, marker))
    figure.add_traces(verified[1:])
    if (shown["latency_stopped"] == PREDICTED).any():
        marker = {"symbol": "circle-dot", "size": 10, "color": EDGE, "line": {"width": 1, "color": INK}}
        figure.add_trace(legend_entry("dot: predicted latency", marker))
    style_figure(figure, x.title, y.title)
    bulk = shown[_kept(shown, x) & _kept(shown, y)]
    across = _range(bulk, x, [] if limit is None else [limit])
    along = _range(bulk, y, bulk[[f"verified_{name}" for name in y.columns]].to_numpy(float).ravel())
    within = [(shown[one.name] * one.factor).between(low, high) for one, (low, high) in ((x, across), (y, along))]
    _mark_outliers(figure, shown[~(within[0] & within[1])], x, y, across, along)
    height = _HEIGHT
    baselines = shown[shown["name"] != ""].sort_values(x.name)
    if rows := len(baselines) + (limit is not None):
        # Labels have a strip of their own at the foot, where they cover no point.
        step = (along[1] - along[0]) / ((_HEIGHT - _MARGINS) / _LABEL_HEIGHT)
        foot, along[0] = along[0], along[0] - rows * step
        height += rows * _LABEL_HEIGHT
        if limit is not None:
            _draw_limit(figure, limit, x, foot - (rows - 0.5) * step)
        heights = [foot - (place + 0.5) * step for place in range(rows)]
        _label_baselines(figure, baselines, x, y, heights, sum(across) / 2)
    figure.update_layout(xaxis={"range": short_numbers(across)}, yaxis={"range": short_numbers(along)})
    # The colour bar is at the bottom of the figure, whose height is known; Plotly would draw its title over it.
    figure.add_annotation(
        x=0.5,
        y=0,
        xref="paper",
        yref="paper",
        yshift=-64,
        yanchor="middle",
        showarrow=False,
        name="colour",
        text=f"colour: {colour.title}",
        font={"size": 13, "color": INK},
    )
    figure.update_layout(
        height=height,
        margin={"b": 120},
        coloraxis={
            "colorscale": list(SCALE),
            "colorbar": {
                "orientation": "h",
                "thickness": 12,
                "len": 0.7,
                "yref": "container",
                "y": 0.01,
                "yanchor": "bottom",
                "tickangle": 0,
                "nticks": 5,
                "outlinewidth": 0,
            },
        },
    )
    return figure


def _points(group: Group, x: Objective, y: Objective, colour: Objective) -> go.Scatter:
    rows = group.rows
    bars = BARS if group.prominent else FAINT_BARS
    barred = group.prominent or len(rows) <= MANY
    predicted = rows["latency_stopped"] == PREDICTED
    dotted = [group.symbol + "-dot" if one else group.symbol for one in predicted]
    return go.Scatter(
        x=short_numbers(rows[x.name] * x.factor),
        y=short_numbers(rows[y.name] * y.factor),
        error_x=bars_of(rows, x, bars) if barred and x.interval else None,
        error_y=bars_of(rows, y, bars) if barred else None,
        mode="markers",
        name=group.label,
        legendgroup=group.label,
        showlegend=False,
        marker={
            "symbol": dotted if predicted.any() else group.symbol,
            "size": group.size,
            "opacity": [1.0 if kept else 0.45 for kept in rows["feasible"]] if group.prominent else 0.8,
            # Plotly refuses None among colours, but not NaN, and draws both in grey.
            "color": [math.nan if one is None else one for one in short_numbers(rows[colour.name] * colour.factor)],
            "coloraxis": "coloraxis",
            "line": group.outline,
        },
        **trial_data(rows),
        **SELECTABLE,
    )


def _verified(shown: pd.DataFrame, x: Objective, y: Objective) -> list[go.Scatter]:
    """Return lines from estimates to verified values, and points at these; nothing without any."""
    verified = shown.dropna(subset=[f"verified_{y.name}"])
    if verified.empty:
        return []
    ends = verified[[y.name, f"verified_{y.name}"]].assign(gap=np.nan).to_numpy().ravel()
    lines = go.Scatter(
        x=short_numbers(np.repeat(verified[x.name] * x.factor, 3)),
        y=short_numbers(ends * y.factor),
        mode="lines",
        line={"color": _VERIFIED, "width": 1},
        hoverinfo="skip",
        legendgroup="verified",
        showlegend=False,
    )
    points = go.Scatter(
        x=short_numbers(verified[x.name] * x.factor),
        y=short_numbers(verified[f"verified_{y.name}"] * y.factor),
        error_y=bars_of(verified, y, _VERIFIED, "verified_"),
        mode="markers",
        name="verified (retrained, test images)",
        legendgroup="verified",
        marker={"symbol": "square", "size": 11, "color": _VERIFIED, "line": {"color": INK, "width": 1}},
        **trial_data(verified),
        **SELECTABLE,
    )
    return [lines, points]


def quality_range(shown: pd.DataFrame, quality: Objective) -> list[float]:
    """Return the ends of an axis that shows the front, baselines, verified trials and the bulk of the others."""
    return _range(shown[_kept(shown, quality)], quality, ())


def _kept(shown: pd.DataFrame, one: Objective) -> pd.Series:
    """Return which trials determine an axis: the front, baselines, verified ones, and the bulk of the others.

    The bulk is within Tukey's outer fences: three interquartile ranges beyond the quartiles.
    """
    values = shown[one.name]
    low, high = values.quantile([0.25, 0.75])
    reach = _FENCES * (high - low) or math.inf
    bulk = values.between(low - reach, high + reach)
    return bulk | shown["on_front"] | (shown["name"] != "") | shown["verified_accuracy"].notna()


def _range(shown: pd.DataFrame, one: Objective, others: Iterable[float]) -> list[float]:
    """Return the ends of an axis that holds all points and other values; far wider intervals are cut off."""
    reached = [*shown[one.name], *(value for value in others if not math.isnan(value))]
    span = max(reached) - min(reached) or 0.1 * abs(max(reached)) or 0.01
    ends = shown[list(one.columns)]
    first = max(min(reached) - span, min(*reached, ends.min().min()))
    last = min(max(reached) + span, max(*reached, ends.max().max()))
    margin = 0.06 * (last - first) or span
    return [(first - margin) * one.factor, (last + margin) * one.factor]


def _mark_outliers(
    figure: go.Figure, beyond: pd.DataFrame, x: Objective, y: Objective, across: list[float], along: list[float]
) -> None:
    """Mark trials beyond the axes by arrows at the edge; zooming out shows them at their place."""
    if beyond.empty:
        return
    right, up = beyond[x.name] * x.factor, beyond[y.name] * y.factor
    inset_x, inset_y = (0.015 * (ends[1] - ends[0]) for ends in (across, along))
    horizontal = np.where(right < across[0], "left", np.where(right > across[1], "right", ""))
    vertical = np.where(up < along[0], "down", np.where(up > along[1], "up", ""))
    figure.add_scatter(
        x=short_numbers(right.clip(across[0] + inset_x, across[1] - inset_x)),
        y=short_numbers(up.clip(along[0] + inset_y, along[1] - inset_y)),
        mode="markers",
        name="beyond the axes",
        marker={
            "symbol": [f"triangle-{one or other}" for one, other in zip(vertical, horizontal, strict=True)],
            "size": 11,
            "color": SOFT,
            "line": {"color": EDGE, "width": 1},
        },
        **trial_data(beyond),
        **SELECTABLE,
    )


def _draw_limit(figure: go.Figure, limit: float, x: Objective, height: float) -> None:
    figure.add_vline(x=limit * x.factor, name="limit", line={"color": _LIMIT, "width": 2, "dash": "dash"})
    figure.add_annotation(
        **LABEL, x=limit * x.factor, y=height, text=f"limit {write_limit(limit, x)}", name="limit", xanchor="right"
    )


def _label_baselines(
    figure: go.Figure, baselines: pd.DataFrame, x: Objective, y: Objective, heights: Sequence[float], middle: float
) -> None:
    """Label baselines at the heights, from the rightmost down; a label is on the wider side of its line."""
    for row, height in zip(reversed(baselines.to_dict("records")), heights, strict=False):
        left = row[x.name] * x.factor <= middle
        figure.add_annotation(
            **LABEL | {"showarrow": True},
            x=row[x.name] * x.factor,
            y=row[y.name] * y.factor,
            text=cut(row["name"], 30),
            name="baseline",
            arrowhead=0,
            arrowcolor=BARS,
            standoff=8,
            ax=14 if left else -14,
            ayref="y",
            ay=height,
            xanchor="left" if left else "right",
        )
