"""The study loop: train the shared network once, then evaluate configurations until the budget is spent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import Trial, TrialState
from torch import nn

from ..errors import DefinitionError, EvaluationError
from ..evaluation.data import ImageData, load_data
from ..evaluation.latency import measure_latency
from ..evaluation.supernet import Supernet, TrainingSchedule
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.insertion import create_model
from ..network.overhead import added_parameters, backbone_parameters, flops_overhead, parameter_overhead
from ..network.se_block import hidden_channels
from ..progress import progress_bar, say
from .definitions import StudyDefinition
from .record import latency_size, record_start
from .results import pack_correct
from .run_folder import open_folder, read_definition
from .samplers import DistinctSampler, tried_structures
from .space import SearchSpace

_FAILURES_IN_A_ROW = 5


def run_search(study: StudyDefinition, folder: Path) -> None:
    """Search, or go on searching, until ``study.budget`` distinct configurations are complete in ``folder``.

    Afterwards the folder holds the study and the shared weights; :mod:`se_search.search.record` writes the tables.

    Args:
        study: A resolved study: its space is in it.
        folder: The run folder; created where it does not exist.

    Raises:
        SeSearchError: If something the user gave is wrong; nothing is written then.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _check_device(study.device)
    if study.threads is not None:
        torch.set_num_threads(study.threads)
    study = study.model_copy(update={"threads": torch.get_num_threads()})
    space = SearchSpace(study.backbone, study.resolved_space)
    data = load_data(study.data)
    network_options(study.backbone, data.input_size)
    network_options(study.backbone, latency_size(study, data))
    if len(data.train) < study.evaluator.recalibration_images:
        raise DefinitionError(
            f"evaluator.recalibration_images is {study.evaluator.recalibration_images}: "
            f"{data.name} has {len(data.train)} training images"
        )

    with open_folder(folder, study) as optuna_study:
        record_start(folder, study)
        supernet = create_supernet(study, space, data)
        supernet.train(folder, space.draw, space.largest(), progress_bar)
        _search(study, space, data, supernet, optuna_study)


def create_supernet(study: StudyDefinition, space: SearchSpace, data: ImageData) -> Supernet:
    """Create the untrained network that holds every configuration of ``space``."""
    definition, evaluator = space.definition, study.evaluator
    return Supernet(
        study.backbone,
        {site: hidden_channels(site.channels, min(definition.ratios), definition.rounding) for site in space.sites},
        definition.bias,
        data,
        TrainingSchedule(
            epochs=evaluator.epochs,
            batch=evaluator.batch,
            learning_rate=evaluator.learning_rate,
            weight_decay=evaluator.weight_decay,
            recalibration_images=evaluator.recalibration_images,
            seed=study.seed,
        ),
        study.device,
    )


def load_network(folder: Path, config: SEConfig) -> tuple[nn.Module, ImageData]:
    """Load the network of ``config`` with its slice of a run's shared weights, and the data it was trained on.

    Raises:
        RunFolderError: If the run has no trained weights or they are damaged.
    """
    study = read_definition(folder)
    data = load_data(study.data)
    supernet = create_supernet(study, SearchSpace(study.backbone, study.resolved_space), data)
    supernet.load(folder)
    return supernet.slice(config), data


def _search(
    study: StudyDefinition, space: SearchSpace, data: ImageData, supernet: Supernet, optuna_study: optuna.Study
) -> None:
    limit = study.constraints.max_params
    backbone = backbone_parameters(study.backbone)

    def is_allowed(config: SEConfig) -> bool:
        return limit is None or added_parameters(config) <= limit * backbone

    for killed in optuna_study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        optuna_study.tell(killed.number, state=TrialState.FAIL)  # its process was killed: this one holds the lock
    names = _enqueue_known_answers(space, is_allowed, optuna_study)
    optuna_study.sampler = sampler = DistinctSampler(space, study.sampler, study.seed, is_allowed)
    size = latency_size(study, data)
    options = network_options(study.backbone, size) | {"num_classes": data.classes}
    baseline = create_model(SEConfig(study.backbone), **options)

    failures = 0
    done = _complete(optuna_study)
    with progress_bar("Evaluating configurations", study.budget, min(done, study.budget)) as advance:
        while done < study.budget:
            waiting = optuna_study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting and sampler.is_exhausted(optuna_study):
                say(f"No new configuration is left within the limits: the search ends after {done} of {study.budget}.")
                return
            trial = optuna_study.ask(dict(space.distributions))
            config = space.to_config(trial.params)
            trial.set_user_attr("config", config.to_json())
            trial.set_user_attr("config_id", config.id)
            if config in names:
                trial.set_user_attr("name", names[config])
            try:
                trial.set_user_attr("se_blocks", space.count_blocks(config))
                values = _evaluate(study, config, size, options, supernet, baseline, trial)
            except Exception as error:  # whatever goes wrong in one trial must not end the search
                failures += 1
                trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:500])
                optuna_study.tell(trial, state=TrialState.FAIL)
                advance(0, f"trial {trial.number} failed: {type(error).__name__}: {error}")
                if failures == _FAILURES_IN_A_ROW:
                    raise EvaluationError(f"{failures} trials in a row failed, the last with: {error}") from error
                continue
            failures = 0
            optuna_study.tell(trial, values)
            done += 1
            advance(1, f"{done}/{study.budget} {_line(trial)}")


def _evaluate(
    study: StudyDefinition,
    config: SEConfig,
    size: tuple[int, int, int],
    options: dict[str, Any],
    supernet: Supernet,
    baseline: nn.Module,
    trial: Trial,
) -> list[float]:
    overhead = parameter_overhead(config)
    latency = measure_latency(
        create_model(config, **options),
        baseline,
        size,
        study.latency.batch,
        study.latency.pairs,
        study.device,
        seed=study.seed,
    )
    evaluation = supernet.evaluate(config)
    measured: dict[str, Any] = {
        "accuracy": evaluation.accuracy.value,
        "accuracy_low": evaluation.accuracy.low,
        "accuracy_high": evaluation.accuracy.high,
        "log_loss": evaluation.log_loss.value,
        "log_loss_low": evaluation.log_loss.low,
        "log_loss_high": evaluation.log_loss.high,
        "formula_parameters": overhead.formula,
        "counted_parameters": overhead.counted,
        "total_parameters": overhead.backbone + overhead.counted,
        "parameter_overhead": overhead.ratio,
        "flops_overhead": flops_overhead(config, size),
        "latency_ratio": latency.median,
        "latency_low": latency.low,
        "latency_high": latency.high,
        "latency_conditions": latency.conditions.to_dict(),
        "correct": pack_correct(evaluation.correct),
    }
    for name, value in measured.items():
        trial.set_user_attr(name, value)
    if study.constraints.max_params is not None:
        trial.set_constraint("max_params", overhead.ratio - study.constraints.max_params)
    if study.constraints.max_latency is not None:
        trial.set_constraint("max_latency", latency.median - study.constraints.max_latency)
    return [measured[name] for name in study.objectives]


def _enqueue_known_answers(
    space: SearchSpace, is_allowed: Callable[[SEConfig], bool], optuna_study: optuna.Study
) -> dict[SEConfig, str]:
    names = {config: name for name, config in space.known_answers().items()}
    tried = tried_structures(optuna_study, space)
    for config, name in names.items():
        if not is_allowed(config):
            say(f"{name} is left out: it exceeds --max-params.")
        elif config.structure not in tried:
            optuna_study.enqueue_trial(space.to_parameters(config))
    return names


def _line(trial: Trial) -> str:
    measured = trial.user_attrs
    name = f" ({measured['name']})" if "name" in measured else ""
    return (
        f"trial {trial.number}{name}: accuracy {measured['accuracy']:.1%} "
        f"[{measured['accuracy_low']:.1%}, {measured['accuracy_high']:.1%}], "
        f"parameters {measured['parameter_overhead']:+.2%}, latency ×{measured['latency_ratio']:.3f} "
        f"[{measured['latency_low']:.3f}, {measured['latency_high']:.3f}]"
    )


def _complete(optuna_study: optuna.Study) -> int:
    return len(optuna_study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _check_device(device: str) -> None:
    if device.startswith("cuda"):
        index = int(device.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise DefinitionError(
                f"--device {device!r} is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices"
            )
