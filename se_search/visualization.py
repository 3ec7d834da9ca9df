"""Figures of a run, as functions that return Plotly figures; ``optuna.visualization`` has those of its study.

Each takes a :class:`se_search.Run` and returns a ``plotly.graph_objects.Figure``, to be shown, changed or written.
"""

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go

from .api import Run
from .errors import RunFolderError
from .report import figures, parallel, scatter
from .report.groups import add_texts
from .results.record import RunRecord, read_results


def plot_quality_against_overhead(run: Run) -> go.Figure:
    """Draw accuracy (log-loss where the study judges by that) against parameter overhead, with intervals."""
    return _draw(scatter.quality_against_overhead, run)


def plot_quality_against_latency(run: Run) -> go.Figure:
    """Draw accuracy or log-loss against latency ratio, with intervals of both."""
    return _draw(scatter.quality_against_latency, run)


def plot_three_objectives(run: Run) -> go.Figure:
    """Draw the study's three objectives in space.

    Raises:
        RunFolderError: If the study has two.
    """
    results = read_results(run.folder)
    figure = figures.three_objectives(*results)
    if figure is None:
        raise RunFolderError(
            f"{run.folder} has two objectives: plot_quality_against_overhead or plot_quality_against_latency draws them"
        )
    add_texts([figure], *results)
    return figure


def plot_parallel_coordinates(run: Run) -> go.Figure:
    """Draw each trial as a line over its configuration's choices and what was measured of it."""
    return _draw(parallel.parallel_coordinates, run)


def plot_hypervolume(run: Run) -> go.Figure:
    """Draw the front's hypervolume over the trials."""
    return _draw(figures.hypervolume_over_trials, run)


def plot_contributions(run: Run) -> go.Figure:
    """Draw what each stage's ratio and placement, the gate and the position contributed, with intervals."""
    return _draw(figures.stage_contributions, run)


def plot_front(run: Run) -> go.Figure:
    """Draw where SE stands, with which ratio, in each member of the Pareto front."""
    return _draw(figures.front_heat_map, run)


def _draw(draw: Callable[[pd.DataFrame, RunRecord], go.Figure], run: Run) -> go.Figure:
    results = read_results(run.folder)
    figure = draw(*results)
    add_texts([figure], *results)
    return figure
