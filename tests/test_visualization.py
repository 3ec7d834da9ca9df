"""The functions draw what the report draws."""

import inspect
import shutil
from dataclasses import replace

import pytest

import se_search
from se_search import visualization
from se_search.api import Excitation
from se_search.data.load import load_data
from se_search.excitation.analysis import analyze_gates
from se_search.report import comparison, excitation_figures
from se_search.report.figures import report_figures
from se_search.results.record import read_results

NAMES = {
    "plot_quality_against_overhead": "overhead",
    "plot_quality_against_latency": "latency",
    "plot_three_objectives": "objectives",
    "plot_parallel_coordinates": "parallel",
    "plot_hypervolume": "hypervolume",
    "plot_training_curves": "curves",
    "plot_front_over_trials": "front_history",
    "plot_contributions": "contributions",
    "plot_interactions": "interactions",
    "plot_ablation": "ablation",
    "plot_choices": "choices",
    "plot_front": "heat_map",
}

OF_ANALYSES = {
    "plot_activations": ("block_activations", 1),
    "plot_spread": ("block_spread", 1),
    "plot_specificity": ("specificity_by_depth",),
    "plot_saturation": ("saturation_by_depth",),
    "plot_similarity": ("similarity_by_depth",),
    "plot_changes": ("change_by_depth", "log_loss"),
}
OF_COMPARISONS = {
    "plot_compared_fronts": ("fronts_side_by_side", "latency_ratio"),
    "plot_compared_hypervolumes": ("hypervolumes_over_trials",),
}


@pytest.mark.slow
def test_each_figure_of_the_report_has_a_function(finished_run):
    run = se_search.load_run(finished_run / "run")
    functions = {name for name, _ in inspect.getmembers(visualization, inspect.isfunction) if name.startswith("plot_")}
    assert functions == {*NAMES, *OF_ANALYSES, *OF_COMPARISONS}
    figures = report_figures(*read_results(run.folder))
    assert list(figures) == list(NAMES.values())
    for function, name in NAMES.items():
        assert getattr(visualization, function)(run) == figures[name]
        assert run.figure(name) == figures[name]


def test_a_study_of_two_objectives_has_none_in_space(finished_run, monkeypatch):
    trials, description = read_results(finished_run / "run")
    description = replace(description, objectives=description.objectives[:2])
    monkeypatch.setattr(visualization, "read_results", lambda folder: (trials, description))
    with pytest.raises(se_search.SeSearchError, match="has two objectives"):
        visualization.plot_three_objectives(se_search.load_run(finished_run / "run"))


def test_comparisons_and_analyses_have_functions_too(finished_run):
    folder = finished_run / "run"
    shutil.copytree(folder, finished_run / "again")
    compared = se_search.compare_runs([folder, finished_run / "again"])
    for name, (drawn, *more) in OF_COMPARISONS.items():
        assert getattr(visualization, name)(compared, *more) == getattr(comparison, drawn)(compared, *more)
    network = se_search.create_model(se_search.SEConfig.uniform("test_resnet", 4), num_classes=10)
    analysis = analyze_gates(network, load_data("digits", "test_resnet"), images=20, channels=4)
    found = Excitation(folder, analysis)
    for name, (drawn, *more) in OF_ANALYSES.items():
        assert getattr(visualization, name)(found, *more) == getattr(excitation_figures, drawn)(analysis, *more)
