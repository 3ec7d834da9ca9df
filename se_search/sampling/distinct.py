"""Sampler that proposes each configuration once and respects limits that are known before a trial."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..network.config import SEConfig
from ..study.space import SearchSpace
from .ehvi import EHVISampler, Noise

Structure = tuple[tuple[Any, ...], ...]

_PROPOSALS = 20
_GP_PROPOSALS = 3  # a proposal takes long, and the next is often the same
_RANDOM_DRAWS = 200
_POINTS_LOOKED_AT = 200_000


def create_sampler(
    name: str,
    seed: int,
    exact: Mapping[int, Callable[[dict[str, Any]], float]],
    limits: Mapping[int, float],
    accepts: Callable[[dict[str, Any]], bool],
    canonical: Callable[[dict[str, Any]], dict[str, Any]],
    noise: Noise,
    parallel: bool,
) -> BaseSampler:
    """Create :class:`~se_search.sampling.ehvi.EHVISampler` or one of Optuna's samplers, by its name in study files.

    Optuna's samplers ignore ``exact``, ``limits``, ``accepts``, ``canonical`` and ``noise``; TPE uses ``parallel``.
    """
    if name == "ehvi":
        return EHVISampler(exact, limits=limits, seed=seed, accepts=accepts, noise=noise, canonical=canonical)
    if name == "tpe":
        # The constant liar costs time: Optuna then loads all running trials for each parameter.
        return TPESampler(seed=seed, constant_liar=parallel)
    if name == "gp":
        return GPSampler(seed=seed, warn_independent_sampling=False)
    return {"nsga2": NSGAIISampler, "random": RandomSampler}[name](seed=seed)


class DistinctSampler(BaseSampler):
    """Repeats the proposals of a base sampler until a configuration is new and allowed.

    Fallbacks: random draws, then the first remaining point of the space.

    Args:
        name: Name of the base sampler, as for :func:`create_sampler`.
        seed: Determines all proposals together with the number of finished and running trials, so that a killed search
            resumes with the same proposals.
        is_allowed: Whether a configuration respects the limits that are known before a trial.
        exact: Functions that compute exact objectives from the parameters of a trial, by index of the objective.
        limits: Worst useful values of objectives, by index.
        noise: Known variances of the noise of a complete trial's values, by index of the objective.
        parallel: Whether several trials run concurrently; proposals then depend on which one finishes first.
    """

    def __init__(
        self,
        space: SearchSpace,
        name: str,
        seed: int,
        is_allowed: Callable[[SEConfig], bool],
        exact: Mapping[int, Callable[[dict[str, Any]], float]],
        limits: Mapping[int, float],
        noise: Noise = lambda trial: {},
        parallel: bool = False,
    ) -> None:
        self._space = space
        self._seed = seed
        self._is_allowed = is_allowed
        self._trials = _Tried(space)
        self._tried: set[Structure] = set()
        self._create = partial(
            create_sampler,
            name,
            exact=exact,
            limits=limits,
            accepts=self._is_new_and_allowed,
            canonical=space.canonical,
            noise=noise,
            parallel=parallel,
        )
        self._base = self._create(seed)
        self._left = self._space.enumerate()
        self._next: dict[str, Any] | None = None
        self._looked_at = 0

    def is_exhausted(self, study: Study) -> bool:
        """Whether the space has no new allowed configuration (of a large space, among its first 200,000 points)."""
        self._tried = self._trials.structures(study.get_trials(deepcopy=False))
        return self._first_left() is None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Collect the configurations tried so far, and reseed the base sampler for this trial."""
        trials = study.get_trials(deepcopy=False)
        self._tried = self._trials.structures(trials)
        # EHVISampler seeds itself by the number of finished trials, and caches computed points of the space.
        if not isinstance(self._base, EHVISampler):
            counted = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
            before = sum(one.state in counted and one.number != trial.number for one in trials)
            self._base = self._create((self._seed * 1_000_003 + before) % 2**32)  # NumPy's limit
        self._base.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space: all parameters are sampled jointly."""
        return dict(self._space.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose the parameters of a new, allowed configuration; those of an enqueued trial are its own."""
        enqueued = trial.system_attrs.get("fixed_params", {})
        if search_space.keys() <= enqueued.keys():
            return {name: enqueued[name] for name in search_space}
        for _ in range(_GP_PROPOSALS if isinstance(self._base, GPSampler) else _PROPOSALS):
            joint = self._base.infer_relative_search_space(study, trial)
            proposal = self._base.sample_relative(study, trial, joint)
            for name, distribution in search_space.items():
                if name not in proposal:
                    proposal[name] = self._base.sample_independent(study, trial, name, distribution)
            proposal = self._space.canonical(proposal)
            if self._is_new_and_allowed(proposal):
                return proposal
            if isinstance(self._base, EHVISampler) and joint.keys() == search_space.keys():
                break  # it has already searched for a new one, and would return the same again

        drawing = random.Random(self._seed * 1_000_003 + trial.number)
        for _ in range(_RANDOM_DRAWS):
            drawn = {name: drawing.choice(one.choices) for name, one in self._space.distributions.items()}
            proposal = self._space.canonical(drawn)
            if self._is_new_and_allowed(proposal):
                return proposal
        # Nothing is left only if it was not asked before (is_exhausted).
        return self._first_left() or next(self._space.enumerate())

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample one parameter; Optuna calls this only for parameters that an enqueued trial leaves open."""
        return self._base.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Forward the result to the base sampler."""
        self._base.after_trial(study, trial, state, values)

    def _is_new_and_allowed(self, parameters: dict[str, Any]) -> bool:
        config = self._space.to_config(parameters)
        return self._space.structure(config) not in self._tried and self._is_allowed(config)

    def _first_left(self) -> dict[str, Any] | None:
        # A tried or disallowed point remains so, hence the enumeration never restarts.
        while self._looked_at < _POINTS_LOOKED_AT:
            if self._next is not None and self._is_new_and_allowed(self._next):
                return self._next
            self._next = next(self._left, None)
            if self._next is None:
                return None
            self._looked_at += 1
        return None


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial failed without an error message, because its process was killed."""
    return trial.state == TrialState.FAIL and "error" not in trial.user_attrs


def tried_structures(study: Study, space: SearchSpace) -> set[Structure]:
    """Return the network structures of all trials of a study except interrupted ones."""
    return _Tried(space).structures(study.get_trials(deepcopy=False))


class _Tried:
    """The network structures tried in a study; each finished trial is read once and cached."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._finished: set[int] = set()
        self._structures: set[Structure] = set()

    def structures(self, trials: Iterable[FrozenTrial]) -> set[Structure]:
        """Return the structures of ``trials``, which must always be those of the same study."""
        unfinished: set[Structure] = set()
        for trial in trials:
            if trial.number in self._finished:
                continue
            into = self._structures if trial.state.is_finished() else unfinished
            if trial.state.is_finished():
                self._finished.add(trial.number)
            parameters = trial.system_attrs.get("fixed_params") if trial.state == TrialState.WAITING else trial.params
            if not is_interrupted(trial) and parameters and set(self._space.distributions) <= set(parameters):
                into.add(self._space.structure(self._space.to_config(parameters)))
        return self._structures | unfinished
