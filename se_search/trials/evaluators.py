"""Find evaluators by name, and load what they need: data, device and training recipe."""

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from ..data.folders import Splits
from ..data.image_data import ImageData
from ..data.load import EMBEDDED, load_data
from ..devices import check_device
from ..errors import DefinitionError, as_given, did_you_mean
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.insertion import create_model
from ..plugins import EVALUATORS, find_plugin, find_plugins
from ..progress import say
from ..study.definitions import StudyDefinition
from ..study.evaluator_definition import SHIPPED_EVALUATORS, EvaluatorDefinition
from ..study.space import SearchSpace
from ..training.distributed import size, use_own_device
from ..training.evaluator import Evaluator
from ..training.recipe import Training, TrainingRecipe, classification_losses
from ..words import counted

_MOST_LOADERS = 16
_WORTH_A_CHANGE = 0.95

EvaluatorFactory = Callable[[StudyDefinition, SearchSpace, ImageData], Evaluator]
"""Creates an unprepared evaluator."""


def study_data(definition: StudyDefinition) -> ImageData:
    """Load the data of a study.

    Raises:
        DataError: If the data are missing, unknown or unsuitable.
    """
    root = None if definition.data_root is None else Path(definition.data_root)
    splits = Splits(**definition.splits.model_dump())
    return load_data(definition.data, definition.backbone, definition.image_size, splits, root)


def choose_device(definition: StudyDefinition) -> StudyDefinition:
    """Return a study whose device and number of processes that load images are explicit."""
    device, workers = definition.device, definition.data_workers
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if workers is None:
        in_memory = definition.data in EMBEDDED
        workers = 0 if in_memory or device == "cpu" else min(_MOST_LOADERS, os.cpu_count() or 1)
    return definition.model_copy(update={"device": device, "data_workers": workers})


@dataclass(frozen=True)
class TrainingSpeed:
    """Duration of a training step of the backbone (s) in a precision and memory format."""

    precision: str
    channels_last: bool
    seconds: float


def choose_training(definition: StudyDefinition, data: ImageData) -> tuple[StudyDefinition, tuple[TrainingSpeed, ...]]:
    """Return a study whose precision and memory format are explicit, and what they were chosen from.

    What is ``"auto"`` becomes what is fastest in a few training steps of the backbone, if it saves at least 5 % of
    their time. The choice depends on the machine and on what else it does.

    Raises:
        DefinitionError: If there is a choice and torchrun has started several processes, which must not differ.
        EvaluationError: If a step fails.
    """
    given = definition.evaluator
    precisions = [given.precision] if given.precision != "auto" else _precisions_of(definition.device)
    formats = [given.channels_last] if given.channels_last != "auto" else [False, True]
    candidates = list(itertools.product(precisions, formats))
    speeds: list[TrainingSpeed] = []
    if len(candidates) > 1:
        if size() > 1:
            raise DefinitionError(
                f"precision and channels_last cannot be auto under torchrun, because each of its {size()} processes "
                "would choose for itself: give explicit values"
            )
        options = network_options(definition.backbone, data.input_size) | {"num_classes": data.classes}
        for precision, channels_last in candidates:
            recipe = replace(
                training_recipe(definition), precision=precision, channels_last=channels_last, compile=False
            )
            training = Training(create_model(SEConfig(definition.backbone), **options), recipe, data, definition.device)
            seconds = training.time_steps(classification_losses(training.model, recipe)).usual
            speeds.append(TrainingSpeed(precision, channels_last, seconds))
        usual, *others = speeds
        best = min(others, key=lambda one: one.seconds)
        best = best if best.seconds <= _WORTH_A_CHANGE * usual.seconds else usual
        candidates = [(best.precision, best.channels_last)]
    precision, channels_last = candidates[0]
    chosen = given.model_copy(update={"precision": precision, "channels_last": channels_last})
    return definition.model_copy(update={"evaluator": chosen}), tuple(speeds)


def _precisions_of(device: str) -> list[str]:
    has_bfloat16 = device == "cpu" or torch.cuda.is_bf16_supported()
    return ["float32", "bfloat16"] if has_bfloat16 else ["float32"]


def use_device(definition: StudyDefinition) -> None:
    """Select the study's device and set its number of threads.

    Raises:
        DefinitionError: If PyTorch does not see the device.
    """
    check_device(definition.device)
    use_own_device(definition.device)
    if definition.threads is not None:
        torch.set_num_threads(definition.threads)


def warn_if_busy() -> None:
    """Warn if other processes use all CPUs: the threads of an operation then mostly wait for each other."""
    threads, cpus = torch.get_num_threads(), os.cpu_count() or 1
    if threads > 1 and hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > cpus:
        say(
            f"Other processes keep the {counted(cpus, 'CPU')} busy (load {load:.1f}): training with {threads} threads "
            f"can take many times as long as with {as_given('threads')} 1."
        )


_TRAINING_SETTINGS = {field.name for field in fields(TrainingRecipe)} & set(EvaluatorDefinition.model_fields)


def training_recipe(definition: StudyDefinition, epochs: int | None = None) -> TrainingRecipe:
    """Return the training recipe of the study's evaluator; ``epochs`` replaces the study's."""
    settings = definition.evaluator.model_dump(include=_TRAINING_SETTINGS)
    settings["epochs"] = epochs or settings["epochs"]
    return TrainingRecipe(**settings, workers=definition.data_workers or 0, seed=definition.seed)


def create_shipped(definition: StudyDefinition, space: SearchSpace, data: ImageData) -> Evaluator:
    """Create the study's evaluator, which is shipped with the package."""
    return definition.evaluator.create(definition, space, data, training_recipe(definition))


def find_evaluator(name: str) -> EvaluatorFactory:
    """Return the shipped evaluator or the plugin of that name.

    Raises:
        DefinitionError: If the name is unknown or the plugin cannot be loaded.
    """
    plugin = find_plugin(EVALUATORS, name, SHIPPED_EVALUATORS)
    if plugin is not None:
        return plugin.load()
    if name not in SHIPPED_EVALUATORS:
        known = list(dict.fromkeys([*SHIPPED_EVALUATORS, *(one.name for one in find_plugins(EVALUATORS))]))
        raise DefinitionError(f"evaluator {name!r} is unknown: known are {', '.join(known)}{did_you_mean(name, known)}")
    return create_shipped
