"""The report of a real run, opened as a person opens it: a file, without a network."""

import io
import json
import random
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_up_results import named_objectives, sites_of

from se_search.network.overhead import backbone_parameters, formula_by_stage
from se_search.report.configuration import draw_configuration
from se_search.report.page import render_report
from se_search.results.decision import decide
from se_search.results.picks import Picks, pick_trials
from se_search.results.record import read_results
from se_search.results.table import Advantage, cautions
from se_search.results.verified import Member, Retraining, Schedule
from se_search.study.definitions import ConstraintsDefinition
from se_search.study.files import load_space
from se_search.study.objectives import OBJECTIVES
from se_search.study.space import SearchSpace

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><script>alert(1)</script>"
LONG = "a" * 300
FIGURES = ("overhead", "latency", "heat_map", "parallel", "contributions", "hypervolume")


@pytest.fixture
def results(finished_run):
    return read_results(finished_run / "run")


@pytest.fixture
def all_on_front(results):
    """The run's results, each trial on the front so that there is something to see."""
    return with_all_on_front(*results)


@pytest.fixture(scope="module")
def front_page(_finished_run, tmp_path_factory):
    """The page of those results."""
    folder = shutil.copytree(_finished_run / "run", tmp_path_factory.mktemp("front") / "run")
    return write_page(folder.parent, *with_all_on_front(*read_results(folder)))


def with_all_on_front(trials, run):
    trials["on_front"] = trials["state"] == "complete"
    trials["latency_ratio"] = 1 + 0.02 * trials["number"]  # measured ones may lie upon each other
    trials["latency_low"], trials["latency_high"] = trials["latency_ratio"] - 0.005, trials["latency_ratio"] + 0.005
    return trials, run


def write_page(tmp_path, trials, run, **options):
    file = tmp_path / "page.html"
    file.write_text(render_report(trials, run, **options), encoding="utf-8")
    return file


def wait_for_figure(page, name):
    """Wait until a figure is drawn and listens to clicks: its buttons leave the order of tabs just before."""
    page.locator(f"#figure-{name}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#figure-{name} .main-svg")
    page.wait_for_selector(f"#figure-{name} .modebar-btn[tabindex='-1']", state="attached")


def shown_as_chosen(page):
    """The trials that each part of the page shows as chosen; figures follow when they come near the window."""
    for name in ("overhead", "heat_map"):
        wait_for_figure(page, name)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return {
        "address": {int(one) for one in page.evaluate("location.hash.slice(8).split(',').filter(Boolean)")},
        "front": set(page.locator("#front tr.chosen").evaluate_all("(rows) => rows.map((row) => +row.dataset.trial)")),
        "trials": set(
            page.locator("#trials tr.chosen").evaluate_all("(rows) => rows.map((row) => +row.dataset.trial)")
        ),
        "overhead": set(
            page.evaluate(
                "document.getElementById('figure-overhead').data.flatMap("
                "(trace) => (trace.selectedpoints ?? []).map((index) => trace.customdata[index]))"
            )
        ),
        "heat map": set(
            page.evaluate(
                "(({ data, layout }) => (layout.shapes ?? []).filter(({ name }) => name === 'chosen')"
                ".map((shape) => data[0].customdata[0][shape.x0 + 0.5]))"
                "(document.getElementById('figure-heat_map'))"
            )
        ),
    }


def assert_chosen(page, *numbers):
    """Wait, up to ten seconds, until all parts of the page show these trials as chosen and no other."""
    expected = {part: set(numbers) for part in ("address", "front", "trials", "overhead", "heat map")}
    for _ in range(100):
        if shown_as_chosen(page) == expected:
            return
        page.wait_for_timeout(100)
    assert shown_as_chosen(page) == expected


def point_of(page, figure, number):
    """Where a trial is drawn in a figure, in pixels of the window."""
    wait_for_figure(page, figure)
    return page.evaluate(
        """([figure, number]) => {
          const place = document.getElementById(`figure-${figure}`);
          const box = place.getBoundingClientRect();
          const { xaxis, yaxis } = place._fullLayout;
          for (const trace of place.data) {
            const index = (trace.customdata ?? []).indexOf(number);
            if (index < 0 || trace.mode === "lines") continue;
            const inside = [xaxis._offset + xaxis.d2p(trace.x[index]), yaxis._offset + yaxis.d2p(trace.y[index])];
            return [box.x + inside[0], box.y + inside[1]];
          }
        }""",
        [figure, number],
    )


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_the_report_draws_its_figures_offline_without_an_error(finished_run, open_page, width, scheme):
    page, errors, asked = open_page(finished_run / "run" / "report.html", width, scheme)
    height = page.evaluate("document.documentElement.scrollHeight")
    for name in FIGURES:
        wait_for_figure(page, name)
    assert page.evaluate("document.documentElement.scrollHeight") == height  # nothing moves under the reader
    assert page.locator("#figure-overhead .point").count() >= 6
    assert page.locator("#figure-latency .point").count() >= 6
    assert errors == []
    assert all(url.startswith(("file:", "blob:", "data:")) for url in asked)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    bright = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0] > 128")
    assert bright == (scheme == "light")


def test_the_button_changes_the_theme_of_page_and_figures(finished_run, open_page):
    page, errors, _ = open_page(finished_run / "run" / "report.html")
    wait_for_figure(page, "overhead")
    colour = "document.getElementById('figure-overhead')._fullLayout.font.color"
    before = page.evaluate(colour)
    page.get_by_role("button", name="Switch between light and dark").click()
    page.wait_for_function(f"{colour} !== '{before}'")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert errors == []


@pytest.mark.parametrize("width", [1400, 400])
def test_a_click_on_a_point_chooses_the_trial_everywhere(open_page, front_page, all_on_front, width):
    trials, _ = all_on_front
    page, errors, _ = open_page(front_page, width)
    number = int(trials.sort_values("parameter_overhead")["number"].iloc[-1])
    page.mouse.click(*point_of(page, "overhead", number))
    page.wait_for_selector("#chosen:not([hidden])")
    assert_chosen(page, number)
    card = page.locator("#cards .card")
    assert card.count() == 1
    assert f"trial {number}" in card.inner_text()
    page.keyboard.press("Escape")
    assert_chosen(page)
    assert page.locator("#chosen").is_hidden()
    assert errors == []


def test_switches_hide_intervals_and_make_costs_logarithmic(open_page, front_page, all_on_front):
    trials, _ = all_on_front
    page, errors, _ = open_page(front_page)
    wait_for_figure(page, "overhead")
    bars = page.locator("#figure-overhead .errorbar")
    assert bars.count() > 0
    page.get_by_label("Intervals").uncheck()
    page.wait_for_function("document.querySelectorAll('#figure-overhead .errorbar').length === 0")
    page.get_by_label("Logarithmic costs").check()
    page.wait_for_function("document.getElementById('figure-overhead')._fullLayout.xaxis.type === 'log'")
    assert "0" in page.evaluate("document.getElementById('figure-overhead').layout.xaxis.ticktext")
    number = int(trials.loc[trials["se_blocks"] == 0, "number"].iloc[0])
    page.mouse.click(*point_of(page, "overhead", number))
    page.wait_for_selector("#chosen:not([hidden])")
    assert f"trial {number}" in page.locator("#cards .card").inner_text()
    page.get_by_label("Intervals").check()
    page.wait_for_function("document.querySelectorAll('#figure-overhead .errorbar').length > 0")
    assert errors == []


def test_the_panel_does_not_cover_the_point_that_it_speaks_of(open_page, front_page, all_on_front):
    trials, _ = all_on_front
    page, _, _ = open_page(front_page, 400)
    number = int(trials.sort_values("parameter_overhead")["number"].iloc[-1])
    point_of(page, "overhead", number)
    page.evaluate("scrollBy(0, document.getElementById('figure-overhead').getBoundingClientRect().top - 420)")
    page.mouse.click(*point_of(page, "overhead", number))
    page.wait_for_selector("#chosen:not([hidden])")
    _, height = point_of(page, "overhead", number)
    assert height < page.locator("#chosen").bounding_box()["y"]


@pytest.mark.slow
def test_several_trials_are_chosen_with_shift_from_any_part_and_kept_in_the_address(open_page, tmp_path, all_on_front):
    file = write_page(tmp_path, *all_on_front)
    page, errors, _ = open_page(file)
    page.mouse.click(*point_of(page, "latency", 2))
    page.keyboard.down("Shift")
    page.locator('#front tr[data-trial="4"] td').nth(2).click()
    page.mouse.click(*point_of(page, "parallel", 5))
    page.keyboard.up("Shift")
    assert_chosen(page, 2, 4, 5)
    page.get_by_role("button", name="Deselect trial 4").click()
    assert_chosen(page, 2, 5)
    page.get_by_role("button", name="Select several").click()
    page.locator('#front tr[data-trial="4"] button.trial').click()
    assert_chosen(page, 2, 4, 5)
    again, errors_again, _ = open_page(file, fragment="#trials=2,4,5,999")
    assert_chosen(again, 2, 4, 5)  # there is no trial 999
    assert errors == errors_again == []


@pytest.mark.parametrize("fragment", ["#trials=,", "#trials=__proto__"])
def test_an_address_that_names_no_trial_chooses_none(open_page, front_page, fragment):
    page, errors, _ = open_page(front_page, fragment=fragment)
    assert page.locator("tr.chosen").count() == 0
    page.evaluate("location.hash = '#trials=3'")
    page.wait_for_selector("#front tr.chosen[data-trial='3']")
    assert errors == []


def test_escape_in_the_filter_leaves_the_choice_alone(open_page, front_page):
    page, _, _ = open_page(front_page, fragment="#trials=3")
    page.get_by_label("Filter").first.fill("r=16")
    page.get_by_label("Filter").first.press("Escape")
    assert page.locator("#front tr.chosen").get_attribute("data-trial") == "3"


def test_no_figure_offers_to_send_itself_elsewhere(finished_run, open_page):
    page, _, _ = open_page(finished_run / "run" / "report.html")
    wait_for_figure(page, "overhead")
    titles = page.locator("#figure-overhead .modebar-btn").evaluate_all("(all) => all.map((one) => one.dataset.title)")
    assert titles
    assert not [title for title in titles if "hare" in title or "loud" in title]


def test_a_column_of_the_heat_map_chooses_its_member(open_page, front_page):
    page, _, _ = open_page(front_page)
    wait_for_figure(page, "heat_map")
    number, x, y = page.evaluate(
        """() => {
          const place = document.getElementById("figure-heat_map");
          const box = place.getBoundingClientRect();
          const { xaxis, yaxis } = place._fullLayout;
          const inside = [xaxis._offset + xaxis.l2p(1), yaxis._offset + yaxis.l2p(0)];
          return [place.data[0].customdata[0][1], box.x + inside[0], box.y + inside[1]];
        }"""
    )
    page.mouse.click(x, y)
    page.wait_for_selector("#chosen:not([hidden])")
    assert_chosen(page, number)


def test_the_command_is_copied_and_names_the_folder_and_the_trial(open_page, tmp_path, all_on_front):
    trials, run = all_on_front
    run = replace(run, folder='runs/it\'s a "test" $HOME')
    page, _, _ = open_page(write_page(tmp_path, trials, run))
    page.locator("#front tr[data-trial='3'] button.trial").press("Enter")
    page.get_by_role("button", name="Copy command").click()
    page.wait_for_function("document.getElementById('told').textContent === 'Copied'")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert shlex.split(copied) == ["se-search", "export", run.folder, "--trial", "3", "--to", "exported-3"]
    assert page.locator("#cards code").inner_text() == copied


def test_the_table_holds_the_front_and_a_drawing_of_every_block(open_page, front_page, all_on_front):
    trials, run = all_on_front
    page, _, _ = open_page(front_page)
    rows = page.locator("#front tbody tr")
    shown = [int(rows.nth(index).get_attribute("data-trial")) for index in range(rows.count())]
    assert sorted(shown) == sorted(trials["number"])
    se_blocks = trials.set_index("number")["se_blocks"]
    for index, number in enumerate(shown):
        assert rows.nth(index).locator(".drawing i").count() == len(run.sites) == 4
        assert rows.nth(index).locator(".drawing i.on").count() == se_blocks[number]


def test_every_objective_is_a_column_of_both_tables(open_page, tmp_path, all_on_front):
    trials, run = all_on_front
    objectives = named_objectives("log_loss", "flops_overhead", "chip_energy")
    reference = {one.name: 1.0 for one in objectives}
    run = replace(run, objectives=objectives, quality=OBJECTIVES["log_loss"], hypervolume_reference=reference)
    trials["chip_energy"] = trials["number"] * 1234.5
    trials.loc[trials["number"] == 4, "chip_energy"] = np.nan
    page, errors, _ = open_page(write_page(tmp_path, trials, run))
    assert "Objectives: log-loss, FLOPs overhead, chip energy." in page.locator("header").inner_text()
    page.get_by_text(f"All {len(trials)} trials").press("Enter")
    row = trials.set_index("number").loc[3]
    interval = f"[{row['log_loss_low']:.4f}, {row['log_loss_high']:.4f}]"
    expected = {
        "Log-loss": f"{row['log_loss']:.4f}\n{interval}",
        "FLOPs": f"{row['flops_overhead'] * 100:+.2f} %",
        "Chip energy": "3704",  # four digits of 3 · 1234.5
    }
    for table in ("front", "trials"):
        headings = page.locator(f"#{table} th").all_inner_texts()
        cells = page.locator(f"#{table} tr[data-trial='3'] td").all_inner_texts()
        shown = dict(zip((heading.split(" ↕")[0].strip() for heading in headings), cells, strict=True))
        assert {heading: shown[heading] for heading in expected} == expected
        assert "–" in page.locator(f"#{table} tr[data-trial='4'] td").all_inner_texts()
    assert errors == []


def test_a_latency_of_the_additive_model_is_called_predicted(open_page, tmp_path, results):
    trials, run = results
    run = replace(run, latency_learned_from=16)
    member = trials.index[trials["on_front"]][0]
    trials.loc[member, "latency_stopped"] = "model"
    page, errors, _ = open_page(write_page(tmp_path, trials, run))
    row = page.locator(f'#front tbody tr[data-trial="{trials.loc[member, "number"]}"]')
    assert row.locator("td").nth(4).inner_text().endswith("predicted")
    assert page.locator("#front tbody").inner_text().count("predicted") == 1
    assert "an additive model of 16 measured configurations" in page.locator(".decision details").text_content()
    assert errors == []


def test_a_heading_sorts_by_value_and_again_in_reverse(open_page, front_page, all_on_front):
    trials, _ = all_on_front
    page, _, _ = open_page(front_page)
    for heading, cell, column in (("Latency", 4, "latency_ratio"), ("Parameters", 3, "parameter_overhead")):
        expected = sorted(trials[column])
        button = page.get_by_role("region", name="Pareto front").get_by_role("button", name=heading)
        for direction, order in (("ascending", expected), ("descending", expected[::-1])):
            button.click()
            rows = page.locator("#front tbody tr")
            values = rows.evaluate_all("(rows, cell) => rows.map((row) => row.cells[cell].dataset.value)", cell)
            assert [float(value) for value in values] == order
            assert page.locator(f"#front th[aria-sort={direction}]").inner_text().startswith(heading)


def test_the_front_is_filtered_and_what_is_shown_can_be_downloaded(open_page, front_page, all_on_front):
    trials, _ = all_on_front
    page, _, _ = open_page(front_page)
    region = page.get_by_role("region", name="Pareto front")
    region.get_by_role("button", name="Parameters").click()
    page.get_by_label("Filter").first.fill("r=16 UNIFORM")
    shown = page.locator("#front tbody tr:not([hidden])")
    expected = trials[trials["name"].str.contains("uniform")]
    assert [int(one) for one in shown.evaluate_all("(rows) => rows.map((row) => row.dataset.trial)")] == list(
        expected["number"]
    )
    assert f"1 of {len(trials)}" in page.locator(".tools output").first.inner_text()
    page.get_by_label("Filter").first.fill("")
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download CSV").click()
    downloaded = pd.read_csv(io.StringIO(downloading.value.path().read_text(encoding="utf-8")))
    assert downloading.value.suggested_filename == "run-pareto.csv"
    pd.testing.assert_frame_equal(
        downloaded,
        pd.read_csv(io.StringIO(trials.sort_values("parameter_overhead", kind="stable").to_csv(index=False))),
        check_exact=False,
    )


def test_trials_of_each_kind_are_counted_and_shown(open_page, tmp_path, results):
    trials, run = results
    trials.loc[trials["number"] == 3, ["state", "feasible", "on_front"]] = ["stopped", False, False]
    trials.loc[trials["number"] == 4, ["state", "feasible", "on_front", "error"]] = [
        "failed",
        False,
        False,
        "no memory",
    ]
    trials.loc[trials["number"] == 5, ["feasible", "on_front"]] = False
    page, _, _ = open_page(write_page(tmp_path, trials, run))
    counts = page.locator(".counts button").all_inner_texts()
    assert counts[0] == "4 complete"
    assert counts[-3:] == ["1 beyond the limits", "1 stopped early", "1 failed"]
    page.get_by_role("button", name="1 failed").click()
    (row,) = page.locator("#trials tbody tr:not([hidden])").all()
    assert row.is_visible()
    assert "no memory" in row.inner_text()
    page.get_by_role("button", name="1 failed").click()
    assert page.locator("#trials tbody tr:not([hidden])").count() == 6


@pytest.mark.parametrize(("name", "width"), [(HOSTILE, 1400), (LONG, 400)], ids=["hostile", "long"])
def test_names_and_reasons_from_outside_are_text(open_page, tmp_path, all_on_front, name, width):
    trials, run = all_on_front
    trials.loc[0, "name"] = name
    trials.loc[1, "gate"] = name
    trials.loc[2, ["state", "on_front", "error"]] = ["failed", False, name]
    run = replace(
        run,
        **dict.fromkeys(("name", "folder", "backbone", "study", "space"), name),
        latency=replace(run.latency, processor=name),
        data=replace(run.data, name=name, unreadable=(name,)),
    )
    page, errors, asked = open_page(write_page(tmp_path, trials, run), width)
    for figure in FIGURES:
        wait_for_figure(page, figure)
    page.mouse.click(*point_of(page, "overhead", 0))
    page.wait_for_selector("#chosen:not([hidden])")
    assert page.title() == f"{name} – se-search"
    assert page.locator("img").count() == 0
    assert name in page.locator("h1").inner_text()
    assert name[:50] in page.locator("#cards .card .drawn").inner_text()
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def without_front(trials, run, kept):
    """The results of a run of which only some trials exist."""
    trials = trials[kept].copy()
    trials["on_front"] = False
    said = tuple(cautions(trials, 0.1))
    return trials, replace(run, picks=Picks(), hypervolume_history=(), cautions=said, gain=None)


def test_a_run_without_a_trial_has_a_page_that_says_so(open_page, tmp_path, results):
    trials, run = without_front(*results, kept=[False] * 6)
    page, errors, _ = open_page(write_page(tmp_path, trials, replace(run, latency=None, finished=False)))
    assert "No configuration has been evaluated yet" in page.locator("header").inner_text()
    assert page.locator("table").count() == 0
    assert errors == []


def test_a_run_whose_trials_all_failed_says_why(open_page, tmp_path, results):
    trials, run = results
    trials["state"], trials["feasible"], trials["error"] = "failed", False, "ValueError: no luck"
    trials.loc[:, "accuracy":"latency_interruptions"] = np.nan
    trials, run = without_front(trials, run, kept=[True] * 6)
    page, errors, _ = open_page(write_page(tmp_path, trials, replace(run, latency=None)))
    assert page.get_by_role("button", name="6 failed").is_visible()
    page.get_by_role("button", name="6 failed").click()
    assert page.locator("#trials tbody tr").first.inner_text().count("no luck") == 1
    assert page.locator(".figure").count() == 0
    assert errors == []


def test_an_empty_front_still_shows_the_trials_beyond_the_limits(open_page, tmp_path, results):
    trials, run = results
    trials["feasible"] = False
    trials, run = without_front(trials, run, kept=[True] * 6)
    run = replace(run, constraints=ConstraintsDefinition(max_params=0.0001, max_latency=1.0001))
    page, errors, _ = open_page(write_page(tmp_path, trials, run))
    for name in FIGURES:
        wait_for_figure(page, name)
    assert page.get_by_role("button", name="6 beyond the limits").is_visible()
    assert page.locator("#front").count() == 0
    assert errors == []


def test_one_trial_is_a_report(open_page, tmp_path, results):
    trials, run = results
    trials = trials.iloc[:1].copy()
    trials["on_front"], trials["tied_with"] = True, pd.NA
    run = replace(run, picks=pick_trials(trials), hypervolume_history=run.hypervolume_history[:1])
    page, errors, _ = open_page(write_page(tmp_path, trials, run))
    for name in FIGURES:
        wait_for_figure(page, name)
    assert page.locator(".verdict").inner_text() == "No measurable difference"
    assert page.locator(".decided").count() == 0  # the network with SE has no trial here
    assert errors == []


@pytest.fixture(scope="module")
def space_of_blocks():
    return SearchSpace("resnet50", load_space("blocks"))


def many_trials(results, space, count):
    """Results of ``count`` random configurations of resnet50's blocks, with values drawn at random."""
    trials, run = results
    rng, numbers = random.Random(0), np.random.default_rng(0)
    rows = []
    for number in range(count):
        config = space.draw(rng)
        added = sum(formula_by_stage(config).values())
        overhead = added / backbone_parameters("resnet50")
        accuracy = 0.7 + 0.1 * overhead + numbers.normal(0, 0.01)
        row = trials.iloc[number % len(trials)].to_dict() | {
            "number": number,
            "name": "",
            "config": config.to_json(),
            "config_id": config.id,
            "se_blocks": config.block_count,
            "gate": config.placed[0].gate if config.placed else "",
            "parameter_overhead": overhead,
            "counted_parameters": int(added),
            "accuracy": accuracy,
            "accuracy_low": accuracy - 0.02,
            "accuracy_high": accuracy + 0.02,
            "latency_ratio": 1.02 + 0.2 * overhead + numbers.normal(0, 0.004),
            "on_front": False,
            "tied_with": pd.NA,
        }
        rows.append(row | {"latency_low": row["latency_ratio"] - 0.01, "latency_high": row["latency_ratio"] + 0.01})
    table = pd.DataFrame(rows).astype(trials.dtypes)
    ordered = table.sort_values("parameter_overhead")
    best = ordered["accuracy"].cummax()
    table["on_front"] = ordered["accuracy"].eq(best) & best.diff().fillna(1).gt(0)
    history = tuple(np.linspace(0.1, 0.4, count))
    picks = pick_trials(table)
    return table, replace(run, sites=sites_of(space), picks=picks, hypervolume_history=history, budget=count)


@pytest.mark.slow
def test_a_thousand_trials_fit_in_a_page_below_eight_megabytes(open_page, tmp_path, results, space_of_blocks):
    trials, run = many_trials(results, space_of_blocks, 1000)
    file = write_page(tmp_path, trials, run)
    assert file.stat().st_size < 8e6
    page, errors, _ = open_page(file)
    for name in FIGURES:
        wait_for_figure(page, name)
    number = int(trials["number"][trials["on_front"]].iloc[-1])
    page.locator(f"#front tr[data-trial='{number}'] button.trial").click()
    assert_chosen(page, number)
    assert errors == []


def test_three_objectives_are_a_figure_of_their_own(open_page, front_page, all_on_front):
    trials, run = all_on_front
    assert [one.name for one in run.objectives] == ["accuracy", "parameter_overhead", "latency_ratio"]
    page, errors, _ = open_page(front_page)
    page.locator("#figure-objectives").scroll_into_view_if_needed()
    page.wait_for_selector("#figure-objectives canvas")
    page.locator("#front tr[data-trial='1'] button.trial").click()
    page.locator("#figure-objectives").scroll_into_view_if_needed()
    drawn = "document.getElementById('figure-objectives').data.at(-1)"
    page.wait_for_function(f"{drawn}.name === 'chosen'")
    row = trials.set_index("number").loc[1]
    shown = sorted(page.evaluate(f"{drawn}.{axis}[0]") for axis in "xyz")
    expected = sorted((row["latency_ratio"], row["accuracy"] * 100, row["parameter_overhead"] * 100))
    assert shown == pytest.approx(expected, rel=1e-4)
    assert errors == []


@pytest.mark.slow
def test_without_webgl_a_trial_is_chosen_in_all_that_is_drawn(open_page, tmp_path, all_on_front):
    file = write_page(tmp_path, *all_on_front)
    without = (
        "const create = HTMLCanvasElement.prototype.getContext;"
        "HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {"
        " return kind.includes('webgl') ? null : create.call(this, kind, ...rest); };"
    )
    file.write_text(file.read_text().replace("<head>", f"<head><script>{without}</script>", 1))
    page, errors, _ = open_page(file)
    page.locator("#figure-objectives").scroll_into_view_if_needed()
    page.wait_for_function("document.getElementById('figure-objectives').innerText.includes('WebGL is off')")
    for name in FIGURES:
        wait_for_figure(page, name)
    page.locator("#figure-objectives").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#front tr[data-trial=\"2\"] button.trial').click()")
    assert_chosen(page, 2)
    assert errors == []


def test_two_objectives_have_no_figure_of_three(open_page, tmp_path, results):
    trials, run = results
    run = replace(run, objectives=run.objectives[:2])
    page, errors, _ = open_page(write_page(tmp_path, trials, run))
    wait_for_figure(page, "overhead")
    assert page.locator("#figure-objectives").count() == 0
    assert errors == []


def test_a_live_page_reloads(open_page, tmp_path, results):
    page, errors, _ = open_page(write_page(tmp_path, *results, live=2))
    assert "every 2 seconds" in page.locator("#live").inner_text()
    page.evaluate("window.before = true")
    page.wait_for_function("window.before === undefined")
    assert errors == []


@pytest.mark.slow
def test_a_live_page_keeps_its_state_when_it_reloads(open_page, tmp_path, all_on_front):
    trials, run = all_on_front
    page, errors, _ = open_page(write_page(tmp_path, trials, run, live=600), fragment="#trials=2")
    page.locator("details:has(#trials)").evaluate("(details) => { details.open = true; }")
    page.get_by_label("Filter").last.fill("uniform")
    page.get_by_label("Filter").last.blur()
    with page.expect_navigation():
        page.evaluate("setTimeout(reload)")
    page.wait_for_selector("#cards .card")
    assert page.locator("#front tr.chosen").get_attribute("data-trial") == "2"
    assert page.locator("details:has(#trials)").evaluate("(details) => details.open")
    assert page.locator("#trials tbody tr:not([hidden])").count() == 1
    assert errors == []


@pytest.mark.slow
def test_in_print_all_figures_are_drawn_in_light_and_what_is_only_for_use_is_gone(finished_run, open_page):
    page, _, _ = open_page(finished_run / "run" / "report.html", scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    for name in FIGURES:
        page.wait_for_selector(f"#figure-{name} .main-svg", state="attached")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.get_by_role("button", name="Download CSV").is_hidden()
    assert page.locator("#figure-heat_map .main-svg").first.bounding_box()["width"] <= 690
    assert "Platform" in page.locator("details.printed").last.inner_text()
    squares = page.locator("#front .drawing i").first
    assert squares.evaluate("(square) => getComputedStyle(square).printColorAdjust") == "exact"
    assert page.locator("#theme").is_hidden()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def verified_by(run, *differences, helps=True):
    """A description of the run with the verification of trials, each with its difference to no SE."""
    trainings = tuple(
        Retraining(seed, (accuracy, 0.0, 1.0), (0.4, 0.3, 0.5), accuracy > 0.5, None)
        for seed, accuracy in enumerate((0.9, 0.3, 0.8))
    )
    same = ((0.8, 0.75, 0.85), (0.6, 0.5, 0.7))
    seen = (trainings, trainings[0], 2, (2 / 3, 0.1, 0.99), None, None, ())
    members = [
        Member("", None, "no SE", *same, *((0.0, 0.0, 0.0),) * 2, *seen),
        *(Member("", number, "", *same, difference, (-0.2, -0.3, -0.1), *seen) for number, difference in differences),
    ]
    networks = tuple(
        Advantage("", number, "", difference, (-0.2, -0.3, -0.1) if helps else (0.0, -0.1, 0.1), "log_loss")
        for number, difference in differences
    )
    schedule = Schedule(3, (0, 1, 2), 400, tuple(members), None, None, helps, "as found.", None, (), networks=networks)
    return replace(run, verified=(schedule,))


@pytest.mark.parametrize(("quality", "said"), [("accuracy", "no difference"), ("log_loss", "better")])
def test_significance_is_that_of_the_studys_quality(results, quality, said):
    """Log-loss improves by 0.1 to 0.3, accuracy by -5 to 15 points."""
    trials, run = results
    number = int(trials["number"][trials["se_blocks"] > 0].iloc[0])
    run = replace(verified_by(run, (number, (0.1, -0.05, 0.15))), quality=OBJECTIVES[quality])
    page = render_report(trials, run)
    assert f'<td data-value="-0.2">{said}</td>' in page
    assert "Pareto front of the search&#39;s estimates (verified values decide)" in page
    assert "verified values decide" not in render_report(trials, replace(run, verified=()))


def test_the_first_screen_has_the_verdict_three_figures_the_drawing_and_the_next_command(open_page, tmp_path, results):
    trials, run = results
    number = int(trials["number"][trials["se_blocks"] > 0].iloc[0])
    trials.loc[trials["number"] == number, ["verified_accuracy", "verified_accuracy_low"]] = 0.9, 0.85
    trials.loc[trials["number"] == number, ["verified_accuracy_high", "verified_seeds"]] = 0.95, 3
    run = replace(verified_by(run, (number, (0.1, 0.05, 0.15))), folder="runs/it's mine", finished=True)
    page, errors, _ = open_page(write_page(tmp_path, trials, run))
    assert page.locator(".verdict").inner_text() == "SE helps"
    assert page.locator(".summary").inner_text() == (
        f"Verified: trial {number} gains 10.0 points over no SE [5.0, 15.0]; 1 of 3 trainings did not learn"
    )
    (row,) = trials[trials["number"] == number].to_dict("records")
    shown = [text.replace("\xa0", " ").split("\n") for text in page.locator(".numbers > div").all_inner_texts()]
    assert [[part for part in parts if part] for parts in shown] == [
        ["accuracy", "+10.0 points", "[+5.0, +15.0]"],
        ["parameters", f"{row['parameter_overhead'] * 100:+.2f} %", f"({row['counted_parameters']:+,})"],
        ["latency", f"×{row['latency_ratio']:.3f}", f"[{row['latency_low']:.3f}, {row['latency_high']:.3f}]"],
    ]
    assert page.locator(".known p").inner_text() == f"{decide(trials, run).known} On other data it can be more or less."
    assert page.locator(".decided .drawing i.on").count() == row["se_blocks"]
    assert "Verified accuracy 90.00 % [85.00, 95.00]" in page.locator(".decided").inner_text()
    page.locator(".next .copy").nth(1).click()  # the first one trains more seeds
    page.wait_for_function("document.getElementById('told').textContent === 'Copied'")
    command = ["se-search", "export", run.folder, "--trial", str(number), "--verified", "--to", "exported"]
    assert shlex.split(page.evaluate("navigator.clipboard.readText()")) == command
    height = page.locator(".next").evaluate("(next) => next.getBoundingClientRect().bottom")
    assert height < 900  # all of it on the first screen
    assert page.locator(".decision details p").first.is_hidden()
    page.locator(".decided button").click()
    assert page.evaluate("location.hash") == f"#trials={number}"
    assert page.locator(".decided button").get_attribute("aria-pressed") == "true"
    assert errors == []


def test_rows_of_the_verified_table_choose_trials_whose_command_exports_verified_weights(
    open_page, tmp_path, all_on_front
):
    trials, run = all_on_front
    trials.loc[trials["number"] == 3, "verified_seeds"] = 3
    page, errors, _ = open_page(write_page(tmp_path, trials, verified_by(run, (3, (0.1, 0.05, 0.15)))))
    tops = [
        page.locator(one).evaluate("(one) => one.getBoundingClientRect().top") for one in ("table.verified", "#front")
    ]
    assert tops[0] < tops[1]
    page.locator("table.verified tr[data-trial='3'] button.trial").click()
    assert_chosen(page, 3)
    assert page.locator("table.verified tr.chosen").count() == 1
    assert shlex.split(page.locator("#cards code").inner_text())[-1] == "--verified"
    page.locator("#front tr[data-trial='2'] button.trial").click()
    assert_chosen(page, 2)
    assert "--verified" not in page.locator("#cards code").inner_text()
    row = page.locator("table.verified tbody tr").first
    assert "1 of 3 trainings did not learn" in row.inner_text()
    assert row.locator("circle title").all_text_contents() == [
        "seed 0: 90.00 %",
        "seed 1: 30.00 %, did not learn",
        "seed 2: 80.00 %",
    ]
    places = [
        float(one) for one in row.locator("circle").evaluate_all("(all) => all.map((one) => one.cx.baseVal.value)")
    ]
    # From 30 % at the left end to 90 % at the right one, 80 % at five sixths.
    assert (places[2] - places[1]) / (places[0] - places[1]) == pytest.approx(5 / 6, abs=0.01)
    assert row.locator("circle.failed").count() == 1
    assert page.locator("table.verified tbody tr").count() == 2
    assert page.locator("table.verified tbody tr[data-trial]").count() == 1  # no SE was no trial here
    assert errors == []


def test_without_a_measurable_difference_the_page_offers_no_export(finished_run, open_page):
    page, _, _ = open_page(finished_run / "run" / "report.html")
    assert page.locator(".verdict").inner_text() == "No measurable difference"
    assert page.locator(".next code").all_inner_texts() == ["se-search verify run"]
    assert "Use test_resnet without SE, or more images" in page.locator(".next").inner_text()


def test_shown_configurations_are_those_of_the_trials(results):
    trials, run = results
    for row in trials.to_dict("records"):
        config = json.loads(row["config"])
        placed = {(site["block"], site["ratio"]) for site in config["sites"]}
        drawn = {
            (cell.title.split(" ")[0], cell.rank)
            for stage in draw_configuration(row["config"], run.sites)
            for cell in stage.cells
            if cell.rank
        }
        assert drawn == placed
