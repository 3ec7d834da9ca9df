"""The excitation page of a real analysis, in a browser."""

import copy
import json

import numpy as np
import pytest
import torch

from se_search import SEConfig, create_model
from se_search.data.load import load_data
from se_search.excitation.analysis import analyze_gates
from se_search.report.excitation_figures import (
    activation_range,
    block_activations,
    block_spread,
    change_by_depth,
    class_styles,
    saturation_by_depth,
    similarity_by_depth,
    specificity_by_depth,
)
from se_search.report.excitation_page import is_class_specific, pick_blocks, render_excitation, summarize_excitation

HOSTILE = "<script>alert(1)</script>".ljust(300, "x")


@pytest.fixture(scope="module")
def _analysis():
    torch.manual_seed(0)
    data = load_data("digits")
    channels, *_ = data.input_size
    config = SEConfig.uniform("resnet18", 4)
    model = create_model(config, num_classes=data.classes, in_chans=channels)
    found = analyze_gates(model, data, images=60, classes=[0, 1, 2, 7], channels=20)
    return json.loads(json.dumps(found | {"model": "seresnet18", "source": "seresnet18"}))


@pytest.fixture
def analysis(_analysis):
    """A copy of an analysis with eight blocks in four stages."""
    return copy.deepcopy(_analysis)


@pytest.fixture(scope="module")
def excitation_page(_analysis, tmp_path_factory):
    """The page of that analysis."""
    return write_page(tmp_path_factory.mktemp("page"), _analysis)


def repeated(analysis, times):
    """Return the analysis with every block repeated ``times`` times."""
    blocks = [{**block, "block": f"{block['block']}.{time}"} for block in analysis["blocks"] for time in range(times)]
    blocks.sort(key=lambda block: block["stage"])
    return analysis | {"blocks": [block | {"depth": depth} for depth, block in enumerate(blocks, 1)]}


def estimates(trace):
    """Return depths, values and interval ends of a trace."""
    values = np.array(trace.y)
    return (
        np.round(trace.x),
        values,
        values - np.array(trace.error_y.arrayminus),
        values + np.array(trace.error_y.array),
    )


def write_page(tmp_path, analysis):
    file = tmp_path / "excitation.html"
    file.write_text(render_excitation(analysis), encoding="utf-8")
    return file


def scroll_through(page):
    """Scroll to the first figure of each kind and wait until it is drawn."""
    for name in ("activations-1", "spread-1", "specificity", "similarity", "saturation", "log_loss", "accuracy"):
        page.locator(f"#figure-{name}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#figure-{name} .main-svg")


def assert_quiet(page, errors, asked):
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_activations_are_drawn_for_all_classes_and_each_chosen_one(analysis):
    for block in analysis["blocks"]:
        everything, *lines = block_activations(analysis, block["depth"]).data
        assert list(everything.x) == block["shown"]
        assert list(everything.y) == block["activation"]["all"]
        assert [line.name for line in lines] == [one["name"] for one in analysis["classes"]]
        for one, line in zip(analysis["classes"], lines, strict=True):
            assert list(line.y) == block["activation"][str(one["index"])]
        assert len({line.line.color for line in lines}) == len({line.line.dash for line in lines}) == len(lines)


def test_the_band_is_one_standard_deviation_around_the_mean_of_each_class_of_the_pair(analysis):
    block = analysis["blocks"][-1]
    drawn = block_spread(analysis, block["depth"]).data
    assert len(drawn) == 4
    for index, band, line in zip(analysis["pair"], drawn[::2], drawn[1::2], strict=True):
        mean, deviation = (np.array(block["pair"][str(index)][key]) for key in ("mean", "std"))
        np.testing.assert_array_equal(line.y, mean)
        upper, lower = np.split(np.array(band.y), 2)
        np.testing.assert_allclose(upper, mean + deviation)
        np.testing.assert_allclose(lower[::-1], mean - deviation)


@pytest.mark.parametrize(
    ("draw", "place", "column"),
    [
        (specificity_by_depth, 0, "specificity"),
        (similarity_by_depth, 0, "similarity"),
        (saturation_by_depth, 0, "near_one"),
        (saturation_by_depth, 1, "constant"),
    ],
)
def test_estimates_stand_at_their_blocks_with_their_intervals(analysis, draw, place, column):
    depths, *shown = estimates(draw(analysis).data[place])
    assert depths.tolist() == [block["depth"] for block in analysis["blocks"]]
    np.testing.assert_allclose(np.transpose(shown), [block[column] for block in analysis["blocks"]], atol=1e-12)


@pytest.mark.parametrize(("measure", "factor"), [("accuracy", 100), ("log_loss", 1)])
def test_changes_are_drawn_with_the_verdict_as_the_symbol(analysis, measure, factor):
    given = ["works", "idle", "cannot be told", "works", "idle", "idle", "works", "cannot be told"]
    for block, verdict in zip(analysis["blocks"], given, strict=True):
        block["verdict"] = verdict
    figure = change_by_depth(analysis, measure)
    traces = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert set(traces) == set(given)
    assert len({trace.marker.symbol for trace in traces.values()}) == 3
    for verdict, trace in traces.items():
        blocks = [block for block in analysis["blocks"] if block["verdict"] == verdict]
        depths, *shown = estimates(trace)
        assert depths.tolist() == [block["depth"] for block in blocks]
        expected = [[value * factor for value in block[f"{measure}_change"]] for block in blocks]
        np.testing.assert_allclose(np.transpose(shown), expected, atol=1e-12)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert [set(line.y) for line in lines] == ([{analysis["tolerance"]}] if measure == "log_loss" else [])


def test_all_blocks_share_an_axis_that_holds_them(analysis):
    low, high = activation_range(analysis)
    block = max(analysis["blocks"], key=lambda block: max(block["activation"]["all"]))
    block["activation"]["all"][0] = high + 1
    assert activation_range(analysis)[1] > high + 1
    ends = {block_activations(analysis, depth).layout.yaxis.range for depth in (1, 8)}
    assert ends == {activation_range(analysis)}
    assert low < min(min(block["activation"]["all"]) for block in analysis["blocks"])


def test_more_classes_than_colours_are_told_apart_by_the_line(analysis):
    analysis["classes"] = [{"index": index, "name": str(index)} for index in range(36)]
    assert len(set(class_styles(analysis).values())) == 36


def test_of_many_blocks_a_few_of_each_stage_and_the_last_three_come_first(analysis):
    assert pick_blocks(analysis["blocks"]) == set(range(1, 9))
    blocks = repeated(analysis, 3)["blocks"]  # four stages of six
    assert pick_blocks(blocks) == {1, 4, 6, 7, 10, 12, 13, 16, 18, 19, 22, 23, 24}


def test_a_block_is_class_specific_only_where_both_intervals_say_so():
    thresholds = {"class_specific": 0.25, "most": 0.5}
    specific, moving = [0.4, 0.3, 0.5], [0.1, 0.0, 0.2]
    assert is_class_specific({"specificity": specific, "constant": moving}, thresholds)
    assert not is_class_specific({"specificity": [0.3, 0.2, 0.4], "constant": moving}, thresholds)
    assert not is_class_specific({"specificity": specific, "constant": [0.4, 0.3, 0.6]}, thresholds)


def test_the_summary_counts_blocks_and_says_what_leaving_them_out_costs(analysis):
    analysis["cautions"] = []
    for depth, block in enumerate(analysis["blocks"], 1):
        block["specificity"] = [0.4, 0.3, 0.5] if depth > 5 else [0.1, 0.0, 0.2]
        block["constant"] = [0.0, 0.0, 0.1]
        block["verdict"] = "idle" if depth < 3 else "works" if depth < 8 else "cannot be told"
        block["log_loss_change"] = [0.001, 0.0, 0.001 * depth]
    analysis["last_stage"]["accuracy_change"] = [-0.012, -0.03, 0.001]
    first, second = summarize_excitation(analysis)
    assert first == (
        "Of 8 attention blocks in seresnet18, 3 are class-specific: significantly more than 25 % of the gate variance "
        "lies between classes, and significantly fewer than 50 % of the gates are constant."
    )
    assert second == (
        "2 are idle (mean ablation of any one of them raises the log-loss by at most 0.0020), 5 work, "
        "1 cannot be told from 60 images; mean ablation of all of stage 5 changes the accuracy by "
        "-1.20 points [-3.00, +0.10]."
    )
    analysis["last_stage"] = None
    for block in analysis["blocks"]:
        block |= {"verdict": "idle", "log_loss_change": [-0.05, -0.07, -0.03]}
    assert summarize_excitation(analysis)[1] == (
        "8 are idle (mean ablation of any one of them does not raise the log-loss)."
    )
    for block in analysis["blocks"]:
        block["verdict"] = "works"
    assert summarize_excitation(analysis)[1] == "None are idle, 8 work."


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_the_page_draws_the_analysis_offline_without_an_error(open_page, excitation_page, analysis, width, scheme):
    page, errors, asked = open_page(excitation_page, width, scheme)
    height = page.evaluate("document.documentElement.scrollHeight")
    scroll_through(page)
    assert page.evaluate("document.documentElement.scrollHeight") == height  # nothing moves under the reader
    assert_quiet(page, errors, asked)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    drawn = page.evaluate("document.getElementById('figure-specificity').data[0].y")
    assert drawn == [block["specificity"][0] for block in analysis["blocks"]]
    rows = page.locator("#blocks tbody tr")
    assert rows.count() == 8
    for index, block in enumerate(analysis["blocks"]):
        words = rows.nth(index).inner_text()
        assert block["block"] in words
        assert block["verdict"] in words
        for number in block["specificity"]:
            assert f"{number:.3f}" in words
    found = page.locator(".observations li")
    assert found.count() == len(analysis["observations"]) > 0
    for index, one in enumerate(analysis["observations"]):
        words = found.nth(index).inner_text().replace("\u00a0", " ")
        assert words.split("\n")[0][2:] == one["found"]
        assert one["paper"] in words
        assert one["evidence"] in words


def test_the_page_says_how_it_was_made(open_page, excitation_page, analysis):
    page, _, _ = open_page(excitation_page)
    page.get_by_text("How this was made").press("Enter")
    page.wait_for_function("document.querySelector('details').open")
    words = page.locator("details").inner_text()
    for one in (f"{analysis['seconds']:.1f} s", analysis["device"], analysis["versions"]["torch"], "below 0.02"):
        assert str(one) in words
    assert f"tolerance of {analysis['tolerance']:g}" in words


def test_blocks_sort_by_value_and_filter_by_word(open_page, excitation_page, analysis):
    page, _, _ = open_page(excitation_page)
    expected = sorted(block["specificity"][0] for block in analysis["blocks"])
    button = page.locator("#blocks").get_by_role("button", name="Specificity")
    for order in (expected, expected[::-1]):
        button.focus()
        page.keyboard.press("Enter")
        values = page.locator("#blocks tbody tr").evaluate_all("rows => rows.map((row) => row.cells[7].dataset.value)")
        assert [float(value) for value in values] == order
    page.get_by_role("searchbox").fill("layer3")
    assert page.locator("#blocks tbody tr:visible").count() == 2


def test_many_blocks_are_chosen_from_by_stage(open_page, tmp_path, analysis):
    many = repeated(analysis, 3)  # 24 blocks
    page, errors, asked = open_page(write_page(tmp_path, many), 400)
    scroll_through(page)
    shown = page.locator('[aria-label="Mean activation of each block"] .multiple:visible')
    assert shown.count() == len(pick_blocks(many["blocks"])) == 13
    menus = page.get_by_role("combobox", name="Blocks")
    menus.first.select_option("stage-3")
    assert shown.count() == 6
    assert menus.nth(1).input_value() == "stage-3"
    page.locator("#figure-activations-9").scroll_into_view_if_needed()
    page.wait_for_selector("#figure-activations-9 .main-svg")
    menus.nth(1).select_option("all")
    assert shown.count() == 24
    assert page.locator("#blocks tbody tr").count() == 24
    assert_quiet(page, errors, asked)


def test_a_block_can_be_seen_on_its_own_scale_also_in_the_other_theme(open_page, excitation_page, analysis):
    page, errors, _ = open_page(excitation_page)
    scroll_through(page)
    ends = "document.getElementById('figure-activations-1')._fullLayout.yaxis.range"
    shared = list(activation_range(analysis))
    np.testing.assert_allclose(page.evaluate(ends), shared)
    page.locator(".own-scale").first.check()
    page.wait_for_function(f"{ends}[1] - {ends}[0] < {0.99 * (shared[1] - shared[0])}")
    page.locator("#theme").click()
    page.wait_for_function(f"{ends}[1] - {ends}[0] < {0.99 * (shared[1] - shared[0])}")
    page.locator(".own-scale").nth(1).uncheck()
    page.wait_for_function(f"Math.abs({ends}[1] - {shared[1]}) < 1e-9")
    assert errors == []


def test_names_from_outside_are_text(open_page, tmp_path, analysis):
    for key in ("model", "backbone", "source", "device"):
        analysis[key] = HOSTILE
    analysis["data"]["name"] = HOSTILE
    analysis["skipped"] = [{"block": HOSTILE, "reason": HOSTILE}]
    for one in analysis["classes"]:
        one["name"] = HOSTILE
    for block in analysis["blocks"]:
        block["block"] = block["gate"] = block["position"] = HOSTILE
    for one in analysis["observations"]:
        one["evidence"] = HOSTILE
    analysis["cautions"] = [HOSTILE]
    page, errors, asked = open_page(write_page(tmp_path, analysis))
    scroll_through(page)
    page.locator("#figure-activations-1 .nsewdrag").hover(force=True)
    page.wait_for_selector("#figure-activations-1 .hoverlayer .legendtext")
    assert HOSTILE[:39] in page.locator("#figure-activations-1 .hoverlayer").text_content()
    assert page.title() == f"Role of excitation in {HOSTILE} – se-search"
    assert HOSTILE in page.locator("h1").inner_text()
    assert page.locator(".legend .name").first.inner_text() == HOSTILE
    assert HOSTILE in page.locator(".multiple h3").first.inner_text()
    assert_quiet(page, errors, asked)
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
    assert_quiet(page, errors, asked)


@pytest.mark.parametrize("width", [1400, 400])
def test_one_block_of_a_network_that_guesses_and_whose_stages_are_not_known(open_page, tmp_path, analysis, width):
    # The verdicts of an untrained network.
    assert "The network performs at chance level" in analysis["cautions"][0]
    analysis["blocks"] = analysis["blocks"][:1]
    (block,) = analysis["blocks"]
    assert block["verdict"] == "cannot be told"
    block |= {"stage": None, "position": None}
    analysis |= {"last_stage": None, "backbone": None}
    page, errors, asked = open_page(write_page(tmp_path, analysis), width)
    scroll_through(page)
    assert page.locator("select").count() == 0
    words = page.locator("header").inner_text()
    assert "Of 1 attention block in seresnet18, none is class-specific" in words
    assert "None are idle, 1 cannot be told." in words
    assert analysis["cautions"][0] in page.locator(".warning").all_inner_texts()
    assert page.locator("#blocks tbody td").all_inner_texts().count("–") == 1
    assert_quiet(page, errors, asked)


def test_everything_to_be_seen_is_drawn_before_it_is_printed(open_page, tmp_path, analysis):
    page, errors, _ = open_page(write_page(tmp_path, repeated(analysis, 2)), scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("document.querySelectorAll('.figure .main-svg:first-child').length >= 5 + 2 * 13")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.locator(".multiple[hidden] .main-svg").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert errors == []
