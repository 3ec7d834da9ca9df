"""The functions draw what the report draws."""

import inspect
from dataclasses import replace

import pytest

import se_search
from se_search import visualization
from se_search.report.figures import report_figures
from se_search.results.record import read_results

NAMES = {
    "plot_quality_against_overhead": "overhead",
    "plot_quality_against_latency": "latency",
    "plot_three_objectives": "objectives",
    "plot_parallel_coordinates": "parallel",
    "plot_hypervolume": "hypervolume",
    "plot_contributions": "contributions",
    "plot_front": "heat_map",
}


@pytest.mark.slow
def test_each_figure_of_the_report_has_a_function(finished_run):
    run = se_search.load_run(finished_run / "run")
    functions = {name for name, _ in inspect.getmembers(visualization, inspect.isfunction) if name.startswith("plot_")}
    assert functions == set(NAMES)
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
