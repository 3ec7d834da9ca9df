"""Latency ratios estimated from all measurements of a run together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from ..errors import ConfigurationError
from ..network.config import SEConfig
from ..statistics import CONFIDENCE, Estimate, normal_quantile, t_quantile
from ..words import counted
from .additive import MeasuredLatency, SiteGroup, count_terms
from .meter import PILOT, Ratio

_NEGLIGIBLE = 1e-6  # share of the largest singular value below which one is zero up to rounding
_DEVIATIONS = 64  # candidate standard deviations
_MOST_FREEDOM = 1e4  # that a variance common to all measurements has
_SMALLEST = 0.01  # ratio
_LARGEST_LOGARITHM = 100.0  # of the factor between a ratio and the ends of its interval
_TINY = 1e-9  # smallest standard error of a ratio

_Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PooledLatency:
    """Latency ratios of the measured configurations, each estimated from the measurements of all.

    Attributes:
        configs: The measured configurations without repetition, in order of their first measurement.
        ratios: Estimated ratio of each, of shape (n,).
        covariance: Joint covariance of the estimates, of shape (n, n), scaled such that quantiles of the normal
            distribution give the intervals.
        freedom: Measured configurations beyond those that determine the costs.
        terms: A group of sites and ``"removed"`` or a term of a kind of attention, for each cost.
        costs: Share of the backbone's latency that each term adds; those of the smallest norm if the measurements
            determine only sums of some.
        costs_covariance: Covariance of the costs.
        deviation: Root mean square over the posterior of the standard deviation by which configurations deviate from
            the sum of their costs.
    """

    configs: tuple[SEConfig, ...]
    ratios: _Matrix
    covariance: _Matrix
    freedom: int
    terms: tuple[tuple[SiteGroup, str], ...]
    costs: _Matrix
    costs_covariance: _Matrix
    deviation: float

    def estimate(self, index: int) -> Estimate:
        """Return the ratio of ``configs[index]`` with its 95 % interval."""
        return _interval(float(self.ratios[index]), float(self.covariance[index, index]))

    def predict(self, config: SEConfig) -> Estimate:
        """Return the ratio of a configuration with its 95 % interval; that of a measured one is its estimate.

        Raises:
            ConfigurationError: If the measured configurations do not determine the cost of one of its sites.
        """
        if config in self.configs:
            return self.estimate(self.configs.index(config))
        if _is_backbone(config):
            return Estimate(1.0, 1.0, 1.0)
        if self.freedom < 1:
            raise ConfigurationError(
                f"measurements of {counted(len(self.configs), 'configuration')} do not determine "
                f"{counted(len(self.terms), 'cost')}"
            )
        amounts = count_terms(config)
        row = np.array([amounts.get(term, 0.0) for term in self.terms])
        known = self.costs_covariance @ np.linalg.pinv(self.costs_covariance, rcond=_NEGLIGIBLE**2, hermitian=True)
        if not amounts.keys() <= set(self.terms) or not np.allclose(known @ row, row):
            raise ConfigurationError(
                f"the latency model cannot predict configuration {config.id}: no measured one has such SE blocks"
            )
        value = max(1 + float(row @ self.costs), _SMALLEST)
        return _interval(value, self.deviation**2 + float(row @ self.costs_covariance @ row))


def pool_latencies(measured: Sequence[MeasuredLatency]) -> PooledLatency:
    """Estimate the ratio of each measured configuration from all measurements.

    It is a linear mixed model. A ratio is one plus the costs of the configuration's sites plus a deviation of its own,
    and a measurement adds its noise. Costs and deviations are the best linear unbiased predictors (Henderson 1975): a
    deviation is shrunk by the share of noise in it.

    - The noise's variance comes from the measurement's interval, so that one made under heavy load counts little. Few
      rounds tell their own spread poorly: it is moderated by the spreads of all measurements, as far as these agree
      (Smyth 2004), and Student's quantile covers the rest (Satterthwaite 1946).
    - The deviations' variance is integrated over its restricted likelihood with a uniform prior of their standard
      deviation (Gelman 2006). A single estimate of it is often zero by chance, and intervals would then be too short.
    - The bare backbone is the network that all are compared with: its ratio is exactly 1, whatever was measured.

    If the configurations are not more than the costs, each ratio is that of its measurements. A configuration may occur
    several times; its measurements are weighted by their inverse variances.
    """
    variances, freedoms = _noise([one.ratio for one in measured])
    configs = tuple(dict.fromkeys(one.config for one in measured))
    place = {config: index for index, config in enumerate(configs)}
    searched = [index for index, config in enumerate(configs) if not _is_backbone(config)]
    counted = [count_terms(configs[index]) for index in searched]
    terms = tuple(sorted({term for amounts in counted for term in amounts}))
    rows = np.array([[amounts.get(term, 0.0) for term in terms] for amounts in counted])
    ratios, covariance = np.ones(len(configs)), np.zeros((len(configs), len(configs)))
    if not terms:
        return PooledLatency(configs, ratios, covariance, 0, (), np.empty(0), np.empty((0, 0)), 0.0)

    basis, transform = _basis(rows)
    freedom = len(searched) - basis.shape[1]
    if freedom >= 1:
        variances, freedoms = _moderated(variances, freedoms, np.array([one.ratio.rounds for one in measured]))
    of_config = np.array([place[one.config] for one in measured])
    weights = np.array([(of_config == index) / variances for index in searched])
    noise = 1 / weights.sum(1)
    extra = noise * (weights @ np.array([one.ratio.median for one in measured])) - 1
    freedoms = weights.sum(1) ** 2 / (weights**2 / freedoms).sum(1)

    fit = _integrate(basis, extra, noise)
    scale = _t_quantiles(_freedom_of_estimates(fit, basis, noise, freedoms)) / normal_quantile(CONFIDENCE)
    ratios[searched] = np.maximum(1 + fit.values, _SMALLEST)
    covariance[np.ix_(searched, searched)] = fit.covariance * np.outer(scale, scale)
    return PooledLatency(
        configs,
        ratios,
        covariance,
        freedom,
        terms,
        transform @ fit.coefficients,
        transform @ fit.coefficients_covariance @ transform.T,
        fit.deviation,
    )


def _t_quantiles(freedom: _Matrix) -> _Matrix:
    """Return the two-sided quantiles of Student's t distributions at 95 %."""
    return np.asarray(special.stdtrit(np.minimum(freedom, 1e6), 0.5 + CONFIDENCE / 2))


class _Fit(NamedTuple):
    """Posterior means and covariances of a mixed model."""

    values: _Matrix
    covariance: _Matrix
    coefficients: _Matrix
    coefficients_covariance: _Matrix
    deviation: float


def _integrate(basis: _Matrix, extra: _Matrix, noise: _Matrix) -> _Fit:
    """Fit the mixed model at many standard deviations of the deviation, and average over their likelihood."""
    freedom = max(len(extra) - basis.shape[1], 1)
    residuals = extra - basis @ (basis.T @ extra)
    typical = math.sqrt(float(np.median(noise)))
    largest = 10 * max(typical, math.sqrt(float(residuals @ residuals) / freedom))
    deviations = np.geomspace(typical / 100, largest, _DEVIATIONS)
    squares = deviations[:, None] ** 2

    weights = 1 / (squares + noise)
    information = (basis.T * weights[:, None, :]) @ basis
    uncertain = np.linalg.inv(information)
    coefficients = np.einsum("kij,kj->ki", uncertain, (weights * extra) @ basis)
    residuals = extra - coefficients @ basis.T
    # Restricted likelihood; the candidates' distances grow with them, which a uniform prior has to undo.
    log_density = np.log(deviations) - 0.5 * (
        (weights * residuals**2 - np.log(weights)).sum(1) + np.linalg.slogdet(information)[1]
    )
    density = np.exp(log_density - log_density.max())
    density /= density.sum()

    noise_share = noise * weights
    values = extra - noise_share * residuals
    mean, mean_coefficients = density @ values, density @ coefficients
    covariance = np.diag(density @ (squares * noise_share))
    covariance += ((values - mean).T * density) @ (values - mean)
    for share, one, probability in zip(noise_share, uncertain, density, strict=True):
        shrunk = share[:, None] * basis
        covariance += probability * (shrunk @ one @ shrunk.T)
    spread = coefficients - mean_coefficients
    return _Fit(
        mean,
        covariance,
        mean_coefficients,
        np.einsum("k,kij->ij", density, uncertain) + (spread.T * density) @ spread,
        math.sqrt(float(density @ deviations**2)),
    )


def _freedom_of_estimates(fit: _Fit, basis: _Matrix, noise: _Matrix, freedoms: _Matrix) -> _Matrix:
    """Return the degrees of freedom of each estimate's variance (Satterthwaite 1946).

    The derivative of an estimate's variance by that of a measurement is the square of the measurement's weight in it.
    """
    weights = 1 / (fit.deviation**2 + noise)
    shrunk = (noise * weights)[:, None] * basis
    share = shrunk @ np.linalg.solve((basis.T * weights) @ basis, basis.T * weights)
    share += np.diag(1 - noise * weights)
    return np.asarray(np.diag(fit.covariance) ** 2 / ((share**2 * noise) ** 2 / freedoms).sum(1))


def combine_ratios(ratios: Sequence[Ratio]) -> Estimate:
    """Return the ratio of one network from its measurements, weighted by their inverse variances."""
    if len(ratios) == 1:
        return Estimate(ratios[0].median, ratios[0].low, ratios[0].high)
    variances, freedoms = _noise(ratios)
    weights = 1 / variances
    value = float(weights @ np.array([one.median for one in ratios]) / weights.sum())
    freedom = float(weights.sum() ** 2 / (weights**2 / freedoms).sum())
    return _interval(value, 1 / float(weights.sum()), t_quantile(CONFIDENCE, freedom))


def _basis(rows: _Matrix) -> tuple[_Matrix, _Matrix]:
    """Return an orthonormal basis of the columns, and the matrix that turns its coefficients into theirs."""
    left, sizes, right = np.linalg.svd(rows, full_matrices=False)
    kept = sizes > _NEGLIGIBLE * sizes[0]
    return left[:, kept], right[kept].T / sizes[kept]


def _noise(ratios: Sequence[Ratio]) -> tuple[_Matrix, _Matrix]:
    """Return the squared standard errors of measured ratios, computed from their intervals, and degrees of freedom."""
    freedoms = np.array([(PILOT if one.stopped == "target" else one.rounds) - 1 for one in ratios], dtype=float)
    half_widths = np.array([one.median * math.log(one.high / one.low) / 2 for one in ratios])
    return np.maximum(half_widths / _t_quantiles(freedoms), _TINY) ** 2, freedoms


def _moderated(variances: _Matrix, freedoms: _Matrix, rounds: npt.NDArray[np.int64]) -> tuple[_Matrix, _Matrix]:
    """Return squared standard errors moderated by those of all measurements, and their degrees of freedom.

    The variances between rounds are taken for a sample of a scaled inverse χ² distribution, which is fitted to the mean
    and variance of their logarithms (Smyth 2004).
    """
    half = freedoms / 2
    logs = np.log(variances * rounds) - special.digamma(half) + np.log(half)
    excess = float(np.var(logs, ddof=1) - special.polygamma(1, half).mean())

    def of_prior(freedom: float) -> float:
        return float(special.polygamma(1, freedom / 2)) - excess

    prior = float(optimize.brentq(of_prior, 1e-3, _MOST_FREEDOM)) if of_prior(_MOST_FREEDOM) < 0 else _MOST_FREEDOM
    center = math.exp(logs.mean() + special.digamma(prior / 2) - math.log(prior / 2))
    return (prior * center / rounds + freedoms * variances) / (prior + freedoms), prior + freedoms


def _is_backbone(config: SEConfig) -> bool:
    return config == SEConfig(config.backbone)


def _interval(value: float, variance: float, quantile: float = normal_quantile(CONFIDENCE)) -> Estimate:
    """Return an interval that is symmetric for the logarithm of a ratio, as that of a measurement."""
    factor = math.exp(min(quantile * math.sqrt(variance) / value, _LARGEST_LOGARITHM))
    return Estimate(value, value / factor, value * factor)
