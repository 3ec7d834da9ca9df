"""The additive latency model on ratios whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conditions import CONDITIONS
from scipy import stats

from se_search import SEConfig, find_sites
from se_search.errors import ConfigurationError
from se_search.latency.additive import (
    MeasuredLatency,
    SiteGroup,
    count_terms,
    measurements_from_json,
    measurements_to_json,
)
from se_search.latency.meter import PILOT, Ratio
from se_search.latency.pooled import pool_latencies
from se_search.network.config import PlacedSE

BACKBONE = "resnet10t"
STAGES = (2, 3, 4, 5)
RATIOS = (2, 4, 8, 16, 32)
SITES = {stage: [site for site in find_sites(BACKBONE, position="standard") if site.stage == stage] for stage in STAGES}
BLOCK_COST = {2: 0.010, 3: 0.012, 4: 0.015, 5: 0.020}
WIDTH_COST = {2: 0.002, 3: 0.004, 4: 0.010, 5: 0.040}


def configuration(ratios: dict[int, int]) -> SEConfig:
    """SE blocks with one ratio for each stage that is named."""
    return SEConfig(BACKBONE, tuple(PlacedSE(site, ratio) for stage, ratio in ratios.items() for site in SITES[stage]))


def true_ratio(config: SEConfig) -> float:
    """What the configuration costs by the costs above."""
    return 1 + sum(
        BLOCK_COST[one.site.stage] + WIDTH_COST[one.site.stage] * one.hidden / one.site.channels
        for one in config.placed
    )


def ratio_of(median: float, error: float) -> Ratio:
    """A ratio whose interval has the half-width that Student's with a pilot's degrees of freedom gives this error."""
    half = error * stats.t.ppf(0.975, PILOT - 1)
    return Ratio(median, median - half, median + half, 80, PILOT, "target", 0.0, CONDITIONS)


def draw(random) -> SEConfig:
    ratios = {stage: int(random.choice((0, *RATIOS))) for stage in STAGES}
    return configuration({stage: ratio for stage, ratio in ratios.items() if ratio})


def design(random, drawn=8) -> list[SEConfig]:
    alone = [configuration({stage: ratio}) for stage in STAGES for ratio in (2, 32)]
    return alone + [draw(random) for _ in range(drawn)]


def measure(configs, random, noise=0.0, misfit=0.0, error=None) -> list[MeasuredLatency]:
    return [
        MeasuredLatency(
            config,
            ratio_of(
                true_ratio(config) + noise * random.normal() + misfit * random.normal(),
                noise * np.sqrt(random.chisquare(PILOT - 1) / (PILOT - 1)) if error is None else error,
            ),
        )
        for config in configs
    ]


def test_the_costs_of_exact_measurements_are_found_and_predict_ratios_between_those_measured():
    random = np.random.default_rng(0)
    model = pool_latencies(measure(design(random), random, error=1e-6))
    found = dict(zip(model.terms, model.costs, strict=True))
    for stage in STAGES:
        kind = SiteGroup(stage, "standard", SITES[stage][0].channels, "NCHW")
        assert found[kind, "block"] == pytest.approx(BLOCK_COST[stage], abs=1e-9)
        assert found[kind, "width"] == pytest.approx(WIDTH_COST[stage], abs=1e-9)
    between = configuration(dict.fromkeys(STAGES, 8))
    predicted = model.predict(between)
    assert predicted.value == pytest.approx(true_ratio(between), abs=1e-9)
    assert model.deviation < 1e-5
    assert 0 < predicted.high - predicted.low < 1e-5


def test_a_network_without_se_costs_what_its_backbone_does():
    random = np.random.default_rng(1)
    model = pool_latencies(measure(design(random), random, noise=0.002))
    assert model.predict(SEConfig(BACKBONE)).value == 1.0


def test_a_gate_costs_nothing_of_its_own():
    tanh = SEConfig.uniform(BACKBONE, 8, gate="tanh")
    assert count_terms(tanh) == count_terms(SEConfig.uniform(BACKBONE, 8))


def test_attention_that_is_taken_out_replaced_or_kept_is_told_apart():
    backbone = "mobilenetv3_small_050"
    first, *others = find_sites(backbone, position="existing")
    kind = SiteGroup(first.stage, "existing", first.channels, first.layout)
    config = SEConfig(backbone, (PlacedSE(first, 4),), tuple(others))
    amounts = count_terms(config)
    assert amounts[kind, "block"] == 1
    assert amounts[kind, "width"] == config.placed[0].hidden / first.channels
    assert sum(amount for (_, what), amount in amounts.items() if what == "removed") == len(others)
    assert count_terms(SEConfig(backbone)) == {}


@pytest.mark.parametrize("misfit", [0.0, 0.0025, 0.01])
def test_intervals_cover_about_95_per_cent_of_true_ratios(misfit):
    random = np.random.default_rng(4)
    covered = []
    for _ in range(150):
        model = pool_latencies(measure(design(random), random, noise=0.0025, misfit=misfit))
        for _ in range(20):
            config = draw(random)
            predicted = model.predict(config)
            covered.append(predicted.low <= true_ratio(config) + misfit * random.normal() <= predicted.high)
    # Sixteen measurements cannot exclude deviations: without any the intervals are too wide.
    assert 0.92 <= np.mean(covered) <= (0.985 if misfit else 1.0)


def test_a_measurement_made_under_load_counts_little():
    random = np.random.default_rng(5)
    configs = [*design(random), SEConfig.uniform(BACKBONE, 4)]
    measured = measure(configs, random, noise=0.001)
    disturbed = MeasuredLatency(configs[-1], ratio_of(1.5, 0.3))
    model, calm = pool_latencies([*measured[:-1], disturbed]), pool_latencies(measured)
    assert model.predict(configs[-1]).value == pytest.approx(calm.predict(configs[-1]).value, abs=0.005)


def test_what_was_not_measured_is_not_predicted():
    random = np.random.default_rng(6)
    one_stage = [configuration({2: 4}), configuration({2: 32}), configuration({2: 8})]
    model = pool_latencies(measure(one_stage, random, noise=0.001))
    with pytest.raises(ConfigurationError, match="no measured one has such SE blocks"):
        model.predict(configuration({3: 4}))


def test_one_width_does_not_tell_what_another_costs():
    random = np.random.default_rng(7)
    gates = [SEConfig(BACKBONE, tuple(PlacedSE(site, 4, gate=gate) for site in SITES[2])) for gate in ("tanh", "relu")]
    model = pool_latencies(measure([configuration({2: 4}), *gates], random, noise=0.001))
    assert model.predict(configuration({2: 4})).value == pytest.approx(true_ratio(configuration({2: 4})), abs=0.005)
    with pytest.raises(ConfigurationError, match="cannot predict configuration"):
        model.predict(configuration({2: 32}))


def test_too_few_measurements_are_refused():
    random = np.random.default_rng(8)
    model = pool_latencies(measure([configuration({2: 4}), configuration({2: 32})], random, noise=0.001))
    with pytest.raises(ConfigurationError, match="2 configurations do not determine 2 costs"):
        model.predict(configuration({2: 16}))


def test_measurements_come_back_from_json_as_they_were():
    random = np.random.default_rng(9)
    measured = measure(design(random), random, noise=0.001)
    measured[0] = replace(measured[0], ratio=replace(measured[0].ratio, interruptions=None, stopped="limit"))
    assert measurements_from_json(measurements_to_json(measured)) == measured


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", json.dumps([{"config": SEConfig(BACKBONE).to_dict(), "ratio": {"median": 1}}])]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigurationError, match="these are not measured latencies"):
        measurements_from_json(text)
