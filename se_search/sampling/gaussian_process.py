"""Gaussian process over the finitely many values of parameters, with known and fitted noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import expit

Array = npt.NDArray[np.float64]
Choices = Mapping[str, tuple[Any, ...]]

_JITTER = 1e-8
_MOST_NOISE = 1e6  # an unbounded interval has an infinite variance
_MOST_ITERATIONS = 60
_SCALE, _AMPLITUDE, _NOISE, _MIX = (0.5, 1.0), (0.0, 1.0), (np.log(0.1), 1.5), (0.0, 1.0)
_BOUNDS = ((-6.0, 6.0), (-8.0, 5.0), (-13.0, 2.0), (-5.0, 5.0))


@dataclass(frozen=True)
class Points:
    """Points of a space in two encodings, in which the distance of two choices of a parameter is about 1.

    Attributes:
        ordered: Numbers by rank, other values one-hot; of shape (points, columns).
        nominal: All values one-hot; of shape (points, columns).
        of_ordered: Index of the parameter of each column of ``ordered``.
        of_nominal: The same for ``nominal``.
    """

    ordered: Array
    nominal: Array
    of_ordered: npt.NDArray[np.int64]
    of_nominal: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ordered)

    def __getitem__(self, places: npt.NDArray[np.int64] | slice) -> "Points":
        return Points(self.ordered[places], self.nominal[places], self.of_ordered, self.of_nominal)

    def __add__(self, other: "Points") -> "Points":
        ordered, nominal = ([self.ordered, other.ordered], [self.nominal, other.nominal])
        return Points(np.concatenate(ordered), np.concatenate(nominal), self.of_ordered, self.of_nominal)

    @property
    def dimensions(self) -> int:
        """Number of parameters with more than one choice."""
        return int(self.of_nominal.max(initial=-1)) + 1


def encode(space: Choices, parameters: Sequence[Mapping[str, Any]]) -> Points:
    """Encode parameters; those with a single choice have no column."""
    varying = {name: choices for name, choices in space.items() if len(choices) > 1}
    ordered, nominal = [np.empty((len(parameters), 0))], [np.empty((len(parameters), 0))]
    for name, choices in varying.items():
        place = {choice: index for index, choice in enumerate(choices)}
        places = np.fromiter(map(place.__getitem__, map(itemgetter(name), parameters)), np.int64, len(parameters))
        ordered.append(_ordered(choices)[places])
        nominal.append((np.eye(len(choices)) / np.sqrt(2))[places])
    owners = [np.repeat(np.arange(len(varying)), [one.shape[1] for one in parts[1:]]) for parts in (ordered, nominal)]
    return Points(np.concatenate(ordered, axis=1), np.concatenate(nominal, axis=1), *owners)


def _ordered(choices: tuple[Any, ...]) -> Array:
    """Encode choices, one row each: numbers by rank from -1/2 to 1/2, other values one-hot."""
    numbers = sorted({one for one in choices if isinstance(one, int | float) and not isinstance(one, bool)})
    words = [one for one in choices if one not in numbers or isinstance(one, bool)]
    height = 1.0 if numbers else np.sqrt(0.5)
    columns = [[height * (choice is word) for choice in choices] for word in words]
    if len(numbers) > 1:
        order = np.linspace(-0.5, 0.5, len(numbers))
        columns.append([0.0 if choice in words else order[numbers.index(choice)] for choice in choices])
    return np.array(columns, dtype=float).T


class GaussianProcess:
    """Gaussian process of standardised values, conditioned on observations.

    The kernel is Matérn's with ν = 5/2, of the distance r² = Σ ((1 − m) o² + m n²) / l² over the parameters, with
    distances o and n in the ordered and the nominal encoding, one length scale l per parameter, and one share m for
    all. An observation is the process plus noise; its variance is that known for this observation plus a fitted one.

    Args:
        points: Observed points.
        values: Their values, of shape (points,).
        known: Known variance of the noise of each, of the same shape.
        theta: From :func:`fit`: the logarithms of the length scales, the amplitude and the fitted noise (variances of
            standardised values), and the logit of m.
    """

    def __init__(self, points: Points, values: Array, known: Array, theta: Array) -> None:
        self._theta, self._amplitude = theta, np.exp(theta[-3])
        self._columns = self._scaled(points)
        self._mean, self._deviation = _standardisation(values)
        known_variance = _standardised(known, self._deviation)
        covariance = self._amplitude * self._correlation(self._columns)
        covariance[np.diag_indices_from(covariance)] += np.exp(theta[-2]) + known_variance + _JITTER
        self._factor = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._factor, True), (values - self._mean) / self._deviation)

    def mean(self, points: Points) -> Array:
        """Return the mean of the process, of shape (points,)."""
        return self._mean_of(self._correlation(self._scaled(points)))

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Return the mean and the standard deviation of the process, without noise, each of shape (points,)."""
        correlation = self._correlation(self._scaled(points))
        explained = self._amplitude * solve_triangular(self._factor, correlation.T, lower=True)
        deviation = np.sqrt(np.maximum(self._amplitude - (explained**2).sum(0), _JITTER))
        return self._mean_of(correlation), self._deviation * deviation

    def _mean_of(self, correlation: Array) -> Array:
        return self._mean + self._deviation * self._amplitude * (correlation @ self._weights)

    def _scaled(self, points: Points) -> Array:
        """Return columns whose squared distance is 5 r²."""
        rates, share = np.sqrt(5) * np.exp(-self._theta[:-3]), expit(self._theta[-1])
        ordered = points.ordered * (np.sqrt(1 - share) * rates[points.of_ordered])
        return np.concatenate([ordered, points.nominal * (np.sqrt(share) * rates[points.of_nominal])], axis=1)

    def _correlation(self, columns: Array) -> Array:
        # A product of matrices takes a tenth of the time of cdist.
        squared = columns @ (-2 * self._columns.T)
        squared += (columns**2).sum(1)[:, None]
        squared += (self._columns**2).sum(1)
        return _matern(np.sqrt(np.maximum(squared, 0, out=squared), out=squared))


def fit(points: Points, values: Array, known: Array) -> Array:
    """Return the parameters of the :class:`GaussianProcess` that maximise their posterior density.

    The logarithms (of m the logit) have independent normal priors. The likelihood and its gradient are those of
    Rasmussen and Williams (2006), equations 5.8 and 5.9.
    """
    mean, deviation = _standardisation(values)
    likelihood = _Likelihood(points, (values - mean) / deviation, _standardised(known, deviation))
    dimensions = points.dimensions
    priors = np.array([_SCALE] * dimensions + [_AMPLITUDE, _NOISE, _MIX])

    def loss(theta: Array) -> tuple[float, Array]:
        value, gradient = likelihood.negative_logarithm(theta)
        from_prior = (theta - priors[:, 0]) / priors[:, 1]
        return value + from_prior @ from_prior / 2, gradient + from_prior / priors[:, 1]

    bounds = [_BOUNDS[0]] * dimensions + list(_BOUNDS[1:])
    options = {"maxiter": _MOST_ITERATIONS, "ftol": 1e-6}
    found = minimize(loss, priors[:, 0], jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(found.x, dtype=float)


class _Likelihood:
    """Likelihood of standardised values, as a function of the parameters of the process."""

    def __init__(self, points: Points, values: Array, known: Array) -> None:
        self._values, self._known = values, known
        self._ordered = _squared_distances(points.ordered, points.of_ordered, points.dimensions)
        self._nominal = _squared_distances(points.nominal, points.of_nominal, points.dimensions)

    def negative_logarithm(self, theta: Array) -> tuple[float, Array]:
        """Return it without its constant, and its gradient."""
        rates, amplitude, noise, share = np.exp(-2 * theta[:-3]), *np.exp(theta[-3:-1]), expit(theta[-1])
        squared = (1 - share) * self._ordered + share * self._nominal
        distance = np.sqrt(5 * np.tensordot(rates, squared, 1))
        correlation = _matern(distance)
        covariance = amplitude * correlation
        covariance[np.diag_indices_from(covariance)] += noise + self._known + _JITTER
        factor = np.linalg.cholesky(covariance)
        inverse = cho_solve((factor, True), np.eye(len(covariance)))
        weights = inverse @ self._values
        value = self._values @ weights / 2 + np.log(np.diag(factor)).sum()

        by_covariance = (inverse - np.outer(weights, weights)) / 2
        by_squared_distance = -by_covariance * amplitude * 5 / 6 * (1 + distance) * np.exp(-distance)
        by_share = (by_squared_distance * np.tensordot(rates, self._nominal - self._ordered, 1)).sum()
        gradient = np.concatenate(
            [
                -2 * rates * np.tensordot(squared, by_squared_distance, 2),
                [
                    amplitude * (by_covariance * correlation).sum(),
                    noise * np.trace(by_covariance),
                    share * (1 - share) * by_share,
                ],
            ]
        )
        return float(value), gradient


def _squared_distances(columns: Array, owners: npt.NDArray[np.int64], dimensions: int) -> Array:
    """Squared distances by parameter, of shape (parameters, points, points)."""
    each = [cdist(columns[:, owners == one], columns[:, owners == one], "sqeuclidean") for one in range(dimensions)]
    return np.array(each).reshape(dimensions, len(columns), len(columns))


def _matern(distance: Array) -> Array:
    """Matérn correlation with ν = 5/2 at √5 times the scaled distance (Rasmussen and Williams 2006, equation 4.17)."""
    polynomial = distance / 3
    polynomial += 1
    polynomial *= distance
    polynomial += 1
    polynomial *= np.exp(-distance)
    return polynomial


def _standardised(variance: Array, deviation: float) -> Array:
    return np.minimum(variance / deviation**2, _MOST_NOISE)


def _standardisation(values: Array) -> tuple[float, float]:
    return float(values.mean()), float(values.std()) or 1.0
