"""The study loop: prepare the evaluator once, then evaluate configurations until the budget is spent."""

import errno
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from torch import nn

from ..errors import EvaluationError, RunFolderError
from ..evaluation.evaluator import Evaluation, Evaluator, RungEvaluator
from ..evaluation.image_data import ImageData
from ..evaluation.isolation import time_limit
from ..evaluation.stand_alone import BACKBONE_WEIGHTS, check_pretrained
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.overhead import added_parameters, backbone_parameters, flops_overhead, formula_by_stage
from ..progress import progress_bar, say
from .definitions import FROM_PYTHON, StudyDefinition
from .evaluators import EvaluatorFactory, find_evaluator, study_data, use_device
from .exact import exact_objectives
from .excitation import check_priors, priors_from_excitation
from .halving import is_worth_going_on
from .record import note_data, note_unreadable, record_start
from .results import PREDICTED, pack, pack_losses
from .run_folder import STUDY_FILE, RunStudy, check_folder, open_folder, read_definition
from .samplers import DistinctSampler, tried_structures
from .space import SearchSpace
from .study_latency import StudyLatency, latency_size

_FAILURES_IN_A_ROW = 5
_MOST_ATTEMPTS = 3
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

Measure = Callable[[SEConfig, nn.Module], float]
"""Measures an objective of the user's on a configuration and the network that was evaluated."""


def run_search(
    study: StudyDefinition,
    folder: Path,
    evaluator: EvaluatorFactory | None = None,
    measures: Mapping[str, Measure] | None = None,
    render: Callable[[dict[str, Any]], str] | None = None,
) -> None:
    """Search, or go on searching, until ``study.budget`` distinct configurations are complete in ``folder``.

    Afterwards the folder holds the study and what its evaluator keeps there; :mod:`se_search.search.record` writes the
    tables.

    Args:
        study: A resolved study: its space is in it.
        folder: The run folder; created where it does not exist.
        evaluator: Creates the evaluator, where the study's is given from Python.
        measures: Measure the study's ``custom_objectives``.
        render: Gives the page of the supernet's excitation, where priors are taken from that.

    Raises:
        SeSearchError: If something the user gave is wrong; nothing is written then.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    measures = measures or {}
    if (folder / STUDY_FILE).is_file():
        _check_given(str(folder), read_definition(folder), evaluator, measures)
    _check_given("the study", study, evaluator, measures)
    check_priors(study)
    use_device(study)
    study = study.model_copy(update={"threads": torch.get_num_threads()})
    space = SearchSpace(study.backbone, study.resolved_space)
    data = study_data(study)
    network_options(study.backbone, data.input_size)
    network_options(study.backbone, latency_size(study, data.input_size))
    check_folder(folder, study)
    used = (evaluator or find_evaluator(study.evaluator.name))(study, space, data)
    if study.evaluator.pretrained is not None and not (folder / BACKBONE_WEIGHTS).exists():
        check_pretrained(study.evaluator.pretrained)
    # It tries the backbone in its runtime: hours of training shall not end with a refusal.
    latency = StudyLatency(study, space, data.input_size, data.classes)

    with closing(latency), _told_if_unwritable(folder), open_folder(folder, study) as optuna_study:
        note_data(folder, optuna_study, data)
        record_start(folder, study)
        try:
            used.prepare(folder, space, progress_bar)
            further = {}
            if study.priors == "excitation":
                further = priors_from_excitation(folder, study, space, data, used, render)
            latency.learn(folder)
            _search(study, space, data, used, measures, latency, optuna_study, further)
            latency.measure_front(optuna_study)
        finally:
            note_unreadable(optuna_study, data)


@contextmanager
def _told_if_unwritable(folder: Path) -> Iterator[None]:
    """Say in a sentence that a run folder can no longer be written: its disk is full, or has become read-only."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error))
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        reason = str(error.strerror)
    else:
        return
    raise RunFolderError(
        f"{folder} cannot be written any more ({reason}): what is finished is kept; make it writable and give the same "
        "command again"
    )


def load_network(
    folder: Path, config: SEConfig, evaluator: EvaluatorFactory | None = None
) -> tuple[nn.Module, ImageData]:
    """Load the network of ``config`` with the weights that were evaluated, and the data that it was trained on.

    Args:
        folder: A run folder.
        config: A configuration of its space.
        evaluator: Creates the run's evaluator, where that was given from Python.

    Raises:
        RunFolderError: If what the evaluator keeps in the folder is missing or damaged, or the evaluator is not given.
    """
    study = read_definition(folder)
    if evaluator is None:
        _check_evaluator_given(str(folder), study)
        evaluator = find_evaluator(study.evaluator.name)
    data = study_data(study)
    used = evaluator(study, SearchSpace(study.backbone, study.resolved_space), data)
    used.load(folder)
    return used.network(config), data


def _check_given(
    whose: str, study: StudyDefinition, evaluator: EvaluatorFactory | None, measures: Mapping[str, Measure]
) -> None:
    missing = [name for name in study.custom_objectives if name not in measures]
    if missing:
        raise RunFolderError(
            f"{whose} has an objective that a Python function measures ({', '.join(missing)}): "
            "go on from Python, with se_search.search(objectives=…)"
        )
    if evaluator is None:
        _check_evaluator_given(whose, study)


def _check_evaluator_given(whose: str, study: StudyDefinition) -> None:
    if study.evaluator.name.startswith(FROM_PYTHON):
        raise RunFolderError(
            f"{whose} has an evaluator given from Python ({study.evaluator.name.removeprefix(FROM_PYTHON)}): "
            "go on from Python, with evaluator=… of se_search.search or se_search.load_run"
        )


def _search(
    study: StudyDefinition,
    space: SearchSpace,
    data: ImageData,
    evaluator: Evaluator,
    measures: Mapping[str, Measure],
    latency: StudyLatency,
    optuna_study: RunStudy,
    further: Mapping[SEConfig, str],
) -> None:
    max_params, max_latency = study.constraints.max_params, study.constraints.max_latency
    backbone = backbone_parameters(study.backbone)

    def is_allowed(config: SEConfig) -> bool:
        return max_params is None or added_parameters(config) <= max_params * backbone

    _fail_killed(optuna_study)
    names = _enqueue_priors(space, further, is_allowed, optuna_study)
    size = latency_size(study, data.input_size)
    exact = exact_objectives(space, study.objectives, size)
    limits = {}
    if max_latency is not None and "latency_ratio" in study.objectives:
        limits[study.objectives.index("latency_ratio")] = max_latency
    optuna_study.sampler = sampler = DistinctSampler(space, study.sampler, study.seed, is_allowed, exact, limits)

    failures = 0
    done = _count(optuna_study, TrialState.COMPLETE, TrialState.PRUNED)
    with progress_bar("Evaluating configurations", study.budget, min(done, study.budget)) as advance:
        while done < study.budget:
            if sampler.is_exhausted(optuna_study) and not _count(optuna_study, TrialState.WAITING):
                say(f"No new configuration is left within the limits: the search ends after {done} of {study.budget}.")
                return
            with optuna_study.at_once() as note:
                trial = optuna_study.ask(dict(space.distributions))
                config = space.to_config(trial.params)
                named = {"name": names[config]} if config in names else {}
                blocks = space.count_blocks(config)
                note(trial.number, {"config": config.to_json(), "config_id": config.id, "se_blocks": blocks} | named)
            try:
                with time_limit(study.trial_limit):
                    notes, stopped = _evaluate(
                        study, config, size, evaluator, measures, latency, trial, optuna_study, bool(named)
                    )
                with optuna_study.at_once() as note:
                    note(trial.number, notes)
                    _set_constraints(study, trial, notes)
                    if stopped:
                        optuna_study.tell(trial, state=TrialState.PRUNED)
                    else:
                        optuna_study.tell(trial, [notes[name] for name in study.objectives])
            except (RunFolderError, KeyboardInterrupt):
                optuna_study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
                raise
            except Exception as error:  # whatever goes wrong in one trial must not end the search
                failures += 1
                with optuna_study.at_once() as note:
                    note(trial.number, {"error": f"{type(error).__name__}: {error}"[:500]})
                    optuna_study.tell(trial, state=TrialState.FAIL)
                advance(0, f"trial {trial.number} failed: {type(error).__name__}: {error}")
                if failures == _FAILURES_IN_A_ROW:
                    raise EvaluationError(f"{failures} trials in a row failed, the last with: {error}") from error
                continue
            failures = 0
            done += 1
            advance(1, f"{done}/{study.budget} {_line(trial.number, notes | named, measures)}")


def _fail_killed(optuna_study: RunStudy) -> None:
    """Fail the trials whose process was killed; all but one that took its process with it again and again come back."""
    trials = optuna_study.get_trials(deepcopy=False)
    kills = Counter(one.user_attrs.get("config") for one in trials if "killed" in one.user_attrs)
    for trial in trials:
        if trial.state == TrialState.RUNNING:  # this process holds the lock
            notes: dict[str, Any] = {"killed": True}
            attempts = 1 + kills[trial.user_attrs.get("config")]
            if attempts == _MOST_ATTEMPTS:
                notes["error"] = f"the process was killed each of the {attempts} times that it evaluated this"
                say(f"trial {trial.number} failed: {notes['error']}")
            with optuna_study.at_once() as note:
                note(trial.number, notes)
                optuna_study.tell(trial.number, state=TrialState.FAIL)


def _evaluate(
    study: StudyDefinition,
    config: SEConfig,
    size: tuple[int, int, int],
    evaluator: Evaluator,
    measures: Mapping[str, Measure],
    latency: StudyLatency,
    trial: Trial,
    optuna_study: optuna.Study,
    known: bool,
) -> tuple[dict[str, Any], bool]:
    """Measure everything that is noted on the trial; and whether halving has stopped it."""
    added, backbone = added_parameters(config), backbone_parameters(config.backbone)
    measured: dict[str, Any] = {
        "formula_parameters": math.fsum(formula_by_stage(config).values()),
        "counted_parameters": added,
        "total_parameters": backbone + added,
        "parameter_overhead": added / backbone,
        "flops_overhead": flops_overhead(config, size),
        **latency.of(config),
    }
    trained, evaluation, stopped = _judge(study, config, evaluator, measured, trial, optuna_study, known)
    _check_same_images(evaluation, optuna_study)
    measured |= {
        "epochs": trained,
        "accuracy": evaluation.accuracy.value,
        "accuracy_low": evaluation.accuracy.low,
        "accuracy_high": evaluation.accuracy.high,
        "log_loss": evaluation.log_loss.value,
        "log_loss_low": evaluation.log_loss.low,
        "log_loss_high": evaluation.log_loss.high,
        "correct": pack(evaluation.correct),
        "losses": pack_losses(evaluation.losses),
    }
    if measures and not stopped:
        network = evaluator.network(config)
        measured |= {name: _measure(name, measure, config, network) for name, measure in measures.items()}
    return measured, stopped


def _set_constraints(study: StudyDefinition, trial: Trial, notes: Mapping[str, Any]) -> None:
    if study.constraints.max_params is not None:
        trial.set_constraint("max_params", notes["parameter_overhead"] - study.constraints.max_params)
    if study.constraints.max_latency is not None:
        trial.set_constraint("max_latency", notes["latency_ratio"] - study.constraints.max_latency)


def _judge(
    study: StudyDefinition,
    config: SEConfig,
    evaluator: Evaluator,
    costs: Mapping[str, float],
    trial: Trial,
    optuna_study: optuna.Study,
    known: bool,
) -> tuple[int | None, Evaluation, bool]:
    """Evaluate a configuration, by successive halving where the study wants it and it is not a known answer.

    Returns:
        The epochs that it was trained by itself, where the evaluator tells, the evaluation after them, and whether
        halving has stopped it there.
    """
    if not isinstance(evaluator, RungEvaluator):
        return None, evaluator.evaluate(config), False
    factor = study.evaluator.halving
    reached: dict[str, list[float]] = {}
    rungs = evaluator.rungs(config)
    epochs, evaluation = next(rungs)
    while True:
        if factor is not None:
            values = reached[str(epochs)] = _halving_values(study, evaluation, costs)
            trial.set_user_attr("rungs", reached)
            others = [
                one.user_attrs["rungs"][str(epochs)]
                for one in optuna_study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
                if str(epochs) in one.user_attrs.get("rungs", {})
            ]
            # The known answers are what all others are compared with: they are trained to the end.
            if epochs < study.evaluator.epochs and not known and not is_worth_going_on(values, others, factor):
                return epochs, evaluation, True
        following = next(rungs, None)
        if following is None:
            return epochs, evaluation, False
        epochs, evaluation = following


def _check_same_images(evaluation: Evaluation, optuna_study: optuna.Study) -> None:
    """Refuse to compare networks on different images: some could be read before and cannot now, or the reverse."""
    now = evaluation.correct.shape[1]
    before = optuna_study.user_attrs.get("validation_images")
    if before is None:
        optuna_study.set_user_attr("validation_images", now)
    elif now != before:
        raise RunFolderError(
            f"{before} validation images could be read when the run began and {now} can now: restore them as they "
            "were, or choose another folder with --out"
        )


def _halving_values(study: StudyDefinition, evaluation: Evaluation, costs: Mapping[str, float]) -> list[float]:
    """What successive halving compares, each to be minimised: what the study asks for, as far as it is known."""
    known = {"accuracy": -evaluation.accuracy.value, "log_loss": evaluation.log_loss.value}
    exact: list[str] = [name for name in ("parameter_overhead", "flops_overhead") if name in study.objectives]
    # Nearly every training would stand on the first front of a cost that is measured with noise.
    known |= {name: costs[name] for name in exact or ["latency_ratio"]}
    judged = {"accuracy", "log_loss"} & set(study.objectives)
    return [known[name] for name in (*study.objectives, *(() if judged else ("accuracy",))) if name in known]


def _measure(name: str, measure: Measure, config: SEConfig, network: nn.Module) -> float:
    value = float(measure(config, network))
    if not math.isfinite(value):
        raise EvaluationError(f"objective {name} is {value}: it must be a finite number")
    return value


def _enqueue_priors(
    space: SearchSpace,
    further: Mapping[SEConfig, str],
    is_allowed: Callable[[SEConfig], bool],
    optuna_study: optuna.Study,
) -> dict[SEConfig, str]:
    """Enqueue the known answers and further configurations, as far as they are new.

    Returns:
        Their names, and those of the paper's variants, which are marked where the search comes upon them.
    """
    names = {config: name for name, config in space.known_answers().items()}
    names |= {config: name for config, name in further.items() if config not in names}
    tried = tried_structures(optuna_study, space)
    for config, name in names.items():
        if not is_allowed(config):
            say(f"{name} is left out: it exceeds --max-params.")
        elif config.structure not in tried:
            optuna_study.enqueue_trial(space.to_parameters(config))
            tried.add(config.structure)
    return {config: name for name, config in space.paper_variants().items()} | names


def _line(number: int, measured: Mapping[str, Any], own: Iterable[str]) -> str:
    name = f" ({measured['name']})" if "name" in measured else ""
    predicted = " predicted" if measured["latency_stopped"] == PREDICTED else ""
    return (
        f"trial {number}{name}: accuracy {measured['accuracy']:.1%} "
        f"[{measured['accuracy_low']:.1%}, {measured['accuracy_high']:.1%}], "
        f"parameters {measured['parameter_overhead']:+.2%}, latency ×{measured['latency_ratio']:.3f} "
        f"[{measured['latency_low']:.3f}, {measured['latency_high']:.3f}]{predicted}"
        + "".join(f", {one} {measured[one]:.4g}" for one in own if one in measured)
    )


def _count(optuna_study: optuna.Study, *states: TrialState) -> int:
    return len(optuna_study.get_trials(deepcopy=False, states=states))
