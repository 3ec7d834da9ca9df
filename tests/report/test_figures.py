"""Figures hold the values of the table, in the units that their axes name."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from se_search import SEConfig, find_sites
from se_search.report.figures import (
    accuracy_against_latency,
    accuracy_against_overhead,
    describe_stages,
    hypervolume_figure,
)
from se_search.report.page import draw_configuration, shade
from se_search.search.record import read_results


@pytest.fixture
def results(finished_run):
    return read_results(finished_run / "run")


@pytest.fixture
def trials(results):
    return results[0]


@pytest.fixture
def sites(results):
    return results[1]["sites"]


def points(figure):
    """Every drawn trial: its number, place and the ends of its vertical interval."""
    found = {}
    for trace in figure.data:
        if trace.customdata is None:
            continue
        for index, number in enumerate(trace.customdata):
            y = trace.y[index]
            ends = (y - trace.error_y.arrayminus[index], y + trace.error_y.array[index])
            found[int(number)] = (trace.x[index], y, *ends, trace.marker.color[index])
    return found


@pytest.mark.parametrize(
    ("draw", "column", "factor"),
    [(accuracy_against_overhead, "parameter_overhead", 100), (accuracy_against_latency, "latency_ratio", 1)],
)
def test_every_trial_is_one_point_with_its_values(trials, sites, draw, column, factor):
    drawn = points(draw(trials, sites))
    assert set(drawn) == set(trials["number"])
    for row in trials.to_dict("records"):
        expected = (
            row[column] * factor,
            *(row[name] * 100 for name in ("accuracy", "accuracy_low", "accuracy_high")),
            row["latency_ratio"],
        )
        np.testing.assert_allclose(drawn[row["number"]], expected)


def test_baselines_are_marked_and_labelled(trials, sites):
    figure = accuracy_against_overhead(trials, sites)
    (diamonds,) = [trace for trace in figure.data if trace.customdata is not None and trace.marker.symbol == "diamond"]
    named = trials[trials["name"] != ""]
    assert set(diamonds.customdata) == set(named["number"])
    assert {annotation.text for annotation in figure.layout.annotations} == set(named["name"])


def test_trials_beyond_the_limits_are_told_apart(trials, sites):
    trials.loc[trials["number"] == 5, ["feasible", "on_front"]] = False
    (crosses,) = [
        trace
        for trace in accuracy_against_overhead(trials, sites, " (latency)").data
        if trace.customdata is not None and trace.marker.symbol == "x"
    ]
    assert list(crosses.customdata) == [5]
    assert crosses.name == "beyond the limits (latency)"


def test_the_hypervolume_is_drawn_over_trials():
    (line,) = hypervolume_figure([0.1, 0.1, 0.4]).data
    assert list(zip(line.x, line.y, strict=True)) == [(1, 0.1), (2, 0.1), (3, 0.4)]


def test_a_configuration_in_words_and_as_a_drawing():
    config = SEConfig.uniform("resnet18", 16, stages=[3]).with_site(SEConfig.uniform("resnet18").placed[7].site, 4)
    data = json.loads(config.to_json())
    sites = [asdict(site) for site in find_sites("resnet18", position="standard")]
    assert describe_stages(data, sites) == "stage 3: 2 blocks, r=16; stage 5: 1 block, r=4"
    assert describe_stages(SEConfig("resnet18").to_dict(), sites) == "no SE"
    drawn = draw_configuration(data, sites)
    assert [(row["stage"], [cell["ratio"] for cell in row["cells"]], row["label"]) for row in drawn] == [
        (2, [None, None], "–"),
        (3, [16, 16], "r=16"),
        (4, [None, None], "–"),
        (5, [None, 4], "r=4"),
    ]
    assert drawn[3]["cells"][1]["title"] == "layer4.1 (512 channels): r=4, sigmoid, standard"


def test_attention_that_is_kept_is_told_apart_from_a_new_block_and_from_none():
    own = find_sites("regnety_002", position="existing")
    sites = [asdict(site) for site in own]
    config = SEConfig.without_attention("regnety_002").with_site(own[1], 8)
    config = replace(config, removed=config.removed[1:])
    data = config.to_dict()
    stages = [site.stage for site in own]
    assert describe_stages(data, sites) == f"stage {stages[0]}: 1 block, kept; stage {stages[1]}: 1 block, r=8"
    cells = [cell for row in draw_configuration(data, sites) for cell in row["cells"]]
    assert [cell["kept"] for cell in cells] == [True] + [False] * (len(own) - 1)
    assert [cell["ratio"] for cell in cells] == [None, 8] + [None] * (len(own) - 2)


def test_shades_grow_lighter_with_the_ratio():
    def brightness(colour):
        return sum(int(colour[index : index + 2], 16) for index in (1, 3, 5))

    shades = [brightness(shade(ratio)) for ratio in (1, 2, 4, 8, 16, 32)]
    assert shades == sorted(set(shades))
