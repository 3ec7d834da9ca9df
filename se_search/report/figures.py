"""The report's Plotly figures: what :func:`se_search.search.record.read_results` returns, drawn.

Each takes all trials and the description of the run. Traces of trials carry the trials' numbers as ``customdata``, by
which a page selects one trial in all figures.
"""

import json
import math
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
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
_EDGE = "#8b95a1"
_VERIFIED = "#d55e00"
_KEPT = "#b58900"
_CLEAR = "rgba(0,0,0,0)"
_SHADES = ("#08306b", "#08519c", "#2171b5", "#4292c6", "#6baed6", "#9ecae1")

DARK: dict[str, str] = {
    INK: "#f3f4f6",
    SOFT: "#a8b0bd",
    GRID: "#39424f",
    PAPER: "rgba(17,24,39,0.92)",
    BARS: "rgba(243,244,246,0.6)",
    FAINT_BARS: "rgba(168,176,189,0.35)",
    FAINT_LINES: "rgba(168,176,189,0.36)",
    EMPTY_CELL: "rgba(168,176,189,0.16)",
    **dict(zip(_SHADES, ("#eaf4ff", "#c6e0f7", "#93c5ec", "#5ea3d8", "#3a7fb8", "#2b6193"), strict=True)),
}
"""Colours of a light page that depend on it, each with the one that takes its place on a dark page.

None of the latter is among the former, so they can be replaced one after the other in a figure's JSON.
"""

_LIMIT = "#cc79a7"
_SCALE = ["#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39"]
_SELECTABLE = {"selected": {"marker": {"opacity": 1, "size": 16}}, "unselected": {"marker": {"opacity": 0.25}}}
_NONE = "off"
_GOLDEN = (math.sqrt(5) - 1) / 2
_SHORT = {
    "accuracy": "accuracy %",
    "log_loss": "log-loss",
    "parameter_overhead": "params %",
    "flops_overhead": "FLOPs %",
    "latency_ratio": "latency",
}
_LONGEST_NAME = 60
_MOST_TICKS = 8
_MANY = 200
_WIDTH_OF_NOTES = 34
_LONGEST_TICK = 4
_SQUARES_IN_A_ROW = 24


@dataclass(frozen=True)
class _Measure:
    """A measured column as figures show it: title, factor to the unit there, columns of its interval."""

    column: str
    title: str
    factor: float = 1.0
    interval: tuple[str, str] | None = None
    decimals: int = 3


_MEASURES = {
    one.column: one
    for one in (
        _Measure("accuracy", "accuracy (%)", 100.0, ("accuracy_low", "accuracy_high"), 2),
        _Measure("log_loss", "log-loss (lower is better)", 1.0, ("log_loss_low", "log_loss_high"), 4),
        _Measure("parameter_overhead", "parameter overhead (%)", 100.0, None, 2),
        _Measure("flops_overhead", "FLOPs overhead (%)", 100.0, None, 2),
        _Measure("latency_ratio", "latency ratio", 1.0, ("latency_low", "latency_high"), 3),
    )
}


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
    return _scatter(trials, run, _MEASURES["parameter_overhead"], _MEASURES["latency_ratio"], "max_params")


def quality_against_latency(trials: pd.DataFrame, run: dict[str, Any]) -> go.Figure:
    """Draw accuracy or log-loss against latency ratio, both with intervals, coloured by parameter overhead.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    return _scatter(trials, run, _MEASURES["latency_ratio"], _MEASURES["parameter_overhead"], "max_latency")


def three_objectives(trials: pd.DataFrame, run: dict[str, Any]) -> go.Figure | None:
    """Draw the study's three objectives in space, the first upwards; ``None`` where it has fewer.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    if len(run["objectives"]) < 3:
        return None
    up, across, along = (_measure(name) for name in run["objectives"])
    shown = _complete(trials).dropna(subset=[up.column, across.column, along.column])
    if shown.empty:
        return _empty("No complete trial yet.")
    figure = go.Figure()
    groups = _groups(shown)
    for group in groups:
        rows = group.rows
        figure.add_trace(
            go.Scatter3d(
                x=_numbers(rows[across.column] * across.factor),
                y=_numbers(rows[along.column] * along.factor),
                z=_numbers(rows[up.column] * up.factor),
                mode="markers",
                name=group.label,
                marker={
                    "symbol": group.symbol,
                    "size": group.size * 0.55,
                    "color": _numbers(rows[up.column] * up.factor),
                    "coloraxis": "coloraxis",
                    "line": {"color": INK if group.prominent else _EDGE, "width": 1},
                    "opacity": 1.0 if group.prominent else 0.6,
                },
                legendgroup=group.label,
                showlegend=False,
                **_trial_data(rows, run),
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
                marker={"symbol": group.symbol, "size": group.size * 0.55, "color": _EDGE},
            )
        )
    _style(figure, "", "")
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "backgroundcolor": _CLEAR, "color": INK, "showspikes": False}
    figure.update_layout(
        height=520,
        coloraxis={"colorscale": _SCALE, "showscale": False},
        scene={
            "xaxis": axis | {"title": {"text": _short(across), "font": {"size": 13}}},
            "yaxis": axis | {"title": {"text": _short(along), "font": {"size": 13}}},
            "zaxis": axis | {"title": {"text": _short(up), "font": {"size": 13}}},
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
        return _empty("No complete trial yet.", 280)
    figure = go.Figure(
        go.Scatter(
            x=list(range(1, len(history) + 1)),
            y=_numbers(history, 6),
            mode="lines+markers",
            line={"shape": "hv", "color": _SHADES[2], "width": 2},
            marker={"size": 5, "color": _SHADES[2]},
            showlegend=False,
            **_trial_data(_complete(trials), run, "after %{x} trials: %{y:.4f}<br>"),
            **_SELECTABLE,
        )
    )
    _style(figure, "complete trials", "hypervolume")
    figure.update_layout(height=280, yaxis={"rangemode": "tozero"})
    return figure


def parallel_coordinates(trials: pd.DataFrame, run: dict[str, Any]) -> go.Figure:
    """Draw each complete trial as a line over its configuration's choices and what was measured of it.

    Lines that share a choice lie a little apart there; numbers have their exact place between least and greatest.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    complete = _complete(trials)
    if complete.empty:
        return _empty("No complete trial yet.")
    axes = _parallel_axes(complete, run)
    places = {number: index for index, number in enumerate(complete["number"].tolist())}
    figure = go.Figure()
    for group in _groups(complete):
        labels = {trace.name for trace in figure.data}
        x: list[int | None] = []
        y: list[float | None] = []
        text: list[str | None] = []
        numbers: list[int | None] = []
        for number in group.rows["number"].tolist():
            index = places[number]
            x += [*range(len(axes)), None]
            y += [*(axis.place(index, number) for axis in axes), None]
            text += [*(f"trial {number}<br>{axis.title}: {axis.told[index]}" for axis in axes), None]
            numbers += [*[number] * len(axes), None]
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines+markers" if group.prominent else "lines",
                name=group.label,
                line={"color": group.line, "width": 2 if group.prominent else 1, "dash": group.dash},
                opacity=0.35 if len(group.rows) > _MANY and not group.prominent else 1,
                legendgroup=group.label,
                showlegend=group.label not in labels,
                marker={"symbol": group.symbol, "size": 7},
                customdata=numbers,
                text=text,
                hovertemplate="%{text}<extra></extra>",
            )
        )
    for index, axis in enumerate(axes):
        figure.add_shape(type="line", x0=index, x1=index, y0=-0.03, y1=1.03, line={"color": _EDGE, "width": 1})
        for place, label in axis.ticks:
            figure.add_annotation(
                x=index,
                y=place,
                text=label,
                showarrow=False,
                textangle=-90 if len(label) > _LONGEST_TICK else 0,
                bgcolor=PAPER,
                borderpad=0,
                font={"size": 12, "color": INK},
            )
    _style(figure, "", "")
    figure.update_layout(
        height=460,
        xaxis={
            "tickmode": "array",
            "tickvals": list(range(len(axes))),
            "ticktext": [axis.title for axis in axes],
            "showgrid": False,
            "showline": False,
            "ticks": "",
            "range": [-0.5, len(axes) - 0.5],
        },
        yaxis={"visible": False, "range": [-0.06, 1.06]},
    )
    return figure


def stage_contributions(trials: pd.DataFrame, run: dict[str, Any]) -> go.Figure:
    """Draw what each choice of the configuration changes on average, against none, with its interval.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there; :func:`se_search.search.contributions.describe_contributions` has found its ``contributions``.
    """
    factors = run["contributions"]["factors"]
    if not any(factor["told"] or factor["importance"] for factor in factors):
        return _empty(run["contributions"]["sentence"])
    measure = _quality(run)
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
                label = f"{factor['name']}, {level['level']}: {_with_interval(effect, measure, signed=True)}"
                points[told].append((len(ticks), effect, f"{escape(label)}<br>{level['trials']} trials"))
            ticks.append(f"{_cut(level['level'], 14)} ({level['trials']})")
    for told, label, colour in (
        ("told", "differs measurably", _SHADES[2]),
        ("not told", "no difference can be told", SOFT),
    ):
        if points[told]:
            values = [np.array(effect) * measure.factor for _, effect, _ in points[told]]
            figure.add_trace(
                go.Scatter(
                    x=_numbers([one[0] for one in values]),
                    y=[place for place, _, _ in points[told]],
                    error_x=_error_bars(colour, *np.transpose(values)),
                    mode="markers",
                    name=label,
                    marker={"color": colour, "size": 10, "symbol": "circle" if told == "told" else "circle-open"},
                    text=[text for _, _, text in points[told]],
                    hovertemplate="%{text}<extra></extra>",
                )
            )
    title = "change of accuracy (% points)" if measure.column == "accuracy" else "change of log-loss"
    _style(figure, title, "")
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
    front = trials[trials["on_front"]].sort_values(["parameter_overhead", "accuracy"], ascending=[True, False])
    if front.empty:
        return _empty("The Pareto front is empty.")
    columns = [draw_configuration(json.loads(config), run["sites"]) for config in front["config"]]
    cells = [[cell for stage in column for cell in stage["cells"]] for column in columns]
    ratios = sorted({cell["ratio"] for column in cells for cell in column if cell["ratio"]})
    kinds: list[tuple[Any, str, str]] = [(None, "no SE", EMPTY_CELL)]
    if any(cell["kept"] for column in cells for cell in column):
        kinds.append(("kept", "kept as in the backbone", _KEPT))
    kinds += [(ratio, f"r={ratio}", shade(ratio)) for ratio in ratios]
    index = {kind: place for place, (kind, _, _) in enumerate(kinds)}
    numbers = front["number"].tolist()
    rows = range(len(cells[0]))
    scale = [[(place + end) / len(kinds), colour] for place, (_, _, colour) in enumerate(kinds) for end in (0, 1)]
    figure = go.Figure(
        go.Heatmap(
            z=[[index["kept" if column[row]["kept"] else column[row]["ratio"]] for column in cells] for row in rows],
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
        marker = {"symbol": "square", "size": 13, "color": colour, "line": {"color": _EDGE, "width": 1}}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=label, marker=marker))
    stages = [stage["stage"] for stage in columns[0] for _ in stage["cells"]]
    blocks = [cell["block"] for stage in columns[0] for cell in stage["cells"]]
    for row in rows[1:]:
        if stages[row] != stages[row - 1]:
            figure.add_hline(y=row - 0.5, line={"color": INK, "width": 1})
    names = dict(zip(front["number"], front["name"], strict=True))
    _style(figure, "trial, fewest parameters first", "")
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


def hover_text(row: Mapping[Any, Any], run: dict[str, Any]) -> str:
    """Return what figures show of a trial under the pointer: its configuration drawn, and its values with intervals.

    The text is for Plotly, which reads a few tags in it; what users have named is escaped.

    Args:
        row: The trial's row of the table.
        run: The description of the run, as in ``run.json``.
    """
    lines = [f"<b>trial {row['number']}</b>" + (f" – {_cut(row['name'])}" if row["name"] else "")]
    for stage in draw_configuration(json.loads(row["config"]), run["sites"]):
        squares = _squares(stage["cells"])
        lines.append(f"stage {stage['stage']} {squares} {escape(stage['label'])}")
    if row["gate"]:
        lines.append(f"gate {_cut(row['gate'])}")
    for name in ("accuracy", "log_loss"):
        measure = _MEASURES[name]
        lines.append(f"{_word(name)} {_with_interval(_interval_of(row, measure), measure)}")
    lines.append(f"parameters {_signed(row['parameter_overhead'])}" + _counted(row["counted_parameters"]))
    predicted = ", predicted" if row["latency_stopped"] == "model" else ""
    latency = _MEASURES["latency_ratio"]
    lines.append(f"latency ×{_with_interval(_interval_of(row, latency), latency)}{predicted}")
    lines += [
        f"{escape(_word(name))} {_plain(row[name])}"
        for name in run["objectives"]
        if name not in ("accuracy", "log_loss", "parameter_overhead", "latency_ratio")
    ]
    if not pd.isna(row["verified_accuracy"]):
        for name in ("accuracy", "log_loss"):
            measure = _MEASURES[name]
            verified = _with_interval(_interval_of(row, measure, "verified_"), measure)
            lines.append(f"verified {_word(name)} {verified}")
    if not pd.isna(row["tied_with"]):
        lines.append(f"{run['quality']} cannot be told from trial {int(row['tied_with'])}'s")
    if not row["feasible"]:
        lines.append("beyond the limits")
    return "<br>".join(lines)


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
            here[f"r={placed[key]['ratio']}{_where(site)}"] += 1
        elif site["position"] == "existing" and key not in removed:
            here["kept"] += 1
    parts = []
    for stage, kinds in stages.items():
        if kinds:
            blocks = f"{kinds.total()} block{'s' if kinds.total() > 1 else ''}"
            parts.append(f"stage {stage}: {blocks}, {', '.join(kinds)}")
    return "; ".join(parts) or "no SE"


def draw_configuration(config: dict[str, Any], sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what to draw of a configuration: one row for each stage, one cell for each block.

    Args:
        config: A configuration's plain data.
        sites: ``block``, ``stage``, ``position`` and ``channels`` of every site of the space, in forward order.

    Returns:
        Rows of ``stage``, ``label`` (its ratios and, where it is not the usual one, their position) and ``cells``, one
        for each block; a cell has ``block``, ``title``, ``ratio`` (``None``: no SE block of the search), ``kept`` (the
        backbone's own attention stays) and ``position``.
    """
    placed = {(site["block"], site["position"]): site for site in config["sites"]}
    removed = {(site["block"], site["position"]) for site in config["removed"]}
    rows: dict[int, dict[str, dict[str, Any]]] = {}
    for site in sites:
        key = site["block"], site["position"]
        cells = rows.setdefault(site["stage"], {})
        if key in placed:
            one = placed[key]
            kind = f"r={one['ratio']}, {one['gate']}, {site['position']}"
            cells[site["block"]] = _cell(site, kind, f"r={one['ratio']}{_where(site)}", ratio=one["ratio"])
        elif site["position"] == "existing" and key not in removed:
            cells[site["block"]] = _cell(site, "kept as in the backbone", "kept", kept=True)
        else:
            cells.setdefault(site["block"], _cell(site, "no SE"))
    drawn = []
    for stage, cells in rows.items():
        used = sorted({(cell["kept"], cell["ratio"] or 0, cell["label"]) for cell in cells.values() if cell["label"]})
        label = ", ".join(label for _, _, label in used) or "–"
        drawn.append({"stage": stage, "label": label, "cells": list(cells.values())})
    return drawn


def shade(ratio: int) -> str:
    """Return the colour of a reduction ratio on a light page: the more parameters, the darker."""
    return _SHADES[min(max(ratio.bit_length() - 1, 0), len(_SHADES) - 1)]


def _cell(
    site: dict[str, Any], kind: str, label: str = "", ratio: int | None = None, kept: bool = False
) -> dict[str, Any]:
    title = f"{site['block']} ({site['channels']} channels): {kind}"
    return {
        "block": site["block"],
        "title": title,
        "label": label,
        "ratio": ratio,
        "kept": kept,
        "position": site["position"],
    }


def _where(site: dict[str, Any]) -> str:
    return "" if site["position"] in ("standard", "existing") else f" {site['position']}"


@dataclass(frozen=True)
class _Group:
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


def _groups(complete: pd.DataFrame) -> list[_Group]:
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
        (tied_label, tied & ~named, "circle-open", 13, 3, _SHADES[3], "dot", True),
        (front_label, front & ~tied & ~named, "circle", 13, 2, _SHADES[1], "solid", True),
        (baseline_label, named & tied, "diamond-open", 14, 4, _SHADES[3], "dashdot", True),
        (baseline_label, named & front & ~tied, "diamond", 14, 4, _SHADES[1], "dash", True),
    )
    return [_Group(label, complete[rows], *rest) for label, rows, *rest in kinds if rows.any()]


def _scatter(trials: pd.DataFrame, run: dict[str, Any], x: _Measure, colour: _Measure, limit: str) -> go.Figure:
    y = _quality(run)
    shown = _complete(trials).dropna(subset=[x.column, y.column])
    if shown.empty:
        return _empty("No complete trial yet.")
    figure = go.Figure()
    _connect_front(figure, shown[shown["on_front"]], x, y)
    _draw_verified_lines(figure, shown, x, y)
    groups = _groups(shown)
    for group in groups:
        figure.add_trace(_points(group, run, x, y, colour))
    for group in {group.label: group for group in groups}.values():
        figure.add_trace(_legend_entry(group.label, group.symbol, group.size, group.edge, group.prominent))
    _draw_verified(figure, shown, run, x, y)
    if (shown["latency_stopped"] == "model").any():
        figure.add_trace(_legend_entry("with a dot: latency predicted", "circle-dot", 10, 1, True))
    _label_baselines(figure, shown, x, y)
    _draw_limit(figure, run["constraints"][limit], x)
    _style(figure, x.title, y.title)
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
            "colorscale": _SCALE,
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


def _points(group: _Group, run: dict[str, Any], x: _Measure, y: _Measure, colour: _Measure) -> go.Scatter:
    rows = group.rows
    bars = BARS if group.prominent else FAINT_BARS
    barred = group.prominent or len(rows) <= _MANY
    predicted = rows["latency_stopped"] == "model"
    marker: dict[str, Any] = {
        "symbol": [group.symbol + "-dot" if one else group.symbol for one in predicted]
        if predicted.any()
        else group.symbol,
        "size": group.size,
        "opacity": [1.0 if kept else 0.45 for kept in rows["feasible"]] if group.prominent else 0.8,
        # Plotly refuses None among colours, but not NaN, and draws both in grey.
        "color": [math.nan if one is None else one for one in _numbers(rows[colour.column] * colour.factor)],
        "coloraxis": "coloraxis",
    }
    # An open symbol's edge is drawn in the marker's own colour.
    marker["line"] = {"width": group.edge} | (
        {} if "open" in group.symbol else {"color": INK if group.prominent else _EDGE}
    )
    return go.Scatter(
        x=_numbers(rows[x.column] * x.factor),
        y=_numbers(rows[y.column] * y.factor),
        error_x=_bars_of(rows, x, bars) if barred and x.interval else None,
        error_y=_bars_of(rows, y, bars) if barred else None,
        mode="markers",
        name=group.label,
        legendgroup=group.label,
        showlegend=False,
        marker=marker,
        **_trial_data(rows, run),
        **_SELECTABLE,
    )


def _trial_data(rows: pd.DataFrame, run: dict[str, Any], before: str = "") -> dict[str, Any]:
    return {
        "customdata": rows["number"].tolist(),
        "text": [hover_text(row, run) for row in rows.to_dict("records")],
        "hovertemplate": before + "%{text}<extra></extra>",
    }


def _legend_entry(label: str, symbol: str, size: int, edge: float, prominent: bool) -> go.Scatter:
    # An entry of its own: Plotly warns about the colour of an entry whose points are coloured by value.
    line = {"width": edge} | ({} if "open" in symbol else {"color": INK if prominent else _EDGE})
    marker = {"symbol": symbol, "size": size, "color": _EDGE, "line": line}
    return go.Scatter(x=[None], y=[None], mode="markers", name=label, marker=marker, legendgroup=label)


def _connect_front(figure: go.Figure, front: pd.DataFrame, x: _Measure, y: _Measure) -> None:
    """Draw the best quality that the front reaches up to each value of ``x``."""
    sign = -1.0 if y.column == "log_loss" else 1.0
    ordered = front.assign(height=sign * front[y.column]).sort_values([x.column, "height"], ascending=[True, False])
    better = ordered[ordered["height"] > ordered["height"].cummax().shift(fill_value=-math.inf)]
    if len(better) > 1:
        line = go.Scatter(
            x=_numbers(better[x.column] * x.factor),
            y=_numbers(better[y.column] * y.factor),
            mode="lines",
            line={"shape": "hv", "color": INK, "width": 1, "dash": "dot"},
            name="best up to here",
            hoverinfo="skip",
        )
        figure.add_trace(line)


def _draw_verified_lines(figure: go.Figure, shown: pd.DataFrame, x: _Measure, y: _Measure) -> None:
    verified = shown.dropna(subset=[f"verified_{y.column}"])
    if verified.empty:
        return
    places: list[float | None] = []
    ends: list[float | None] = []
    for row in verified.to_dict("records"):
        places += [*_numbers([row[x.column] * x.factor] * 2), None]
        ends += [*_numbers([row[y.column] * y.factor, row[f"verified_{y.column}"] * y.factor]), None]
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


def _draw_verified(figure: go.Figure, shown: pd.DataFrame, run: dict[str, Any], x: _Measure, y: _Measure) -> None:
    verified = shown.dropna(subset=[f"verified_{y.column}"])
    if verified.empty:
        return
    figure.add_trace(
        go.Scatter(
            x=_numbers(verified[x.column] * x.factor),
            y=_numbers(verified[f"verified_{y.column}"] * y.factor),
            error_y=_bars_of(verified, y, _VERIFIED, "verified_"),
            mode="markers",
            name="verified (trained by itself, test images)",
            legendgroup="verified",
            marker={"symbol": "square", "size": 11, "color": _VERIFIED, "line": {"color": INK, "width": 1}},
            **_trial_data(verified, run),
            **_SELECTABLE,
        )
    )


def _label_baselines(figure: go.Figure, shown: pd.DataFrame, x: _Measure, y: _Measure) -> None:
    baselines = shown[shown["name"] != ""].sort_values(x.column)
    if baselines.empty:
        return
    # Baselines often have near values: their labels form a staircase at the foot, which no line of another crosses.
    foot = shown[y.interval[0] if y.interval else y.column].min() * y.factor
    height = shown[y.column].max() * y.factor - foot
    step = min(0.12, 0.4 / len(baselines))
    middle = (shown[x.column].min() + shown[x.column].max()) / 2
    for place, row in enumerate(reversed(baselines.to_dict("records"))):
        figure.add_annotation(
            x=row[x.column] * x.factor,
            y=row[y.column] * y.factor,
            text=_cut(row["name"], 30),
            name="baseline",
            arrowhead=0,
            arrowcolor=BARS,
            ax=14 if row[x.column] <= middle else -14,
            ayref="y",
            ay=foot + height * (0.38 - step * place),
            xanchor="left" if row[x.column] <= middle else "right",
            font={"size": 12, "color": INK},
            bgcolor=PAPER,
        )


def _draw_limit(figure: go.Figure, limit: float | None, x: _Measure) -> None:
    if limit is None:
        return
    told = f"+{limit * 100:g} %" if x.column == "parameter_overhead" else f"×{limit:g}"
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


@dataclass(frozen=True)
class _ParallelAxis:
    """One axis of parallel coordinates: the trials' places from 0 to 1 and what is told there."""

    title: str
    places: list[float]
    told: list[str]
    ticks: list[tuple[float, str]]
    gap: float = 0.0

    def place(self, index: int, number: int) -> float | None:
        """Return where the line of a trial crosses; lines that share a choice are spread by their numbers."""
        if math.isnan(self.places[index]):
            return None
        return round(self.places[index] + self.gap * (number * _GOLDEN % 1 - 0.5), 4)


def _parallel_axes(complete: pd.DataFrame, run: dict[str, Any]) -> list[_ParallelAxis]:
    configs = [json.loads(config) for config in complete["config"]]
    drawings = [draw_configuration(config, run["sites"]) for config in configs]
    axes = []
    for index, stage in enumerate(drawings[0]):
        cells = [[cell for cell in drawing[index]["cells"] if cell["label"]] for drawing in drawings]
        axes.append(_choices(f"stage {stage['stage']}", [_ratio_of(one) for one in cells], prefix="r="))
        counts = [len(one) for one in cells]
        if set(counts) - {0, len(stage["cells"])}:
            axes.append(_choices(f"blocks {stage['stage']}", [str(count) for count in counts], int))
        positions = [next((cell["position"] for cell in one), _NONE) for one in cells]
        if len(set(positions) - {_NONE}) > 1:
            axes.append(_choices(f"position {stage['stage']}", positions))
    gates = [gate or _NONE for gate in complete["gate"]]
    if len(set(gates) - {_NONE}) > 1:
        axes.append(_choices("gate", gates))
    measured = [_quality(run).column, "parameter_overhead", "latency_ratio"]
    for name in dict.fromkeys([*measured, *run["objectives"]]):
        measure = _measure(name)
        values = (complete[name] * measure.factor).tolist()
        axes.append(_scale(_short(measure), values, f"{{:.{measure.decimals}f}}", f"{{:.{min(measure.decimals, 2)}f}}"))
    return axes


def _ratio_of(cells: list[dict[str, Any]]) -> str:
    kinds = {"kept" if cell["kept"] else str(cell["ratio"]) for cell in cells}
    return _NONE if not kinds else kinds.pop() if len(kinds) == 1 else "mixed"


def _fewest_parameters_first(choice: str) -> tuple[int, int, str]:
    return (0, 0, "") if choice == _NONE else (1, -int(choice), "") if choice.isdecimal() else (2, 0, choice)


def _choices(
    title: str, chosen: list[str], order: Callable[[str], Any] = _fewest_parameters_first, prefix: str = ""
) -> _ParallelAxis:
    """Return an axis of choices, the first in order below."""
    choices = sorted(set(chosen), key=order)
    step = 1 / max(len(choices) - 1, 1)
    places = {choice: place * step if len(choices) > 1 else 0.5 for place, choice in enumerate(choices)}
    shown = choices[:: -(-len(choices) // _MOST_TICKS)]
    told = [prefix + _cut(one) if one.isdecimal() else _cut(one) for one in chosen]
    ticks = [(places[choice], _cut(choice, 12)) for choice in shown]
    return _ParallelAxis(title, [places[one] for one in chosen], told, ticks, gap=min(0.35 * step, 0.08))


def _scale(title: str, values: list[float], pattern: str, at_ends: str) -> _ParallelAxis:
    """Return an axis of numbers from the least to the greatest."""
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    width = high - low
    places = [math.nan if not math.isfinite(value) else (value - low) / width if width > 0 else 0.5 for value in values]
    ends = ((0.0, low), (0.5, (low + high) / 2), (1.0, high)) if width > 0 else ((0.5, low),)
    ticks = [(place, at_ends.format(value)) for place, value in ends] if known else []
    return _ParallelAxis(title, places, [_filled(pattern, value) for value in values], ticks)


def _squares(cells: list[dict[str, Any]]) -> str:
    """Draw a stage's blocks as squares; those of one colour that stand together share a tag."""
    kinds = [(shade(cell["ratio"]), "■") if cell["ratio"] else ("", "▨" if cell["kept"] else "□") for cell in cells]
    lines = [kinds[start : start + _SQUARES_IN_A_ROW] for start in range(0, len(kinds), _SQUARES_IN_A_ROW)]
    return "<br>".join("".join(_span(*run) for run in _runs(line)) for line in lines)


def _runs(kinds: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    runs: list[tuple[str, str]] = []
    for colour, square in kinds:
        if runs and runs[-1][0] == colour:
            runs[-1] = (colour, runs[-1][1] + square)
        else:
            runs.append((colour, square))
    return runs


def _span(colour: str, squares: str) -> str:
    return f'<span style="color:{colour}">{squares}</span>' if colour else squares


def _complete(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[trials["state"] == "complete"]


def _quality(run: dict[str, Any]) -> _Measure:
    return _MEASURES[run["quality"].replace("-", "_")]


def _measure(name: str) -> _Measure:
    return _MEASURES.get(name, _Measure(name, _word(name)))


def _short(measure: _Measure) -> str:
    return _SHORT.get(measure.column, measure.title)


def _word(name: str) -> str:
    return "log-loss" if name == "log_loss" else name.replace("_", " ").replace("flops", "FLOPs")


def _interval_of(row: Mapping[Any, Any], measure: _Measure, prefix: str = "") -> list[float]:
    low, high = measure.interval or (measure.column, measure.column)
    return [row[prefix + measure.column], row[prefix + low], row[prefix + high]]


def _with_interval(values: Sequence[float], measure: _Measure, signed: bool = False) -> str:
    unit = " %" if measure.factor == 100.0 else ""
    pattern = f"{{:{'+' if signed else ''}.{measure.decimals}f}}"
    value, low, high = (_filled(pattern, value * measure.factor) for value in values)
    return f"{value}{unit} [{low}, {high}]"


def _filled(pattern: str, value: float) -> str:
    return "–" if pd.isna(value) else pattern.format(value)


def _signed(share: float) -> str:
    return _filled("{:+.2f} %", share * 100)


def _counted(parameters: Any) -> str:
    return "" if pd.isna(parameters) else f" ({int(parameters):+,})"


def _plain(value: float) -> str:
    return _filled("{:.4g}", value)


def _cut(text: str, longest: int = _LONGEST_NAME) -> str:
    return escape(text if len(text) <= longest else text[: longest - 1] + "…")


def _tail(block: str, longest: int = 14) -> str:
    return escape(block if len(block) <= longest else "…" + block[1 - longest :])


def _numbers(values: Iterable[float], digits: int = 6) -> list[float | None]:
    """Return numbers as JSON holds them shortly: significant digits, and ``None`` for what is missing."""
    return [None if pd.isna(value) else float(f"{value:.{digits}g}") for value in values]


def _bars_of(rows: pd.DataFrame, measure: _Measure, colour: str, prefix: str = "") -> dict[str, Any]:
    low, high = measure.interval or (measure.column, measure.column)
    return _error_bars(colour, *(rows[prefix + name] * measure.factor for name in (measure.column, low, high)))


def _error_bars(colour: str, value: Any, low: Any, high: Any) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": _numbers(high - value, 4),
        "arrayminus": _numbers(value - low, 4),
        "color": colour,
        "thickness": 1,
        "width": 2,
    }


def _empty(sentence: str, height: int = 200) -> go.Figure:
    """Return a figure that only says why there is nothing in it."""
    figure = go.Figure()
    _style(figure, "", "")
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


def _style(figure: go.Figure, x_title: str, y_title: str) -> None:
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": _EDGE,
        "tickcolor": _EDGE,
        "ticks": "outside",
        "automargin": True,
    }
    figure.update_layout(
        template="none",
        paper_bgcolor=_CLEAR,
        plot_bgcolor=_CLEAR,
        font={"family": _FONT, "size": 13, "color": INK},
        margin={"l": 10, "r": 20, "t": 30, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left", "bgcolor": _CLEAR},
        hoverlabel={"align": "left", "bgcolor": PAPER, "bordercolor": _EDGE, "font": {"color": INK, "size": 13}},
        hovermode="closest",
        modebar={"orientation": "v", "bgcolor": _CLEAR, "color": _EDGE, "activecolor": SOFT},
        xaxis=axis | {"title": {"text": x_title, "font": {"size": 13}}},
        yaxis=axis | {"title": {"text": y_title, "font": {"size": 13}}},
    )
