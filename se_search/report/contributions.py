"""What the parts of a configuration contribute to its quality: effects, interactions, and a path of changes."""

import textwrap
from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..results.contributions import Factor, Interaction, steps_to
from ..results.record import RunRecord
from ..study.objectives import Objective
from ..words import counted, percent_with_interval, points_with_interval
from .groups import complete_trials
from .measures import with_interval, write_value
from .style import (
    BARS,
    INK,
    LABEL,
    SHADES,
    SOFT,
    category_axis,
    cut,
    empty_figure,
    error_bars,
    short_numbers,
    style_figure,
)

_WIDTH_OF_NOTES = 27
_SIGNIFICANCE = {True: ("significant", SHADES[2], "circle"), False: ("not significant", SOFT, "circle-open")}
_Point = tuple[int, Sequence[float], str]  # place on the axis, effect with the ends of its interval, hover text


def stage_contributions(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw the average effect of each choice of the configuration relative to its reference, with intervals."""
    factors = run.contributions.factors
    if not any(factor.told or factor.importance for factor in factors):
        return empty_figure(run.contributions.sentence)
    quality = run.quality
    figure = go.Figure()
    ticks: list[str] = []
    points: list[_Point] = []
    for factor in factors:
        notes = _notes(factor, f"no {run.attention}")
        figure.add_annotation(
            **LABEL | {"font": {"size": 12, "color": INK if factor.told else SOFT}},
            x=0,
            xref="paper",
            y=len(ticks),
            yshift=10,
            text="<br>".join(notes),
            align="left",
            xanchor="left",
            yanchor="top",
            borderpad=0,
        )
        # Further lines of the note have rows of their own, so that they cover no interval.
        ticks += [f"<b>{escape(factor.name)}</b>", *[""] * (len(notes) - 1)]
        for level in factor.levels:
            if level.effect is not None:
                label = f"{factor.name}, {level.level}: {_in_words(level.effect, quality)}"
                points.append((len(ticks), level.effect, f"{escape(label)}<br>{counted(level.trials, 'trial')}"))
            ticks.append(f"{cut(level.level, 14)} ({level.trials})")
    _add_effects(figure, points, quality)
    style_figure(figure, _change(quality), "")
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    return figure.update_layout(
        height=130 + 22 * len(ticks), showlegend=True, yaxis=category_axis(ticks, downwards=True) | {"ticks": ""}
    )


def _add_effects(figure: go.Figure, points: Sequence[_Point], quality: Objective) -> None:
    """Add effects with their intervals, in one colour if they are significant and in another if not."""
    for significant, (label, colour, symbol) in _SIGNIFICANCE.items():
        drawn = [one for one in points if (one[1][1] > 0 or one[1][2] < 0) == significant]
        if drawn:
            places, effects, texts = zip(*drawn, strict=True)
            values = np.transpose(effects) * quality.factor
            figure.add_scatter(
                x=short_numbers(values[0]),
                y=places,
                error_x=error_bars(colour, *values),
                mode="markers",
                name=label,
                marker={"color": colour, "size": 10, "symbol": symbol},
                text=texts,
                hovertemplate="%{text}<extra></extra>",
            )


def _notes(factor: Factor, baseline: str) -> list[str]:
    """Return the lines beside the name of a factor, and the reference unless it is the baseline of all stages."""
    parts = []
    if factor.reference not in ("", baseline):
        parts.append(f"relative to {factor.reference}")
    if factor.importance is not None:
        parts.append(f"explains {percent_with_interval(*factor.importance, decimals=0)}")
    if factor.why:
        parts.append(("" if factor.told else "cannot be estimated: ") + factor.why)
    return [escape(line) for part in parts for line in textwrap.wrap(part, _WIDTH_OF_NOTES)]


def stage_interactions(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw what attention in two stages does beyond the sum of their effects, for each pair of stages."""
    pairs, quality = run.contributions.interactions, run.quality
    known = [(place, one, one.effect) for place, one in enumerate(pairs) if one.effect is not None]
    if not known:
        return empty_figure("Interactions cannot be estimated: too few trials have each combination of two stages.")
    figure = go.Figure()
    _add_effects(figure, [(place, effect, _describe_pair(one, effect, run)) for place, one, effect in known], quality)
    style_figure(figure, _change(quality), "")
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    labels = [
        f"{one.first} × {one.second.removeprefix('stage ')}" + ("" if one.effect else " (too few trials)")
        for one in pairs
    ]
    return figure.update_layout(
        height=130 + 26 * len(labels), showlegend=True, yaxis=category_axis(labels, downwards=True) | {"ticks": ""}
    )


def _describe_pair(one: Interaction, effect: Sequence[float], run: RunRecord) -> str:
    groups = zip(("neither", one.first, one.second, "both"), one.means, one.trials, strict=True)
    lines = [f"{where}: {write_value(mean, run.quality)} ({counted(count, 'trial')})" for where, mean, count in groups]
    heading = f"{one.first} and {one.second}: {_in_words(effect, run.quality)}"
    return "<br>".join([heading, f"mean {run.quality.words} with {run.attention} in", *lines])


def ablation_path(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw the changes from no attention to the run's pick, one at a time, each with the interval of its effect."""
    number = next((run.picks[pick] for pick in ("knee", "accurate") if pick in run.picks), None)
    complete = complete_trials(trials).set_index("number")
    if number is None or number not in complete.index:
        return empty_figure("There is no pick yet.", 280)
    name = f"trial {number}, a network " + ("without" if complete.loc[number, "se_blocks"] == 0 else "with")
    steps = steps_to(number, trials, run.sites, run.contributions, run.attention)
    if not steps:
        return empty_figure(f"The pick is {name} {run.attention}; there is no choice to compare it by.", 280)
    quality, reached = run.quality, 0.0
    ends: list[tuple[float, float, float]] = []
    for step in steps:
        low, high = (step.effect[end] - step.effect[0] for end in (1, 2)) if step.effect else (0.0, 0.0)
        reached += step.effect[0] if step.effect else 0.0
        ends.append((reached, reached + low, reached + high))
    labels = [f"no {run.attention}", *(cut(step.change, 26) for step in steps)]
    values = np.transpose([(0.0, 0.0, 0.0), *ends]) * quality.factor
    told = [f"{labels[0]}: the start"] + [
        f"{escape(step.change)}: " + (_in_words(step.effect, quality) if step.effect else "cannot be estimated")
        for step in steps
    ]
    figure = go.Figure(
        go.Scatter(
            x=short_numbers(values[0]),
            y=list(range(len(labels))),
            error_x=error_bars(BARS, *values),
            mode="lines+markers",
            name="sum of the steps, with each step's interval",
            line={"shape": "vh", "color": SHADES[2], "width": 2},
            marker={
                "size": 10,
                "color": SHADES[2],
                "symbol": ["circle", *("circle" if step.effect else "x" for step in steps)],
            },
            text=told,
            hovertemplate="%{text}<br>sum so far %{x}<extra></extra>",
        )
    )
    gains = {one.number: one.judged for one in (run.gain.networks if run.gain else ())}
    if number in gains:
        own = np.transpose([gains[number]]) * quality.factor
        labels.append(f"trial {number} itself")
        figure.add_scatter(
            x=short_numbers(own[0]),
            y=[len(labels) - 1],
            error_x=error_bars(INK, *own),
            mode="markers",
            name="its own estimate",
            marker={"size": 12, "color": INK, "symbol": "diamond"},
            text=[f"trial {number} against no {run.attention}: {_in_words(gains[number], quality)}"],
            hovertemplate="%{text}<extra></extra>",
        )
    style_figure(figure, _change(quality), "")
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    return figure.update_layout(
        height=150 + 30 * len(labels), showlegend=True, yaxis=category_axis(labels, downwards=True) | {"ticks": ""}
    )


def _change(quality: Objective) -> str:
    return "accuracy change (points)" if quality.name == "accuracy" else "log-loss change"


def _in_words(effect: Sequence[float], quality: Objective) -> str:
    value, low, high = effect
    if quality.name == "accuracy":
        return points_with_interval(value, low, high)
    return with_interval(effect, quality, signed=True)
