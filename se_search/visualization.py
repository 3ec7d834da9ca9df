"""Plotly figures of runs, comparisons and analyses; ``optuna.visualization`` draws those of ``Run.study``."""

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go

from .api import Excitation, Run
from .errors import RunFolderError
from .report import (
    comparison,
    contributions,
    curves,
    excitation_figures,
    figures,
    history,
    parallel,
    scatter,
    slices,
)
from .report.groups import add_texts
from .results.comparison import Comparison
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
    return _draw(history.hypervolume_over_trials, run)


def plot_front_over_trials(run: Run) -> go.Figure:
    """Draw the best quality up to each parameter overhead after parts of the search."""
    return _draw(history.front_over_trials, run)


def plot_training_curves(run: Run) -> go.Figure:
    """Draw the mean training loss of each epoch of every training."""
    return _draw(curves.training_curves, run)


def plot_contributions(run: Run) -> go.Figure:
    """Draw the effects of each stage's ratio and placement, the gate and the position, with intervals."""
    return _draw(contributions.stage_contributions, run)


def plot_interactions(run: Run) -> go.Figure:
    """Draw what attention in two stages does beyond the sum of their effects, with intervals."""
    return _draw(contributions.stage_interactions, run)


def plot_ablation(run: Run) -> go.Figure:
    """Draw the changes from no attention to the run's pick, one at a time, with intervals of the additive model."""
    return _draw(contributions.ablation_path, run)


def plot_choices(run: Run) -> go.Figure:
    """Draw the quality of each trial over its choice in each part of the configuration."""
    return _draw(slices.quality_by_choice, run)


def plot_front(run: Run) -> go.Figure:
    """Draw the SE blocks and ratios of each member of the Pareto front."""
    return _draw(figures.front_heat_map, run)


def plot_compared_fronts(compared: Comparison, cost: str = "parameter_overhead") -> go.Figure:
    """Draw the fronts of several runs, from :func:`se_search.compare_runs`.

    Args:
        compared: The comparison.
        cost: ``"parameter_overhead"``, ``"latency_ratio"`` or another column of ``trials.csv``.
    """
    return comparison.fronts_side_by_side(compared, cost)


def plot_compared_hypervolumes(compared: Comparison) -> go.Figure:
    """Draw the hypervolumes of several runs over their trials."""
    return comparison.hypervolumes_over_trials(compared)


def plot_activations(found: Excitation, depth: int) -> go.Figure:
    """Draw the mean activation by channel of the block at a depth, counted from 1, for each chosen class.

    Raises:
        KeyError: If no block has that depth.
    """
    return excitation_figures.block_activations(found.analysis, depth)


def plot_spread(found: Excitation, depth: int) -> go.Figure:
    """Draw the activation by channel of the block at a depth for two classes, with its standard deviation.

    Raises:
        KeyError: If no block has that depth.
    """
    return excitation_figures.block_spread(found.analysis, depth)


def plot_specificity(found: Excitation) -> go.Figure:
    """Draw how class-specific the gates of each block are."""
    return excitation_figures.specificity_by_depth(found.analysis)


def plot_saturation(found: Excitation) -> go.Figure:
    """Draw the share of each block's gates that are constant."""
    return excitation_figures.saturation_by_depth(found.analysis)


def plot_similarity(found: Excitation) -> go.Figure:
    """Draw how similar the classes are up to scale in each block."""
    return excitation_figures.similarity_by_depth(found.analysis)


def plot_changes(found: Excitation, measure: str = "accuracy") -> go.Figure:
    """Draw what is lost if the gates of a block are replaced by their means: ``accuracy`` or ``log_loss``."""
    return excitation_figures.change_by_depth(found.analysis, measure)


def _draw(draw: Callable[[pd.DataFrame, RunRecord], go.Figure | None], run: Run) -> go.Figure:
    results = read_results(run.folder)
    figure = draw(*results)
    if figure is None:
        raise RunFolderError(
            f"{run.folder} has two objectives: plot_quality_against_overhead or plot_quality_against_latency draws them"
        )
    add_texts([figure], *results)
    return figure
