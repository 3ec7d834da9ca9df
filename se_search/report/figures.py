"""The report's Plotly figures: what :func:`se_search.search.record.read_results` returns, drawn.

Each takes all trials and the description of the run. Traces of trials carry the trials' numbers as ``customdata``, by
which a page selects one trial in all figures.
"""

import json
import math
import textwrap
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..search.results import PREDICTED, front_of
from .configuration import draw_configuration, shade
from .groups import MANY, Group, complete_trials, connect_front, group_trials, trial_data
from .measures import MEASURED, Column, bars_of, column_of, quality_of_run, with_interval
from .parallel import parallel_coordinates
from .style import (
    BARS,
    CLEAR,
    EDGE,
    EMPTY_CELL,
    FAINT_BARS,
    GRID,
    INK,
    PAPER,
    SCALE,
    SHADES,
    SOFT,
    cut,
    empty_figure,
    error_bars,
    short_numbers,
    style_figure,
)

_VERIFIED = "#d55e00"
_KEPT = "#b58900"
_LIMIT = "#cc79a7"
_SELECTABLE = {"selected": {"marker": {"opacity": 1, "size": 16}}, "unselected": {"marker": {"opacity": 0.25}}}
_WIDTH_OF_NOTES = 34


def report_figures(trials: pd.DataFrame, run: dict[str, Any]) -> dict[str, go.Figure]:
    """Return all figures by name, in the order in which the report shows them.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run, as in ``run.json``.

    Returns:
        ``overhead``, ``latency``, ``objectives`` (of studies with three), ``parallel``, ``hypervolume``,
        ``contributions`` and ``heat_map``.
    """
    figures = {
        "overhead": quality_against_overhead(trials, run),
        "latency": quality_against_latency(trials, run),
        "objectives": three_objectives(trials, run),
        "parallel": parallel_coordinates(trials, run),
        "hypervolume": hypervolume_over_trials(trials, run),
        "contributions": stage_contributions(trials, run),
        "heat_map": front_heat_map(trials, run),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def quality_against_overhead(trials: pd.DataFrame, run: dict[str, Any]) -> go.Figure:
    """Draw accuracy (log-loss where the study judges by that) against parameter overhead, coloured by latency ratio.

    Of more than 200 trials off the front only the pointer tells the intervals.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    return _scatter(trials, run, MEASURED["parameter_overhead"], MEASURED["latency_ratio"], "max_params")


def quality_against_latency(trials: pd.DataFrame, run: dict[str, Any]) -> go.Figure:
    """Draw accuracy or log-loss against latency ratio, both with intervals, coloured by parameter overhead.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    return _scatter(trials, run, MEASURED["latency_ratio"], MEASURED["parameter_overhead"], "max_latency")


def three_objectives(trials: pd.DataFrame, run: dict[str, Any]) -> go.Figure | None:
    """Draw the study's three objectives in space, the first upwards; ``None`` where it has fewer.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    if len(run["objectives"]) < 3:
        return None
    up, across, along = (column_of(name) for name in run["objectives"])
    shown = complete_trials(trials).dropna(subset=[up.name, across.name, along.name])
    if shown.empty:
        return empty_figure("No complete trial yet.")
    figure = go.Figure()
    groups = group_trials(shown)
    for group in groups:
        rows = group.rows
        figure.add_trace(
            go.Scatter3d(
                x=short_numbers(rows[across.name] * across.factor),
                y=short_numbers(rows[along.name] * along.factor),
                z=short_numbers(rows[up.name] * up.factor),
                mode="markers",
                name=group.label,
                marker={
                    "symbol": group.symbol,
                    "size": group.size * 0.55,
                    "color": short_numbers(rows[up.name] * up.factor),
                    "coloraxis": "coloraxis",
                    "line": {"color": INK if group.prominent else EDGE, "width": 1},
                    "opacity": 1.0 if group.prominent else 0.6,
                },
                legendgroup=group.label,
                showlegend=False,
                **trial_data(rows, run),
            )
        )
    for group in {group.label: group for group in groups}.values():
        figure.add_trace(
            go.Scatter3d(
                x=[None],
                y=[None],
                z=[None],
                mode="markers",
                name=group.label,
                legendgroup=group.label,
                marker={"symbol": group.symbol, "size": group.size * 0.55, "color": EDGE},
            )
        )
    style_figure(figure, "", "")
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "backgroundcolor": CLEAR, "color": INK, "showspikes": False}
    figure.update_layout(
        height=520,
        coloraxis={"colorscale": list(SCALE), "showscale": False},
        scene={
            "xaxis": axis | {"title": {"text": across.short_title, "font": {"size": 13}}},
            "yaxis": axis | {"title": {"text": along.short_title, "font": {"size": 13}}},
            "zaxis": axis | {"title": {"text": up.short_title, "font": {"size": 13}}},
            "camera": {"eye": {"x": -2.1, "y": -2.0, "z": 1.05}, "center": {"x": 0, "y": 0, "z": -0.15}},
            "aspectmode": "cube",
        },
    )
    return figure


def hypervolume_over_trials(trials: pd.DataFrame, run: dict[str, Any]) -> go.Figure:
    """Draw the front's hypervolume after each complete trial.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    history = run["hypervolume_history"]
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
            **trial_data(complete_trials(trials), run, "after %{x} trials: %{y:.4f}<br>"),
            **_SELECTABLE,
        )
    )
    style_figure(figure, "complete trials", "hypervolume")
    figure.update_layout(height=280, yaxis={"rangemode": "tozero"})
    return figure


def stage_contributions(trials: pd.DataFrame, run: dict[str, Any]) -> go.Figure:
    """Draw what each choice of the configuration changes on average, against none, with its interval.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there; :func:`se_search.search.contributions.describe_contributions` has found its ``contributions``.
    """
    factors = run["contributions"]["factors"]
    if not any(factor["told"] or factor["importance"] for factor in factors):
        return empty_figure(run["contributions"]["sentence"])
    quality = quality_of_run(run)
    figure = go.Figure()
    ticks: list[str] = []
    points: dict[str, list[tuple[int, list[float], str]]] = {"told": [], "not told": []}
    for factor in factors:
        top = len(ticks)
        notes = _notes(factor)
        figure.add_annotation(
            x=0,
            xref="paper",
            y=top,
            yshift=10,
            text="<br>".join(notes),
            showarrow=False,
            align="left",
            xanchor="left",
            yanchor="top",
            bgcolor=PAPER,
            borderpad=0,
            font={"size": 12, "color": INK if factor["told"] else SOFT},
        )
        ticks.append(f"<b>{escape(factor['name'])}</b>")
        # The note's further lines stand on rows of their own, so that they hide no interval.
        ticks += [""] * (len(notes) - 1)
        for level in factor["levels"]:
            effect = level["effect"]
            if effect is not None:
                told = "told" if effect[1] > 0 or effect[2] < 0 else "not told"
                label = f"{factor['name']}, {level['level']}: {with_interval(effect, quality, signed=True)}"
                points[told].append((len(ticks), effect, f"{escape(label)}<br>{level['trials']} trials"))
            ticks.append(f"{cut(level['level'], 14)} ({level['trials']})")
    for told, label, colour in (
        ("told", "differs measurably", SHADES[2]),
        ("not told", "no difference can be told", SOFT),
    ):
        if points[told]:
            values = [np.array(effect) * quality.factor for _, effect, _ in points[told]]
            figure.add_trace(
                go.Scatter(
                    x=short_numbers([one[0] for one in values]),
                    y=[place for place, _, _ in points[told]],
                    error_x=error_bars(colour, *np.transpose(values)),
                    mode="markers",
                    name=label,
                    marker={"color": colour, "size": 10, "symbol": "circle" if told == "told" else "circle-open"},
                    text=[text for _, _, text in points[told]],
                    hovertemplate="%{text}<extra></extra>",
                )
            )
    title = "change of accuracy (% points)" if quality.name == "accuracy" else "change of log-loss"
    style_figure(figure, title, "")
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_layout(
        height=130 + 22 * len(ticks),
        showlegend=True,
        yaxis={
            "tickmode": "array",
            "tickvals": list(range(len(ticks))),
            "ticktext": ticks,
            "range": [len(ticks) - 0.5, -0.5],
            "showgrid": False,
            "ticks": "",
        },
    )
    return figure


def _notes(factor: dict[str, Any]) -> list[str]:
    """Return the lines that a figure has beside a factor's name."""
    parts = []
    if factor["reference"] not in ("", "no SE"):
        parts.append(f"against {factor['reference']}")
    if factor["importance"] is not None:
        parts.append("explains {:.0%} [{:.0%}, {:.0%}]".format(*factor["importance"]))
    if factor["why"]:
        parts.append(("" if factor["told"] else "cannot be told: ") + factor["why"])
    return [escape(line) for part in parts for line in textwrap.wrap(part, _WIDTH_OF_NOTES)]


def front_heat_map(trials: pd.DataFrame, run: dict[str, Any]) -> go.Figure:
    """Draw which block has SE with which ratio in each member of the front, from the smallest to the largest.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    front = front_of(trials)
    if front.empty:
        return empty_figure("The Pareto front is empty.")
    columns = [draw_configuration(json.loads(config), run["sites"]) for config in front["config"]]
    cells = [[cell for stage in column for cell in stage["cells"]] for column in columns]
    ratios = sorted({cell["ratio"] for column in cells for cell in column if cell["ratio"]})
    kinds: list[tuple[Any, str, str]] = [(None, "no SE", EMPTY_CELL)]
    if any(cell["kept"] and not cell["ratio"] for column in cells for cell in column):
        kinds.append(("kept", "kept as in the backbone", _KEPT))
    kinds += [(ratio, f"r={ratio}", shade(ratio)) for ratio in ratios]
    index = {kind: place for place, (kind, _, _) in enumerate(kinds)}
    numbers = front["number"].tolist()
    rows = range(len(cells[0]))
    scale = [[(place + end) / len(kinds), colour] for place, (_, _, colour) in enumerate(kinds) for end in (0, 1)]
    figure = go.Figure(
        go.Heatmap(
            z=[
                [index[column[row]["ratio"] or ("kept" if column[row]["kept"] else None)] for column in cells]
                for row in rows
            ],
            zmin=-0.5,
            zmax=len(kinds) - 0.5,
            colorscale=scale,
            showscale=False,
            xgap=2,
            ygap=2,
            customdata=[numbers for _ in rows],
            text=[[escape(column[row]["title"]) for column in cells] for row in rows],
            hovertemplate="trial %{customdata}<br>%{text}<extra></extra>",
        )
    )
    for _, label, colour in kinds:
        marker = {"symbol": "square", "size": 13, "color": colour, "line": {"color": EDGE, "width": 1}}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=label, marker=marker))
    stages = [stage["stage"] for stage in columns[0] for _ in stage["cells"]]
    blocks = [cell["block"] for stage in columns[0] for cell in stage["cells"]]
    for row in rows[1:]:
        if stages[row] != stages[row - 1]:
            figure.add_hline(y=row - 0.5, line={"color": INK, "width": 1})
    names = dict(zip(front["number"], front["name"], strict=True))
    style_figure(figure, "trial, fewest parameters first", "")
    figure.update_layout(
        height=170 + max(18 * len(rows), 120),
        xaxis={
            "tickmode": "array",
            "tickvals": list(range(len(numbers))),
            "ticktext": [f"{number}*" if names[number] else str(number) for number in numbers],
            "range": [-0.5, len(numbers) - 0.5],
            "showgrid": False,
        },
        yaxis={
            "tickmode": "array",
            "tickvals": list(rows),
            "ticktext": [f"stage {stage} · {_tail(block)}" for stage, block in zip(stages, blocks, strict=True)],
            "range": [len(rows) - 0.5, -0.5],
            "showgrid": False,
        },
    )
    return figure


def _scatter(trials: pd.DataFrame, run: dict[str, Any], x: Column, colour: Column, limit: str) -> go.Figure:
    y = quality_of_run(run)
    shown = complete_trials(trials).dropna(subset=[x.name, y.name])
    if shown.empty:
        return empty_figure("No complete trial yet.")
    figure = go.Figure()
    connect_front(figure, shown[shown["on_front"]], x, y)
    _draw_verified_lines(figure, shown, x, y)
    groups = group_trials(shown)
    for group in groups:
        figure.add_trace(_points(group, run, x, y, colour))
    for group in {group.label: group for group in groups}.values():
        figure.add_trace(_legend_entry(group.label, group.symbol, group.size, group.edge, group.prominent))
    _draw_verified(figure, shown, run, x, y)
    if (shown["latency_stopped"] == PREDICTED).any():
        figure.add_trace(_legend_entry("with a dot: latency predicted", "circle-dot", 10, 1, True))
    _label_baselines(figure, shown, x, y)
    _draw_limit(figure, run["constraints"][limit], x)
    style_figure(figure, x.title, y.title)
    figure.update_xaxes(range=_range(shown, x, run["constraints"][limit]))
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


def _points(group: Group, run: dict[str, Any], x: Column, y: Column, colour: Column) -> go.Scatter:
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
        **trial_data(rows, run),
        **_SELECTABLE,
    )


def _legend_entry(label: str, symbol: str, size: int, edge: float, prominent: bool) -> go.Scatter:
    # An entry of its own: Plotly warns about the colour of an entry whose points are coloured by value.
    line = {"width": edge} | ({} if "open" in symbol else {"color": INK if prominent else EDGE})
    marker = {"symbol": symbol, "size": size, "color": EDGE, "line": line}
    return go.Scatter(x=[None], y=[None], mode="markers", name=label, marker=marker, legendgroup=label)


def _draw_verified_lines(figure: go.Figure, shown: pd.DataFrame, x: Column, y: Column) -> None:
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


def _draw_verified(figure: go.Figure, shown: pd.DataFrame, run: dict[str, Any], x: Column, y: Column) -> None:
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
            **trial_data(verified, run),
            **_SELECTABLE,
        )
    )


def _range(shown: pd.DataFrame, x: Column, limit: float | None) -> list[float | None]:
    """Return the ends of an axis that holds all points and the limit; intervals that are far wider are cut off."""
    low, high = x.interval or (x.name, x.name)
    reached = [shown[x.name].min(), shown[x.name].max(), *([] if limit is None else [limit])]
    span = max(reached) - min(reached) or 0.1 * abs(max(reached)) or 0.01
    first = max(min(reached) - span, min(*reached, shown[low].min()))
    last = min(max(reached) + span, max(*reached, shown[high].max()))
    margin = 0.06 * (last - first) or span
    return short_numbers([(first - margin) * x.factor, (last + margin) * x.factor])


def _label_baselines(figure: go.Figure, shown: pd.DataFrame, x: Column, y: Column) -> None:
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


def _draw_limit(figure: go.Figure, limit: float | None, x: Column) -> None:
    if limit is None:
        return
    told = f"+{limit * 100:g} %" if x.name == "parameter_overhead" else f"×{limit:g}"
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
        text=f"limit {told}",
        name="limit",
        showarrow=False,
        xanchor="right",
        yanchor="top",
        textangle=0,
        font={"size": 12, "color": INK},
        bgcolor=PAPER,
    )


def _tail(block: str, longest: int = 14) -> str:
    return escape(block if len(block) <= longest else "…" + block[1 - longest :])
