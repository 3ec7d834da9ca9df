"""The Plotly figures of the report.

Each function takes the results of :func:`se_search.results.record.read_results`: all trials, in the columns of
``trials.csv``, and the description of the run. ``customdata`` of a trace holds trial numbers, by which the page selects
a trial in all figures; :func:`~se_search.report.groups.add_texts` adds the hover texts.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

import pandas as pd
import plotly.graph_objects as go

from ..results.record import RunRecord
from ..results.table import front_of
from ..words import upper_first
from .configuration import draw_configuration, shade
from .contributions import ablation_path, stage_contributions, stage_interactions
from .curves import training_curves
from .groups import add_texts, complete_trials, group_trials, legend_entry, trial_data
from .history import front_over_trials, hypervolume_over_trials
from .parallel import parallel_coordinates
from .scatter import quality_against_latency, quality_against_overhead
from .slices import quality_by_choice
from .style import (
    CLEAR,
    EDGE,
    EMPTY_CELL,
    GRID,
    INK,
    SCALE,
    category_axis,
    empty_figure,
    short_numbers,
    style_figure,
)

_KEPT = "#b58900"
# In space Plotly draws an x as a character that many fonts lack.
_SYMBOLS_IN_SPACE = {"x": "square-open"}


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report, with the title and the note below it on the page.

    Attributes:
        draw: Function that draws it, or returns ``None`` if the run has no such figure.
        title: Title, in which ``{quality}`` stands for accuracy or log-loss and ``{attention}`` for its kind.
        note: Note below the title, with ``{attention}`` likewise.
    """

    draw: Callable[[pd.DataFrame, RunRecord], go.Figure | None]
    title: str
    note: str = ""

    def title_of(self, run: RunRecord) -> str:
        """Return the title of a run's figure."""
        return upper_first(self.title.format(quality=run.quality.words, attention=run.attention))

    def note_of(self, run: RunRecord) -> str:
        """Return the note below the title of a run's figure."""
        return self.note.format(attention=run.attention)


def report_figures(trials: pd.DataFrame, run: RunRecord, texts: bool = True) -> dict[str, go.Figure]:
    """Return all figures by name, in the order in which the report shows them.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run.
        texts: Whether to add hover texts.

    Returns:
        The figures of ``FIGURES``; ``objectives`` only if the study has three.
    """
    drawn = {name: one.draw(trials, run) for name, one in FIGURES.items()}
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    if texts:
        add_texts(figures.values(), trials, run)
    return figures


def three_objectives(trials: pd.DataFrame, run: RunRecord) -> go.Figure | None:
    """Draw the three objectives in space, the first upwards; return ``None`` if the study has fewer."""
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
        x, y, z = (short_numbers(rows[one.name] * one.factor) for one in (across, along, up))
        figure.add_scatter3d(
            x=x,
            y=y,
            z=z,
            mode="markers",
            name=group.label,
            marker={
                "symbol": _SYMBOLS_IN_SPACE.get(group.symbol, group.symbol),
                "size": group.size * 0.55,
                "color": z,
                "coloraxis": "coloraxis",
                "line": {"color": INK if group.prominent else EDGE, "width": 1},
                "opacity": 1.0 if group.prominent else 0.6,
            },
            legendgroup=group.label,
            showlegend=False,
            **trial_data(rows),
        )
    for group in {group.label: group for group in groups}.values():
        marker = {"symbol": _SYMBOLS_IN_SPACE.get(group.symbol, group.symbol), "size": group.size * 0.55, "color": EDGE}
        figure.add_trace(legend_entry(group.label, marker, go.Scatter3d))
    style_figure(figure, "", "")
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "backgroundcolor": CLEAR, "color": INK, "showspikes": False}
    axes = {"xaxis": across, "yaxis": along, "zaxis": up}
    figure.update_layout(
        height=520,
        coloraxis={"colorscale": list(SCALE), "showscale": False},
        scene={
            **{name: axis | {"title": {"text": one.short_title, "font": {"size": 13}}} for name, one in axes.items()},
            "camera": {"eye": {"x": -2.4, "y": -2.3, "z": 1.2}, "center": {"x": 0, "y": 0, "z": -0.15}},
            "aspectmode": "cube",
        },
    )
    return figure


def front_heat_map(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw the attention of each block in each member of the front, from the smallest to the largest."""
    front = front_of(trials)
    if front.empty:
        return empty_figure("The Pareto front is empty.")
    columns = [draw_configuration(config, run.sites, run.attention) for config in front["config"]]
    # One row for each block, one column for each member.
    cells = list(zip(*([cell for stage in column for cell in stage.cells] for column in columns), strict=True))
    options = sorted({(cell.rank, cell.option) for row in cells for cell in row if cell.rank})
    kinds = {"": (f"no {run.attention}", EMPTY_CELL)}
    if any(cell.kept and not cell.rank for row in cells for cell in row):
        kinds["kept"] = ("kept as in the backbone", _KEPT)
    kinds |= {option: (option, shade(rank)) for rank, option in options}
    index = {kind: place for place, kind in enumerate(kinds)}
    numbers = front["number"].tolist()
    scale = [[(place + end) / len(kinds), colour] for place, (_, colour) in enumerate(kinds.values()) for end in (0, 1)]
    figure = go.Figure(
        go.Heatmap(
            z=[[index[cell.option or ("kept" if cell.kept else "")] for cell in row] for row in cells],
            zmin=-0.5,
            zmax=len(kinds) - 0.5,
            colorscale=scale,
            showscale=False,
            xgap=2,
            ygap=2,
            customdata=[numbers for _ in cells],
            text=[[escape(cell.title) for cell in row] for row in cells],
            hovertemplate="trial %{customdata}<br>%{text}<extra></extra>",
        )
    )
    for label, colour in kinds.values():
        marker = {"symbol": "square", "size": 13, "color": colour, "line": {"color": EDGE, "width": 1}}
        figure.add_trace(legend_entry(label, marker))
    for edge in itertools.accumulate(len(stage.cells) for stage in columns[0][:-1]):
        figure.add_hline(y=edge - 0.5, line={"color": INK, "width": 1})
    blocks = [f"stage {stage.stage} · {_tail(cell.block)}" for stage in columns[0] for cell in stage.cells]
    members = [f"{number}*" if name else str(number) for number, name in zip(numbers, front["name"], strict=True)]
    style_figure(figure, "trial (*: baseline)", "")
    return figure.update_layout(
        height=170 + max(18 * len(cells), 120),
        showlegend=True,  # also with one entry
        xaxis=category_axis(members),
        yaxis=category_axis(blocks, downwards=True),
    )


def _tail(block: str) -> str:
    return escape(block if len(block) <= 14 else "…" + block[-13:])


FIGURES = {
    "overhead": ReportFigure(
        quality_against_overhead,
        "{quality} against parameters",
        "Click a trial to select it in the whole page; Shift-click selects several.",
    ),
    "latency": ReportFigure(quality_against_latency, "{quality} against latency"),
    "objectives": ReportFigure(three_objectives, "The three objectives", "Drag to rotate."),
    "parallel": ReportFigure(parallel_coordinates, "Configurations and their values", "Each line is one trial."),
    "hypervolume": ReportFigure(
        hypervolume_over_trials,
        "Progress of the search",
        "Hypervolume of the front of estimates; the band is its nominal 95 % interval.",
    ),
    "curves": ReportFigure(training_curves, "Training curves", "Mean training loss of each epoch of every training."),
    "front_history": ReportFigure(
        front_over_trials, "The front over time", "Best estimates up to each cost, after parts of the search."
    ),
    "contributions": ReportFigure(stage_contributions, "What each stage contributed"),
    "interactions": ReportFigure(
        stage_interactions,
        "Interactions of two stages",
        "What {attention} in both stages does beyond the sum of their effects. Intervals have a joint level of 95 %.",
    ),
    "ablation": ReportFigure(
        ablation_path,
        "From no {attention} to the pick",
        "One change at a time, with the effects and intervals of the additive model: no step was trained on its own.",
    ),
    "choices": ReportFigure(
        quality_by_choice,
        "{quality} by choice",
        "Each point is one trial; trials with the same choice differ in their other choices.",
    ),
    "heat_map": ReportFigure(
        front_heat_map,
        "{attention} blocks on the front",
        "One column for each member of the front, fewest parameters first; one row for each block of the backbone.",
    ),
}
"""The figures of the report by name, in the order in which it shows them."""
