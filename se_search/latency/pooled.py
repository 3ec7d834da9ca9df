"""Latency ratios estimated from all measurements of a run together."""

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
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
    freedom: int
    terms: tuple[tuple[SiteGroup, str], ...]
    costs: _Matrix
    costs_covariance: _Matrix
    deviation: float
    _fit: "_Fit | None"
    _places: Mapping[int, int]
    """Place in the fit of each configuration but the bare backbone, by its index."""

    @functools.cached_property
    def covariance(self) -> _Matrix:
        """Joint covariance of the ratios, of shape (n, n), scaled such that normal quantiles give the intervals."""
        covariance = np.zeros((len(self.configs), len(self.configs)))
        if self._fit is not None:
            searched = list(self._places)
            covariance[np.ix_(searched, searched)] = self._fit.covariance()
        return covariance

    def estimate(self, index: int) -> Estimate:
        """Return the ratio of ``configs[index]`` with its 95 % interval."""
        place = self._places.get(index)
        variance = 0.0 if self._fit is None or place is None else self._fit.variance(place)
        return _interval(float(self.ratios[index]), variance)

    def estimates(self) -> list[Estimate]:
        """Return the ratios of :attr:`configs` with their 95 % intervals."""
        variances = self.covariance.diagonal().tolist()
        return [_interval(ratio, variance) for ratio, variance in zip(self.ratios.tolist(), variances, strict=True)]

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


def pool_latencies(measured: Iterable[MeasuredLatency]) -> PooledLatency:
    """Estimate the ratio of each measured configuration from all measurements, with :class:`LatencyPool`."""
    pool = LatencyPool()
    for one in measured:
        pool.add(one)
    return pool.fit()


class LatencyPool:
    """Measurements from which the ratio of each measured configuration is estimated.

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

    Attributes:
        measured: The measurements in the order in which they were added.
    """

    def __init__(self) -> None:
        self.measured: list[MeasuredLatency] = []
        # What depends on one measurement is computed once: a search fits after each of thousands of trials.
        self._index: dict[SEConfig, int] = {}
        self._amounts: dict[int, dict[tuple[SiteGroup, str], float]] = {}  # of all but the bare backbone
        self._terms: tuple[tuple[SiteGroup, str], ...] = ()
        self._rows = np.empty((0, 0))  # multiplicities of these terms, in the order of the amounts
        self._of_config: list[int] = []
        self._spreads: list[_Spread] = []

    def add(self, one: MeasuredLatency) -> int:
        """Add a measurement; return the index of its configuration."""
        self.measured.append(one)
        count = len(self._index)
        index = self._index.setdefault(one.config, count)
        if index == count and not _is_backbone(one.config):
            self._amounts[index] = count_terms(one.config)
        self._of_config.append(index)
        self._spreads.append(_spread(one.ratio))
        return index

    def _add_rows(self) -> None:
        """Complete the rows of the terms' multiplicities."""
        new = list(self._amounts.values())[len(self._rows) :]
        terms = tuple(sorted({*self._terms, *itertools.chain(*new)}))
        if terms != self._terms:
            self._terms, self._rows, new = terms, np.empty((0, len(terms))), list(self._amounts.values())
        rows = [[amounts.get(term, 0.0) for term in terms] for amounts in new]
        self._rows = np.concatenate([self._rows, np.reshape(rows, (len(new), len(terms)))])

    def fit(self) -> PooledLatency:
        """Estimate the ratios."""
        self._add_rows()
        configs, ratios = tuple(self._index), np.ones(len(self._index))
        searched, terms = list(self._amounts), self._terms
        if not terms:
            return PooledLatency(configs, ratios, 0, (), np.empty(0), np.empty((0, 0)), 0.0, None, {})
        basis, transform = _basis(self._rows)
        freedom = len(searched) - basis.shape[1]

        medians, half_widths, freedoms, rounds = np.array(self._spreads).T
        variances = _variances(half_widths, freedoms)
        if freedom >= 1:
            variances, freedoms = _moderated(variances, freedoms, rounds)
        # Sums over the measurements of each configuration.
        count, of_config = len(configs), np.array(self._of_config)
        weights = np.bincount(of_config, 1 / variances, count)[searched]
        extra = np.bincount(of_config, medians / variances, count)[searched] / weights - 1
        freedoms = weights**2 / np.bincount(of_config, 1 / (variances**2 * freedoms), count)[searched]

        fit = _integrate(basis, extra, 1 / weights, freedoms)
        ratios[searched] = np.maximum(1 + fit.mean, _SMALLEST)
        coefficients, covariance = fit.coefficients()
        return PooledLatency(
            configs,
            ratios,
            freedom,
            terms,
            transform @ coefficients,
            transform @ covariance @ transform.T,
            fit.deviation,
            fit,
            {index: place for place, index in enumerate(searched)},
        )


def _t_quantiles(freedom: _Matrix) -> _Matrix:
    """Return the two-sided quantiles of Student's t distributions at 95 %."""
    return np.asarray(special.stdtrit(np.minimum(freedom, 1e6), 0.5 + CONFIDENCE / 2))


class _Fit(NamedTuple):
    """A mixed model at candidates of the deviations' standard deviation, with their posterior density.

    Attributes:
        basis: Orthonormal basis of the columns, of shape (n, costs).
        noise: Variance of the noise of each configuration, of shape (n,).
        freedoms: Degrees of freedom of these, of shape (n,).
        deviations: The candidates, of shape (k,).
        density: Their posterior probabilities, of shape (k,).
        fitted: Coefficients of the basis, of shape (k, costs).
        uncertain: Their covariances, of shape (k, costs, costs).
        values: Ratios minus one, of shape (k, n).
    """

    basis: _Matrix
    noise: _Matrix
    freedoms: _Matrix
    deviations: _Matrix
    density: _Matrix
    fitted: _Matrix
    uncertain: _Matrix
    values: _Matrix

    @property
    def mean(self) -> _Matrix:
        """Posterior means of the ratios minus one, of shape (n,)."""
        return self.density @ self.values

    @property
    def deviation(self) -> float:
        """Root mean square of the deviations' standard deviation."""
        return math.sqrt(float(self.density @ self.deviations**2))

    def coefficients(self) -> tuple[_Matrix, _Matrix]:
        """Return the posterior means and the covariance of the coefficients."""
        mean = self.density @ self.fitted
        spread = self.fitted - mean
        return mean, np.einsum("k,kij->ij", self.density, self.uncertain) + (spread.T * self.density) @ spread

    def variance(self, place: int) -> float:
        """Return an element of the diagonal of :meth:`covariance`."""
        here = np.array([place])
        own, left, right = self._spreads(here)
        variances = own + (left * right).sum(1)
        return float((variances * self._scales(variances, here) ** 2)[0])

    def covariance(self) -> _Matrix:
        """Return the posterior covariance of the ratios, scaled by the quantiles of Student's t distributions."""
        everything = np.arange(len(self.noise))
        own, left, right = self._spreads(everything)
        covariance = left @ right.T
        covariance[np.diag_indices_from(covariance)] += own
        scales = self._scales(np.diag(covariance), everything)
        return np.asarray(covariance * np.outer(scales, scales))

    def _spreads(self, places: npt.NDArray[np.int64]) -> tuple[_Matrix, _Matrix, _Matrix]:
        """Return the variances that ratios do not share, and two matrices whose product has what they share."""
        squares, noise = self.deviations[:, None] ** 2, self.noise[places]
        noise_share = noise / (squares + noise)
        shrunk = noise_share[:, :, None] * self.basis[places]
        spread = (self.values[:, places] - self.mean[places])[:, :, None]
        right = np.concatenate([spread, shrunk], axis=2)
        left = self.density[:, None, None] * np.concatenate([spread, shrunk @ self.uncertain], axis=2)
        left, right = (one.transpose(1, 0, 2).reshape(len(places), -1) for one in (left, right))
        return self.density @ (squares * noise_share), left, right

    def _scales(self, variances: _Matrix, places: npt.NDArray[np.int64]) -> _Matrix:
        """Return the quantiles of Student's t distributions of estimates over that of the normal distribution.

        The degrees of freedom of an estimate's variance follow from those of the measurements (Satterthwaite 1946). Its
        derivative by the variance of a measurement is the square of the measurement's weight in the estimate.
        """
        noise_share = 1 / (self.deviation**2 + self.noise)
        weighted = self.basis.T * noise_share
        noise_share = self.noise * noise_share
        shrunk = noise_share[places][:, None] * self.basis[places]
        share = shrunk @ np.linalg.solve(weighted @ self.basis, weighted)
        share[np.arange(len(places)), places] += 1 - noise_share[places]
        freedoms = variances**2 / (np.square(np.square(share)) @ (self.noise**2 / self.freedoms))
        return _t_quantiles(freedoms) / normal_quantile(CONFIDENCE)


def _integrate(basis: _Matrix, extra: _Matrix, noise: _Matrix, freedoms: _Matrix) -> _Fit:
    """Fit the mixed model at many standard deviations of the deviation, and average over their likelihood."""
    count, costs = basis.shape
    freedom = max(count - costs, 1)
    residuals = extra - basis @ (basis.T @ extra)
    typical = math.sqrt(float(np.median(noise)))
    largest = 10 * max(typical, math.sqrt(float(residuals @ residuals) / freedom))
    deviations = np.geomspace(typical / 100, largest, _DEVIATIONS)

    weights = 1 / (deviations[:, None] ** 2 + noise)
    products = (basis[:, :, None] * basis[:, None]).reshape(count, -1)
    information = (weights @ products).reshape(-1, costs, costs)
    uncertain = np.asarray(np.linalg.inv(information), dtype=float)
    coefficients = np.einsum("kij,kj->ki", uncertain, (weights * extra) @ basis)
    residuals = extra - coefficients @ basis.T
    # Restricted likelihood; the candidates' distances grow with them, which a uniform prior has to undo.
    log_density = np.log(deviations) - 0.5 * (
        (weights * residuals**2 - np.log(weights)).sum(1) + np.linalg.slogdet(information)[1]
    )
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    values = extra - noise * weights * residuals
    return _Fit(basis, noise, freedoms, deviations, density, coefficients, uncertain, values)


def combine_ratios(ratios: Sequence[Ratio]) -> Estimate:
    """Return the ratio of one network from its measurements, weighted by their inverse variances."""
    if len(ratios) == 1:
        return Estimate(ratios[0].median, ratios[0].low, ratios[0].high)
    medians, half_widths, freedoms, _ = np.array([_spread(one) for one in ratios]).T
    weights = 1 / _variances(half_widths, freedoms)
    value = float(weights @ medians / weights.sum())
    freedom = float(weights.sum() ** 2 / (weights**2 / freedoms).sum())
    return _interval(value, 1 / float(weights.sum()), t_quantile(CONFIDENCE, freedom))


def _basis(rows: _Matrix) -> tuple[_Matrix, _Matrix]:
    """Return an orthonormal basis of the columns, and the matrix that turns its coefficients into theirs."""
    left, sizes, right = np.linalg.svd(rows, full_matrices=False)
    kept = sizes > _NEGLIGIBLE * sizes[0]
    return left[:, kept], right[kept].T / sizes[kept]


class _Spread(NamedTuple):
    """A measured ratio, the half-width of its interval, the degrees of freedom of that, and the rounds."""

    median: float
    half_width: float
    freedom: float
    rounds: float


def _spread(ratio: Ratio) -> _Spread:
    half_width = ratio.median * math.log(ratio.high / ratio.low) / 2
    return _Spread(ratio.median, half_width, (PILOT if ratio.stopped == "target" else ratio.rounds) - 1, ratio.rounds)


def _variances(half_widths: _Matrix, freedoms: _Matrix) -> _Matrix:
    """Return the squared standard errors of measured ratios, computed from their intervals."""
    return np.asarray(np.maximum(half_widths / _t_quantiles(freedoms), _TINY) ** 2)


def _moderated(variances: _Matrix, freedoms: _Matrix, rounds: _Matrix) -> tuple[_Matrix, _Matrix]:
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
