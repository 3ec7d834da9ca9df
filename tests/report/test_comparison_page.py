"""The page that compares runs, opened as a person opens it: a file, without a network."""

import math
from dataclasses import replace

import pytest
from made_up_results import made_up_results

from se_search.api import write_comparison
from se_search.errors import RunFolderError
from se_search.report.comparison import comparison_figures, describe_ratios, render_comparison, verdict
from se_search.results.comparison import ComparedRun, Comparison
from se_search.statistics import Estimate
from se_search.study.evaluator_definition import ScratchDefinition
from se_search.study.objectives import OBJECTIVES

HOSTILE = "<script>document.title='taken'</script>"


def compared(label, ratio, seed, **described):
    trials, run = made_up_results(12, seed=seed)
    run = replace(run, evaluator=ScratchDefinition(epochs=3), **described)
    return ComparedRun(label, trials, run, 0.05 + seed / 100, list(run.hypervolume_history), ratio)


def comparison_of(*runs, cautions=()):
    reference = {"accuracy": 0.1, "parameter_overhead": 0.12, "latency_ratio": 2.0}
    return Comparison(runs, reference, True, cautions)


@pytest.fixture
def comparison():
    return comparison_of(
        compared("first", None, 0),
        compared("better", Estimate(1.2, 1.1, 1.3), 1),
        compared("alike", Estimate(1.02, 0.97, 1.07), 2),
        compared("worse", Estimate(0.8, 0.7, 0.9), 3),
        compared("unknown", None, 4),
        cautions=("Take care.",),
    )


@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 400)])
def test_the_page_shows_the_runs_offline_without_an_error(comparison, open_page, tmp_path, width, scheme):
    page, told, asked = open_page(write_comparison(comparison, tmp_path / "page.html"), width, scheme)
    for name in ("overhead", "latency", "hypervolume"):
        page.locator(f"#figure-{name}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#figure-{name} .main-svg")
    members = sum(int(one.trials["on_front"].sum()) for one in comparison.runs)
    assert page.locator("#figure-overhead .scatterlayer .points path").count() >= members
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert told == []
    assert all(url.startswith("file:") for url in asked)
    text = page.locator("header").inner_text()
    assert "better is significantly better than first: hypervolume ratio ×1.200 [1.100, 1.300]." in text
    assert "No significant difference between alike and first" in text
    assert "worse is significantly worse than first" in text
    assert "unknown and first cannot be compared." in text
    assert "accuracy 0.1, parameter overhead 0.12, latency ratio 2" in text
    assert "95 % (jointly for all 4 comparisons)" in text
    assert "Take care." in text


def test_the_table_of_runs_sorts_by_the_ratio(comparison, open_page, tmp_path):
    page, _, _ = open_page(write_comparison(comparison, tmp_path / "page.html"))
    page.get_by_role("button", name="Ratio to the first").click()
    names = [text.split("\n")[0] for text in page.locator("#runs tbody td:first-child").all_inner_texts()]
    assert names == ["worse", "first", "alike", "better", "unknown"]
    cells = page.locator("#runs tbody tr").nth(3).locator("td").all_inner_texts()
    assert cells[1:4] == ["0.06", "×1.2000\n[1.1000, 1.3000]", "better"]


def test_a_figure_tells_eight_runs_apart_by_colour_symbol_and_name(comparison):
    runs = [compared(f"run {index}", None, index) for index in range(8)]
    figures = comparison_figures(comparison_of(*runs))
    for name, figure in figures.items():
        marked = [trace for trace in figure.data if trace.mode in ("markers", "lines+markers")]
        assert [trace.name for trace in marked] == [f"run {index}" for index in range(8)]
        assert len({trace.marker.color for trace in marked}) == len({trace.marker.symbol for trace in marked}) == 8, (
            name
        )


def test_figures_hold_the_fronts_and_their_intervals(comparison):
    figure = comparison_figures(comparison)["latency"]
    for one, trace in zip(comparison.runs, [trace for trace in figure.data if trace.mode == "markers"], strict=True):
        front = one.trials[one.trials["on_front"]].set_index("latency_ratio")
        assert sorted(trace.x) == pytest.approx(sorted(front.index), rel=1e-5)
        lowest = min(y - below for y, below in zip(trace.y, trace.error_y.arrayminus, strict=True))
        assert lowest == pytest.approx(front["accuracy_low"].min() * 100, abs=0.01)
    curve = comparison_figures(comparison)["hypervolume"].data[1]
    assert list(curve.y) == pytest.approx(comparison.runs[1].history, rel=1e-5)


def test_a_run_with_an_empty_front_is_shown(open_page, tmp_path):
    empty = compared("empty", None, 1)
    empty.trials["on_front"] = empty.trials["feasible"] = False
    page, told, _ = open_page(
        write_comparison(comparison_of(compared("first", None, 0), empty), tmp_path / "page.html")
    )
    page.wait_for_selector("#figure-latency .main-svg")
    assert page.locator("#runs tbody tr").nth(1).locator("td").nth(4).inner_text() == "–"
    assert told == []


def test_names_from_outside_are_text(open_page, tmp_path):
    first = compared(HOSTILE, None, 0, backbone=HOSTILE, folder=HOSTILE)
    long = compared("n" * 300, Estimate(1.0, 0.9, 1.1), 1, folder="f" * 300)
    file = write_comparison(comparison_of(first, long, cautions=(HOSTILE,)), tmp_path / "page.html")
    for width in (1400, 400):
        page, told, _ = open_page(file, width)
        page.wait_for_selector("#figure-overhead .main-svg")
        page.locator("#figure-overhead .points path").first.hover(force=True)
        assert HOSTILE in page.locator("#figure-overhead .hovertext").text_content()
        assert page.title() == "2 runs compared – se-search"
        assert page.locator("#runs tbody td").first.inner_text().startswith(HOSTILE)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert told == []


def test_a_ratio_without_an_interval_is_told_without_one():
    found = comparison_of(compared("a", None, 0), compared("b", Estimate(1.5, 0.0, math.inf), 1))
    assert describe_ratios(found) == ["b against a: hypervolume ratio ×1.500, without interval."]
    assert verdict(found.runs[1]) == ""
    assert "inf" not in render_comparison(found).partition("<details>")[0].partition('id="runs"')[2]


def test_a_study_of_the_log_loss_shows_that():
    runs = [compared(name, None, seed, quality=OBJECTIVES["log_loss"]) for seed, name in enumerate("ab")]
    figure = comparison_figures(comparison_of(*runs))["overhead"]
    assert figure.layout.yaxis.title.text.startswith("log-loss")
    assert "Best log-loss" in render_comparison(comparison_of(*runs))


def test_only_an_earlier_comparison_is_written_over(comparison, tmp_path):
    file = tmp_path / "page.html"
    write_comparison(comparison, file)
    write_comparison(replace(comparison, cautions=("Once more.",)), file)
    assert "Once more." in file.read_text()
    (tmp_path / "thesis.html").write_text("precious")
    with pytest.raises(RunFolderError, match="exists and is not a comparison of runs: choose another file with --to"):
        write_comparison(comparison, tmp_path / "thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "precious"
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_comparison(comparison, tmp_path / "nowhere" / "page.html")
