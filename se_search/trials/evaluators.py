"""Find evaluators by name, and load what they need: data, device and training recipe."""

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch

from ..data.folders import Splits
from ..data.image_data import ImageData
from ..data.load import EMBEDDED, load_data
from ..devices import check_device
from ..errors import DefinitionError, as_given, did_you_mean
from ..plugins import EVALUATORS, find_plugin, find_plugins
from ..progress import say
from ..study.definitions import StudyDefinition
from ..study.evaluator_definition import SHIPPED_EVALUATORS, EvaluatorDefinition
from ..study.space import SearchSpace
from ..training.distributed import use_own_device
from ..training.evaluator import Evaluator
from ..training.recipe import TrainingRecipe
from ..words import counted

_MOST_LOADERS = 16

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


def choose_device(definition: StudyDefinition, there: StudyDefinition | None) -> StudyDefinition:
    """Return a study whose device and number of processes that load images are explicit.

    ``there`` is the study of the run folder, if it has one: its device stays, also where another machine has a GPU.
    """
    device, workers = definition.device, definition.data_workers
    if device == "auto":
        device = there.device if there is not None else "cuda" if torch.cuda.is_available() else "cpu"
    if workers is None:
        in_memory = definition.data in EMBEDDED
        workers = 0 if in_memory or device == "cpu" else min(_MOST_LOADERS, os.cpu_count() or 1)
    return definition.model_copy(update={"device": device, "data_workers": workers})


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
