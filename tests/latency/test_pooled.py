"""Latency ratios pooled over the measurements of a run, against the mixed model solved by hand and known truths."""

import math
from dataclasses import astuple
from typing import NamedTuple

import numpy as np
import pytest
from scipy import linalg, special, stats
from test_additive import BACKBONE, CONDITIONS, configuration, design, draw, ratio_of, true_ratio

from se_search import SEConfig
from se_search.errors import ConfigurationError
from se_search.latency import pooled as pooled_latency
from se_search.latency.additive import MeasuredLatency, count_terms
from se_search.latency.meter import PILOT, Ratio
from se_search.latency.pooled import LatencyPool, combine_ratios, pool_latencies
from se_search.statistics import Estimate, two_stage_mean


def measured_in(rounds, median, error, stopped="limit"):
    """A ratio measured in so many rounds, with Student's interval of this standard error."""
    factor = math.exp(error / median * stats.t.ppf(0.975, freedom_of(rounds, stopped)))
    return Ratio(median, median / factor, median * factor, 10 * rounds, rounds, stopped, 0.0, CONDITIONS)


def freedom_of(rounds, stopped):
    """Stein 1945: if a pilot decided the number of rounds, the degrees of freedom are the pilot's."""
    return (PILOT if stopped == "target" else rounds) - 1


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


class Look(NamedTuple):
    """A measurement as :func:`directly` takes it."""

    config: SEConfig
    value: float
    error: float
    rounds: int
    stopped: str

    def measured(self):
        return MeasuredLatency(self.config, measured_in(self.rounds, self.value, self.error, self.stopped))


class Direct(NamedTuple):
    """Estimates of :func:`directly`."""

    configs: list
    ratios: np.ndarray
    covariance: np.ndarray
    freedoms: np.ndarray
    costs: np.ndarray
    costs_covariance: np.ndarray
    deviation: float


def moderated(looks):
    """Squared standard errors and their degrees of freedom by section 6.2 and the appendix of Smyth 2004."""
    freedoms = np.array([freedom_of(look.rounds, look.stopped) for look in looks], float)
    variances = np.array([look.error**2 * look.rounds for look in looks])
    e = np.log(variances) - special.digamma(freedoms / 2) + np.log(freedoms / 2)
    excess = np.sum((e - e.mean()) ** 2) / (len(e) - 1) - np.mean(special.polygamma(1, freedoms / 2))
    y = 5000.0
    if excess > special.polygamma(1, y):
        y = 0.5 + 1 / excess
        for _ in range(50):
            trigamma = special.polygamma(1, y)
            y += trigamma * (1 - trigamma / excess) / special.polygamma(2, y)
    prior, center = 2 * y, np.exp(e.mean() + special.digamma(y) - np.log(y))
    rounds = np.array([look.rounds for look in looks])
    return (prior * center + freedoms * variances) / (prior + freedoms) / rounds, prior + freedoms


def directly(looks, deviations):
    """Estimates by generalised least squares with the covariance matrix of the measurements at each deviation.

    Measurements are not summed by configuration. ``deviations`` grow by a constant factor.
    """
    noise, freedoms = moderated(looks)
    searched = np.array([bool(look.config.placed) for look in looks])
    noise, freedoms = noise[searched], freedoms[searched]
    looks = [look for look in looks if look.config.placed]
    configs = list(dict.fromkeys(look.config for look in looks))
    terms = sorted({term for config in configs for term in count_terms(config)})
    rows = np.array([[count_terms(config).get(term, 0.0) for term in terms] for config in configs])
    of_config = np.array([[look.config == config for config in configs] for look in looks], float)
    values, each = np.array([look.value for look in looks]) - 1, of_config @ rows
    contrasts = linalg.null_space(each.T, rcond=1e-9)

    def at(deviation):
        covariance = np.diag(noise) + deviation**2 * of_config @ of_config.T
        inverse = np.linalg.inv(covariance)
        costs_covariance = np.linalg.pinv(each.T @ inverse @ each, rcond=1e-9, hermitian=True)
        to_costs = costs_covariance @ each.T @ inverse
        to_ratios = rows @ to_costs + deviation**2 * of_config.T @ inverse @ (np.eye(len(looks)) - each @ to_costs)
        off = to_ratios @ of_config - np.eye(len(configs))  # what the estimates make of the deviations
        errors = deviation**2 * off @ off.T + to_ratios @ np.diag(noise) @ to_ratios.T
        density = stats.multivariate_normal.logpdf(contrasts.T @ values, cov=contrasts.T @ covariance @ contrasts)
        return to_ratios, errors, to_costs @ values, costs_covariance, density

    to_ratios, errors, costs, costs_errors, densities = zip(*map(at, deviations), strict=True)
    # A uniform prior: each stands for a part of the line that is as long as it is large.
    density = np.exp(np.array(densities) - max(densities)) * deviations
    density /= density.sum()

    def moments(means, within):
        mean = density @ means
        return mean, np.einsum("k,kij->ij", density, within) + np.cov(means.T, aweights=density, bias=True)

    ratios, covariance = moments(np.array(to_ratios) @ values, np.array(errors))
    costs, costs_covariance = moments(np.array(costs), np.array(costs_errors))
    deviation = math.sqrt(density @ deviations**2)
    weights = at(deviation)[0]
    freedoms = np.diag(covariance) ** 2 / (weights**4 @ (noise**2 / freedoms))
    return Direct(configs, 1 + ratios, covariance, freedoms, costs, costs_covariance, deviation)


def looks_at(random, spread):
    """Two measurements of some configurations and of the backbone; stage 5 always has one ratio."""
    ratios = [{2: 2}, {2: 32}, {3: 4}, {3: 16, 5: 8}, {4: 2}, {2: 8, 4: 16}, {5: 8}, {2: 4, 3: 8, 4: 4, 5: 8}, {3: 32}]
    configs = [SEConfig(BACKBONE), *map(configuration, ratios)]
    looks = []
    for place, config in enumerate((*configs, *configs[:4])):
        value = true_ratio(config) + 0.01 * random.normal()
        rounds, stopped = ((5, "limit"), (20, "limit"), (30, "target"))[place % 3]
        error = 0.03 * math.exp(spread * random.normal()) / math.sqrt(rounds)
        looks.append(Look(config, value, error, rounds, stopped))
    return looks


@pytest.mark.parametrize("spread", [1.0, 0.0], ids=["rounds of different noise", "of the same noise"])
def test_estimates_are_those_of_generalised_least_squares(spread):
    looks = looks_at(np.random.default_rng(0), spread)
    pooled = pool_latencies(look.measured() for look in looks)
    deviations = pooled._fit.deviations
    np.testing.assert_allclose(np.diff(np.log(deviations)), math.log(deviations[-1] / deviations[0]) / 63)
    expected = directly(looks, deviations)
    assert list(pooled.configs) == [SEConfig(BACKBONE), *expected.configs]
    assert pooled.freedom == 9 - 7  # both costs of three stages, their sum of one
    np.testing.assert_allclose(pooled.ratios, [1, *expected.ratios], rtol=1e-9)
    np.testing.assert_allclose(pooled.costs, expected.costs, rtol=1e-7)
    np.testing.assert_allclose(pooled.costs_covariance, expected.costs_covariance, rtol=1e-6, atol=1e-12)
    assert pooled.deviation == pytest.approx(expected.deviation, rel=1e-8)
    quantiles = stats.t.ppf(0.975, expected.freedoms)
    scaled = expected.covariance * np.outer(quantiles, quantiles) / stats.norm.ppf(0.975) ** 2
    np.testing.assert_allclose(pooled.covariance[1:, 1:], scaled, rtol=1e-6, atol=1e-12)
    for place, value in enumerate(expected.ratios):
        factor = math.exp(quantiles[place] * math.sqrt(expected.covariance[place, place]) / value)
        assert astuple(pooled.estimate(place + 1)) == pytest.approx((value, value / factor, value * factor), rel=1e-7)

    new = configuration({2: 16, 4: 32, 5: 8})
    row = np.array([count_terms(new).get(term, 0.0) for term in pooled.terms])
    value = 1 + row @ expected.costs
    error = math.sqrt(expected.deviation**2 + row @ expected.costs_covariance @ row)
    factor = math.exp(stats.norm.ppf(0.975) * error / value)
    assert astuple(pooled.predict(new)) == pytest.approx((value, value / factor, value * factor), rel=1e-7)
    assert pooled.predict(looks[1].config) == pooled.estimate(1)
    with pytest.raises(ConfigurationError, match="no measured one has such SE blocks"):
        pooled.predict(configuration({5: 2}))


def test_neither_the_order_of_measurements_nor_estimates_in_between_change_an_estimate():
    looks = looks_at(np.random.default_rng(1), 1.0)
    pool, last = LatencyPool(), pool_latencies(look.measured() for look in reversed(looks))
    for look in looks:
        pool.add(look.measured())
        between = pool.fit()
    for config in last.configs:
        assert astuple(between.predict(config)) == pytest.approx(astuple(last.predict(config)), rel=1e-9)
    assert between.terms == last.terms
    np.testing.assert_allclose(between.costs, last.costs, rtol=1e-8)


def test_deviations_and_noise_that_are_a_tenth_make_intervals_of_a_tenth():
    looks = looks_at(np.random.default_rng(2), 1.0)
    tenth = [look._replace(value=1 + (look.value - 1) / 10, error=look.error / 10) for look in looks]
    whole, small = (pool_latencies(look.measured() for look in some) for some in (looks, tenth))
    np.testing.assert_allclose(small.ratios - 1, (whole.ratios - 1) / 10, rtol=1e-8)
    np.testing.assert_allclose(small.costs_covariance, whole.costs_covariance / 100, rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(small.covariance, whole.covariance / 100, rtol=1e-7, atol=1e-14)


def test_a_cost_that_is_known_a_thousand_times_better_than_another_is_predicted():
    precise = [configuration({2: ratio}) for ratio in (2, 4, 8, 32)]
    rough = [configuration({3: ratio}) for ratio in (2, 32)]
    pooled = pool_latencies(
        MeasuredLatency(config, measured_in(2000, true_ratio(config), error))
        for configs, error in ((precise, 1e-4), (rough, 0.3))
        for config in configs
    )
    new = configuration({2: 16})
    assert pooled.predict(new).value == pytest.approx(true_ratio(new), abs=1e-6)
    assert pooled.predict(configuration({3: 16})).high > 1.2


def test_backbones_alone_tell_nothing_of_others():
    pooled = pool_latencies([MeasuredLatency(SEConfig(BACKBONE), ratio_of(1.02, 0.003))])
    assert (pooled.freedom, pooled.deviation, pooled.terms) == (0, 0.0, ())
    assert (pooled.costs.shape, pooled.costs_covariance.shape) == ((0,), (0, 0))
    with pytest.raises(ConfigurationError, match="1 configuration do not determine 0 costs"):
        pooled.predict(configuration({2: 4}))
    others = pool_latencies(look.measured() for look in looks_at(np.random.default_rng(3), 1.0)[1:10])
    assert others.predict(SEConfig(BACKBONE)) == Estimate(1.0, 1.0, 1.0)


def test_a_ratio_is_never_below_a_hundredth_and_an_interval_never_infinite():
    """Costs of -0.5 and -0.6 add up to less than nothing."""
    faster = [({2: 2}, 0.5), ({2: 32}, 0.5), ({2: 8}, 0.5), ({3: 2}, 0.4), ({3: 32}, 0.4)]
    pooled = pool_latencies(
        MeasuredLatency(configuration(ratios), measured_in(2000, value, 1e-4)) for ratios, value in faster
    )
    assert pooled.predict(configuration({2: 4, 3: 4})).value == 0.01
    ratios = [measured_in(2000, 0.001, 1e-4), Ratio(1.0, 1e-150, 1e150, 20, 2, "limit", 0.0, CONDITIONS)]
    configs = [configuration({2: 4}), configuration({3: 4})]
    low, wide = pool_latencies(map(MeasuredLatency, configs, ratios)).estimates()
    assert low.value == 0.01
    assert math.log(wide.high / wide.value) == pytest.approx(100.0)


@pytest.mark.parametrize("freedom", [2, 7, 40])
def test_n_equal_measurements_of_a_network_have_n_times_the_freedom_and_the_nth_of_the_variance(freedom):
    one = measured_in(freedom + 1, 1.2, 0.03)
    assert combine_ratios([one]) == Estimate(one.median, one.low, one.high)
    for count in (2, 5):
        factor = math.exp(stats.t.ppf(0.975, count * freedom) * 0.03 / math.sqrt(count) / 1.2)
        estimate = astuple(combine_ratios([one] * count))
        assert estimate == pytest.approx((1.2, 1.2 / factor, 1.2 * factor), rel=1e-9)


def test_measurements_of_a_network_count_by_their_precision_and_one_without_a_width_decides():
    """Inverse-variance weights, and Satterthwaite's degrees of freedom of the variance of their mean."""
    medians, errors, rounds = np.array([1.1, 1.3]), np.array([0.01, 0.02]), np.array([4, 10])
    looks = [measured_in(*one) for one in zip(rounds.tolist(), medians, errors, strict=True)]
    value = (4 * 1.1 + 1.3) / 5  # weights 4 to 1
    variance = 0.01**2 * 4 / 5
    freedom = 1 / (0.8**2 / 3 + 0.2**2 / 9)
    factor = math.exp(stats.t.ppf(0.975, freedom) * math.sqrt(variance) / value)
    for order in (looks, looks[::-1]):
        assert astuple(combine_ratios(order)) == pytest.approx((value, value / factor, value * factor), rel=1e-9)
    exact = combine_ratios([*looks, Ratio(1.2, 1.2, 1.2, 80, 8, "target", 0.0, CONDITIONS)])
    assert exact.value == pytest.approx(1.2, rel=1e-12)
    assert 1.2 < exact.high < 1.2 + 1e-8


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
