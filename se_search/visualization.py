"""Figures of a run, as functions that return Plotly figures; ``optuna.visualization`` has those of its study.

Each takes a :class:`se_search.Run` and returns a ``plotly.graph_objects.Figure``, to be shown, changed or written.
"""

import plotly.graph_objects as go

from .api import Run
from .errors import RunFolderError
from .report import figures, parallel, scatter
from .search.record import read_results


def plot_quality_against_overhead(run: Run) -> go.Figure:
    """Draw accuracy (log-loss where the study judges by that) against parameter overhead, with intervals."""
    return scatter.quality_against_overhead(*read_results(run.folder))


def plot_quality_against_latency(run: Run) -> go.Figure:
    """Draw accuracy or log-loss against latency ratio, with intervals of both."""
    return scatter.quality_against_latency(*read_results(run.folder))


def plot_three_objectives(run: Run) -> go.Figure:
    """Draw the study's three objectives in space.

    Raises:
        RunFolderError: If the study has two.
    """
    figure = figures.three_objectives(*read_results(run.folder))
    if figure is None:
        raise RunFolderError(
            f"{run.folder} has two objectives: plot_quality_against_overhead or plot_quality_against_latency draws them"
        )
    return figure


def plot_parallel_coordinates(run: Run) -> go.Figure:
    """Draw each trial as a line over its configuration's choices and what was measured of it."""
    return parallel.parallel_coordinates(*read_results(run.folder))


def plot_hypervolume(run: Run) -> go.Figure:
    """Draw the front's hypervolume over the trials."""
    return figures.hypervolume_over_trials(*read_results(run.folder))


def plot_contributions(run: Run) -> go.Figure:
    """Draw what each stage's ratio and placement, the gate and the position contributed, with intervals."""
    return figures.stage_contributions(*read_results(run.folder))


def plot_front(run: Run) -> go.Figure:
    """Draw where SE stands, with which ratio, in each member of the Pareto front."""
    return figures.front_heat_map(*read_results(run.folder))
