"""The front that noise cannot move: members whose advantage over every cheaper candidate is measurable.

The front of estimates, which Optuna calls ``best_trials``, holds every trial that noise made better than its rivals.
Here its members are candidates, ordered by exact cost. A candidate is on the front if it is measurably better than each
cheaper candidate in at least one objective. The step-up procedure of Benjamini and Hochberg (1995) corrects for the
number of candidates; a Bonferroni correction within a comparison, for the number of uncertain objectives. Comparisons
of one candidate need no correction, because all of them must be won (Berger 1982). ``benchmarks/front_noise.py``
simulates the rule on known fronts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..sampling.fronts import is_on_front
from ..statistics import CONFIDENCE, crossed_difference, normal_quantile

Values = npt.NDArray[np.float64]

DRAWS = 400
"""Joint draws from which probabilities and intervals of a front are computed."""

_DECIMALS = 12  # of draws, such that equal values remain equal


class Uncertain(Protocol):
    """The uncertainty of one objective of all trials."""

    def is_better(self, first: int, second: int, confidence: float) -> bool:
        """Return whether the two-sided interval of the difference shows the first trial to be better."""
        ...

    def may_become_better(self, first: int, second: int, confidence: float) -> bool:
        """Return whether the first trial is shown to be better, or further measurements could show it."""
        ...

    def deviations(self, random: np.random.Generator, draws: int) -> Values:
        """Return joint draws of the errors of the minimised values: draws x trials."""
        ...


@dataclass(frozen=True)
class Judged:
    """An objective that is the mean over images: trials are compared image by image.

    Attributes:
        outcomes: Correctness or log-loss for each trial: seeds x images, the same ones for all trials.
        sign: 1 if higher is better, else -1.
    """

    outcomes: Sequence[npt.NDArray[Any]]
    sign: int

    def is_better(self, first: int, second: int, confidence: float) -> bool:
        """Return whether the interval of the paired difference shows the first trial to be better."""
        difference = crossed_difference(self.outcomes[first], self.outcomes[second], confidence)
        return difference.low > 0 if self.sign > 0 else difference.high < 0

    def may_become_better(self, first: int, second: int, confidence: float) -> bool:
        """Return the same: there are no further images."""
        return self.is_better(first, second, confidence)

    def deviations(self, random: np.random.Generator, draws: int) -> Values:
        """Return bootstrap draws over images and seeds, which all trials of a draw have in common."""
        values = np.stack(self.outcomes).astype(np.float32)
        _, seeds, images = values.shape
        # Counts, whose sums of correct images are exact: trials that are right on the same drawn images are equal.
        of_images = random.multinomial(images, np.full(images, 1 / images), draws).astype(np.float32)
        of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), draws)
        drawn = sum(of_seeds[:, [seed]] * (of_images @ values[:, seed].T).astype(float) for seed in range(seeds))
        return -self.sign * (drawn / (seeds * images) - values.mean(axis=(1, 2), dtype=float))


@dataclass(frozen=True)
class Measured:
    """An objective with normally distributed errors, such as latency.

    Attributes:
        values: Value of each trial; less is better.
        covariance: Covariance of their errors: trials x trials.
    """

    values: Values
    covariance: Values

    def is_better(self, first: int, second: int, confidence: float) -> bool:
        """Return whether the interval of the difference shows the first trial to be better."""
        variance = self.covariance[first, first] + self.covariance[second, second] - 2 * self.covariance[first, second]
        margin = normal_quantile(confidence) * math.sqrt(max(variance, 0.0))
        return bool(self.values[second] - self.values[first] > margin)

    def may_become_better(self, first: int, second: int, confidence: float) -> bool:
        """Return whether the interval of the difference does not show the second trial to be at least as good."""
        same = self.values[first] == self.values[second] and self.covariance[first, first] == 0
        return not same and not self.is_better(second, first, confidence)

    def deviations(self, random: np.random.Generator, draws: int) -> Values:
        """Return draws of the multivariate normal distribution."""
        jitter = 1e-12 * self.covariance.diagonal().max(initial=0.0) + np.finfo(float).tiny
        factor = np.linalg.cholesky(self.covariance + jitter * np.eye(len(self.values)))
        return random.standard_normal((draws, len(self.values))) @ factor.T


@dataclass(frozen=True)
class TrialValues:
    """What is known about the objectives of trials.

    Attributes:
        values: Trials x objectives, all minimised.
        uncertain: The uncertainty of objectives by column; the others are exact.
        parameters: Parameters of each trial, the cost of studies without an exact objective.
    """

    values: Values
    uncertain: Mapping[int, Uncertain]
    parameters: Values

    def draws(self, count: int = DRAWS, seed: int = 0) -> Values:
        """Return joint draws of the values: draws x trials x objectives."""
        random = np.random.default_rng(seed)
        drawn = np.repeat(self.values[None], count, axis=0)
        for column, one in self.uncertain.items():
            drawn[:, :, column] += one.deviations(random, count)
        return drawn.round(_DECIMALS)

    @property
    def exact(self) -> list[int]:
        """Columns of the exact objectives."""
        return [column for column in range(self.values.shape[1]) if column not in self.uncertain]

    @property
    def costs(self) -> Values:
        """The exact objectives, or the parameters if there are none: trials x costs."""
        return self.values[:, self.exact] if self.exact else self.parameters[:, None]

    def is_better(self, first: int, second: int, level: float) -> bool:
        """Return whether a trial is measurably better than another in an uncertain objective, at a one-sided level."""
        confidence = self._confidence(level)
        return any(one.is_better(first, second, confidence) for one in self.uncertain.values())

    def may_become_better(self, first: int, second: int, level: float) -> bool:
        """Return whether a trial is measurably better than another, or further measurements could show it."""
        confidence = self._confidence(level)
        latency_first = reversed(list(self.uncertain.values()))  # comparing images takes longer
        return any(one.may_become_better(first, second, confidence) for one in latency_first)

    def _confidence(self, level: float) -> float:
        return 1 - 2 * level / max(len(self.uncertain), 1)


@dataclass(frozen=True)
class Front:
    """The front of some trials.

    Attributes:
        members: Whether each trial is on the front.
        tied_with: For each trial that is on the front of estimates only, the cheapest member (or else the cheapest
            candidate) over which it has no measurable advantage; -1 for the others.
    """

    members: npt.NDArray[np.bool_]
    tied_with: npt.NDArray[np.int64]


def find_front(trials: TrialValues) -> Front:
    """Return the front of trials, which holds the cheapest candidate and all that are measurably better.

    Of trials with the same exact objectives one is left out if another has the only measurable advantage. With exact
    objectives only it is the front of estimates.
    """
    count = len(trials.values)
    members, tied_with = np.zeros(count, dtype=bool), np.full(count, -1)
    if not count:
        return Front(members, tied_with)
    estimated = is_on_front(trials.values)
    rivals = _cheaper_rivals(trials)
    accepted = _accept(trials, rivals)
    level = _level(len(accepted), rivals)
    overtaken = _overtaken(trials, rivals, accepted, level)
    members[[one for one in accepted if one not in overtaken]] = True
    for one in np.flatnonzero(estimated & ~members).tolist():
        unbeaten = [other for other in rivals[one] if not trials.is_better(one, other, level)]
        tied_with[one] = next(
            (other for other in unbeaten if members[other]), overtaken[one] if one in overtaken else unbeaten[0]
        )
    return Front(members, tied_with)


def undecided(trials: TrialValues) -> npt.NDArray[np.bool_]:
    """Return whether each trial is on the front, or further measurements of exact images could put it there.

    That is impossible for a trial that a cheaper one matches in accuracy and beats measurably in latency.
    """
    costs = trials.costs
    level = 1 - CONFIDENCE
    possible = [
        all(
            trials.may_become_better(one, other, level)
            for other in np.flatnonzero((costs <= costs[one]).all(1) & (costs < costs[one]).any(1)).tolist()
        )
        for one in range(len(costs))
    ]
    return np.array(possible, dtype=bool) | find_front(trials).members


def front_probabilities(trials: TrialValues) -> Values:
    """Return the probability that no other trial dominates a trial, given the joint uncertainty of all values."""
    return np.mean([is_on_front(drawn) for drawn in trials.draws()], axis=0)


def _cheaper_rivals(trials: TrialValues) -> dict[int, list[int]]:
    """Return for each candidate the cheaper ones, the cheapest first, that are no worse in any exact objective."""
    costs = trials.costs
    # Without an exact objective the trial with the fewest parameters is a candidate, whatever its estimates are.
    candidates = np.flatnonzero(is_on_front(np.column_stack([trials.values, costs])) | is_on_front(trials.values))
    keys = np.column_stack([costs, trials.values])[candidates]
    ordered = candidates[np.lexsort(keys.T[::-1])].tolist()
    if not trials.uncertain:
        return {one: [] for one in ordered}
    return {
        one: [other for other in ordered[:place] if (costs[other] <= costs[one]).all()]
        for place, one in enumerate(ordered)
    }


def _accept(trials: TrialValues, rivals: Mapping[int, Sequence[int]]) -> list[int]:
    """Return the candidates that are measurably better than each cheaper rival (Benjamini and Hochberg 1995)."""
    accepted = list(rivals)
    while True:
        level = _level(len(accepted), rivals)
        kept = [one for one in accepted if all(trials.is_better(one, other, level) for other in reversed(rivals[one]))]
        if len(kept) == len(accepted):
            return kept
        accepted = kept


def _overtaken(
    trials: TrialValues, rivals: Mapping[int, Sequence[int]], accepted: Sequence[int], level: float
) -> dict[int, int]:
    """Return the accepted trials over which another one, no worse in any exact objective, has the only advantage."""
    exact = trials.values[:, trials.exact]
    return {
        one: other
        for other in accepted
        for one in rivals[other]
        if (exact[other] <= exact[one]).all() and not trials.is_better(one, other, level)
    }


def _level(accepted: int, rivals: Mapping[int, Sequence[int]]) -> float:
    """Return the one-sided level of comparisons if this number of candidates is accepted."""
    unrivalled = sum(not cheaper for cheaper in rivals.values())
    return (1 - CONFIDENCE) * max(accepted - unrivalled, 1) / max(len(rivals) - unrivalled, 1)
