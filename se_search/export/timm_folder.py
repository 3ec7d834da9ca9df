"""Export a network as a folder that ``timm.create_model`` loads."""

import copy
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models._hub import save_config_for_hf  # timm.models does not export it
from torch import nn

from .. import __version__
from ..errors import ConfigurationError, ExportError, RunFolderError, as_given
from ..files import digest_of, draft_beside, move_into_place, refusing_unwritable
from ..network.backbones import copy_network, default_input_size
from ..network.config import SEConfig
from ..network.insertion import create_model_on_meta, write_weights
from ..words import counted
from .card import Files, Origin, render_card, unknown_origin
from .formats import FORMATS, ExportedNetwork, choose_formats
from .hub import check_upload, upload
from .loading import CONFIG, RECORD, WEIGHTS, is_export, recorded_formats
from .registry import se_search
from .twin import bare_arguments, find_twin, load_twin, outputs

_CARD = "README.md"
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")  # timm's

# Entries that describe timm's published weights, not the exported ones.
_NOT_THE_BACKBONES = (
    "tag",
    "license",
    "origin_url",
    "paper_name",
    "paper_ids",
    "notes",
    "test_input_size",
    "test_crop_pct",
    "test_pool_size",
    "label_names",
    "label_descriptions",
)


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        folder: The folder.
        files: Names of its files; names of folders written by plugins end in ``/``.
        timm_architecture: timm's own architecture that is the same network; ``None`` if there is none.
        repository: Hub repository that the folder was uploaded to; ``None`` if it was not.
        trial: Number of the exported trial; ``None`` for a network outside a run.
        weights: Sentences on how the trial's weights were trained; empty for a network outside a run.
        remark: A sentence on a network of a run without attention; else empty.
    """

    folder: Path
    files: tuple[str, ...]
    timm_architecture: str | None = None
    repository: str | None = None
    trial: int | None = None
    weights: str = ""
    remark: str = ""


def _own_files() -> tuple[str, ...]:
    """Names of all files that an export may write, outside folders of plugins."""
    return (CONFIG, WEIGHTS, _CARD, *(file for one in FORMATS.values() for file in one.files))


def check_target(folder: Path) -> None:
    """Check, without writing, that ``folder`` is new, empty or an earlier export.

    Raises:
        RunFolderError: If it is not.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is not a folder: choose another with --to")
    entries = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    others = [name for name in entries if name not in (*_own_files(), *recorded_formats(folder))]
    if others:
        raise RunFolderError(f"{folder} contains other files ({others[0]}): choose another folder with --to")
    if entries and not is_export(folder):
        raise RunFolderError(
            f"{folder} contains {entries[0]}, which was not created by se-search: choose another folder with --to"
        )


def export_timm(  # noqa: PLR0913
    model: nn.Module,
    folder: str | os.PathLike[str],
    input_size: tuple[int, int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    description: str = "",
    *,
    label_names: Sequence[str] | None = None,
    origin: Origin | None = None,
    formats: Sequence[str] = (),
    plain: bool = False,
    optimized: bool = False,
    push_to_hub: str | None = None,
    **flags: bool,
) -> Exported:
    """Write ``config.json``, ``model.safetensors`` and a model card, for ``timm.create_model("local-dir:FOLDER")``.

    The loading process must first ``import se_search``, which registers the architecture. Files are moved into place
    only when all are complete. There are many parameters because ``input_size`` to ``crop_mode`` are timm's, by its
    names.

    Args:
        model: A network from :func:`se_search.create_model` or :func:`se_search.insert`.
        folder: Output folder: new, empty or an earlier export.
        input_size: ``(channels, height, width)`` of the images that the weights expect.
        mean: Mean of each channel, subtracted from images with values from 0 to 1.
        std: Standard deviation of each channel.
        interpolation: timm's name of the interpolation for resizing, such as ``"bicubic"``.
        crop_pct: Share of the resized image's side that is kept; 1 if an input size is given.
        crop_mode: timm's name of the crop, such as ``"center"``.
        description: Description of the weights.
        label_names: Names of the classes, in the order of the outputs.
        origin: Origin of the weights; ``description`` by default.
        formats: Also write these formats: ``"standalone"`` (``model.py``, which builds the network without se_search),
            ``"onnx"``, ``"pt2"``, ``"openvino"``, or a plugin's, which writes into a subfolder of its name.
        plain: Write the folder for timm's own architecture that is the same network, so that loading needs only timm.
        optimized: Write ``onnx``, ``pt2`` and ``openvino`` from the output of
            :func:`se_search.optimize_for_inference`; ``pt2`` if none of them is requested.
        push_to_hub: Also upload the folder to this repository, ``OWNER/NAME``.
        **flags: ``onnx=True`` is the same as ``formats=("onnx",)``, likewise for the other shipped formats.

    Raises:
        ConfigurationError: If the model was not created by this package.
        ExportError: If the network cannot be exported in the requested formats, or the upload fails.
        RunFolderError: If the folder contains other files or is not writable.
    """
    config = getattr(model, "se_config", None)
    if not isinstance(config, SEConfig):
        raise ConfigurationError(f"this {type(model).__name__} has no SE configuration: create it with create_model")
    target = Path(folder)
    check_target(target)
    chosen = choose_formats(formats, flags, optimized)
    if push_to_hub is not None:
        check_upload(push_to_hub)
    if label_names is not None and len(label_names) != model.num_classes:
        raise ExportError(f"{len(label_names)} class names are given for a network with {model.num_classes} classes")
    _check_architecture(model, config)
    size = input_size or default_input_size(model)
    data = {
        "input_size": input_size,
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
        "crop_pct": crop_pct or (1.0 if input_size else None),
        "crop_mode": crop_mode,
    }
    _check_data(size[0], data)
    model = copy_network(model).eval()
    single = copy.deepcopy(model).cpu().float()
    twin = find_twin(single, config.backbone, size)
    if plain and twin is None:
        raise ExportError(
            f"{as_given('plain')} is not possible because no timm architecture equals {config.backbone} with these "
            f"SE blocks: use {as_given('standalone')} to write a file that builds it without se_search"
        )
    network = ExportedNetwork(model, single, config, size, optimized)
    folders = tuple(one.files[0] for one in chosen if one.files[0].endswith("/"))
    extra = tuple(one.files[0] for one in chosen if one.files[0] not in folders)
    plugins = [name.rstrip("/") for name in folders]
    with refusing_unwritable(target, ": choose another folder with --to"), draft_beside(target) as draft:
        write_weights(model, draft / WEIGHTS)
        written = _write_config(
            load_twin(twin, model) if plain and twin else model,
            twin if plain and twin else se_search.__name__,
            {} if plain else {"se_config": config.to_dict()},
            draft,
            data,
            description,
            label_names,
            plugins,
        )
        if plain:
            loaded = timm.create_model(f"local-dir:{draft}", pretrained=True).eval()
            if not outputs(loaded, size).equal(outputs(single, size)):
                raise ExportError(
                    f"{as_given('plain')} is not possible because timm's {type(loaded).__name__} has other outputs "
                    "with these weights"
                )
        source = f"hf-hub:{push_to_hub}" if push_to_hub else f"local-dir:{target.absolute().name}"
        card = render_card(
            config,
            origin or unknown_origin(model, description),
            Files(source, twin, plain, extra, folders, optimized),
            f"{target.absolute().name}: {config.backbone} with "
            f"{counted(config.block_count, f'{config.attention} block')}",
            written["pretrained_cfg"],
            label_names,
        )
        (draft / _CARD).write_text(card, encoding="utf-8")
        for one in chosen:
            one.write(network, draft)
        files = tuple(name for name in _own_files() if (draft / name).exists())
        earlier = recorded_formats(target)
        target.mkdir(parents=True, exist_ok=True)
        # The configuration first, so that an interrupted export is still recognised as one.
        for name in files:
            move_into_place(draft / name, target / name)
        for name in set(_own_files()).difference(files):
            (target / name).unlink(missing_ok=True)
        for name in {*earlier, *plugins}:
            shutil.rmtree(target / name, ignore_errors=True)
        for name in plugins:
            (draft / name).rename(target / name)
    if push_to_hub is not None:
        upload(target, push_to_hub, [*files, *(f"{name}*" for name in folders)])
    return Exported(target, (*files, *folders), twin, push_to_hub)


def _write_config(
    model: nn.Module,
    architecture: str,
    arguments: dict[str, Any],
    folder: Path,
    data: dict[str, Any],
    description: str,
    label_names: Sequence[str] | None,
    formats: list[str],
) -> dict[str, Any]:
    """Write ``config.json`` beside the weights, and return its content."""
    published: dict[str, Any] = dict.fromkeys(_NOT_THE_BACKBONES)
    published |= {"architecture": architecture, "description": description or None}
    file = folder / CONFIG
    try:
        save_config_for_hf(
            model,
            str(file),
            model_config={"pretrained_cfg": published, "label_names": label_names and list(label_names)},
            model_args=arguments,
            data_config={key: value for key, value in data.items() if value is not None},
        )
    except (TypeError, ValueError) as error:  # a network argument that JSON cannot represent
        raise ExportError(f"this {type(model).__name__} cannot be exported as a timm folder: {error}") from error
    written: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    written["pretrained_cfg"] = {
        key: value
        for key, value in written["pretrained_cfg"].items()
        if value is not None or key not in (*_NOT_THE_BACKBONES, "description")
    }
    written[RECORD] = {"version": __version__, "weights_sha256": digest_of(folder / WEIGHTS), "formats": formats}
    file.write_text(json.dumps(written, indent=2), encoding="utf-8")
    return written


def _check_architecture(model: nn.Module, config: SEConfig) -> None:
    """Check that ``config`` builds a network with the parameters of ``model``, as loading requires."""
    try:
        built = create_model_on_meta(config, **bare_arguments(model))
    except (TypeError, RuntimeError) as error:
        raise ExportError(f"{config.backbone} cannot be created with this network's arguments: {error}") from error
    here, there = ({key: value.shape for key, value in one.state_dict().items()} for one in (model, built))
    different = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    if different:
        raise ExportError(
            f"this {type(model).__name__} is not {config.backbone} with the attention blocks of its configuration: "
            f"{different[0]} differs"
        )


def _check_data(channels: int, data: Mapping[str, Any]) -> None:
    """Check the image preprocessing, because timm does not."""
    for name in ("mean", "std"):
        if data[name] is not None and len(data[name]) != channels:
            raise ExportError(f"{name} has {counted(len(data[name]), 'value')} for images with {channels} channels")
    share = data["crop_pct"]
    if share is not None and not (isinstance(share, (int, float)) and 0 < share <= 1):
        raise ExportError(f"crop_pct is {share!r}: it must be above 0 and at most 1")
    interpolation = data["interpolation"]
    if interpolation is not None and interpolation not in _INTERPOLATIONS:
        raise ExportError(f"interpolation {interpolation!r} is unknown: choose one of {', '.join(_INTERPOLATIONS)}")
