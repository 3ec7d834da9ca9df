"""The report's Plotly figures: what :func:`se_search.results.record.read_results` returns, drawn.

Each takes all trials and the description of the run. Traces of trials carry the trials' numbers as ``customdata``, by
which a page selects one trial in all figures; :func:`~se_search.report.groups.add_texts` adds what the pointer shows.
"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..results.contributions import Factor
from ..results.record import RunRecord
from ..results.table import front_of
from ..words import percent_with_interval
from .configuration import draw_configuration, shade
from .groups import add_texts, complete_trials, group_trials, trial_data
from .measures import with_interval
from .parallel import parallel_coordinates
from .scatter import quality_against_latency, quality_against_overhead
from .style import (
    CLEAR,
    EDGE,
    EMPTY_CELL,
    GRID,
    INK,
    PAPER,
    SCALE,
    SELECTABLE,
    SHADES,
    SOFT,
    cut,
    empty_figure,
    error_bars,
    short_numbers,
    style_figure,
)

_KEPT = "#b58900"
_WIDTH_OF_NOTES = 34


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report.

    Attributes:
        draw: Draws it; ``None`` where a run has none.
        title: On the page; ``{quality}`` stands for accuracy or log-loss.
        note: Below the title.
    """

    draw: Callable[[pd.DataFrame, RunRecord], go.Figure | None]
    title: str
    note: str = ""


def report_figures(trials: pd.DataFrame, run: RunRecord, texts: bool = True) -> dict[str, go.Figure]:
    """Return all figures by name, in the order in which the report shows them.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run.
        texts: Whether trials have the texts that are shown under the pointer.

    Returns:
        Those of ``FIGURES``; ``objectives`` of studies with three only.
    """
    drawn = {name: one.draw(trials, run) for name, one in FIGURES.items()}
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    if texts:
        add_texts(figures.values(), trials, run)
    return figures


def three_objectives(trials: pd.DataFrame, run: RunRecord) -> go.Figure | None:
    """Draw the study's three objectives in space, the first upwards; ``None`` where it has fewer.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    if len(run.objectives) < 3:
        return None
    up, across, along = run.objectives
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
                **trial_data(rows),
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


def hypervolume_over_trials(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw the front's hypervolume after each complete trial.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
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
    style_figure(figure, "complete trials", "hypervolume")
    figure.update_layout(height=280, yaxis={"rangemode": "tozero"})
    return figure


def stage_contributions(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw what each choice of the configuration changes on average, against none, with its interval.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there; :func:`se_search.results.contributions.describe_contributions` has found its ``contributions``.
    """
    factors = run.contributions.factors
    if not any(factor.told or factor.importance for factor in factors):
        return empty_figure(run.contributions.sentence)
    quality = run.quality
    figure = go.Figure()
    ticks: list[str] = []
    points: dict[str, list[tuple[int, Sequence[float], str]]] = {"told": [], "not told": []}
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
            font={"size": 12, "color": INK if factor.told else SOFT},
        )
        ticks.append(f"<b>{escape(factor.name)}</b>")
        # The note's further lines stand on rows of their own, so that they hide no interval.
        ticks += [""] * (len(notes) - 1)
        for level in factor.levels:
            effect = level.effect
            if effect is not None:
                told = "told" if effect[1] > 0 or effect[2] < 0 else "not told"
                label = f"{factor.name}, {level.level}: {with_interval(effect, quality, signed=True)}"
                points[told].append((len(ticks), effect, f"{escape(label)}<br>{level.trials} trials"))
            ticks.append(f"{cut(level.level, 14)} ({level.trials})")
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


def _notes(factor: Factor) -> list[str]:
    """Return the lines that a figure has beside a factor's name."""
    parts = []
    if factor.reference not in ("", "no SE"):
        parts.append(f"against {factor.reference}")
    if factor.importance is not None:
        parts.append(f"explains {percent_with_interval(*factor.importance, decimals=0)}")
    if factor.why:
        parts.append(("" if factor.told else "cannot be told: ") + factor.why)
    return [escape(line) for part in parts for line in textwrap.wrap(part, _WIDTH_OF_NOTES)]


def front_heat_map(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw which block has which attention in each member of the front, from the smallest to the largest.

    Args:
        trials: As :func:`report_figures` takes it, like ``run``.
        run: See there.
    """
    front = front_of(trials)
    if front.empty:
        return empty_figure("The Pareto front is empty.")
    columns = [draw_configuration(config, run.sites) for config in front["config"]]
    cells = [[cell for stage in column for cell in stage["cells"]] for column in columns]
    options = sorted({(cell["rank"], cell["option"]) for column in cells for cell in column if cell["rank"]})
    kinds: list[tuple[Any, str, str]] = [(None, "no SE", EMPTY_CELL)]
    if any(cell["kept"] and not cell["rank"] for column in cells for cell in column):
        kinds.append(("kept", "kept as in the backbone", _KEPT))
    kinds += [(option, option, shade(rank)) for rank, option in options]
    index = {kind: place for place, (kind, _, _) in enumerate(kinds)}
    numbers = front["number"].tolist()
    rows = range(len(cells[0]))
    scale = [[(place + end) / len(kinds), colour] for place, (_, _, colour) in enumerate(kinds) for end in (0, 1)]
    figure = go.Figure(
        go.Heatmap(
            z=[
                [index[column[row]["option"] or ("kept" if column[row]["kept"] else None)] for column in cells]
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
        showlegend=True,  # also where it has one entry
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


def _tail(block: str, longest: int = 14) -> str:
    return escape(block if len(block) <= longest else "…" + block[1 - longest :])


FIGURES = {
    "overhead": ReportFigure(
        quality_against_overhead,
        "{quality} against parameters",
        "Click a trial to choose it everywhere; with Shift, several.",
    ),
    "latency": ReportFigure(quality_against_latency, "{quality} against latency"),
    "objectives": ReportFigure(three_objectives, "The three objectives", "Drag to turn."),
    "parallel": ReportFigure(parallel_coordinates, "Configurations and what they are worth", "Each line is one trial."),
    "hypervolume": ReportFigure(hypervolume_over_trials, "Progress of the search"),
    "contributions": ReportFigure(stage_contributions, "What each stage contributed"),
    "heat_map": ReportFigure(
        front_heat_map,
        "Where SE stands on the front",
        "Columns are members of the front, rows the blocks of the backbone.",
    ),
}
"""The figures of the report by name, in the order in which it shows them."""
