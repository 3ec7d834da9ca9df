"""Additive model that predicts the latency of configurations from measured ones."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize

from ..errors import ConfigurationError
from ..network.config import SEConfig
from ..network.sites import Site
from ..statistics import CONFIDENCE, Estimate, t_quantile
from .meter import PILOT, LatencyConditions, Ratio

_NEGLIGIBLE = 1e-12  # share of the largest singular value below which one is zero up to rounding

_Matrix = npt.NDArray[np.float64]


class SiteGroup(NamedTuple):
    """Sites of the same cost, with the fields of :class:`se_search.network.sites.Site`; a stage has one resolution."""

    stage: int
    position: str
    channels: int
    layout: str


@dataclass(frozen=True)
class MeasuredLatency:
    """A configuration with its measured latency ratio."""

    config: SEConfig
    ratio: Ratio


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Latency ratio of a configuration as one plus the costs of its sites.

    A block costs what its kind of attention says, as a share of the backbone's latency: an SE block of hidden width h
    at a site of a group with C channels a + b·h/C, whatever its gate. Removing the backbone's own attention costs c,
    which is usually negative.

    Attributes:
        terms: A group of sites and ``"removed"`` (c) or a term of a kind, of SE ``"block"`` (a) or ``"width"`` (b), for
            each coefficient.
        coefficients: The costs, in the order of the terms.
        covariance: Of the coefficients.
        misfit: Standard deviation of the residuals beyond the noise of the measurements.
        freedom: Measurements beyond those that determine the coefficients.
    """

    terms: tuple[tuple[SiteGroup, str], ...]
    coefficients: _Matrix
    covariance: _Matrix
    misfit: float
    freedom: int

    def predict(self, config: SEConfig) -> Estimate:
        """Predict the ratio of a configuration, with a 95 % prediction interval for the ratio without noise.

        Raises:
            ConfigurationError: If the measured configurations do not determine the cost of one of its sites.
        """
        amounts = count_terms(config)
        row = np.array([amounts.get(term, 0.0) for term in self.terms])
        known = self.covariance @ np.linalg.pinv(self.covariance, rcond=_NEGLIGIBLE, hermitian=True)
        if not amounts.keys() <= set(self.terms) or not np.allclose(known @ row, row):
            raise ConfigurationError(
                f"the latency model cannot predict configuration {config.id}: no measured one has such SE blocks"
            )
        value = 1 + float(row @ self.coefficients)
        variance = self.misfit**2 + float(row @ self.covariance @ row)
        margin = t_quantile(CONFIDENCE, self.freedom) * math.sqrt(variance)
        return Estimate(value, value - margin, value + margin)


def group_of(site: Site) -> SiteGroup:
    """Return the group of a site."""
    return SiteGroup(site.stage, site.position, site.channels, site.layout)


def count_terms(config: SEConfig) -> dict[tuple[SiteGroup, str], float]:
    """Return the multiplicity of each term of the model in a configuration."""
    amounts: defaultdict[tuple[SiteGroup, str], float] = defaultdict(float)
    for placed in config.placed:
        for name, amount in placed.latency_terms().items():
            amounts[group_of(placed.site), name] += amount
    for site in config.removed:
        amounts[group_of(site), "removed"] += 1
    return dict(amounts)


def fit_latency_model(measured: Sequence[MeasuredLatency]) -> LatencyModel:
    """Fit the costs to measured configurations by weighted least squares.

    It is a random-effects regression: a ratio's variance is that of its measurement, taken from its interval, plus that
    of the misfit. The misfit's variance is common to all, and such that the weighted sum of squared residuals equals
    its expectation (Paule and Mandel 1982; DerSimonian and Kacker 2007). Intervals use Student's quantile with the
    regression's degrees of freedom (Higgins et al. 2009). A configuration may occur twice.

    Raises:
        ConfigurationError: If the configurations are not more than the terms.
    """
    counted = [count_terms(one.config) for one in measured]
    terms = tuple(sorted({term for amounts in counted for term in amounts}))
    rows = np.array([[amounts.get(term, 0.0) for term in terms] for amounts in counted])
    extra = np.array([one.ratio.median - 1 for one in measured])
    noise = np.array([_variance(one.ratio) for one in measured])
    freedom = len(measured) - (int(np.linalg.matrix_rank(rows)) if terms else 0)
    if freedom < 1 or not terms:
        raise ConfigurationError(f"{len(measured)} measured configurations do not determine {len(terms)} costs")

    def excess(misfit: float) -> float:
        return _fit(rows, extra, noise + misfit)[2] - freedom

    largest = float(np.sum(extra**2)) + float(noise.max())
    misfit = float(optimize.brentq(excess, 0.0, largest)) if excess(0.0) > 0 else 0.0
    coefficients, covariance, _ = _fit(rows, extra, noise + misfit)
    return LatencyModel(terms, coefficients, covariance, math.sqrt(misfit), freedom)


def measurements_to_json(measured: Iterable[MeasuredLatency]) -> str:
    """Return JSON that :func:`measurements_from_json` reads."""
    plain = [
        {"config": one.config.to_dict(), "ratio": asdict(one.ratio) | {"conditions": one.ratio.conditions.to_dict()}}
        for one in measured
    ]
    return json.dumps(plain, indent=1, allow_nan=False)


def measurements_from_json(text: str) -> list[MeasuredLatency]:
    """Read the JSON of :func:`measurements_to_json`.

    Raises:
        ConfigurationError: If ``text`` is not such JSON.
    """
    try:
        return [
            MeasuredLatency(
                SEConfig.from_dict(one["config"]),
                Ratio(**one["ratio"] | {"conditions": LatencyConditions.from_dict(one["ratio"]["conditions"])}),
            )
            for one in json.loads(text)
        ]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"these are not measured latencies: {type(error).__name__} {error}") from error


def _variance(ratio: Ratio) -> float:
    """Return the squared standard error of a measured ratio, computed from its interval."""
    freedom = (PILOT if ratio.stopped == "target" else ratio.rounds) - 1
    error = (ratio.high - ratio.low) / 2 / t_quantile(CONFIDENCE, freedom)
    return max(error**2, np.finfo(float).tiny)


def _fit(rows: _Matrix, values: _Matrix, variances: _Matrix) -> tuple[_Matrix, _Matrix, float]:
    """Return the coefficients of a weighted regression, their covariance, and the weighted sum of squared residuals."""
    roots = np.sqrt(variances)
    inverse = np.linalg.pinv(rows / roots[:, None], rcond=math.sqrt(_NEGLIGIBLE))
    coefficients = inverse @ (values / roots)
    residuals = (values - rows @ coefficients) / roots
    return coefficients, inverse @ inverse.T, float(residuals @ residuals)
