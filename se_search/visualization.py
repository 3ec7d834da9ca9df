"""Plotly figures of a :class:`se_search.Run`; ``optuna.visualization`` draws those of its study."""

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go

from .api import Run
from .errors import RunFolderError
from .report import figures, parallel, scatter
from .report.groups import add_texts
from .results.record import RunRecord, read_results


def plot_quality_against_overhead(run: Run) -> go.Figure:
    """Draw accuracy or log-loss against parameter overhead, with intervals."""
    return _draw(scatter.quality_against_overhead, run)


def plot_quality_against_latency(run: Run) -> go.Figure:
    """Draw accuracy or log-loss against latency ratio, both with intervals."""
    return _draw(scatter.quality_against_latency, run)


def plot_three_objectives(run: Run) -> go.Figure:
    """Draw the three objectives of the study in space.

    Raises:
        RunFolderError: If the study has two.
    """
    return _draw(figures.three_objectives, run)


def plot_parallel_coordinates(run: Run) -> go.Figure:
    """Draw each trial as a line over the choices of its configuration and its values."""
    return _draw(parallel.parallel_coordinates, run)


def plot_hypervolume(run: Run) -> go.Figure:
    """Draw the hypervolume of the front over the trials."""
    return _draw(figures.hypervolume_over_trials, run)


def plot_contributions(run: Run) -> go.Figure:
    """Draw the effects of each stage's ratio and placement, the gate and the position, with intervals."""
    return _draw(figures.stage_contributions, run)


def plot_front(run: Run) -> go.Figure:
    """Draw the SE blocks and ratios of each member of the Pareto front."""
    return _draw(figures.front_heat_map, run)


def _draw(draw: Callable[[pd.DataFrame, RunRecord], go.Figure | None], run: Run) -> go.Figure:
    results = read_results(run.folder)
    figure = draw(*results)
    if figure is None:
        raise RunFolderError(
            f"{run.folder} has two objectives: plot_quality_against_overhead or plot_quality_against_latency draws them"
        )
    add_texts([figure], *results)
    return figure
