"""Quality against a cost: every trial as a point with its intervals, in figures of two axes and a colour."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..results.record import RunRecord
from ..study.objectives import OBJECTIVES, Objective
from ..trials.notes import PREDICTED
from .groups import MANY, Group, complete_trials, connect_front, group_trials, trial_data
from .measures import bars_of, write_limit
from .style import BARS, EDGE, FAINT_BARS, INK, PAPER, SCALE, SELECTABLE, cut, empty_figure, short_numbers, style_figure

_VERIFIED = "#d55e00"
_LIMIT = "#cc79a7"


def quality_against_overhead(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw accuracy (log-loss where the study judges by that) against parameter overhead, coloured by latency ratio.

    Of more than 200 trials off the front only the pointer tells the intervals.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    return _scatter(trials, run, OBJECTIVES["parameter_overhead"], OBJECTIVES["latency_ratio"])


def quality_against_latency(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw accuracy or log-loss against latency ratio, both with intervals, coloured by parameter overhead.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    return _scatter(trials, run, OBJECTIVES["latency_ratio"], OBJECTIVES["parameter_overhead"])


def _scatter(trials: pd.DataFrame, run: RunRecord, x: Objective, colour: Objective) -> go.Figure:
    y, limit = run.quality, run.constraints.most_of(x)
    shown = complete_trials(trials).dropna(subset=[x.name, y.name])
    if shown.empty:
        return empty_figure("No complete trial yet.")
    figure = go.Figure()
    connect_front(figure, shown[shown["on_front"]], x, y)
    _draw_verified_lines(figure, shown, x, y)
    groups = group_trials(shown)
    for group in groups:
        figure.add_trace(_points(group, x, y, colour))
    for group in {group.label: group for group in groups}.values():
        figure.add_trace(_legend_entry(group.label, group.symbol, group.size, group.edge, group.prominent))
    _draw_verified(figure, shown, x, y)
    if (shown["latency_stopped"] == PREDICTED).any():
        figure.add_trace(_legend_entry("with a dot: latency predicted", "circle-dot", 10, 1, True))
    _label_baselines(figure, shown, x, y)
    _draw_limit(figure, limit, x)
    style_figure(figure, x.title, y.title)
    figure.update_xaxes(range=_range(shown, x, limit))
    # The colour bar stands at the foot of the figure, whose height is known; Plotly would lay its title over it.
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
        height=580,
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
    marker: dict[str, Any] = {
        "symbol": [group.symbol + "-dot" if one else group.symbol for one in predicted]
        if predicted.any()
        else group.symbol,
        "size": group.size,
        "opacity": [1.0 if kept else 0.45 for kept in rows["feasible"]] if group.prominent else 0.8,
        # Plotly refuses None among colours, but not NaN, and draws both in grey.
        "color": [math.nan if one is None else one for one in short_numbers(rows[colour.name] * colour.factor)],
        "coloraxis": "coloraxis",
    }
    # An open symbol's edge is drawn in the marker's own colour.
    marker["line"] = {"width": group.edge} | (
        {} if "open" in group.symbol else {"color": INK if group.prominent else EDGE}
    )
    return go.Scatter(
        x=short_numbers(rows[x.name] * x.factor),
        y=short_numbers(rows[y.name] * y.factor),
        error_x=bars_of(rows, x, bars) if barred and x.interval else None,
        error_y=bars_of(rows, y, bars) if barred else None,
        mode="markers",
        name=group.label,
        legendgroup=group.label,
        showlegend=False,
        marker=marker,
        **trial_data(rows),
        **SELECTABLE,
    )


def _legend_entry(label: str, symbol: str, size: int, edge: float, prominent: bool) -> go.Scatter:
    # An entry of its own: Plotly warns about the colour of an entry whose points are coloured by value.
    line = {"width": edge} | ({} if "open" in symbol else {"color": INK if prominent else EDGE})
    marker = {"symbol": symbol, "size": size, "color": EDGE, "line": line}
    return go.Scatter(x=[None], y=[None], mode="markers", name=label, marker=marker, legendgroup=label)


def _draw_verified_lines(figure: go.Figure, shown: pd.DataFrame, x: Objective, y: Objective) -> None:
    verified = shown.dropna(subset=[f"verified_{y.name}"])
    if verified.empty:
        return
    places: list[float | None] = []
    ends: list[float | None] = []
    for row in verified.to_dict("records"):
        places += [*short_numbers([row[x.name] * x.factor] * 2), None]
        ends += [*short_numbers([row[y.name] * y.factor, row[f"verified_{y.name}"] * y.factor]), None]
    figure.add_trace(
        go.Scatter(
            x=places,
            y=ends,
            mode="lines",
            line={"color": _VERIFIED, "width": 1},
            hoverinfo="skip",
            legendgroup="verified",
            showlegend=False,
        )
    )


def _draw_verified(figure: go.Figure, shown: pd.DataFrame, x: Objective, y: Objective) -> None:
    verified = shown.dropna(subset=[f"verified_{y.name}"])
    if verified.empty:
        return
    figure.add_trace(
        go.Scatter(
            x=short_numbers(verified[x.name] * x.factor),
            y=short_numbers(verified[f"verified_{y.name}"] * y.factor),
            error_y=bars_of(verified, y, _VERIFIED, "verified_"),
            mode="markers",
            name="verified (trained by itself, test images)",
            legendgroup="verified",
            marker={"symbol": "square", "size": 11, "color": _VERIFIED, "line": {"color": INK, "width": 1}},
            **trial_data(verified),
            **SELECTABLE,
        )
    )


def _range(shown: pd.DataFrame, x: Objective, limit: float | None) -> list[float | None]:
    """Return the ends of an axis that holds all points and the limit; intervals that are far wider are cut off."""
    low, high = x.interval or (x.name, x.name)
    reached = [shown[x.name].min(), shown[x.name].max(), *([] if limit is None else [limit])]
    span = max(reached) - min(reached) or 0.1 * abs(max(reached)) or 0.01
    first = max(min(reached) - span, min(*reached, shown[low].min()))
    last = min(max(reached) + span, max(*reached, shown[high].max()))
    margin = 0.06 * (last - first) or span
    return short_numbers([(first - margin) * x.factor, (last + margin) * x.factor])


def _label_baselines(figure: go.Figure, shown: pd.DataFrame, x: Objective, y: Objective) -> None:
    baselines = shown[shown["name"] != ""].sort_values(x.name)
    if baselines.empty:
        return
    # Baselines often have near values: their labels form a staircase at the foot, which no line of another crosses.
    foot = shown[y.interval[0] if y.interval else y.name].min() * y.factor
    height = shown[y.name].max() * y.factor - foot
    step = min(0.12, 0.4 / len(baselines))
    middle = (shown[x.name].min() + shown[x.name].max()) / 2
    for place, row in enumerate(reversed(baselines.to_dict("records"))):
        figure.add_annotation(
            x=row[x.name] * x.factor,
            y=row[y.name] * y.factor,
            text=cut(row["name"], 30),
            name="baseline",
            arrowhead=0,
            arrowcolor=BARS,
            ax=14 if row[x.name] <= middle else -14,
            ayref="y",
            ay=foot + height * (0.38 - step * place),
            xanchor="left" if row[x.name] <= middle else "right",
            font={"size": 12, "color": INK},
            bgcolor=PAPER,
        )


def _draw_limit(figure: go.Figure, limit: float | None, x: Objective) -> None:
    if limit is None:
        return
    figure.add_shape(
        type="line",
        x0=limit * x.factor,
        x1=limit * x.factor,
        y0=0,
        y1=1,
        yref="paper",
        name="limit",
        line={"color": _LIMIT, "width": 2, "dash": "dash"},
    )
    figure.add_annotation(
        x=limit * x.factor,
        y=1,
        yref="paper",
        text=f"limit {write_limit(limit, x)}",
        name="limit",
        showarrow=False,
        xanchor="right",
        yanchor="top",
        textangle=0,
        font={"size": 12, "color": INK},
        bgcolor=PAPER,
    )
