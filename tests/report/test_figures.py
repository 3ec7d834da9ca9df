"""Figures hold the values of the table, in the units that their axes name."""

import json
import math
import random
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from made_up_results import made_up_results, named_objectives

from se_search import SEConfig, find_sites
from se_search.report.configuration import describe_stages, draw_configuration, shade
from se_search.report.contributions import ablation_path, stage_contributions, stage_interactions
from se_search.report.curves import training_curves
from se_search.report.figures import front_heat_map, report_figures, three_objectives
from se_search.report.history import front_over_trials, hypervolume_over_trials
from se_search.report.measures import hover_text
from se_search.report.parallel import parallel_coordinates
from se_search.report.scatter import quality_against_latency, quality_against_overhead
from se_search.report.slices import quality_by_choice
from se_search.report.style import DARK
from se_search.results.contributions import Contributions, Factor, Interaction, Level, steps_to
from se_search.results.curves import Curve
from se_search.results.record import read_results
from se_search.results.table import Advantage, Gain
from se_search.study.definitions import ConstraintsDefinition
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition

NAMES = [
    "overhead",
    "latency",
    "objectives",
    "parallel",
    "hypervolume",
    "curves",
    "front_history",
    "contributions",
    "interactions",
    "ablation",
    "choices",
    "heat_map",
]
HOSTILE = "<b>x</b><script>alert(1)</script>"


@pytest.fixture(scope="module")
def thirty():
    return made_up_results(30)


@pytest.fixture
def results(thirty):
    trials, run = thirty
    return trials.copy(), run


def markers(figure):
    """Traces of trials with one point for each, but neither verified values nor arrows to what is beyond the axes."""
    return [
        trace
        for trace in figure.data
        if trace.customdata is not None
        and trace.mode == "markers"
        and not trace.name.startswith(("verified", "beyond"))
    ]


def points(figure):
    """Every drawn trial: its number, place, the ends of its vertical interval and its colour."""
    found = {}
    for trace in markers(figure):
        for index, number in enumerate(trace.customdata):
            y = trace.y[index]
            ends = (y - trace.error_y.arrayminus[index], y + trace.error_y.array[index])
            assert number not in found
            found[number] = (trace.x[index], y, *ends, trace.marker.color[index])
    return found


def trace_of(figure, name):
    (trace,) = [one for one in figure.data if one.name == name and one.customdata is not None]
    return trace


@pytest.mark.parametrize(
    ("draw", "column", "factor", "colour", "colour_factor"),
    [
        (quality_against_overhead, "parameter_overhead", 100, "latency_ratio", 1),
        (quality_against_latency, "latency_ratio", 1, "parameter_overhead", 100),
    ],
)
def test_every_trial_is_one_point_with_its_values(results, draw, column, factor, colour, colour_factor):
    trials, run = results
    drawn = points(draw(trials, run))
    assert set(drawn) == set(trials["number"])
    for row in trials.to_dict("records"):
        expected = (
            row[column] * factor,
            *(row[name] * 100 for name in ("accuracy", "accuracy_low", "accuracy_high")),
            row[colour] * colour_factor,
        )
        np.testing.assert_allclose(drawn[row["number"]], expected, rtol=1e-4, atol=1e-6)


def test_latency_has_its_interval_too(results):
    trials, run = results
    rows = trials.set_index("number")
    for trace in markers(quality_against_latency(trials, run)):
        for index, number in enumerate(trace.customdata):
            low, high = (rows.loc[number, name] for name in ("latency_low", "latency_high"))
            assert trace.x[index] - trace.error_x.arrayminus[index] == pytest.approx(low, rel=1e-4)
            assert trace.x[index] + trace.error_x.array[index] == pytest.approx(high, rel=1e-4)


def test_a_study_of_log_loss_is_drawn_by_it(results):
    trials, run = results
    objectives = named_objectives("log_loss", "parameter_overhead", "latency_ratio")
    run = replace(run, quality=objectives[0], objectives=objectives)
    figure = quality_against_overhead(trials, run)
    assert figure.layout.yaxis.title.text == "log-loss (lower is better)"
    drawn = points(figure)
    for row in trials.to_dict("records"):
        expected = [row[name] for name in ("log_loss", "log_loss_low", "log_loss_high")]
        np.testing.assert_allclose(drawn[row["number"]][1:4], expected, rtol=1e-4)
    (steps,) = [trace for trace in figure.data if trace.name == "best up to this cost"]
    assert list(steps.y) == sorted(steps.y, reverse=True)
    assert parallel_coordinates(trials, run).layout.xaxis.ticktext[-3:] == ("log-loss", "params %", "latency")


def test_the_front_is_drawn_above_the_others(results):
    trials, run = results
    fronts = [
        set(trials.loc[trials["on_front"], "number"]) >= set(one.customdata)
        for one in markers(quality_against_overhead(trials, run))
    ]
    assert fronts == sorted(fronts)
    assert fronts[-1]


def test_baselines_are_marked_and_labelled(results):
    trials, run = results
    figure = quality_against_overhead(trials, run)
    diamonds = [one for one in markers(figure) if one.marker.symbol.startswith("diamond")]
    named = trials[trials["name"] != ""]
    assert len(named) == 3
    assert {number for one in diamonds for number in one.customdata} == set(named["number"])
    assert {one.text for one in figure.layout.annotations if one.name == "baseline"} == set(named["name"])


def test_the_hypervolume_has_a_band(results):
    trials, run = results
    intervals = tuple((value - 0.01, value + 0.02) for value in run.hypervolume_history)
    line, low, high = hypervolume_over_trials(trials, replace(run, hypervolume_intervals=intervals)).data
    np.testing.assert_allclose(
        [low.y, line.y, high.y], np.transpose([(a, a + 0.01, b) for a, b in intervals]), rtol=1e-4
    )
    assert high.fill == "tonexty"
    assert len(hypervolume_over_trials(trials, run).data) == 1


def test_ties_have_an_open_symbol_and_an_entry_of_their_own(results):
    trials, run = results
    member = trials.index[trials["on_front"] & (trials["name"] == "")][0]
    trials.loc[member, ["on_front", "tied_with"]] = False, 0
    tied = trace_of(report_figures(trials, run)["overhead"], "not distinguishable from a cheaper trial")
    assert list(tied.customdata) == [trials.loc[member, "number"]]
    assert tied.marker.symbol == "circle-open"
    assert tied.marker.opacity < 1  # faint
    assert "no measurable advantage over trial 0" in tied.text[0]


def test_trials_beyond_the_limits_are_told_apart_and_limits_are_lines(results):
    trials, run = results
    run = replace(run, constraints=ConstraintsDefinition(max_params=0.05, max_latency=1.03))
    beyond = trials.index[(trials["name"] == "") & ~trials["on_front"]][:4]
    trials.loc[beyond, "feasible"] = False
    for draw, place, told in (
        (quality_against_overhead, 5.0, "limit +5 %"),
        (quality_against_latency, 1.03, "limit ×1.03"),
    ):
        figure = draw(trials, run)
        crosses = trace_of(figure, "beyond the limits")
        assert crosses.marker.symbol == "x"
        assert set(crosses.customdata) == set(trials.loc[beyond, "number"])
        (line,) = [shape for shape in figure.layout.shapes if shape.name == "limit"]
        assert (line.x0, line.x1, line.line.dash) == (pytest.approx(place), pytest.approx(place), "dash")
        assert [one.text for one in figure.layout.annotations if one.name == "limit"] == [told]


def test_verified_values_stand_beside_the_estimates(results):
    trials, run = results
    chosen = trials.index[trials["on_front"]][:2]
    for name, values in {"accuracy": (0.97, 0.96, 0.975), "log_loss": (0.1, 0.08, 0.13)}.items():
        columns = [f"verified_{name}", f"verified_{name}_low", f"verified_{name}_high"]
        trials.loc[chosen, columns] = values
    figure = report_figures(trials, run)["overhead"]
    verified = trace_of(figure, "verified (retrained, test images)")
    assert list(verified.customdata) == list(trials.loc[chosen, "number"])
    np.testing.assert_allclose(list(verified.y), [97.0, 97.0])
    np.testing.assert_allclose(list(verified.error_y.array), [0.5, 0.5])
    np.testing.assert_allclose(list(verified.error_y.arrayminus), [1.0, 1.0])
    assert verified.marker.symbol == "square"
    (line,) = [one for one in figure.data if one.legendgroup == "verified" and one.mode == "lines"]
    estimates = trials.loc[chosen, "accuracy"] * 100
    np.testing.assert_allclose(line.y[0::3], estimates, rtol=1e-5)
    np.testing.assert_allclose(line.y[1::3], 97.0)
    assert "verified accuracy 97.00 % [96.00, 97.50]" in verified.text[0]
    assert any(one.name == "Pareto front (estimates)" for one in figure.data)


def test_predicted_latencies_have_a_dot(results):
    trials, run = results
    trials.loc[trials.index[:10], "latency_stopped"] = "model"
    figure = quality_against_latency(trials, run)
    dotted = {
        number
        for trace in markers(figure)
        if not isinstance(trace.marker.symbol, str)
        for number, symbol in zip(trace.customdata, trace.marker.symbol, strict=True)
        if symbol.endswith("-dot")
    }
    assert dotted == set(trials["number"].iloc[:10])
    assert any(one.name == "dot: predicted latency" for one in figure.data)


def test_three_objectives_are_drawn_in_space(results):
    trials, run = results
    trials["energy"] = trials["number"] * 2.0
    run = replace(run, objectives=named_objectives("accuracy", "parameter_overhead", "energy"))
    figure = three_objectives(trials, run)
    rows = trials.set_index("number")
    seen = []
    for trace in markers(figure):
        seen += trace.customdata
        for place, number in enumerate(trace.customdata):
            shown = trace.x[place], trace.y[place], trace.z[place]
            row = rows.loc[number]
            expected = row["parameter_overhead"] * 100, row["energy"], row["accuracy"] * 100
            np.testing.assert_allclose(shown, expected, rtol=1e-5)
    assert sorted(seen) == list(trials["number"])
    assert figure.layout.scene.yaxis.title.text == "energy"
    assert three_objectives(trials, replace(run, objectives=named_objectives("accuracy", "energy"))) is None


def test_a_front_without_se_has_a_legend_too(results):
    trials, run = results
    alone = front_heat_map(trials.assign(on_front=trials["se_blocks"] == 0), run)
    assert [trace.name for trace in alone.data[1:]] == ["no SE"]
    assert alone.layout.showlegend  # Plotly leaves out legends of one entry


def test_a_line_of_parallel_coordinates_crosses_the_axes_at_its_choices(results):
    trials, run = results
    figure = parallel_coordinates(trials, run)
    titles = list(figure.layout.xaxis.ticktext)
    assert titles == [
        *(f"{kind} {stage}" for stage in (2, 3, 4, 5) for kind in ("stage", "blocks")),
        "gate",
        "accuracy %",
        "params %",
        "latency",
    ]
    ticks = {}
    for one in figure.layout.annotations:
        ticks.setdefault(titles[one.x], {})[one.text] = one.y
    assert list(ticks["stage 2"]) == ["off", "32", "16", "8", "4", "2"]
    np.testing.assert_allclose(list(ticks["stage 2"].values()), np.linspace(0, 1, 6))
    crossings = {}
    for trace in figure.data:
        for x, y, number in zip(trace.x, trace.y, trace.customdata, strict=True):
            if number is not None:
                crossings.setdefault(number, {})[titles[x]] = y
    assert set(crossings) == set(trials["number"])
    span = trials["accuracy"].max() - trials["accuracy"].min()
    for row in trials.to_dict("records"):
        crossed = crossings[row["number"]]
        used = {site["ratio"] for site in json.loads(row["config"])["sites"] if site["stage"] == 3}
        expected = ticks["stage 3"][str(used.pop()) if used else "off"]
        assert abs(crossed["stage 3"] - expected) <= 0.04
        height = (row["accuracy"] - trials["accuracy"].min()) / span
        assert crossed["accuracy %"] == pytest.approx(height, abs=1e-4)
    places = [crossed["gate"] for crossed in crossings.values()]
    assert len(set(places)) == len(places)


def test_positions_are_an_axis_where_there_is_a_choice():
    trials, run = made_up_results(30, space="positions")
    titles = parallel_coordinates(trials, run).layout.xaxis.ticktext
    assert [title for title in titles if title.startswith("position")] == [
        f"position {stage}" for stage in (2, 3, 4, 5)
    ]
    assert "gate" not in titles


def test_the_hypervolume_is_drawn_over_trials(results):
    trials, run = results
    (line,) = hypervolume_over_trials(trials, replace(run, hypervolume_history=(0.1,) * 29 + (0.4,))).data
    assert list(zip(line.x, line.y, strict=True)) == [*((place, 0.1) for place in range(1, 30)), (30, 0.4)]
    assert list(line.customdata) == list(trials["number"])


def test_contributions_are_drawn_with_their_intervals(results):
    trials, run = results
    levels = (
        Level("r=16", 7, (0.02, 0.01, 0.03)),
        Level("r=2", 5, (0.005, -0.01, 0.02)),
        Level("r=4", 1, None),
    )
    factors = (
        Factor("stage 4", (0.4, 0.2, 0.6), "no SE", levels, told=True, why="r=4: too few trials"),
        Factor("stage 5", None, "no SE", (), told=False, why="none"),
    )
    figure = stage_contributions(trials, replace(run, contributions=Contributions(factors, 0.5, 30, "")))
    ticks = figure.layout.yaxis.ticktext
    clear, unclear = figure.data
    assert (clear.name, unclear.name) == ("significant", "not significant")
    assert (ticks[clear.y[0]], ticks[unclear.y[0]]) == ("r=16 (7)", "r=2 (5)")
    np.testing.assert_allclose((clear.x[0], clear.error_x.array[0], clear.error_x.arrayminus[0]), (2, 1, 1))
    np.testing.assert_allclose((unclear.x[0], unclear.error_x.array[0], unclear.error_x.arrayminus[0]), (0.5, 1.5, 1.5))
    assert len(clear.y) == len(unclear.y) == 1
    notes = {ticks[int(one.y)]: one.text for one in figure.layout.annotations}
    assert notes["<b>stage 4</b>"].startswith("explains 40 % [20, 60]")
    assert "r=4: too few trials" in notes["<b>stage 4</b>"]
    assert notes["<b>stage 5</b>"] == "cannot be estimated: none"


def test_the_heat_map_shows_the_ratio_of_each_block_of_each_member(results):
    trials, run = results
    figure = front_heat_map(trials, run)
    heat = figure.data[0]
    legend = [trace.name for trace in figure.data[1:]]
    assert legend[0] == "no SE"
    front = trials[trials["on_front"]].sort_values("parameter_overhead")
    assert [list(row) for row in heat.customdata] == [list(front["number"])] * len(run.sites)
    for column, text in enumerate(front["config"]):
        config = SEConfig.from_json(text)
        ratios = {placed.site.block: f"r={placed.ratio}" for placed in config.placed}
        for row, site in enumerate(run.sites):
            assert legend[heat.z[row][column]] == ratios.get(site.block, "no SE")
            assert site.block in figure.layout.yaxis.ticktext[row]
            # The cell's colour is the middle of its part of the scale.
            place = (heat.z[row][column] + 0.5) / len(legend)
            colour = next(
                one
                for (below, one), (above, _) in zip(heat.colorscale, heat.colorscale[1:], strict=False)
                if below <= place <= above
            )
            if site.block in ratios:
                assert colour == shade(int(ratios[site.block][2:]))


def test_the_heat_map_tells_kept_attention_from_none():
    trials, run = made_up_results(20, backbone="regnety_002", space="stages")
    figure = front_heat_map(trials.assign(on_front=True), run)
    legend = [trace.name for trace in figure.data[1:]]
    assert legend[:2] == ["no SE", "kept as in the backbone"]
    published = list(figure.data[0].customdata[0]).index(trials.loc[trials["name"] == "as published", "number"].iloc[0])
    assert {row[published] for row in figure.data[0].z} == {1}


def test_hover_shows_the_configuration_drawn(results):
    _, run = results
    config = SEConfig.uniform("resnet18", 16, stages=[3]).with_site(SEConfig.uniform("resnet18").placed[7].site, 4)
    row = results[0].iloc[5].to_dict() | {"config": config.to_json(), "accuracy": 0.9, "accuracy_low": 0.85}
    row |= {"accuracy_high": np.nan, "name": HOSTILE + "x" * 300, "gate": HOSTILE}
    lines = hover_text(row, run).split("<br>")
    assert lines[0].startswith("<b>trial 5</b> – &lt;b&gt;x&lt;/b&gt;&lt;script&gt;")
    assert len(lines[0]) < 130
    assert lines[1:5] == [
        "stage 2 □□ –",
        f'stage 3 <span style="color:{shade(16)}">■■</span> r=16',
        "stage 4 □□ –",
        f'stage 5 □<span style="color:{shade(4)}">■</span> r=4',
    ]
    assert "accuracy 90.00 % [85.00, –]" in lines
    assert "<script>" not in "".join(lines)


def test_a_configuration_in_words_and_as_a_drawing():
    config = SEConfig.uniform("resnet18", 16, stages=[3]).with_site(SEConfig.uniform("resnet18").placed[7].site, 4)
    data = config.to_json()
    sites = find_sites("resnet18", position="standard")
    assert describe_stages(data, sites) == "stage 3: 2 blocks, r=16; stage 5: 1 block, r=4"
    assert describe_stages(SEConfig("resnet18").to_json(), sites) == "no SE"
    drawn = draw_configuration(data, sites)
    assert [(row.stage, [cell.rank for cell in row.cells], row.label) for row in drawn] == [
        (2, [None, None], "–"),
        (3, [16, 16], "r=16"),
        (4, [None, None], "–"),
        (5, [None, 4], "r=4"),
    ]
    assert drawn[3].cells[1].title == "layer4.1 (512 channels): r=4, sigmoid, standard"


def test_an_unusual_position_is_named_in_the_drawing():
    config = SEConfig.uniform("resnet18", 16, stages=[3], position="pre")
    sites = [site for site in find_sites("resnet18") if site.position in ("standard", "pre")]
    labels = {row.stage: row.label for row in draw_configuration(config.to_json(), sites)}
    assert labels == {2: "–", 3: "r=16 pre", 4: "–", 5: "–"}


def test_attention_that_is_kept_is_told_apart_from_a_new_block_and_from_none():
    sites = own = find_sites("regnety_002", position="existing")
    config = SEConfig.without_attention("regnety_002").with_site(own[1], 8)
    config = replace(config, removed=config.removed[1:])
    data = config.to_json()
    stages = [site.stage for site in own]
    assert describe_stages(data, sites) == f"stage {stages[0]}: 1 block, kept; stage {stages[1]}: 1 block, r=8"
    cells = [cell for row in draw_configuration(data, sites) for cell in row.cells]
    assert [cell.kept for cell in cells] == [True] + [False] * (len(own) - 1)
    assert [cell.rank for cell in cells] == [None, 8] + [None] * (len(own) - 2)


@pytest.mark.parametrize("order", [1, -1], ids=["existing last", "existing first"])
def test_attention_that_is_kept_stands_where_it_was_and_a_new_block_beside_it_where_that_is(order):
    own = find_sites("regnety_002", position="existing")
    post = {site.block: site for site in find_sites("regnety_002", position="post")}
    sites = [site for one in own for site in (post[one.block], one)[::order]]
    kept = SEConfig("regnety_002")
    cells = [cell for row in draw_configuration(kept.to_json(), sites) for cell in row.cells]
    assert [(cell.label, cell.position) for cell in cells] == [("kept", "existing")] * len(own)
    beside = kept.with_site(post[own[0].block], 16)
    first = draw_configuration(beside.to_json(), sites)[0].cells[0]
    assert (first.label, first.position) == ("r=16 post + kept", "post")


def test_a_new_block_beside_attention_that_is_kept_is_drawn_and_counted_once():
    definition = SpaceDefinition(
        positions=("existing", "post"), position_per="stage", placement="block", ratios=(2, 16), gates=("sigmoid",)
    )
    searched = SearchSpace("regnety_002", definition)
    sites = searched.sites
    random_draws = random.Random(0)
    for config in (searched.draw(random_draws) for _ in range(40)):
        rows = draw_configuration(config.to_json(), sites)
        ratios = Counter(cell.rank for row in rows for cell in row.cells if cell.rank)
        assert ratios == Counter(placed.ratio for placed in config.placed)
        blocks = {site.block for site in searched.sites}
        assert sorted(cell.block for row in rows for cell in row.cells) == sorted(blocks)
        taken = {placed.site.block for placed in config.placed}
        taken |= {site.block for site in searched.sites if site.position == "existing"} - {
            site.block for site in config.removed
        }
        told = sum(
            int(part.split(": ")[1].split(" ")[0]) for part in describe_stages(config.to_json(), sites).split("; ")
        )
        assert told == len(taken)


def brightness(colour):
    return sum(int(colour[index : index + 2], 16) for index in (1, 3, 5))


def test_shades_grow_lighter_with_the_ratio_and_darker_on_a_dark_page():
    shades = [shade(ratio) for ratio in (1, 2, 4, 8, 16, 32)]
    assert [brightness(one) for one in shades] == sorted({brightness(one) for one in shades})
    dark = [brightness(DARK[one]) for one in shades]
    assert dark == sorted(set(dark), reverse=True)


@pytest.mark.slow
def test_colours_of_a_dark_page_can_be_replaced_one_after_the_other(results):
    assert not set(DARK) & set(DARK.values())
    for figure in report_figures(*results).values():
        text = figure.to_json()
        for light, dark in DARK.items():
            text = text.replace(light, dark)
        assert not any(light in text for light in DARK)
        assert json.loads(text)["layout"]["plot_bgcolor"] == "rgba(0,0,0,0)"


def empty(trials, run):
    return trials.iloc[:0], replace(run, hypervolume_history=())


def one(trials, run):
    return trials.iloc[:1], replace(run, hypervolume_history=(0.1,))


def failed(trials, run):
    columns = {name: np.nan for name in trials.columns if trials[name].dtype == float}
    trials = trials.assign(state="failed", feasible=False, on_front=False, **columns)
    return trials, replace(run, hypervolume_history=())


def no_front(trials, run):
    return trials.assign(on_front=False, feasible=False), run


def missing(trials, run):
    changed = trials.copy()
    changed.loc[changed.index[::2], ["latency_ratio", "latency_low", "latency_high", "flops_overhead"]] = np.nan
    changed.loc[changed.index[5:9], ["accuracy", "accuracy_low", "accuracy_high", "log_loss"]] = np.nan
    return changed, run


def two_objectives(trials, run):
    return trials, replace(run, objectives=named_objectives("accuracy", "parameter_overhead"))


def own_objective(trials, run):
    objectives = named_objectives("accuracy", "flops_overhead", "energy")
    return trials.assign(energy=np.nan), replace(run, objectives=objectives)


@pytest.mark.parametrize("change", [empty, one, failed, no_front, missing, two_objectives, own_objective])
def test_every_figure_says_something_about_any_table(results, change):
    trials, run = change(*results)
    figures = report_figures(trials, run)
    assert list(figures) == [name for name in NAMES if name != "objectives" or len(run.objectives) == 3]
    for name, figure in figures.items():
        json.loads(figure.to_json())
        assert figure.data or figure.layout.annotations, name
    if change in (empty, failed):
        for figure in figures.values():
            assert not [trace for trace in figure.data if trace.customdata is not None]
    if change is no_front:
        assert figures["heat_map"].layout.annotations[0].text == "The Pareto front is empty."
    if change is missing:
        drawn = {number for trace in markers(figures["latency"]) for number in trace.customdata}
        assert drawn == set(trials.dropna(subset=["accuracy", "latency_ratio"])["number"])


@pytest.mark.slow
def test_a_thousand_trials_stay_light():
    trials, run = made_up_results(1000, backbone="resnet50")
    figures = report_figures(trials, run, texts=False)
    without_texts = sum(len(figure.to_json()) for figure in figures.values())
    # One text for each trial, which a page keeps once, and the rest.
    texts = sum(len(hover_text(row, run)) for row in trials.to_dict("records"))
    assert without_texts + texts < 2_000_000
    assert sum(len(trace.customdata) for trace in markers(figures["overhead"])) == 1000


def test_under_the_pointer_every_figure_shows_the_trial_of_a_point(results):
    trials, run = results
    told = {row["number"]: hover_text(row, run) for row in trials.to_dict("records")}
    figures = report_figures(trials, run)
    for name in ("overhead", "latency", "objectives", "parallel", "hypervolume"):
        shown = {}
        for trace in figures[name].data:
            if trace.customdata is not None:
                assert "%{text}" in trace.hovertemplate
                shown |= dict(zip(trace.customdata, trace.text, strict=True))
        assert {number: text for number, text in shown.items() if number is not None} == told
        assert shown.get(None) is None


def test_a_name_from_outside_is_text_in_every_figure(results):
    trials, run = results
    trials["name"] = HOSTILE
    trials["gate"] = HOSTILE
    for figure in report_figures(trials, run).values():
        texts = re.findall(r'"(?:text|name|ticktext)":(\[.*?\]|".*?")', figure.to_json())
        assert not any("<script" in text or "\\u003cscript" in text for text in texts)


def test_the_figures_of_a_real_run(finished_run):
    trials, run = read_results(finished_run / "run")
    figures = report_figures(trials, run)
    assert list(figures) == NAMES
    assert set(points(figures["overhead"])) == set(trials["number"])
    assert "too few" in figures["contributions"].layout.annotations[0].text


def test_an_interval_far_wider_than_the_points_does_not_widen_the_axis(results):
    trials, run = results
    trials.loc[trials.index[3], ["latency_low", "latency_high"]] = [0.001, 600.0]
    low, high = quality_against_latency(trials, run).layout.xaxis.range
    assert low < trials["latency_ratio"].min() <= trials["latency_ratio"].max() < high < 3
    one = trials.iloc[:1].assign(latency_low=1.0, latency_high=1.0, latency_ratio=1.0)
    low, high = quality_against_latency(one, run).layout.xaxis.range
    assert low < 1 < high


def test_a_trial_far_from_the_bulk_is_an_arrow_at_the_edge(results):
    trials, run = results
    far = trials.index[(trials["name"] == "") & ~trials["on_front"]][0]
    trials.loc[far, ["accuracy", "accuracy_low", "accuracy_high"]] = 0.1, 0.09, 0.11
    figure = quality_against_overhead(trials, run)
    low, high = figure.layout.yaxis.range
    assert low > 50
    assert high < 110
    arrow = trace_of(figure, "beyond the axes")
    assert list(arrow.customdata) == [trials.loc[far, "number"]]
    assert list(arrow.marker.symbol) == ["triangle-down"]
    assert low < arrow.y[0] < 100 * trials["accuracy_low"].drop(far).min()
    assert not any(one.name == "beyond the axes" for one in quality_against_overhead(*made_up_results(30)).data)


def test_labels_of_baselines_stand_below_all_points(results):
    trials, run = results
    run = replace(run, constraints=ConstraintsDefinition(max_params=0.05))
    figure = quality_against_overhead(trials, run)
    heights = [one.ay for one in figure.layout.annotations if one.name == "baseline"]
    heights += [one.y for one in figure.layout.annotations if one.name == "limit"]
    assert len(set(heights)) == 4
    assert figure.layout.yaxis.range[0] < min(heights)
    assert max(heights) < 100 * trials["accuracy_low"].min()


def test_a_ratio_has_the_same_height_on_the_axis_of_each_stage(results):
    trials, run = results
    figure = parallel_coordinates(trials, run)
    titles = figure.layout.xaxis.ticktext
    heights = {}
    for one in figure.layout.annotations:
        if titles[one.x].startswith("stage"):
            heights.setdefault(one.text, set()).add(one.y)
    assert {len(one) for one in heights.values()} == {1}
    assert {"off", "16"} <= set(heights)


def test_the_front_over_time_ends_with_the_best_of_all_trials(results):
    trials, run = results
    figure = front_over_trials(trials, run)
    assert [trace.name for trace in figure.data] == [f"after {count} trials" for count in (8, 15, 23, 30)]
    for trace, count in zip(figure.data, (8, 15, 23, 30), strict=True):
        assert max(trace.y) == pytest.approx(100 * trials["accuracy"][:count].max(), rel=1e-5)
        assert list(trace.y) == sorted(trace.y)
    assert len(front_over_trials(*made_up_results(1)).data) == 1


def test_every_trial_is_a_point_over_each_of_its_choices(results):
    trials, run = results
    figure = quality_by_choice(trials, run)
    ticks = list(figure.layout.xaxis.ticktext)
    assert ticks[:7] == ["off", "32", "16", "8", "4", "2", ""]
    drawn = {}
    for trace in figure.data:
        for x, y, number in zip(trace.x, trace.y, trace.customdata, strict=True):
            drawn.setdefault(number, []).append((ticks[round(x)], y))
    assert set(drawn) == set(trials["number"])
    for row in trials.to_dict("records"):
        used = {site["ratio"] for site in json.loads(row["config"])["sites"] if site["stage"] == 2}
        choice, height = drawn[row["number"]][0]
        assert choice == (str(used.pop()) if used else "off")
        assert height == pytest.approx(100 * row["accuracy"], rel=1e-5)


def test_interactions_are_drawn_with_their_intervals(results):
    trials, run = results
    told = Interaction("stage 2", "stage 3", (0.02, 0.01, 0.03), (0.8, 0.81, 0.82, 0.85), (9, 7, 6, 8))
    untold = Interaction("stage 2", "stage 4", None, (0.8, math.nan, 0.8, 0.8), (20, 0, 5, 5))
    contributions = replace(run.contributions, interactions=(told, untold))
    figure = stage_interactions(trials, replace(run, contributions=contributions))
    (drawn,) = figure.data
    assert (drawn.name, drawn.x[0], drawn.error_x.array[0]) == ("significant", 2, 1)
    assert "both: 85.00 % (8 trials)" in drawn.text[0]
    assert "+2.00 points [+1.00, +3.00]" in drawn.text[0]
    assert list(figure.layout.yaxis.ticktext) == ["stage 2 × 3", "stage 2 × 4 (too few trials)"]


def test_the_path_to_the_pick_adds_one_effect_at_a_time(results):
    trials, run = results
    number = run.picks["knee"]
    figure = ablation_path(trials, run)
    steps = steps_to(number, trials, run.sites, run.contributions)
    assert len(steps) >= 1
    known = [step.effect[0] if step.effect else 0.0 for step in steps]
    np.testing.assert_allclose(figure.data[0].x, [0, *(100 * np.cumsum(known))], atol=1e-3)
    own = Advantage("id", number, "", (0.05, 0.03, 0.07), (0.05, 0.03, 0.07), "accuracy")
    figure = ablation_path(trials, replace(run, gain=Gain(True, "", (own,))))
    assert figure.layout.yaxis.ticktext[-1] == f"trial {number} itself"
    np.testing.assert_allclose((figure.data[1].x[0], figure.data[1].error_x.array[0]), (5, 2))


def test_curves_are_drawn_by_kind_of_training(results):
    trials, run = results
    curves = (Curve("supernet", (2.0, 1.0)), Curve("verification", (1.5, 0.5), 3, "abc", 0, 2))
    shared, verified = training_curves(trials, replace(run, curves=curves)).data
    assert (list(shared.y), list(verified.y)) == ([2.0, 1.0], [1.5, 0.5])
    assert "verification 2 epochs trial 3 seed 0" in verified.hovertemplate
