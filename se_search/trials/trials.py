"""The trials of a search: proposed, noted and counted, whoever evaluates them."""

import math
from collections import Counter
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
from .notes import PREDICTED, pack, pack_losses, unpack
from .search_study import SearchStudy

MOST_ATTEMPTS = 3
"""How often a configuration is evaluated whose process ends each time."""

_FAILURES_IN_A_ROW = 5

Measure = Callable[[SEConfig, nn.Module], float]
"""Measures an objective of the user's on a configuration and the network that was evaluated."""


@dataclass(frozen=True)
class Proposal:
    """A trial under way.

    Attributes:
        trial: Optuna's trial.
        config: The configuration to evaluate.
        named: Its ``name``, where it is one of those that everybody knows; empty otherwise.
    """

    trial: Trial
    config: SEConfig
    named: Mapping[str, str]


class Trials:
    """The trials of one search, until as many distinct ones are complete as its budget says.

    Args:
        definition: The study.
        space: Its space.
        size: Input size at which FLOPs are counted.
        study: Where the trials are.
        further: Configurations to try first besides the known answers, with their names.
        measures: Names of what the user's own functions measure.
        parallel: Whether several trials are under way at once.
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
        self._names = _enqueue_priors(space, further, is_allowed, study)
        exact = exact_objectives(space, definition.objectives, size)
        most = {
            place: definition.constraints.most_of(one) for place, one in enumerate(definition.goals) if not one.exact
        }
        limits = {place: limit for place, limit in most.items() if limit is not None}
        self._sampler = DistinctSampler(space, definition.sampler, definition.seed, is_allowed, exact, limits, parallel)
        study.sampler = self._sampler
        self.done = _count(study, TrialState.COMPLETE, TrialState.PRUNED)

    @property
    def left(self) -> int:
        """How many trials the budget still asks for, those under way among them."""
        return max(0, self._definition.budget - self.done)

    @property
    def rungs(self) -> list[Mapping[str, list[float]]]:
        """What finished trials have reached at the rungs of successive halving."""
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return [one.user_attrs["rungs"] for one in finished if "rungs" in one.user_attrs]

    def tell_that_none_is_left(self) -> None:
        """Say that the space ended the search before its budget did."""
        say(
            "No new configuration is left within the limits: the search ends after "
            f"{self.done} of {self._definition.budget}."
        )

    def propose(self) -> Proposal | None:
        """Begin a trial of a new configuration; ``None`` where the space has none left within the limits."""
        if self._sampler.is_exhausted(self._study) and not _count(self._study, TrialState.WAITING):
            return None
        with self._study.at_once() as note:
            trial = self._study.ask(dict(self._space.distributions))
            config = self._space.to_config(trial.params)
            named = {"name": self._names[config]} if config in self._names else {}
            blocks = config.block_count
            note(trial.number, {"config": config.to_json(), "config_id": config.id, "se_blocks": blocks} | named)
        return Proposal(trial, config, named)

    def complete(self, proposal: Proposal, notes: Mapping[str, Any], stopped: bool) -> str:
        """Note what was measured on a trial and end it; a line about it.

        Args:
            proposal: The trial.
            notes: From :func:`costs_of` and :func:`worth_of`, and what is measured besides.
            stopped: Whether successive halving has stopped it.
        """
        trial = proposal.trial
        with self._study.at_once() as note:
            note(trial.number, notes)
            _set_constraints(self._definition, trial, notes)
            if stopped:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, [notes[name] for name in self._definition.objectives])
        self._failures = 0
        self.done += 1
        line = _line(trial.number, {**notes, **proposal.named}, self._measures)
        return f"{self.done}/{self._definition.budget} {line}"

    def fail(self, proposal: Proposal, error: Exception) -> str:
        """Note why a trial has failed and end it; a line about it.

        Args:
            proposal: The trial.
            error: What was raised.

        Raises:
            EvaluationError: If it is one of too many in a row.
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
        """End a trial for which nobody can be blamed: its configuration may be tried again."""
        self._study.tell(proposal.trial.number, state=TrialState.FAIL, skip_if_finished=True)


def costs_of(config: SEConfig, size: tuple[int, int, int]) -> dict[str, Any]:
    """Return what is known of a configuration's costs without running it, by the names of a trial's notes.

    Args:
        config: The configuration.
        size: Input size at which FLOPs are counted.
    """
    added = added_parameters(config)
    return {
        "formula_parameters": math.fsum(formula_by_stage(config).values()),
        "counted_parameters": added,
        "total_parameters": backbone_parameters(config.backbone) + added,
    } | {name: exact(config, size) for name, exact in EXACT.items()}


def worth_of(
    definition: StudyDefinition,
    config: SEConfig,
    evaluator: Evaluator,
    costs: Mapping[str, float],
    rungs: Sequence[Mapping[str, list[float]]],
    known: bool,
) -> tuple[dict[str, Any], bool]:
    """Evaluate a configuration, by successive halving where the study wants it and it is not a known answer.

    Args:
        definition: The study.
        config: The configuration.
        evaluator: Prepared.
        costs: From :func:`costs_of`, and the latency.
        rungs: What the trials reached that it is compared with, from :attr:`Trials.rungs`.
        known: Whether it is one of the known answers. All others are compared with them: they are trained to the end.

    Returns:
        What is noted on the trial, and whether halving has stopped it.
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
    return ({"rungs": reached} if reached else {}) | {
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


def measured_by(measures: Mapping[str, Measure], config: SEConfig, evaluator: Evaluator) -> dict[str, float]:
    """Measure the objectives of the user's own.

    Raises:
        EvaluationError: If a value is not finite.
    """
    network = evaluator.network(config) if measures else nn.Identity()
    values = {name: float(measure(config, network)) for name, measure in measures.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise EvaluationError(f"objective {name} is {value}: it must be a finite number")
    return values


def difference_of_images(notes: Mapping[str, Any], study: SearchStudy) -> str:
    """Say in what the images of ``notes`` differ from those of earlier trials: some may be unreadable now, or no more.

    Where they are the first, they are noted as the images of the run.
    """
    now = unpack(notes["correct"]).shape[1]
    before = study.user_attrs.get("validation_images")
    if before is None:
        study.set_user_attr("validation_images", now)
    if before in (None, now):
        return ""
    return f"{before} validation images could be read when the run began and {now} can now"


def _fail_killed(study: SearchStudy) -> None:
    """Fail the trials whose process was killed; all but one that took its process with it again and again come back."""
    trials = study.get_trials(deepcopy=False)
    kills = Counter(one.user_attrs.get("config") for one in trials if "killed" in one.user_attrs)
    for trial in trials:
        if trial.state == TrialState.RUNNING:  # this process holds the lock
            notes: dict[str, Any] = {"killed": True}
            config = trial.user_attrs.get("config")
            attempts = 1 + kills[config]
            if attempts == MOST_ATTEMPTS and config is not None:
                notes["error"] = f"the process was killed each of the {attempts} times that it evaluated this"
                say(f"trial {trial.number} failed: {notes['error']}")
            with study.at_once() as note:
                note(trial.number, notes)
                study.tell(trial.number, state=TrialState.FAIL)


def _set_constraints(definition: StudyDefinition, trial: Trial, notes: Mapping[str, Any]) -> None:
    for one in OBJECTIVES.values():
        most = definition.constraints.most_of(one)
        if most is not None:
            trial.set_constraint(one.limit, notes[one.name] - most)


def _halving_values(definition: StudyDefinition, evaluation: Evaluation, costs: Mapping[str, float]) -> list[float]:
    """What successive halving compares, each to be minimised: what the study asks for, as far as it is known."""
    known = {"accuracy": evaluation.accuracy.value, "log_loss": evaluation.log_loss.value}
    exact = [one.name for one in definition.goals if one.exact]
    # Nearly every training would stand on the first front of a cost that is measured with noise.
    known |= {name: costs[name] for name in exact or ["latency_ratio"]}
    compared = (
        definition.goals
        if any(one.outcomes for one in definition.goals)
        else (*definition.goals, OBJECTIVES["accuracy"])
    )
    return [-one.sign * known[one.name] for one in compared if one.name in known]


def _enqueue_priors(
    space: SearchSpace,
    further: Mapping[SEConfig, str],
    is_allowed: Callable[[SEConfig], bool],
    study: SearchStudy,
) -> dict[SEConfig, str]:
    """Enqueue the known answers and further configurations, as far as they are new.

    Returns:
        Their names, and those of the paper's variants, which are marked where the search comes upon them.
    """
    names = {config: name for name, config in space.known_answers().items()}
    names |= {config: name for config, name in further.items() if config not in names}
    tried = tried_structures(study, space)
    for config, name in names.items():
        if not is_allowed(config):
            say(f"{name} is left out: it exceeds {as_given('max_params')}.")
        elif config.structure not in tried:
            study.enqueue_trial(space.to_parameters(config))
            tried.add(config.structure)
    return {config: name for name, config in space.paper_variants().items()} | names


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


def _count(study: SearchStudy, *states: TrialState) -> int:
    return len(study.get_trials(deepcopy=False, states=states))
