"""Several runs on one page: their fronts in one figure, their hypervolumes, and ratios of these."""

import math
import os
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ..results.comparison import ComparedRun, Comparison
from ..study.objectives import OBJECTIVES, custom_objective
from ..words import counted
from .groups import connect_front
from .html import render_page, write_page
from .measures import bars_of, hover_text, write_interval, write_value
from .style import DASHES, INK, PALETTE, SOFT, cut, short_numbers, style_figure

MARK = 'data-page="se-search comparison"'
"""Mark of the pages that :func:`render_comparison` writes."""

_COLOURS = (*PALETTE, INK, SOFT)
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "hexagon", "cross", "x")
_LINES = (*DASHES, *DASHES[:2])
_LONGEST_LABEL = 40


def comparison_figures(comparison: Comparison) -> dict[str, go.Figure]:
    """Return the figures ``overhead``, ``latency`` and ``hypervolume`` of :func:`se_search.compare_runs`."""
    return {
        "overhead": fronts_side_by_side(comparison, "parameter_overhead"),
        "latency": fronts_side_by_side(comparison, "latency_ratio"),
        "hypervolume": hypervolumes_over_trials(comparison),
    }


def fronts_side_by_side(comparison: Comparison, cost: str = "parameter_overhead") -> go.Figure:
    """Draw the members of all fronts with their intervals: accuracy or log-loss against a cost.

    Args:
        comparison: From :func:`se_search.compare_runs`.
        cost: A column of ``trials.csv``, such as ``"parameter_overhead"`` or ``"latency_ratio"``.
    """
    x, y = OBJECTIVES.get(cost) or custom_objective(cost, "minimize"), comparison.runs[0].run.quality
    figure = go.Figure()
    for index, one in enumerate(comparison.runs):
        front = one.trials[one.trials["on_front"]].sort_values(x.name)
        colour = _COLOURS[index]
        name = cut(one.label, _LONGEST_LABEL)
        figure.add_scatter(
            x=short_numbers(front[x.name] * x.factor) or [None],
            y=short_numbers(front[y.name] * y.factor) or [None],
            error_x=bars_of(front, x, colour) if x.interval else None,
            error_y=bars_of(front, y, colour),
            mode="markers",
            name=name,
            legendgroup=str(index),
            marker={"symbol": _SYMBOLS[index], "size": 10, "color": colour},
            text=[f"<b>{escape(one.label)}</b><br>{hover_text(row, one.run)}" for row in front.to_dict("records")],
            hovertemplate="%{text}<extra></extra>",
        )
        drawn = len(figure.data)
        connect_front(figure, front, x, y)
        for line in figure.data[drawn:]:
            line.update(legendgroup=str(index), showlegend=False, name=name)
            line.line.update(color=colour, dash=_LINES[index], width=1.5)
    style_figure(figure, x.title, y.title)
    return figure.update_layout(height=460)


def hypervolumes_over_trials(comparison: Comparison) -> go.Figure:
    """Draw the hypervolume of each front after each complete trial, relative to the common reference point."""
    figure = go.Figure()
    for index, one in enumerate(comparison.runs):
        figure.add_scatter(
            x=list(range(1, len(one.history) + 1)),
            y=short_numbers(one.history),
            mode="lines+markers",
            name=cut(one.label, _LONGEST_LABEL),
            line={"shape": "hv", "color": _COLOURS[index], "dash": _LINES[index], "width": 2},
            marker={"symbol": _SYMBOLS[index], "size": 6, "color": _COLOURS[index]},
            hovertemplate=f"<b>{escape(one.label)}</b><br>after %{{x}} trials: %{{y:.4f}}<extra></extra>",
        )
    style_figure(figure, "complete trials", "hypervolume")
    return figure.update_layout(height=340, yaxis={"rangemode": "tozero"})


def describe_ratios(comparison: Comparison) -> list[str]:
    """Compare each run but the first with the first in one sentence."""
    first = comparison.runs[0]
    sentences = []
    for one in comparison.runs[1:]:
        if one.ratio is None:
            sentences.append(f"{one.label} and {first.label} cannot be compared.")
            continue
        interval = f" [{one.ratio.low:.3f}, {one.ratio.high:.3f}]"
        match verdict(one):
            case "":
                result, interval = f"{one.label} against {first.label}", ", without interval"
            case "no difference":
                result = f"No significant difference between {one.label} and {first.label}"
            case better_or_worse:
                result = f"{one.label} is significantly {better_or_worse} than {first.label}"
        sentences.append(f"{result}: hypervolume ratio ×{one.ratio.value:.3f}{interval}.")
    return sentences


def verdict(run: ComparedRun) -> str:
    """Whether a front is significantly better than the first's, in a word or two; empty if there is no interval."""
    if run.ratio is None or math.isinf(run.ratio.high):
        return ""
    if run.ratio.low > 1:
        return "better"
    return "worse" if run.ratio.high < 1 else "no difference"


def render_comparison(comparison: Comparison) -> str:
    """Return the whole page of :func:`se_search.compare_runs`."""
    others = len(comparison.runs) - 1
    return render_page(
        "comparison.html.jinja",
        comparison_figures(comparison),
        mark=MARK,
        comparison=comparison,
        sentences=describe_ratios(comparison),
        rows=[_row(one) for one in comparison.runs],
        data=comparison.runs[0].run.data,
        quality=comparison.runs[0].run.quality,
        level="95 %" + (f" (jointly for all {counted(others, 'comparison')})" if others > 1 else ""),
        counted=counted,
        write_value=write_value,
        write_interval=write_interval,
    )


def _row(one: ComparedRun) -> dict[str, Any]:
    quality = one.run.quality
    best = one.trials[one.trials["feasible"]].sort_values(
        quality.name, ascending=quality.direction == "minimize", kind="stable"
    )
    return {
        "label": one.label,
        "run": one.run,
        "evaluated": int((one.trials["state"] != "failed").sum()),
        "front": int(one.trials["on_front"].sum()),
        "hypervolume": one.hypervolume,
        "ratio": one.ratio,
        "bounded": one.ratio is not None and math.isfinite(one.ratio.high),
        "verdict": verdict(one),
        "best": best.iloc[0].to_dict() if len(best) else None,
    }


def write_comparison(comparison: Comparison, to: str | os.PathLike[str] = "comparison.html") -> Path:
    """Write the page that compares runs.

    Args:
        comparison: From :func:`se_search.compare_runs`.
        to: A new file, or an earlier comparison.

    Raises:
        RunFolderError: If the file exists and is not a comparison, or cannot be written.
    """
    file = Path(to)
    write_page(file, lambda: render_comparison(comparison), MARK, "a comparison of runs", "--to")
    return file
