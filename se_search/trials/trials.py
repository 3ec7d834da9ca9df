"""The trials of a search: propose configurations, store results, count and report."""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import Trial, TrialState
from torch import nn

from ..errors import EvaluationError, as_given
from ..network.config import SEConfig
from ..network.overhead import added_parameters, backbone_parameters, formula_by_stage, parameter_share
from ..progress import say
from ..sampling.distinct import DistinctSampler, tried_structures
from ..sampling.exact import EXACT, exact_objectives
from ..sampling.fronts import passes_rung
from ..study.definitions import StudyDefinition
from ..study.objectives import OBJECTIVES
from ..study.space import SearchSpace
from ..training.evaluator import Evaluation, Evaluator, RungEvaluator
from ..words import percent, percent_with_interval
from .known_noise import KnownNoise
from .notes import PREDICTED, pack, pack_losses, unpack
from .search_study import SearchStudy

MOST_ATTEMPTS = 3
"""Attempts at a configuration whose evaluation ends its process each time."""

_FAILURES_IN_A_ROW = 5

Measure = Callable[[SEConfig, nn.Module], float]
"""Measures a custom objective of a configuration and its evaluated network."""


@dataclass(frozen=True)
class Proposal:
    """A running trial and its configuration; ``named`` holds its ``name`` if it is a known answer, else nothing."""

    trial: Trial
    config: SEConfig
    named: Mapping[str, str]


class Trials:
    """The trials of one search, which ends when the number of finished ones reaches the budget.

    Args:
        definition: The study.
        space: Its space.
        size: Input size ``(channels, height, width)`` at which FLOPs are counted.
        study: The Optuna study.
        further: Configurations to try first besides the known answers, with their names.
        measures: Names of the custom objectives.
        parallel: Whether several trials run at once.
    """

    def __init__(
        self,
        definition: StudyDefinition,
        space: SearchSpace,
        size: tuple[int, int, int],
        study: SearchStudy,
        further: Mapping[SEConfig, str],
        measures: Iterable[str] = (),
        parallel: bool = False,
    ) -> None:
        self._definition = definition
        self._space = space
        self._study = study
        self._measures = tuple(measures)
        self._failures = 0
        max_params = definition.constraints.max_params

        def is_allowed(config: SEConfig) -> bool:
            return max_params is None or parameter_share(config) <= max_params

        _fail_killed(study)
        self._names, self._first = _find_priors(space, further, is_allowed, study)
        exact = exact_objectives(space, definition.objectives, size)
        limits = {
            index: limit
            for index, goal in enumerate(definition.goals)
            if not goal.exact and (limit := definition.constraints.most_of(goal)) is not None
        }
        noise = KnownNoise(study, definition.objectives)
        self._sampler = DistinctSampler(
            space, definition.sampler, definition.seed, is_allowed, exact, limits, noise, parallel
        )
        study.sampler = self._sampler
        self.done = count_finished(study)

    @property
    def left(self) -> int:
        """Trials left in the budget, including running ones."""
        return max(0, self._definition.budget - self.done)

    @property
    def rungs(self) -> list[Mapping[str, list[float]]]:
        """Values of finished trials at the rungs of successive halving; none without it."""
        if self._definition.evaluator.rung_factor is None:
            return []
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return [one.user_attrs["rungs"] for one in finished if "rungs" in one.user_attrs]

    def report_exhausted(self) -> None:
        """Report that the space was exhausted before the budget was spent."""
        trials = f"{self.done} of {self._definition.budget} trials"
        say(f"The space has no other configuration within the limits: the search ends after {trials}.")

    def propose(self) -> Proposal | None:
        """Start a trial of a new configuration; ``None`` if the space has no other within the limits."""
        with self._study.at_once() as note:
            if self._first:
                self._study.enqueue_trial(self._space.to_parameters(self._first.popleft()))
            with self._study.reading_once():
                if not _count(self._study, TrialState.WAITING) and self._sampler.is_exhausted(self._study):
                    return None
                trial, parameters = self._study.ask_all(self._space.distributions)
            config = self._space.to_config(parameters)
            named = {"name": self._names[config]} if config in self._names else {}
            blocks = config.block_count
            note(trial.number, {"config": config.to_json(), "config_id": config.id, "se_blocks": blocks} | named)
        return Proposal(trial, config, named)

    def complete(self, proposal: Proposal, notes: Mapping[str, Any], stopped: bool) -> str:
        """Store the results of a trial, end it and return a progress line.

        Args:
            proposal: The trial.
            notes: From :func:`costs_of` and :func:`evaluate_quality`, with the latency and custom objectives.
            stopped: Whether successive halving has stopped it.
        """
        trial = proposal.trial
        with self._study.at_once() as note:
            note(trial.number, notes)
            for objective in OBJECTIVES.values():
                limit = self._definition.constraints.most_of(objective)
                if limit is not None:
                    trial.set_constraint(objective.limit, notes[objective.name] - limit)
            if stopped:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, [notes[name] for name in self._definition.objectives])
        self._failures = 0
        self.done += 1
        line = _line(trial.number, {**notes, **proposal.named}, self._measures)
        return f"{self.done}/{self._definition.budget} {line}"

    def fail(self, proposal: Proposal, error: Exception) -> str:
        """Store the error of a failed trial, end it and return a progress line.

        Raises:
            EvaluationError: If too many trials in a row have failed.
        """
        number = proposal.trial.number
        reason = f"{type(error).__name__}: {error}"
        with self._study.at_once() as note:
            note(number, {"error": reason[:500]})
            self._study.tell(number, state=TrialState.FAIL)
        self._failures += 1
        if self._failures == _FAILURES_IN_A_ROW:
            raise EvaluationError(f"{self._failures} trials in a row failed, the last with: {error}")
        return f"trial {number} failed: {reason}"

    def interrupt(self, proposal: Proposal) -> None:
        """End an interrupted trial; its configuration can be tried again."""
        self._study.tell(proposal.trial.number, state=TrialState.FAIL, skip_if_finished=True)


def costs_of(config: SEConfig, size: tuple[int, int, int]) -> dict[str, Any]:
    """Return a configuration's exact costs by the names of a trial's attributes.

    FLOPs are counted at input ``size``, ``(channels, height, width)``.
    """
    added = added_parameters(config)
    return {
        "formula_parameters": math.fsum(formula_by_stage(config).values()),
        "counted_parameters": added,
        "total_parameters": backbone_parameters(config.backbone) + added,
    } | {name: exact(config, size) for name, exact in EXACT.items()}


def evaluate_quality(
    definition: StudyDefinition,
    config: SEConfig,
    evaluator: Evaluator,
    costs: Mapping[str, float],
    rungs: Sequence[Mapping[str, list[float]]],
    known: bool,
) -> tuple[dict[str, Any], bool]:
    """Evaluate accuracy and log-loss of a configuration, with successive halving if the study sets a rung factor.

    Args:
        definition: The study.
        config: The configuration.
        evaluator: The prepared evaluator.
        costs: From :func:`costs_of`, with the latency.
        rungs: Values of other trials at the rungs, from :attr:`Trials.rungs`.
        known: Whether it is a known answer. Halving never stops these, as others are compared with them.

    Returns:
        The trial's attributes, and whether halving has stopped it.
    """
    reached: dict[str, list[float]] = {}
    stopped = False
    epochs: int | None = None
    if isinstance(evaluator, RungEvaluator):
        factor = definition.evaluator.rung_factor
        for epochs, evaluation in evaluator.rungs(config):
            if factor is None:
                continue
            rung = str(epochs)
            reached[rung] = _halving_values(definition, evaluation, costs)
            others = [one[rung] for one in rungs if rung in one]
            if epochs < definition.evaluator.epochs and not known and not passes_rung(reached[rung], others, factor):
                stopped = True
                break
    else:
        evaluation = evaluator.evaluate(config)
    trained = {"training_losses": evaluation.training_losses} if evaluation.training_losses else {}
    return ({"rungs": reached} if reached else {}) | trained | {
        "epochs": epochs,
        "accuracy": evaluation.accuracy.value,
        "accuracy_low": evaluation.accuracy.low,
        "accuracy_high": evaluation.accuracy.high,
        "log_loss": evaluation.log_loss.value,
        "log_loss_low": evaluation.log_loss.low,
        "log_loss_high": evaluation.log_loss.high,
        "correct": pack(evaluation.correct),
        "losses": pack_losses(evaluation.losses),
    }, stopped


def measure_custom_objectives(
    measures: Mapping[str, Measure], config: SEConfig, evaluator: Evaluator
) -> dict[str, float]:
    """Measure the study's custom objectives.

    Raises:
        EvaluationError: If a value is not finite.
    """
    network = evaluator.network(config) if measures else nn.Identity()
    values = {name: float(measure(config, network)) for name, measure in measures.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise EvaluationError(f"objective {name} is {value}: it must be a finite number")
    return values


def image_count_difference(notes: Mapping[str, Any], study: SearchStudy) -> str:
    """Compare a trial's number of readable validation images with the first trial's; empty if equal.

    The first trial's number is stored with the study.
    """
    now = unpack(notes["correct"]).shape[1]
    before = study.user_attrs.get("validation_images")
    if before is None:
        study.set_user_attr("validation_images", now)
    if before in (None, now):
        return ""
    return f"{before} validation images could be read when the run started and {now} can now"


def _fail_killed(study: SearchStudy) -> None:
    """Fail the trials whose process was killed; without an ``error``, a configuration can be tried again."""
    trials = study.get_trials(deepcopy=False)
    kills = Counter(one.user_attrs.get("config") for one in trials if "killed" in one.user_attrs)
    for trial in trials:
        if trial.state == TrialState.RUNNING:  # no other process runs it: this one holds the lock
            notes: dict[str, Any] = {"killed": True}
            config = trial.user_attrs.get("config")
            attempts = 1 + kills[config]
            if attempts == MOST_ATTEMPTS and config is not None:
                notes["error"] = f"the process was killed in all {attempts} attempts to evaluate it"
                say(f"trial {trial.number} failed: {notes['error']}")
            with study.at_once() as note:
                note(trial.number, notes)
                study.tell(trial.number, state=TrialState.FAIL)


def _halving_values(definition: StudyDefinition, evaluation: Evaluation, costs: Mapping[str, float]) -> list[float]:
    """Return the values that successive halving compares, to be minimised: the known objectives of the study."""
    known = {"accuracy": evaluation.accuracy.value, "log_loss": evaluation.log_loss.value}
    exact = [one.name for one in definition.goals if one.exact]
    # Latency counts only without an exact cost: with a noisy cost nearly every trial would be on the first front.
    known |= {name: costs[name] for name in exact or ["latency_ratio"]}
    goals = list(definition.goals)
    if not any(goal.outcomes for goal in goals):
        goals.append(OBJECTIVES["accuracy"])
    return [-goal.sign * known[goal.name] for goal in goals if goal.name in known]


def _find_priors(
    space: SearchSpace, further: Mapping[SEConfig, str], is_allowed: Callable[[SEConfig], bool], study: SearchStudy
) -> tuple[dict[SEConfig, str], deque[SEConfig]]:
    """Return the names of known answers, further configurations and paper variants, and those to try first, in order.

    Those to try first are the known answers and further configurations that are new. None waits in the study before its
    turn, or one that is interrupted would follow all others when the search resumes.
    """
    names = {config: name for name, config in space.known_answers().items()}
    names |= {config: name for config, name in further.items() if config not in names}
    tried = tried_structures(study, space)
    first: deque[SEConfig] = deque()
    for config, name in names.items():
        if not is_allowed(config):
            say(f"Skipped {name}: it exceeds {as_given('max_params')}.")
        elif space.structure(config) not in tried:
            first.append(config)
            tried.add(space.structure(config))
    return {config: name for name, config in space.paper_variants().items()} | names, first


def _line(number: int, measured: Mapping[str, Any], own: Iterable[str]) -> str:
    name = f" ({measured['name']})" if "name" in measured else ""
    predicted = " predicted" if measured["latency_stopped"] == PREDICTED else ""
    interval = (measured[part] for part in ("accuracy", "accuracy_low", "accuracy_high"))
    return (
        f"trial {number}{name}: accuracy {percent_with_interval(*interval)}, "
        f"parameters {percent(measured['parameter_overhead'], sign='+')}, latency ×{measured['latency_ratio']:.3f} "
        f"[{measured['latency_low']:.3f}, {measured['latency_high']:.3f}]{predicted}"
        + "".join(f", {one} {measured[one]:.4g}" for one in own if one in measured)
    )


def count_finished(study: SearchStudy) -> int:
    """Return the number of trials that count towards the budget."""
    return _count(study, TrialState.COMPLETE, TrialState.PRUNED)


def _count(study: SearchStudy, *states: TrialState) -> int:
    return len(study.get_trials(deepcopy=False, states=states))
