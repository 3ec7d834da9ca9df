"""The report's Plotly figures."""

import json
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif'
_INK = "#1f2937"
_FAINT = "rgba(107,114,128,0.28)"


def accuracy_against_overhead(trials: pd.DataFrame, sites: list[dict[str, Any]], limits: str = "") -> go.Figure:
    """Draw accuracy with its interval against parameter overhead in per cent, coloured by latency ratio.

    Args:
        trials: Complete trials, in the columns of ``trials.csv``.
        sites: The sites of the space, as in ``run.json``.
        limits: Plain words for the run's limits, for the legend of trials beyond them.
    """
    return _scatter(trials, sites, "parameter_overhead", 100.0, None, "parameter overhead (%)", limits)


def accuracy_against_latency(trials: pd.DataFrame, sites: list[dict[str, Any]], limits: str = "") -> go.Figure:
    """Draw accuracy against latency ratio, both with their intervals; arguments as the other figure's."""
    interval = ("latency_low", "latency_high")
    return _scatter(trials, sites, "latency_ratio", 1.0, interval, "latency ratio to the bare backbone", limits)


def hypervolume_figure(history: Sequence[float]) -> go.Figure:
    """Draw the front's hypervolume after each complete trial."""
    figure = go.Figure(
        go.Scatter(
            x=list(range(1, len(history) + 1)),
            y=list(history),
            mode="lines",
            line={"shape": "hv", "color": "#21618c", "width": 2},
            hovertemplate="%{x} trials: %{y:.4f}<extra></extra>",
        )
    )
    _style(figure, "complete trials", "hypervolume")
    figure.update_layout(height=280, yaxis={"rangemode": "tozero"})
    return figure


def describe_stages(config: dict[str, Any], sites: list[dict[str, Any]]) -> str:
    """Say in a few words which stages have SE blocks, with which ratios and where.

    Args:
        config: A configuration's plain data.
        sites: ``block``, ``stage`` and ``position`` of every site of the space.
    """
    placed = {(site["block"], site["position"]): site for site in config["sites"]}
    removed = {(site["block"], site["position"]) for site in config["removed"]}
    stages: dict[int, Counter[str]] = {}
    for site in sites:
        key = site["block"], site["position"]
        here = stages.setdefault(int(site["stage"]), Counter())
        if key in placed:
            where = "" if site["position"] in ("standard", "existing") else f" {site['position']}"
            here[f"r={placed[key]['ratio']}{where}"] += 1
        elif site["position"] == "existing" and key not in removed:
            here["kept"] += 1
    parts = []
    for stage, kinds in stages.items():
        if kinds:
            blocks = f"{kinds.total()} block{'s' if kinds.total() > 1 else ''}"
            parts.append(f"stage {stage}: {blocks}, {', '.join(kinds)}")
    return "; ".join(parts) or "no SE"


def _scatter(
    trials: pd.DataFrame,
    sites: list[dict[str, Any]],
    x: str,
    factor: float,
    x_interval: tuple[str, str] | None,
    x_title: str,
    limits: str,
) -> go.Figure:
    named = trials["name"] != ""
    front, feasible = trials["on_front"], trials["feasible"]
    groups: list[tuple[str, pd.DataFrame, dict[str, Any], str]] = [
        (f"beyond the limits{limits}", trials[~feasible & ~named], {"symbol": "x", "size": 8, "opacity": 0.45}, _FAINT),
        ("other trials", trials[feasible & ~front & ~named], {"symbol": "circle", "size": 8, "opacity": 0.8}, _FAINT),
        (
            "Pareto front",
            trials[front & ~named],
            {"symbol": "circle", "size": 13, "line": {"color": _INK, "width": 2}},
            "rgba(31,41,55,0.55)",
        ),
    ]
    figure = go.Figure()
    if named.any():
        baselines = {
            "symbol": "diamond",
            "size": 14,
            "line": {"color": _INK, "width": [3 if member else 1 for member in front[named]]},
            "opacity": [1.0 if kept else 0.45 for kept in feasible[named]],
        }
        groups.append(("baselines (thick edge: on the front)", trials[named], baselines, "rgba(31,41,55,0.4)"))
    for label, rows, marker, bars in groups:
        if len(rows):
            figure.add_trace(_points(rows, sites, label, x, factor, x_interval, marker, bars))
            figure.add_trace(_legend_entry(label, marker["symbol"]))
    _connect_front(figure, trials[front], x, factor)
    _label_baselines(figure, trials, x, factor)
    _style(figure, x_title, "accuracy (%)")
    figure.update_layout(
        height=520,
        coloraxis={
            "colorscale": "Viridis",
            "colorbar": {
                "title": {"text": "latency ratio", "side": "top"},
                "orientation": "h",
                "thickness": 12,
                "len": 0.6,
                "y": -0.2,
                "yanchor": "top",
                "tickformat": ".2f",
                "tickangle": 0,
                "nticks": 5,
            },
        },
    )
    return figure


def _points(
    rows: pd.DataFrame,
    sites: list[dict[str, Any]],
    label: str,
    x: str,
    factor: float,
    x_interval: tuple[str, str] | None,
    marker: dict[str, Any],
    bars: str,
) -> go.Scatter:
    values = rows[x] * factor
    accuracy = rows["accuracy"] * 100
    error_x = None
    if x_interval is not None:
        low, high = x_interval
        error_x = _error_bars(values, rows[low] * factor, rows[high] * factor, bars)
    return go.Scatter(
        x=values,
        y=accuracy,
        error_x=error_x,
        error_y=_error_bars(accuracy, rows["accuracy_low"] * 100, rows["accuracy_high"] * 100, bars),
        mode="markers",
        name=label,
        legendgroup=label,
        showlegend=False,
        marker=marker | {"color": rows["latency_ratio"], "coloraxis": "coloraxis"},
        customdata=rows["number"],
        text=[_hover(row, sites) for row in rows.to_dict("records")],
        hovertemplate="%{text}<extra></extra>",
    )


def _legend_entry(label: str, symbol: str) -> go.Scatter:
    # An entry of its own: Plotly warns about the colour of an entry whose points are coloured by value.
    marker = {"symbol": symbol, "size": 10, "color": "#9ca3af", "line": {"color": _INK, "width": 1}}
    return go.Scatter(x=[None], y=[None], mode="markers", name=label, marker=marker, legendgroup=label)


def _error_bars(value: "pd.Series[float]", low: "pd.Series[float]", high: "pd.Series[float]", colour: str) -> Any:
    return {
        "type": "data",
        "symmetric": False,
        "array": high - value,
        "arrayminus": value - low,
        "color": colour,
        "thickness": 1,
        "width": 2,
    }


def _connect_front(figure: go.Figure, front: pd.DataFrame, x: str, factor: float) -> None:
    """Draw the best accuracy that the front reaches up to each value of ``x``."""
    ordered = front.sort_values([x, "accuracy"], ascending=[True, False])
    better = ordered[ordered["accuracy"] > ordered["accuracy"].cummax().shift(fill_value=-1.0)]
    if len(better) > 1:
        line = go.Scatter(
            x=better[x] * factor,
            y=better["accuracy"] * 100,
            mode="lines",
            line={"shape": "hv", "color": _INK, "width": 1, "dash": "dot"},
            name="best up to here",
            hoverinfo="skip",
        )
        figure.add_trace(line)


def _label_baselines(figure: go.Figure, trials: pd.DataFrame, x: str, factor: float) -> None:
    baselines = trials[trials["name"] != ""]
    # Baselines often have near values: their labels form a staircase at the foot, which no line of another crosses.
    foot = trials["accuracy_low"].min() * 100
    height = trials["accuracy"].max() * 100 - foot
    for step, row in enumerate(reversed(baselines.sort_values(x).to_dict("records"))):
        figure.add_annotation(
            x=row[x] * factor,
            y=row["accuracy"] * 100,
            text=escape(row["name"]),
            arrowhead=0,
            arrowcolor="rgba(31,41,55,0.5)",
            ax=14,
            ayref="y",
            ay=foot + height * (0.38 - 0.12 * step),
            xanchor="left",
            font={"size": 12, "color": _INK},
            bgcolor="rgba(255,255,255,0.8)",
        )


def _hover(row: dict[Any, Any], sites: list[dict[str, Any]]) -> str:
    title = f"<b>trial {row['number']}</b>" + (f" – {escape(row['name'])}" if row["name"] else "")
    gate = f"<br>gate {escape(row['gate'])}" if row["gate"] else ""
    predicted = " predicted" if row["latency_stopped"] == "model" else ""
    stages = escape(describe_stages(json.loads(row["config"]), sites)).replace("; ", "<br>")
    return (
        f"{title}<br>{stages}{gate}"
        f"<br>accuracy {row['accuracy']:.2%} [{row['accuracy_low']:.2%}, {row['accuracy_high']:.2%}]"
        f"<br>log-loss {row['log_loss']:.4f} [{row['log_loss_low']:.4f}, {row['log_loss_high']:.4f}]"
        f"<br>parameters {row['counted_parameters']:+,} ({row['parameter_overhead']:+.2%})"
        f"<br>latency ×{row['latency_ratio']:.3f} [{row['latency_low']:.3f}, {row['latency_high']:.3f}]{predicted}"
    )


def _style(figure: go.Figure, x_title: str, y_title: str) -> None:
    axis = {"gridcolor": "#e5e7eb", "zeroline": False, "linecolor": "#9ca3af", "ticks": "outside", "automargin": True}
    figure.update_layout(
        template="plotly_white",
        font={"family": _FONT, "size": 13, "color": _INK},
        margin={"l": 10, "r": 20, "t": 30, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={"align": "left"},
        modebar={"orientation": "v"},  # beside the plot: above it stands the legend
        xaxis=axis | {"title": {"text": x_title}},
        yaxis=axis | {"title": {"text": y_title}},
    )
