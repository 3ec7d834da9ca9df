"""Evaluators by name: those shipped, those of plugins, and those given from Python."""

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import torch

from ..data.image_data import ImageData
from ..data.image_files import Splits
from ..data.load import load_data
from ..devices import check_device
from ..errors import DefinitionError, did_you_mean
from ..plugins import EVALUATORS, find_plugin, find_plugins
from ..progress import say
from ..study.definitions import StudyDefinition
from ..study.evaluator_definition import EvaluatorDefinition
from ..study.space import SearchSpace
from ..training.distributed import use_own_device
from ..training.evaluator import Evaluator
from ..training.recipe import TrainingRecipe
from ..training.stand_alone import Finetune, Scratch
from ..training.supernet import Supernet
from ..words import counted

EvaluatorFactory = Callable[[StudyDefinition, SearchSpace, ImageData], Evaluator]
"""Creates an evaluator that is not prepared yet."""


def study_data(study: StudyDefinition) -> ImageData:
    """Load the data of a study.

    Raises:
        DataError: If they are missing, unknown or unfit.
    """
    root = None if study.data_root is None else Path(study.data_root)
    return load_data(study.data, study.backbone, study.image_size, Splits(**study.splits.model_dump()), root)


def use_device(study: StudyDefinition) -> None:
    """Check that the study's device is there, and use as many threads as it says.

    Raises:
        DefinitionError: If it is not there.
    """
    check_device(study.device)
    use_own_device(study.device)
    if study.threads is not None:
        torch.set_num_threads(study.threads)


def tell_if_busy() -> None:
    """Say it where other work holds the CPUs: the threads of an operation then mostly wait for each other."""
    threads, cpus = torch.get_num_threads(), os.cpu_count() or 1
    if threads > 1 and hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > cpus:
        say(
            f"Other work keeps the {counted(cpus, 'CPU')} busy (load {load:.1f}): with {threads} threads training may "
            "take many times as long as with --threads 1."
        )


_OF_TRAINING = {field.name for field in fields(TrainingRecipe)} & set(EvaluatorDefinition.model_fields)


def training_recipe(study: StudyDefinition, epochs: int | None = None) -> TrainingRecipe:
    """Return how the study's evaluator trains.

    Args:
        study: The study.
        epochs: Epochs in place of the study's.
    """
    settings = study.evaluator.model_dump(include=_OF_TRAINING)
    if settings["learning_rate"] is None:
        settings["learning_rate"] = 0.0005 if study.evaluator.name == "finetune" else 0.002
    return TrainingRecipe(
        **settings | {"epochs": epochs or settings["epochs"]}, workers=study.data_workers, seed=study.seed
    )


def create_supernet(study: StudyDefinition, space: SearchSpace, data: ImageData) -> Supernet:
    """Create the untrained network that holds every configuration of ``space``.

    Raises:
        DefinitionError: If the study's settings do not suit it.
    """
    definition, evaluator = space.definition, study.evaluator
    _check_settings(study, {"recalibration_images", "distillation", "patience"})
    if evaluator.compile:
        raise DefinitionError(
            "evaluator.compile is true: the supernet changes its blocks with every step, which no compiled network can"
        )
    return Supernet(
        study.backbone,
        space.widest_blocks(),
        definition.bias,
        data,
        training_recipe(study),
        study.device,
        evaluator.recalibration_images,
        evaluator.distillation,
        evaluator.patience,
    )


def create_scratch(study: StudyDefinition, space: SearchSpace, data: ImageData) -> Scratch:
    """Create the evaluator that trains each configuration from scratch.

    Raises:
        DefinitionError: If the study's settings do not suit it.
    """
    _check_settings(study, {"seeds", "halving"})
    evaluator = study.evaluator
    return Scratch(study.backbone, data, training_recipe(study), study.device, evaluator.seeds, evaluator.halving)


def create_finetune(study: StudyDefinition, space: SearchSpace, data: ImageData) -> Finetune:
    """Create the evaluator that trains each configuration from a common backbone.

    Raises:
        DefinitionError: If the study's settings do not suit it.
    """
    _check_settings(study, {"seeds", "halving", "pretrained"})
    evaluator = study.evaluator
    return Finetune(
        study.backbone,
        data,
        training_recipe(study),
        study.device,
        evaluator.seeds,
        evaluator.halving,
        evaluator.pretrained,
    )


def _check_settings(study: StudyDefinition, own: set[str]) -> None:
    """Refuse settings of other evaluators, which would have no effect."""
    given = study.evaluator.model_dump(exclude_defaults=True)
    foreign = given.keys() - _OF_TRAINING - own - {"name"}
    if foreign:
        raise DefinitionError(
            f"evaluator.{sorted(foreign)[0]} is set: {study.evaluator.name} has no such setting; "
            f"its own are {', '.join(sorted(own))}"
        )


SHIPPED_EVALUATORS: Mapping[str, EvaluatorFactory] = {
    "supernet": create_supernet,
    "finetune": create_finetune,
    "scratch": create_scratch,
}
"""Evaluators that travel with the package."""


def find_evaluator(name: str) -> EvaluatorFactory:
    """Return the shipped evaluator or the plugin of that name.

    Raises:
        DefinitionError: If there is none, or the plugin cannot be used.
    """
    plugin = find_plugin(EVALUATORS, name, SHIPPED_EVALUATORS)
    if plugin is not None:
        return plugin.load()
    if name not in SHIPPED_EVALUATORS:
        known = list(dict.fromkeys([*SHIPPED_EVALUATORS, *(one.name for one in find_plugins(EVALUATORS))]))
        raise DefinitionError(f"evaluator {name!r} is unknown: known are {', '.join(known)}{did_you_mean(name, known)}")
    return SHIPPED_EVALUATORS[name]
