"""Analysis of excitation in a trial, an exported folder, a timm architecture or a given network."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import timm
from torch import nn

from ..data.image_data import ImageData
from ..data.load import EMBEDDED, load_data
from ..errors import ConfigurationError, DataError, RunFolderError, as_given, did_you_mean
from ..excitation.analysis import SHOWN_CHANNELS, analyze_gates
from ..export.loading import load_exported
from ..files import refusing_unwritable, write_text
from ..network.backbones import default_input_size, network_options
from ..network.config import SEConfig
from ..progress import progress_bar
from ..report.excitation_page import render_excitation
from ..results.excitation import analysis_folder
from ..training.pretrained import check_pretrained, load_pretrained
from ..training.recipe import TrainingRecipe
from ..trials.evaluators import training_recipe
from ..trials.folder import ANALYSIS_FILE, EXCITATION, PAGE_FILE, STUDY_FILE, read_definition
from ..words import by
from .run import Run, load_run

_ANOTHER = ": choose another folder with --to"


@dataclass(frozen=True)
class Excitation:
    """An analysis of the role of excitation: the content of ``excitation.json``, and its folder."""

    folder: Path
    analysis: dict[str, Any] = field(repr=False)

    @property
    def page(self) -> Path:
        """Path of the HTML page."""
        return self.folder / PAGE_FILE


def analyze_excitation(  # noqa: PLR0913
    model: str | os.PathLike[str] | Run | nn.Module,
    data: str | ImageData | None = None,
    *,
    pick: str | None = None,
    trial: int | None = None,
    verified: bool = False,
    pretrained: str | None = None,
    classes: Sequence[str | int] | None = None,
    channels: int = SHOWN_CHANNELS,
    images: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    to: str | os.PathLike[str] | None = None,
) -> Excitation:
    """Analyse the role of excitation in a trained network, as ``se-search excitation`` does.

    A trial with the search's weights is analysed on the run's validation images, everything else on test images. All
    arguments but the first two are independent options.

    Args:
        model: A run folder, an exported folder, a timm architecture name, or a network.
        data: Images of the network's classes, named as in a study; by default those of the run.
        pick: For a run, as in :meth:`Run.config`; ``"knee"`` by default.
        trial: For a run, as in :meth:`Run.config`.
        verified: For a run, use the weights of the longest verification instead of the search's.
        pretrained: Weights of a timm architecture: ``"timm"``, ``"local-dir:FOLDER"`` or the path of a checkpoint.
        classes: Names or indices of the classes to show; by default the four that differ most.
        channels: Number of channels to show per block.
        images: Number of images to analyse, drawn at random; by default all.
        seed: Seed of the draw.
        device: A torch device.
        to: Output folder. The default is ``excitation/trial-N`` in the run folder for a run on its own data; in the
            current directory, ``excitation/RUN-trial-N-DATA`` for a run on other data, and otherwise
            ``excitation/NAME``.

    Raises:
        SeSearchError: If an argument is invalid or the network has no SE block. Nothing is written.
    """
    found = _find_network(model, data, pick, trial, verified, pretrained)
    target = Path(to) if to is not None else found.folder
    with _created_folder(target):
        analysis = analyze_gates(
            found.network,
            found.data,
            found.split,
            classes=classes,
            channels=channels,
            images=images,
            seed=seed,
            device=device,
            recipe=found.recipe,
            progress_bar=progress_bar,
        )
        analysis |= {"model": found.name, "backbone": found.backbone or analysis["backbone"], "source": found.source}
        # All slow steps precede the first write, so that an interruption leaves no partial result.
        text, page = json.dumps(analysis, indent=2, allow_nan=False), render_excitation(analysis)
        with refusing_unwritable(target, _ANOTHER):
            write_text(target / ANALYSIS_FILE, text)
            write_text(target / PAGE_FILE, page)
    return Excitation(target, analysis)


@contextmanager
def _created_folder(target: Path) -> Iterator[None]:
    """Create a writable folder; remove the new folders if the body fails before it writes."""
    if any(parent.exists() and not parent.is_dir() for parent in (target, *target.parents)):
        raise RunFolderError(f"{target} is not a folder: choose another with --to")
    new = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        with refusing_unwritable(target, _ANOTHER):
            target.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=target).close()
        yield
    except BaseException:
        with suppress(OSError):  # keep folders that are not empty
            for folder in new:
                folder.rmdir()
        raise


@dataclass(frozen=True)
class _Network:
    """A network to analyse, with images of its classes and a split that it was not trained on."""

    network: nn.Module
    data: ImageData
    split: Literal["validation", "test"]
    name: str
    source: str  # in words
    folder: Path  # default output folder
    backbone: str | None = None
    recipe: TrainingRecipe | None = None


def _find_network(
    model: str | os.PathLike[str] | Run | nn.Module,
    data: str | ImageData | None,
    pick: str | None,
    trial: int | None,
    verified: bool,
    pretrained: str | None,
) -> _Network:
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
        return _Network(model, _images(data, kind, size), "test", kind, f"a {kind}", Path(EXCITATION) / kind)
    if Path(model).is_dir():
        return _exported(Path(model), data)
    return _architecture(os.fspath(model), data, pretrained)


def _exported(folder: Path, data: str | ImageData | None) -> _Network:
    network = load_exported(folder)
    config = getattr(network, "se_config", None)
    published: Any = network.pretrained_cfg
    backbone = config.backbone if isinstance(config, SEConfig) else str(published["architecture"])
    taken = default_input_size(network)
    images = _images(data, backbone, taken[1])
    if images.input_size != taken:
        raise DataError(f"{folder} takes images of {by(taken)}, and {images.name} has {by(images.input_size)}")
    called = folder.resolve().name
    return _Network(network, images, "test", called, f"exported folder {called}", Path(EXCITATION) / called, backbone)


def _architecture(name: str, data: str | ImageData | None, pretrained: str | None) -> _Network:
    if not timm.is_model(name):
        raise ConfigurationError(
            f"model {name!r} is neither a run folder, an exported folder nor a timm architecture"
            f"{did_you_mean(name, timm.list_models())}"
        )
    if pretrained is None:
        raise ConfigurationError(
            f"{name} needs trained weights: give {as_given('pretrained')} timm, local-dir:FOLDER or a checkpoint"
        )
    check_pretrained(pretrained)
    images = _images(data, name, None)
    network = load_pretrained(name, pretrained, network_options(name, images.input_size))
    source = f"timm's {name}, weights {pretrained}"
    return _Network(network, images, "test", name, source, Path(EXCITATION) / name, name)


def _member(run: Run, data: str | ImageData | None, pick: str, trial: int | None, verified: bool) -> _Network:
    number, _ = run.config(pick, trial)
    network, images = run.load(trial=number, verified=verified)
    definition = read_definition(run.folder)
    name, folder = run.folder.resolve().name, analysis_folder(run.folder, number, verified)
    own = data is None or data == definition.data
    if not own:
        images = _images(data, definition.backbone, definition.image_size)
        folder = Path(EXCITATION) / f"{name}-{folder.name}-{Path(images.name).resolve().name}"
    return _Network(
        network,
        images,
        "validation" if own and not verified else "test",
        f"{name}, trial {number}{', verified' if verified else ''}",
        f"trial {number} of run {name}, weights of {'its verification' if verified else 'the search'}",
        folder,
        definition.backbone,
        training_recipe(definition),
    )


def _images(data: str | ImageData | None, backbone: str, size: int | None) -> ImageData:
    if data is None:
        raise DataError(
            f"{as_given('data')} is missing: give images of the network's classes, such as digits or a folder"
        )
    if isinstance(data, ImageData):
        return data
    return load_data(data, backbone, None if data in EMBEDDED else size)
