"""Trained networks that commands work on: a trial, an exported folder, a timm architecture or a given network."""

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
from torch import nn

from ..data.image_data import ImageData
from ..data.load import EMBEDDED, is_folder_name, load_data
from ..errors import ConfigurationError, DataError, as_given, did_you_mean
from ..export.loading import load_exported
from ..network.backbones import default_input_size, network_options
from ..network.config import SEConfig
from ..results.excitation import analysis_folder
from ..training.pretrained import check_pretrained, load_pretrained
from ..training.recipe import TrainingRecipe
from ..trials.evaluators import study_data, training_recipe
from ..trials.folder import EXCITATION, STUDY_FILE, load_trials, read_definition
from ..trials.images import located
from ..trials.notes import compare_data, describe_data
from ..words import by
from .run import Run, load_run


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network, with images of its classes and a split that it was not trained on.

    ``source`` names it in words, and ``folder`` is the default folder of its analysis.
    """

    network: nn.Module
    data: ImageData
    split: Literal["validation", "test"]
    name: str
    source: str
    folder: Path
    backbone: str | None = None
    recipe: TrainingRecipe | None = None


def find_network(
    model: str | os.PathLike[str] | Run | nn.Module,
    data: str | ImageData | None,
    pick: str | None,
    trial: int | None,
    verified: bool,
    pretrained: str | None,
) -> TrainedNetwork:
    """Find a trained network and its images; the arguments are those of :func:`se_search.analyze_excitation`.

    Raises:
        SeSearchError: If an argument is invalid or missing.
    """
    if not isinstance(model, Run | nn.Module) and (Path(model) / STUDY_FILE).is_file():
        model = load_run(model)
    called = type(model).__name__ if isinstance(model, nn.Module) else str(getattr(model, "folder", model))
    if pretrained is not None and (isinstance(model, Run | nn.Module) or Path(model).is_dir()):
        raise ConfigurationError(
            f"{as_given('pretrained')} is for timm architectures, and {called} has its own weights: omit "
            f"{as_given('pretrained')}"
        )
    if isinstance(model, Run):
        return _member(model, data, pick or "knee", trial, verified)
    for option, given in (("pick", pick is not None), ("trial", trial is not None), ("verified", verified)):
        if given:
            raise ConfigurationError(f"{as_given(option)} requires a run folder, and {called} is not one: omit it")
    if isinstance(model, nn.Module):
        kind = type(model).__name__
        size = default_input_size(model)[1]
        return TrainedNetwork(model, _images(data, kind, size), "test", kind, f"a {kind}", Path(EXCITATION) / kind)
    if Path(model).is_dir():
        return _exported(Path(model), data)
    return _architecture(os.fspath(model), data, pretrained)


def _exported(folder: Path, data: str | ImageData | None) -> TrainedNetwork:
    network = load_exported(folder)
    config = getattr(network, "se_config", None)
    published: Any = network.pretrained_cfg
    backbone = config.backbone if isinstance(config, SEConfig) else str(published["architecture"])
    taken = default_input_size(network)
    images = _images(data, backbone, taken[1])
    if images.input_size != taken:
        raise DataError(f"{folder} takes images of {by(taken)}, and {images.name} has {by(images.input_size)}")
    called = folder.resolve().name
    return TrainedNetwork(
        network, images, "test", called, f"exported folder {called}", Path(EXCITATION) / called, backbone
    )


def _architecture(name: str, data: str | ImageData | None, pretrained: str | None) -> TrainedNetwork:
    if not timm.is_model(name):
        raise ConfigurationError(
            f"model {name!r} is neither a run folder, an exported folder nor a timm architecture"
            f"{did_you_mean(name, timm.list_models())}"
        )
    if pretrained is None:
        raise ConfigurationError(
            f"{name} needs trained weights: give {as_given('pretrained')} timm, local-dir:FOLDER, hf-hub:NAME or a "
            "checkpoint"
        )
    check_pretrained(pretrained)
    images = _images(data, name, None)
    network = load_pretrained(name, pretrained, network_options(name, images.input_size))
    source = f"timm's {name}, weights {pretrained}"
    return TrainedNetwork(network, images, "test", name, source, Path(EXCITATION) / name, name)


def _member(run: Run, data: str | ImageData | None, pick: str, trial: int | None, verified: bool) -> TrainedNetwork:
    number = run.number(pick, trial)
    moved = data if isinstance(data, str) and _are_same(run, data) else None
    network, images = run.load(trial=number, verified=verified, data=moved)
    definition = read_definition(run.folder)
    name, folder = run.folder.resolve().name, analysis_folder(run.folder, number, verified)
    own = data is None or data == definition.data or moved is not None
    if not own:
        images = _images(data, definition.backbone, definition.image_size)
        folder = Path(EXCITATION) / f"{name}-{folder.name}-{Path(images.name).resolve().name}"
    return TrainedNetwork(
        network,
        images,
        "validation" if own and not verified else "test",
        f"{name}, trial {number}{', verified' if verified else ''}",
        f"trial {number} of run {name}, weights of {'its verification' if verified else 'the search'}",
        folder,
        definition.backbone,
        training_recipe(definition),
    )


def _are_same(run: Run, data: str) -> bool:
    """Whether a folder holds the images of a run."""
    definition = read_definition(run.folder)
    if not (is_folder_name(data) and is_folder_name(definition.data)):
        return False
    with closing(load_trials(run.folder)) as study:
        known = study.user_attrs.get("data")
    return not compare_data(known, describe_data(study_data(located(definition, data))))


def _images(data: str | ImageData | None, backbone: str, size: int | None) -> ImageData:
    if data is None:
        raise DataError(
            f"{as_given('data')} is missing: give images of the network's classes, such as digits or a folder"
        )
    if isinstance(data, ImageData):
        return data
    return load_data(data, backbone, None if data in EMBEDDED else size)
