"""Latency ratios pooled over the measurements of a run, against the mixed model solved by hand and known truths."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy import linalg, stats
from test_additive import BACKBONE, CONDITIONS, configuration, design, draw, ratio_of, true_ratio

from se_search import SEConfig
from se_search.errors import ConfigurationError
from se_search.latency import pooled as pooled_latency
from se_search.latency.additive import MeasuredLatency, count_terms
from se_search.latency.meter import Ratio
from se_search.latency.pooled import LatencyPool, pool_latencies
from se_search.statistics import two_stage_mean


def measured_in(rounds, median, error):
    """A ratio measured in so many rounds, with Student's interval of this standard error."""
    factor = math.exp(error / median * stats.t.ppf(0.975, rounds - 1))
    return Ratio(median, median / factor, median * factor, 10 * rounds, rounds, "limit", 0.0, CONDITIONS)


def from_rounds(logarithms):
    low, value, high = (math.exp(one) for one in sorted(astuple(two_stage_mean(logarithms, len(logarithms)))))
    return Ratio(value, low, high, len(logarithms), len(logarithms), "limit", 0.0, CONDITIONS)


def by_hand(configs, values, errors):
    """Means and covariance of the ratios by Henderson's equations at each standard deviation of a fine grid.

    The likelihood of a standard deviation is the density of the error contrasts, which no cost changes.
    """
    terms = sorted({term for config in configs for term in count_terms(config)})
    rows = np.array([[count_terms(config).get(term, 0.0) for term in terms] for config in configs])
    contrasts = linalg.null_space(rows.T)
    precision = np.diag(errors**-2.0)
    means, covariances, densities = [], [], []
    for deviation in np.linspace(1e-5, 0.05, 1000):
        left = np.block(
            [
                [rows.T @ precision @ rows, rows.T @ precision],
                [precision @ rows, precision + np.eye(len(configs)) / deviation**2],
            ]
        )
        inverse = np.linalg.inv(left)
        both = np.hstack([rows, np.eye(len(configs))])
        means.append(both @ inverse @ np.concatenate([rows.T, np.eye(len(configs))]) @ precision @ (values - 1))
        covariances.append(both @ inverse @ both.T)
        spread = contrasts.T @ (np.diag(errors**2) + deviation**2 * np.eye(len(configs))) @ contrasts
        densities.append(stats.multivariate_normal.pdf(contrasts.T @ (values - 1), cov=spread))
    density = np.array(densities) / np.sum(densities)
    mean = density @ np.array(means)
    within = np.einsum("k,kij->ij", density, np.array(covariances))
    off = np.array(means) - mean
    return 1 + mean, within + (off.T * density) @ off


def test_a_noisy_measurement_does_not_win_a_place_and_the_values_are_those_of_henderson_s_equations():
    random = np.random.default_rng(0)
    configs = list(dict.fromkeys([*design(random, 20), SEConfig.uniform(BACKBONE, 8)]))
    errors = 0.004 * np.exp(random.normal(size=len(configs)))
    values = np.array([true_ratio(config) for config in configs]) + errors * random.normal(size=len(configs))
    # The measurement of a real run: x0.879 [0.518, 1.491] among consistent ones.
    values[-1], errors[-1] = 0.879, 0.2
    rounds = 2000  # so many that each measurement tells its own noise
    measured = [
        MeasuredLatency(config, measured_in(rounds, value, error))
        for config, value, error in zip(configs, values, errors, strict=True)
    ]
    assert min(measured, key=lambda one: one.ratio.median) is measured[-1]
    pooled = pool_latencies(measured)
    expected, covariance = by_hand(configs, values, errors)
    assert pooled.configs == tuple(configs)
    np.testing.assert_allclose(pooled.ratios, expected, atol=1e-4)
    np.testing.assert_allclose(np.diag(pooled.covariance), np.diag(covariance), rtol=0.03)
    np.testing.assert_allclose(pooled.covariance, covariance, atol=0.03 * covariance.max())
    truth = true_ratio(configs[-1])
    estimate = pooled.estimate(len(configs) - 1)
    assert estimate.value == pytest.approx(truth, abs=0.02)
    assert estimate.low < truth < estimate.high
    assert pooled.ratios.argmax() == len(configs) - 1 or estimate.value > np.median(pooled.ratios)


def test_a_search_counts_the_costs_of_each_configuration_once_and_computes_one_interval(monkeypatch):
    counts = []
    monkeypatch.setattr(pooled_latency, "count_terms", lambda config: counts.append(config) or count_terms(config))
    random = np.random.default_rng(0)
    configs = list(dict.fromkeys(design(random, 20)))
    pool = LatencyPool()
    for config in (*configs, *configs[:5]):
        index = pool.add(MeasuredLatency(config, ratio_of(true_ratio(config), 0.003)))
        fit = pool.fit()
        assert fit.configs[index] == config
        alone = fit.estimate(index)
        assert "covariance" not in vars(fit)
        assert astuple(alone) == pytest.approx(astuple(fit.estimates()[index]))
    assert counts == [config for config in configs if config.placed]


def test_with_no_more_configurations_than_costs_each_keeps_its_measurement_and_its_interval():
    configs = [configuration({2: 4}), configuration({2: 32}), configuration({3: 4, 4: 8})]
    measured = [
        MeasuredLatency(config, measured_in(rounds, 1 + 0.01 * rounds, 0.002 * rounds))
        for config, rounds in zip(configs, (4, 6, 9), strict=True)
    ]
    pooled = pool_latencies(measured)
    assert pooled.freedom == 0
    for index, one in enumerate(measured):
        assert astuple(pooled.estimate(index)) == pytest.approx((one.ratio.median, one.ratio.low, one.ratio.high))
    with pytest.raises(ConfigurationError, match="3 configurations do not determine 6 costs"):
        pooled.predict(configuration({2: 16}))


def test_the_backbone_is_1_whatever_was_measured_and_changes_no_other_estimate():
    random = np.random.default_rng(1)
    others = [MeasuredLatency(config, ratio_of(true_ratio(config), 0.003)) for config in design(random)]
    bare = MeasuredLatency(SEConfig(BACKBONE), ratio_of(1.02, 0.003))
    pooled = pool_latencies([bare, *others])
    assert astuple(pooled.estimate(0)) == (1.0, 1.0, 1.0)
    assert not pooled.covariance[0].any()
    np.testing.assert_allclose(pooled.ratios[1:], pool_latencies(others).ratios, atol=1e-4)
    assert astuple(pool_latencies([bare]).estimate(0)) == (1.0, 1.0, 1.0)
    assert pool_latencies([]).configs == ()


def test_measurements_of_one_configuration_are_combined_by_their_precision():
    config = configuration({2: 4})
    first, second = measured_in(1000, 1.10, 0.01), measured_in(1000, 1.04, 0.02)
    pooled = pool_latencies([MeasuredLatency(config, first), MeasuredLatency(config, second)])
    assert pooled.configs == (config,)
    estimate = pooled.estimate(0)
    assert estimate.value == pytest.approx((1.10 / 0.01**2 + 1.04 / 0.02**2) / (1 / 0.01**2 + 1 / 0.02**2))
    error = math.sqrt(1 / (1 / 0.01**2 + 1 / 0.02**2))
    assert math.log(estimate.high / estimate.value) == pytest.approx(
        stats.norm.ppf(0.975) * error / estimate.value, rel=2e-3
    )


def test_a_spread_that_is_small_by_chance_is_moderated_by_the_others():
    """Four rounds that happen to agree do not decide: the costs stay near those of the others."""
    random = np.random.default_rng(2)
    configs = list(dict.fromkeys(design(random, 16)))
    measured = [
        MeasuredLatency(config, measured_in(4, true_ratio(config) + 0.01 * random.normal(), 0.01)) for config in configs
    ]
    lucky = MeasuredLatency(configs[0], measured_in(4, true_ratio(configs[0]) + 0.05, 1e-5))
    pooled = pool_latencies([lucky, *measured[1:]])
    alone = astuple(lucky.ratio)[1:3]
    estimate = pooled.estimate(0)
    assert estimate.high - estimate.low > 100 * (alone[1] - alone[0])


def load(random, kind, rounds):
    """Noise of the logarithms of the rounds of a measurement: of an idle machine, or with heavy tails."""
    if kind == "idle":
        return 0.02 * random.normal(size=rounds)
    scale = 0.02 * math.exp(random.normal()) * (20 if random.random() < 0.1 else 1)
    return scale * random.standard_t(3, size=rounds)


@pytest.mark.parametrize("kind", ["idle", "heavy"])
@pytest.mark.parametrize("deviation", [0.004, 0.008])
def test_intervals_cover_the_truth(kind, deviation):
    random = np.random.default_rng(3)
    covered, narrower = [], []
    for _ in range(40):
        configs = [config for config in dict.fromkeys(draw(random) for _ in range(40)) if config.placed]
        truths = [true_ratio(config) + deviation * random.normal() for config in configs]
        measured = [
            MeasuredLatency(config, from_rounds(math.log(truth) + load(random, kind, 5)))
            for config, truth in zip(configs, truths, strict=True)
        ]
        pooled = pool_latencies(measured)
        for index, (one, truth) in enumerate(zip(measured, truths, strict=True)):
            estimate = pooled.estimate(index)
            covered.append(estimate.low <= truth <= estimate.high)
            narrower.append((estimate.high - estimate.low) / (one.ratio.high - one.ratio.low))
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.median(narrower) < 0.75
