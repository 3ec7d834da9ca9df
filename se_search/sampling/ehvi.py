"""Optuna sampler for studies in which some objectives are exactly computable before a trial."""

import itertools
import math
import random
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel

from .fronts import is_on_front

Parameters = dict[str, Any]
Choices = dict[str, tuple[Any, ...]]
Array = npt.NDArray[np.float64]

_WHOLE_SPACE = 4096
_RANDOM_CANDIDATES = 200
_NEIGHBOURED = 20
_RANDOM_DRAWS = 50
_MARGIN = 0.1
_GRID_LINES = 24
_MOST_FITTED = 150
_GROWTH = 1.1
_LENGTH_SCALES = (0.3, 30.0)
_AMPLITUDES = (1e-2, 1e2)
_NOISES = (1e-4, 1.0)


class EHVISampler(BaseSampler):
    """Proposes the parameters with the largest expected hypervolume improvement (EHVI).

    Exact objectives, such as the parameter count of a network, are computed. The first of the others is modelled with
    its uncertainty; the rest, such as latency, by the mean of their models. The models are Gaussian processes with a
    Matérn kernel that has one length scale per parameter. For known costs, the expectation over the uncertain objective
    has a closed form: a sum of expected improvements over the cells of the cost space that the candidate dominates.

    Args:
        exact: Functions that compute objectives from the parameters of a trial, by index of the objective.
        limits: Worst useful values, by index of the objective; beyond them a trial adds no hypervolume. The uncertain
            objective has no limit.
        seed: Determines all proposals together with the finished trials; the sampler keeps no random state.
        n_startup_trials: Number of finished trials before which parameters are drawn at random.
        accepts: Whether untried parameters may be proposed; all by default.

    Example:
        >>> import optuna
        >>> sampler = EHVISampler({1: lambda parameters: parameters["width"] ** 2}, seed=0)
        >>> study = optuna.create_study(sampler=sampler, directions=["maximize", "minimize"])
        >>> study.optimize(lambda trial: ((w := trial.suggest_int("width", 1, 9)) ** 0.5, w**2), n_trials=15)
    """

    def __init__(
        self,
        exact: Mapping[int, Callable[[Parameters], float]],
        *,
        limits: Mapping[int, float] | None = None,
        seed: int | None = None,
        n_startup_trials: int = 8,
        accepts: Callable[[Parameters], bool] = lambda parameters: True,
    ) -> None:
        self._exact = dict(exact)
        self._limits = dict(limits or {})
        self._startup = n_startup_trials
        self._accepts = accepts
        self._seed = random.randrange(2**31) if seed is None else seed
        self._random = RandomSampler(seed=seed)
        self._drawing = random.Random()
        self._shared = IntersectionSearchSpace()
        self._places = sorted(self._exact)
        self._costs: dict[Hashable, tuple[float, ...]] = {}
        self._whole: tuple[Choices, _Points] | None = None
        self._kernels: dict[tuple[int, int, int], Kernel] = {}

    def reseed_rng(self) -> None:
        """Reseed, so that each process of a parallel study draws other proposals."""
        self._random.reseed_rng()
        self._seed = random.randrange(2**31)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters with finitely many values that all finished trials share."""
        return {name: one for name, one in self._shared.calculate(study).items() if _choices(one)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Parameters:
        """Propose the parameters with the largest expected hypervolume improvement.

        Raises:
            ValueError: If all objectives are exact, or ``exact`` has an index outside the study's objectives.
        """
        modelled = [place for place in range(len(study.directions)) if place not in self._exact]
        if not modelled or not set(self._exact) < set(range(len(study.directions))):
            raise ValueError(
                f"exact has objectives {sorted(self._exact)} of {len(study.directions)}: at least one must not be exact"
            )
        if not search_space:
            return {}
        space = {name: choices for name, one in search_space.items() if (choices := _choices(one))}
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING))
        trials = [one for one in trials if set(space) <= set(one.params)]
        key_of = itemgetter(*space)
        tried = {key_of(one.params) for one in trials}
        done = sum(one.state == TrialState.COMPLETE for one in trials)
        self._drawing.seed(self._seed * 1_000_003 + done)
        if done >= self._startup:
            signs = np.array([-1.0 if one == StudyDirection.MAXIMIZE else 1.0 for one in study.directions])
            for parameters in self._best_first(space, trials, signs, modelled):
                if key_of(parameters) not in tried and self._accepts(parameters):
                    return parameters
        for _ in range(_RANDOM_DRAWS):
            parameters = self._draw(space)
            if key_of(parameters) not in tried and self._accepts(parameters):
                return parameters
        return self._draw(space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter at random: for the first trials, and for parameters with infinitely many values."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _draw(self, space: Choices) -> Parameters:
        return {name: self._drawing.choice(choices) for name, choices in space.items()}

    def _best_first(
        self, space: Choices, trials: list[FrozenTrial], signs: Array, modelled: list[int]
    ) -> Iterator[Parameters]:
        """Yield candidates in descending order of EHVI; ``trials`` are complete or running."""
        done = [one for one in trials if one.state == TrialState.COMPLETE]
        running = [one.params for one in trials if one.state == TrialState.RUNNING]
        uncertain = modelled[0]
        costs = [place for place in range(len(signs)) if place != uncertain]
        values = np.array([one.values for one in done]) * signs
        models = {place: self._fit(space, done, values[:, place], place) for place in modelled}

        def costs_of(points: _Points) -> Array:
            columns = [
                signs[place] * points.exact[:, self._places.index(place)]
                if place in self._exact
                else models[place].predict(points.rows)
                for place in costs
            ]
            return np.stack(columns, axis=1)

        known_losses, known_costs = values[:, uncertain], values[:, costs]
        if running:  # impute their predicted values
            points = self._points(space, running)
            known_losses = np.concatenate([known_losses, models[uncertain].predict(points.rows)])
            known_costs = np.concatenate([known_costs, costs_of(points)])
        candidates = self._candidates(space, [one.params for one in done], values)
        candidate_costs = costs_of(candidates)
        # The prediction includes the noise of a trial, as do the observed values that it is compared with.
        mean, deviation = models[uncertain].predict(candidates.rows, return_std=True)

        everything = np.concatenate([known_costs, candidate_costs])
        low, high = everything.min(0), everything.max(0)
        worst_loss = known_losses.max() + _MARGIN * np.ptp(known_losses)
        limits = np.array([signs[place] * self._limits.get(place, signs[place] * np.inf) for place in costs])
        worst = np.concatenate([[worst_loss], np.minimum(high + _MARGIN * (high - low), limits)])
        front = is_on_front(np.column_stack([known_losses, known_costs]))
        gains = expected_improvement(mean, deviation, candidate_costs, known_losses[front], known_costs[front], worst)
        ties = np.array([self._drawing.random() for _ in gains])
        for place in np.lexsort((ties, -gains)):
            yield candidates.parameters[place]

    def _fit(self, space: Choices, done: list[FrozenTrial], values: Array, place: int) -> GaussianProcessRegressor:
        """Fit a model of an objective; refit its kernel only when the trials have grown by 10 %."""
        learned = 1
        while _GROWTH * learned < len(done):
            learned = math.ceil(_GROWTH * learned)
        key = place, learned, len(space)
        if key not in self._kernels:
            rows, known = _fitted(space, done[:learned], values)
            kernel = ConstantKernel(1.0, _AMPLITUDES) * Matern(np.full(rows.shape[1], 2.0), _LENGTH_SCALES, nu=2.5)
            self._kernels[key] = _regression(kernel + WhiteKernel(0.1, _NOISES), rows, known).kernel_
        return _regression(self._kernels[key], *_fitted(space, done, values), optimizer=None)

    def _points(self, space: Choices, parameters: list[Parameters]) -> "_Points":
        keys = list(map(itemgetter(*space), parameters))
        for key, one in zip(keys, parameters, strict=True):
            if key not in self._costs:
                self._costs[key] = tuple(self._exact[place](one) for place in self._places)
        exact = np.array([self._costs[key] for key in keys])
        return _Points(parameters, _encode(space, parameters), exact.reshape(len(parameters), -1))

    def _candidates(self, space: Choices, done: list[Parameters], values: Array) -> "_Points":
        """All points of a small space; otherwise random points, and neighbours of the front in one parameter."""
        if math.prod(len(choices) for choices in space.values()) <= _WHOLE_SPACE:
            if self._whole is None or self._whole[0] != space:
                points = [dict(zip(space, combined, strict=True)) for combined in itertools.product(*space.values())]
                self._whole = space, self._points(space, points)
            return self._whole[1]
        front = [one for one, on_front in zip(done, is_on_front(values), strict=True) if on_front]
        found: dict[Hashable, Parameters] = {}
        key_of = itemgetter(*space)
        for parameters in self._drawing.sample(front, min(len(front), _NEIGHBOURED)):
            for name, choices in space.items():
                for value in choices:
                    near = {one: parameters[one] for one in space} | {name: value}
                    found[key_of(near)] = near
        for _ in range(_RANDOM_CANDIDATES):
            drawn = self._draw(space)
            found[key_of(drawn)] = drawn
        return self._points(space, list(found.values()))


@dataclass(frozen=True)
class _Points:
    """Points of a space: their parameters, the model's encoding of these, and their exact objectives."""

    parameters: list[Parameters]
    rows: Array
    exact: Array


def expected_improvement(
    mean: Array, deviation: Array, costs: Array, known_losses: Array, known_costs: Array, worst: Array
) -> Array:
    """Expected hypervolume improvement of candidates with known costs and a normally distributed loss.

    All objectives are minimised. The costs of the known front cut the cost space into cells. In the part of a cell
    above its own costs, a candidate adds the volume times its improvement over the front's lowest loss at these costs.
    The expectation of that is the expected improvement of Bayesian optimisation (Jones, Schonlau and Welch 1998).

    Args:
        mean: Expected losses, of shape (candidates,).
        deviation: Their standard deviations, positive.
        costs: Costs, of shape (candidates, costs).
        known_losses: Losses of the known points, of shape (trials,).
        known_costs: Costs of the known points, of shape (trials, costs).
        worst: Reference point: the loss, then the costs.

    Returns:
        The expected improvements, of shape (candidates,).
    """
    worst_loss, worst_costs = worst[0], worst[1:]
    lines = []
    for column, limit in enumerate(worst_costs):
        cuts = np.unique(known_costs[known_costs[:, column] < limit, column])
        if len(cuts) > _GRID_LINES and known_costs.shape[1] > 1:
            cuts = cuts[np.linspace(0, len(cuts) - 1, _GRID_LINES).astype(int)]
        lines.append(np.concatenate([[-np.inf], cuts, [limit]]))
    lower = np.stack(np.meshgrid(*(line[:-1] for line in lines), indexing="ij"), -1).reshape(-1, len(lines))
    covers = (known_costs[None] <= lower[:, None]).all(2)
    best = np.minimum(np.where(covers, known_losses[None], np.inf).min(1, initial=np.inf), worst_loss)
    levels, level_of = np.unique(best, return_inverse=True)
    gap = levels[None] - mean[:, None]
    scaled = gap / deviation[:, None]
    improvement = gap * norm.cdf(scaled) + deviation[:, None] * norm.pdf(scaled)
    volumes = np.ones((len(mean), 1))
    for column, line in enumerate(lines):
        lengths = np.clip(line[1:] - np.maximum(line[:-1], costs[:, [column]]), 0, None)
        volumes = (volumes[:, :, None] * lengths[:, None]).reshape(len(mean), -1)
    return ((volumes @ np.eye(len(levels))[level_of]) * improvement).sum(1)


def _fitted(space: Choices, trials: list[FrozenTrial], values: Array) -> tuple[Array, Array]:
    """Encoded parameters and values of at most ``_MOST_FITTED`` trials, evenly spaced."""
    places = np.unique(np.linspace(0, len(trials) - 1, min(len(trials), _MOST_FITTED)).astype(np.int64))
    return _encode(space, [trials[place].params for place in places]), values[places]


def _regression(kernel: Kernel, rows: Array, values: Array, **options: Any) -> GaussianProcessRegressor:
    with warnings.catch_warnings():
        # The length scale of a parameter without an effect reaches its bound.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianProcessRegressor(kernel, alpha=1e-6, normalize_y=True, **options).fit(rows, values)


def _encode(space: Choices, parameters: list[Parameters]) -> Array:
    """Encode parameters as an array of shape (points, columns)."""
    columns = []
    for name, choices in space.items():
        if len(choices) > 1:
            place = {choice: index for index, choice in enumerate(choices)}
            columns.append(_columns(choices)[[place[one[name]] for one in parameters]])
    return np.concatenate(columns, axis=1)


def _columns(choices: tuple[Any, ...]) -> Array:
    """Encode choices, one row each: numbers by rank from -1 to 1, other values one-hot."""
    numbers = sorted({one for one in choices if isinstance(one, int | float) and not isinstance(one, bool)})
    words = [one for one in choices if one not in numbers or isinstance(one, bool)]
    columns = [[float(choice is word) for choice in choices] for word in words[len(words) == len(choices) :]]
    if len(numbers) > 1:
        order = np.linspace(-1, 1, len(numbers))
        places = [0.0 if choice in words else order[numbers.index(choice)] for choice in choices]
        columns.append(places)
    return np.array(columns).T


def _choices(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return all values of a parameter; none if they are infinitely many."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return tuple(range(distribution.low, distribution.high + 1, distribution.step))
    return ()
