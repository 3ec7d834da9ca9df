"""Optuna sampler for studies in which some objectives are exactly computable before a trial."""

import itertools
import math
import random
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.special import erfcx, logsumexp, ndtr

from .fronts import is_on_front
from .gaussian_process import Array, GaussianProcess, Points, encode, fit

Parameters = dict[str, Any]
Choices = dict[str, tuple[Any, ...]]
Noise = Callable[[FrozenTrial], Mapping[int, float]]
"""Known variances of the noise of a complete trial's values, by index of the objective."""

_WHOLE_SPACE = 4096
_RANDOM_CANDIDATES = 200
_NEIGHBOURED = 20
_RANDOM_DRAWS = 50
_MARGIN = 0.1
_GRID_LINES = 24
_MOST_FITTED = 150
_GROWTH = 1.1
_ASYMPTOTIC = -1e4


class EHVISampler(BaseSampler):
    """Proposes the parameters with the largest expected hypervolume improvement (EHVI).

    Exact objectives, such as the parameter count of a network, are computed. The first of the others is modelled with
    its uncertainty; the rest, such as latency, by the mean of their models, which are Gaussian processes. For known
    costs, the expectation over the uncertain objective has a closed form: a sum of expected improvements over the cells
    of the cost space that the candidate dominates. The front is that of the models' means, not of noisy values.

    Args:
        exact: Functions that compute objectives from the parameters of a trial, by index of the objective.
        limits: Worst useful values, by index of the objective; beyond them a trial adds no hypervolume. The uncertain
            objective has no limit.
        seed: Determines all proposals together with the finished trials; the sampler keeps no random state.
        n_startup_trials: Number of finished trials before which parameters are drawn at random.
        accepts: Whether untried parameters may be proposed; all by default.
        noise: Known variances of the noise of a complete trial's values, by index of the objective; none by default.
            Noise that is not known is fitted, with one variance per objective.
        canonical: Returns the parameters that stand for all that mean the same, such as those with the first value for
            each parameter without effect. Only such parameters are compared and proposed.

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
        noise: Noise = lambda trial: {},
        canonical: Callable[[Parameters], Parameters] = dict,
    ) -> None:
        self._exact = dict(exact)
        self._limits = dict(limits or {})
        self._startup = n_startup_trials
        self._accepts = accepts
        self._noise = noise
        self._canonical = canonical
        self._seed = random.randrange(2**31) if seed is None else seed
        self._random = RandomSampler(seed=seed)
        self._drawing = random.Random()
        self._shared = IntersectionSearchSpace()
        self._places = sorted(self._exact)
        self._seen: WeakKeyDictionary[Study, dict[int, Parameters]] = WeakKeyDictionary()
        self._costs: dict[Hashable, tuple[float, ...]] = {}
        self._whole: tuple[Choices, _Candidates] | None = None
        self._last: tuple[Choices, _Candidates] | None = None
        self._fits: dict[tuple[int, int, int], Array] = {}

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
        seen = self._seen.setdefault(study, {})
        for one in trials:
            if one.number not in seen and space.keys() <= one.params.keys():
                seen[one.number] = self._canonical(one.params)
        trials = [one for one in trials if one.number in seen]
        known = self._known_points(space, [seen[one.number] for one in trials])
        key_of, tried = itemgetter(*space), set(known.keys)
        done = sum(one.state == TrialState.COMPLETE for one in trials)
        self._drawing.seed(self._seed * 1_000_003 + done)
        if done >= self._startup:
            signs = np.array([-1.0 if one == StudyDirection.MAXIMIZE else 1.0 for one in study.directions])
            for parameters in self._best_first(space, trials, known, tried, signs, modelled):
                if self._accepts(parameters):
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
        return self._canonical({name: self._drawing.choice(choices) for name, choices in space.items()})

    def _best_first(
        self,
        space: Choices,
        trials: list[FrozenTrial],
        known: "_Candidates",
        tried: set[Hashable],
        signs: Array,
        modelled: list[int],
    ) -> Iterator[Parameters]:
        """Yield untried candidates in descending order of EHVI.

        Args:
            space: The choices of each parameter.
            trials: The complete and running trials; running ones count with their predicted values.
            known: Their points.
            tried: The keys of these.
            signs: Sign of each objective that makes it one to be minimised.
            modelled: Indices of the objectives that are not exact.
        """
        uncertain = modelled[0]
        costs = [place for place in range(len(signs)) if place != uncertain]
        models = self._models(space, trials, known, signs, modelled)

        def costs_of(points: _Candidates) -> Array:
            columns = [
                signs[place] * points.exact[:, self._places.index(place)]
                if place in self._exact
                else models[place].mean(points.encoded)
                for place in costs
            ]
            return np.stack(columns, axis=1)

        known_losses, known_costs = models[uncertain].mean(known.encoded), costs_of(known)
        front = is_on_front(np.column_stack([known_losses, known_costs]))
        candidates = self._candidates(space, list(itertools.compress(known.parameters, front)))
        untried = np.flatnonzero([key not in tried for key in candidates.keys])
        ties = np.array([self._drawing.random() for _ in candidates.keys])[untried]
        candidates = candidates.take(untried)
        candidate_costs = costs_of(candidates)
        mean, deviation = models[uncertain].predict(candidates.encoded)

        everything = np.concatenate([known_costs, candidate_costs])
        low, high = everything.min(0), everything.max(0)
        worst_loss = known_losses.max() + _MARGIN * np.ptp(known_losses)
        limits = np.array([signs[place] * self._limits.get(place, signs[place] * np.inf) for place in costs])
        worst = np.concatenate([[worst_loss], np.minimum(high + _MARGIN * (high - low), limits)])
        gains = log_expected_improvement(
            mean, deviation, candidate_costs, known_losses[front], known_costs[front], worst
        )
        for place in np.lexsort((ties, -gains)):
            yield candidates.parameters[place]

    def _models(
        self,
        space: Choices,
        trials: list[FrozenTrial],
        known: "_Candidates",
        signs: Array,
        modelled: list[int],
    ) -> dict[int, GaussianProcess]:
        """Model the objectives; refit the models' parameters only when the complete trials have grown by 10 %."""
        done = np.flatnonzero([one.state == TrialState.COMPLETE for one in trials])
        learned = 1
        while _GROWTH * learned < len(done):
            learned = math.ceil(_GROWTH * learned)

        def observed(places: npt.NDArray[np.int64]) -> tuple[Points, Array, Array]:
            """Points, values and known variances of at most ``_MOST_FITTED`` trials, evenly spaced."""
            spaced = np.linspace(0, len(places) - 1, min(len(places), _MOST_FITTED))
            chosen = places[np.unique(spaced.astype(np.int64))]
            noise = [self._noise(trials[one]) for one in chosen]
            variances = np.array([[one.get(place, 0.0) for one in noise] for place in range(len(signs))])
            return known.encoded[chosen], signs[:, None] * np.array([trials[one].values for one in chosen]).T, variances

        models = {}
        points, values, variances = observed(done)
        for place in modelled:
            key = place, learned, len(space)
            if key not in self._fits:
                earlier, their_values, their_variances = observed(done[:learned])
                self._fits[key] = fit(earlier, their_values[place], their_variances[place])
            models[place] = GaussianProcess(points, values[place], variances[place], self._fits[key])
        return models

    def _known_points(self, space: Choices, parameters: list[Parameters]) -> "_Candidates":
        """Points of trials; those of the last call that come first again are taken over."""
        before = self._last[1] if self._last is not None and self._last[0] == space else self._computed(space, [])
        pairs = zip(before.parameters, parameters, strict=False)
        same = next((place for place, (old, new) in enumerate(pairs) if old is not new), len(before.parameters))
        same = min(same, len(parameters))
        known = before[slice(same)] + self._computed(space, parameters[same:])
        self._last = space, known
        return known

    def _computed(self, space: Choices, parameters: list[Parameters]) -> "_Candidates":
        keys = list(map(itemgetter(*space), parameters))
        for key, one in zip(keys, parameters, strict=True):
            if key not in self._costs:
                self._costs[key] = tuple(self._exact[place](one) for place in self._places)
        exact = np.array([self._costs[key] for key in keys])
        return _Candidates(parameters, keys, encode(space, parameters), exact.reshape(len(keys), len(self._places)))

    def _candidates(self, space: Choices, front: list[Parameters]) -> "_Candidates":
        """All points of a small space; otherwise random points, and neighbours of the front in one parameter."""
        if math.prod(len(choices) for choices in space.values()) <= _WHOLE_SPACE:
            if self._whole is None or self._whole[0] != space:
                everything = (
                    dict(zip(space, combined, strict=True)) for combined in itertools.product(*space.values())
                )
                points = [one for one in everything if self._canonical(one) == one]
                self._whole = space, self._computed(space, points)
            return self._whole[1]
        found: dict[Hashable, Parameters] = {}
        key_of = itemgetter(*space)
        for parameters in self._drawing.sample(front, min(len(front), _NEIGHBOURED)):
            own = {name: parameters[name] for name in space}
            for name, choices in space.items():
                for value in choices:
                    near = self._canonical(own | {name: value})
                    found[key_of(near)] = near
        for _ in range(_RANDOM_CANDIDATES):
            drawn = self._draw(space)
            found[key_of(drawn)] = drawn
        return self._computed(space, list(found.values()))


@dataclass(frozen=True)
class _Candidates:
    """Points of a space: their parameters, the values of these, the models' encoding, and the exact objectives."""

    parameters: list[Parameters]
    keys: list[Hashable]
    encoded: Points
    exact: Array

    def __getitem__(self, places: slice) -> "_Candidates":
        return _Candidates(self.parameters[places], self.keys[places], self.encoded[places], self.exact[places])

    def __add__(self, other: "_Candidates") -> "_Candidates":
        return _Candidates(
            self.parameters + other.parameters,
            self.keys + other.keys,
            self.encoded + other.encoded,
            np.concatenate([self.exact, other.exact]),
        )

    def take(self, places: npt.NDArray[np.int64]) -> "_Candidates":
        """Return some of the points, by their indices."""
        parameters, keys = ([of[place] for place in places] for of in (self.parameters, self.keys))
        return _Candidates(parameters, keys, self.encoded[places], self.exact[places])


def log_expected_improvement(
    mean: Array, deviation: Array, costs: Array, known_losses: Array, known_costs: Array, worst: Array
) -> Array:
    """Logarithm of the expected hypervolume improvement of candidates with known costs and a normally distributed loss.

    All objectives are minimised. The costs of the known front cut the cost space into cells. In the part of a cell
    above its own costs, a candidate adds the volume times its improvement over the front's lowest loss at these costs.
    The expectation of that is the expected improvement of Bayesian optimisation (Jones, Schonlau and Welch 1998). Its
    logarithm ranks candidates even where it underflows to zero (Ament et al. 2023).

    Args:
        mean: Expected losses, of shape (candidates,).
        deviation: Their standard deviations, positive.
        costs: Costs, of shape (candidates, costs).
        known_losses: Losses of the known points, of shape (trials,).
        known_costs: Costs of the known points, of shape (trials, costs).
        worst: Reference point: the loss, then the costs.

    Returns:
        The logarithms, of shape (candidates,); minus infinity without a cell above the costs.
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
    improvement = np.log(deviation)[:, None] + _log_improvement((levels[None] - mean[:, None]) / deviation[:, None])
    volumes = np.ones((len(mean), 1))
    for column, line in enumerate(lines):
        lengths = np.clip(line[1:] - np.maximum(line[:-1], costs[:, [column]]), 0, None)
        volumes = (volumes[:, :, None] * lengths[:, None]).reshape(len(mean), -1)
    return np.asarray(logsumexp(improvement, b=volumes @ np.eye(len(levels))[level_of], axis=1), dtype=float)


def _log_improvement(scaled: Array) -> Array:
    """Logarithm of φ(z) + z Φ(z) for standardised gaps z, by Ament et al. (2023), equation 9."""
    near = np.maximum(scaled, -1.0)
    far = np.clip(scaled, _ASYMPTOTIC, -1.0)
    rest = np.log1p(far * np.sqrt(np.pi / 2) * erfcx(-far / np.sqrt(2)))
    tail = _log_density(scaled) + np.where(scaled < _ASYMPTOTIC, -2 * np.log(np.maximum(-scaled, 1.0)), rest)
    return np.where(scaled > -1, np.log(np.exp(_log_density(near)) + near * ndtr(near)), tail)


def _log_density(scaled: Array) -> Array:
    """Logarithm of the standard normal density."""
    return -(scaled**2) / 2 - np.log(2 * np.pi) / 2


def _choices(distribution: BaseDistribution) -> tuple[Any, ...]:
    """Return all values of a parameter; none if they are infinitely many."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return tuple(range(distribution.low, distribution.high + 1, distribution.step))
    return ()
