"""The atlas has the costs of networks as they are counted, and measured latencies have one form."""

import csv
import io
import json
from dataclasses import replace
from importlib import metadata

import pytest
from typer.testing import CliRunner

from se_search import SEConfig
from se_search.cli import app
from se_search.evidence import known
from se_search.evidence.atlas import RATIOS, atlas, known_costs
from se_search.evidence.counted import count_costs
from se_search.evidence.latencies import LatencyRow
from se_search.latency.meter import LatencyMeter, Ratio
from se_search.network.insertion import create_model_on_meta
from se_search.network.overhead import added_flops, added_parameters, backbone_parameters, count_flops
from se_search.network.sites import default_position, find_places


def check_costs(name):
    costs = known_costs(name)
    assert costs is not None
    assert costs.parameters == backbone_parameters(name)
    assert costs.flops == count_flops(create_model_on_meta(SEConfig(name)))
    places = find_places(name)
    # In forward order, as they are listed.
    assert [(group.stage, group.position) for group in costs.sites] == list(
        dict.fromkeys((site.stage, site.position) for site in places)
    )
    for group in costs.sites:
        of_stage = [site for site in places if site.stage == group.stage]
        here = [site for site in of_stage if site.position == group.position]
        assert group.channels == (min(site.channels for site in here), max(site.channels for site in here))
        assert group.weights == sum(places[site].weights for site in here)
        first, _, last = group.module.partition(" … ")
        if last:
            assert (first, last) == (of_stage[0].block, of_stage[-1].block)
        else:
            assert all(f"{site.block}.".startswith(f"{group.module}.") for site in of_stage)
    for group in costs.sites[:: max(len(costs.sites) // 4, 1)]:
        for place, ratio in enumerate(RATIOS):
            config = SEConfig.uniform(name, ratio, [group.stage], position=group.position)
            removed = SEConfig(name, removed=config.sites) if group.position == "existing" else SEConfig(name)
            assert group.sites == len(config.placed)
            assert group.squares == sum(placed.site.channels**2 for placed in config.placed)
            assert group.parameters[place] == added_parameters(config) - added_parameters(removed)
            assert group.flops[place] == added_flops(config) - added_flops(removed)
    assert costs.default_position == default_position(name)
    if costs.attention_sites:
        without = SEConfig.without_attention(name)
        saved = -added_parameters(without), -added_flops(without)
        assert (costs.attention_parameters, costs.attention_flops) == saved


@pytest.mark.skipif(metadata.version("timm") != atlas().timm, reason="the atlas is of another version of timm")
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_the_atlas_has_the_counted_costs(name):
    check_costs(name)


@pytest.mark.slow
@pytest.mark.skipif(metadata.version("timm") != atlas().timm, reason="the atlas is of another version of timm")
def test_a_sample_of_the_atlas_has_the_counted_costs():
    names = [name for name in sorted(atlas().rows) if not atlas().reason(name)]
    for name in names[:: len(names) // 20][:20]:
        check_costs(name)


def test_the_atlas_is_small_and_not_used_for_another_timm(monkeypatch):
    assert len(atlas().names) > 1000
    monkeypatch.setattr(metadata, "version", lambda name: "0.0")
    assert known_costs("test_resnet") is None


def test_what_the_atlas_does_not_know_is_counted(monkeypatch):
    costs = known_costs("test_resnet")
    assert known.evidence("test_resnet").costs == costs == count_costs("test_resnet", "resnet")
    monkeypatch.setattr(metadata, "version", lambda name: "0.0")
    assert known.evidence("test_resnet").costs == replace(costs, family="")


def test_every_architecture_has_costs_or_a_reason():
    for name in atlas().names:
        assert bool(atlas().reason(name)) == (atlas().costs(name) is None)


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_the_tables_have_the_papers_costs_of_resnet50():
    # 25,557,032 parameters, and 2,530,992 more in timm's seresnet50; without the last stage Σ 2C²/16 is 942,080.
    rows = list(csv.DictReader(io.StringIO(invoke("atlas", "*resnet50", "--csv").stdout)))
    row = next(row for row in rows if row["architecture"] == "resnet50")
    assert (row["parameters"], row["se_parameters_r16"], row["sites"]) == ("25557032", "2530992", "16")
    last_stage = 3 * (2 * 2048**2 // 16 + 2048 + 2048 // 16)
    assert int(row["se_parameters_r16_without_last_stage"]) == 2_530_992 - last_stage
    assert "9.90 %" in invoke("atlas", "resnet50").stdout
    (plain,) = json.loads(invoke("atlas", "resnet50", "--json").stdout)
    standard = [group for group in plain["sites"] if group["position"] == "standard"]
    assert sum(group["parameters"][RATIOS.index(16)] for group in standard) == 2_530_992


def test_a_pattern_that_no_architecture_matches_is_refused():
    result = invoke("atlas", "resnet5O")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "no architecture of timm" in result.stderr


def test_a_measurement_is_a_row_of_the_atlas(monkeypatch):
    def measure(meter, model, look=None):
        return Ratio(1.05, 1.04, 1.06, 40, 8, "target", 0.0, meter.conditions)

    monkeypatch.setattr(LatencyMeter, "measure", measure)
    done = invoke("latency", "test_resnet", "--json", "--batch", "2", "--size", "64", "--threads", "1")
    rows = [LatencyRow.from_dict(json.loads(line)) for line in done.stdout.splitlines()]
    assert [row.configuration for row in rows] == ["no SE", "uniform r=16", "r=16 without the last stage"]
    row = rows[1]
    assert (row.latency_ratio, row.latency_low, row.pooled) == (1.05, 1.04, False)
    assert (row.batch, row.size, row.threads, row.runtime, row.device) == (2, (3, 64, 64), 1, "eager", "cpu")
    config = SEConfig.uniform("test_resnet", 16)
    assert row.parameter_overhead == added_parameters(config) / backbone_parameters("test_resnet")
    # Evidence names what the atlas has measured.
    monkeypatch.setattr(known, "atlas_latencies", lambda: (row,))
    assert (
        "Latency of uniform r=16: +5.0 % [+4.0, +6.0], measured with images of 3×64×64 at batch 2, eager"
        in known.evidence("test_resnet").sentences[-2]
    )
