"""The Gaussian process against scikit-learn's and against numerical differentiation."""

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from se_search.sampling.gaussian_process import GaussianProcess, encode, fit

SPACE = {"a": ("none", 4, 8, 16), "b": (False, True), "gate": ("sigmoid",), "c": (1, 2, 3)}
RNG = np.random.default_rng(0)
DRAWN = [{name: choices[RNG.integers(len(choices))] for name, choices in SPACE.items()} for _ in range(30)]
VALUES = np.array([3 * (one["a"] != "none") + one["c"] + RNG.normal() for one in DRAWN])
KNOWN = RNG.uniform(0, 2, 30)


def test_numbers_lie_in_order_and_words_lie_apart():
    points = encode({"a": ("none", 4, 8, 16)}, [{"a": one} for one in ("none", 4, 8, 16)])
    ordered = ((points.ordered[:, None] - points.ordered) ** 2).sum(2)
    assert ordered[1:, 1:] == pytest.approx(np.array([[0, 0.25, 1], [0.25, 0, 0.25], [1, 0.25, 0]]))
    assert ordered[0] == pytest.approx([0, 1.25, 1, 1.25])
    assert ((points.nominal[:, None] - points.nominal) ** 2).sum(2) == pytest.approx(1 - np.eye(4))


def test_a_parameter_with_one_choice_has_no_column():
    points = encode(SPACE, DRAWN)
    assert points.dimensions == 3
    assert points.of_nominal.tolist() == [0] * 4 + [1] * 2 + [2] * 3


def test_the_posterior_with_known_noise_is_that_of_scikit_learn():
    points, scales, amplitude, noise = encode(SPACE, DRAWN), np.array([0.8, 1.5, 2.0]), 1.3, 0.2
    only_nominal = np.concatenate([np.log(scales), np.log([amplitude, noise]), [40.0]])
    process = GaussianProcess(points[:20], VALUES[:20], KNOWN[:20], only_nominal)
    mean, deviation = VALUES[:20].mean(), VALUES[:20].std()
    peer = GaussianProcessRegressor(
        ConstantKernel(amplitude) * Matern(scales[points.of_nominal], nu=2.5),
        alpha=noise + KNOWN[:20] / deviation**2,
        optimizer=None,
    ).fit(points.nominal[:20], (VALUES[:20] - mean) / deviation)
    expected_mean, expected_deviation = peer.predict(points.nominal, return_std=True)
    found_mean, found_deviation = process.predict(points)
    assert found_mean == pytest.approx(mean + deviation * expected_mean, abs=1e-6)
    assert process.mean(points) == pytest.approx(found_mean, abs=1e-9)
    assert found_deviation == pytest.approx(deviation * expected_deviation, abs=1e-6)


def test_the_fit_is_the_most_probable_one():
    """No other optimiser, without the gradient and from another start, finds a higher posterior density."""
    points = encode(SPACE, DRAWN)
    deviation = VALUES.std()

    def loss(theta):
        scales, amplitude, noise, mix = np.exp(theta[:3]), *np.exp(theta[3:5]), 1 / (1 + np.exp(-theta[5]))
        squared = np.zeros((30, 30))
        for place, scale in enumerate(scales):
            for columns, owners, share in (
                (points.ordered, points.of_ordered, 1 - mix),
                (points.nominal, points.of_nominal, mix),
            ):
                own = columns[:, owners == place]
                squared += share * ((own[:, None] - own) ** 2).sum(2) / scale**2
        r = np.sqrt(5 * squared)
        covariance = amplitude * (1 + r + r**2 / 3) * np.exp(-r) + np.diag(noise + KNOWN / deviation**2 + 1e-8)
        prior = stats.norm([0.5] * 3 + [0, np.log(0.1), 0], [1, 1, 1, 1, 1.5, 1]).logpdf(theta).sum()
        values = (VALUES - VALUES.mean()) / deviation
        return -stats.multivariate_normal(np.zeros(30), covariance).logpdf(values) - prior

    found = fit(points, VALUES, KNOWN)
    other = optimize.minimize(loss, np.full(6, -0.5), method="L-BFGS-B")
    assert loss(found) == pytest.approx(other.fun, abs=1e-3)
    assert found == pytest.approx(other.x, abs=0.05)


def test_known_noise_is_not_fitted_again():
    rng = np.random.default_rng(1)
    drawn = [{"x": int(one)} for one in rng.integers(0, 9, 150)]
    points = encode({"x": tuple(range(9))}, drawn)
    smooth = np.array([np.sin(one["x"] / 3) for one in drawn])
    values = smooth + rng.normal(0, 0.5, 150)
    told = np.exp(fit(points, values, np.full(150, 0.25))[-2]) * values.var()
    untold = np.exp(fit(points, values, np.zeros(150))[-2]) * values.var()
    assert told < 0.05 < 0.2 < untold < 0.3


def test_equal_values_and_an_unbounded_interval_are_no_error():
    points = encode(SPACE, DRAWN)
    mean, deviation = GaussianProcess(points, np.ones(30), KNOWN, fit(points, np.ones(30), KNOWN)).predict(points)
    assert mean == pytest.approx(np.ones(30))
    unbounded = np.where(np.arange(30) == 3, np.inf, 0.1)
    mean, deviation = GaussianProcess(points, VALUES, unbounded, fit(points, VALUES, unbounded)).predict(points)
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()
