"""The report of a real run, opened as a person opens it: a file, without a network."""

import os
import shutil

import pytest

from se_search.report.page import render_report
from se_search.search.record import read_results
from se_search.search.results import cautions

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None and not os.environ.get("CI"):
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """A function that opens a file in a window without a network and returns the page, its messages and requests."""
    contexts = []

    def open_file(file, width=1400):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, offline=True))
        page = contexts[-1].new_page()
        told, asked = [], []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        return page, told, asked

    yield open_file
    for context in contexts:
        context.close()


@pytest.fixture
def results(finished_run):
    return read_results(finished_run / "run")


def write_page(tmp_path, trials, run):
    file = tmp_path / "page.html"
    file.write_text(render_report(trials, run), encoding="utf-8")
    return file


@pytest.mark.parametrize("width", [1400, 400])
def test_the_report_draws_its_figures_offline_without_an_error(finished_run, open_page, width):
    page, told, asked = open_page(finished_run / "run" / "report.html", width)
    page.wait_for_selector("#figure-hypervolume .main-svg")
    assert page.locator("#figure-overhead .point").count() >= 6
    assert page.locator("#figure-latency .point").count() >= 6
    assert told == []
    assert all(url.startswith("file:") for url in asked)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_table_holds_the_front_and_a_drawing_of_every_block(open_page, tmp_path, results):
    trials, run = results
    trials["on_front"] = trials["state"] == "complete"  # so that there is something to draw
    page, _, _ = open_page(write_page(tmp_path, trials, run))
    rows = page.locator("#front tbody tr")
    shown = [int(rows.nth(index).get_attribute("data-trial")) for index in range(rows.count())]
    assert sorted(shown) == sorted(trials["number"])
    se_blocks = trials.set_index("number")["se_blocks"]
    for index, number in enumerate(shown):
        assert rows.nth(index).locator(".drawing i").count() == len(run["sites"]) == 4
        assert rows.nth(index).locator(".drawing i.on").count() == se_blocks[number]


def test_a_latency_of_the_additive_model_is_called_predicted(open_page, tmp_path, results):
    trials, run = results
    run["latency_learned_from"] = 16
    member = trials.index[trials["on_front"]][0]
    trials.loc[member, "latency_stopped"] = "model"
    page, told, _ = open_page(write_page(tmp_path, trials, run))
    row = page.locator(f'#front tbody tr[data-trial="{trials.loc[member, "number"]}"]')
    assert row.locator("td").nth(4).inner_text().endswith("predicted")
    assert page.locator("#front tbody").inner_text().count("predicted") == 1
    assert "an additive model of 16 measured configurations" in page.locator("body").inner_text()
    assert told == []


def test_a_heading_sorts_by_value_and_again_in_reverse(open_page, tmp_path, results):
    trials, run = results
    trials["on_front"] = trials["state"] == "complete"
    page, _, _ = open_page(write_page(tmp_path, trials, run))
    for heading, cell, column in (("Latency", 4, "latency_ratio"), ("Parameters", 3, "parameter_overhead")):
        expected = sorted(trials[column])
        button = page.get_by_role("region", name="Pareto front").get_by_role("button", name=heading)
        for direction, order in (("ascending", expected), ("descending", expected[::-1])):
            button.click()
            rows = page.locator("#front tbody tr")
            values = rows.evaluate_all("(rows, cell) => rows.map((row) => row.cells[cell].dataset.value)", cell)
            assert [float(value) for value in values] == order
            assert page.locator(f"#front th[aria-sort={direction}]").inner_text().startswith(heading)


def test_names_and_reasons_from_outside_are_text(open_page, tmp_path, results):
    trials, run = results
    trials["on_front"] = True
    trials.loc[0, "name"] = HOSTILE
    trials.loc[1, "gate"] = HOSTILE
    trials.loc[2, ["state", "on_front", "error"]] = ["failed", False, HOSTILE]
    for key in ("name", "folder", "backbone", "study", "space"):
        run[key] = HOSTILE
    run["data"]["name"] = run["latency"]["processor"] = HOSTILE
    page, told, asked = open_page(write_page(tmp_path, trials, run))
    page.wait_for_selector("#figure-hypervolume .main-svg")
    page.locator("#figure-overhead .point").first.hover(force=True)
    assert page.title() == f"{HOSTILE} – se-search"
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("h1").inner_text()
    assert told == []
    assert [url for url in asked if not url.startswith("file:")] == []


def test_a_run_without_a_trial_has_a_page_that_says_so(open_page, tmp_path, results):
    trials, run = results
    run |= {
        "picks": {},
        "hypervolume_history": [],
        "latency": {},
        "finished": False,
        "cautions": cautions(trials.iloc[:0], 0.1),
    }
    page, told, _ = open_page(write_page(tmp_path, trials.iloc[:0], run))
    assert "No configuration has been evaluated yet" in page.locator("header").inner_text()
    assert page.locator("table").count() == 0
    assert told == []
