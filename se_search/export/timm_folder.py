"""Writing a searched network as a folder that ``timm.create_model`` loads."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf  # timm.models leaves it out of its names
from torch import nn

from ..errors import ConfigurationError, RunFolderError
from ..files import move_into_place
from ..network.config import SEConfig
from ..network.insertion import whole_state
from .registry import se_search

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_FILES = (_WEIGHTS, _CONFIG)

# What timm publishes about the backbone's own weights, which the exported weights are not.
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


def check_target(folder: Path) -> None:
    """Check, without writing, that an export may go to ``folder``: it is new, empty or holds an earlier export.

    Raises:
        RunFolderError: If it is anything else.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is not a folder: choose another with --to")
    if folder.is_dir():
        others = sorted(entry.name for entry in folder.iterdir() if entry.name not in _FILES)
        if others:
            raise RunFolderError(f"{folder} holds other files ({others[0]}): choose another folder with --to")


def export_timm(
    model: nn.Module,
    folder: str | os.PathLike[str],
    input_size: tuple[int, int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    description: str = "",
) -> None:
    """Write ``config.json`` and ``model.safetensors``, which ``timm.create_model("local-dir:FOLDER")`` loads.

    The loading process must ``import se_search`` first: it registers the architecture. Both files are complete before
    either is moved into place.

    Args:
        model: A network from :func:`se_search.create_model` or :func:`se_search.insert`.
        folder: Where to write; created where it does not exist.
        input_size: ``(channels, height, width)`` of the images that the weights expect.
        mean: Mean that is subtracted from images with values from 0 to 1, for each channel.
        std: Standard deviation that is divided by, for each channel.
        interpolation: How images are resized, in timm's words, such as ``"bicubic"``.
        description: What the weights are.

    Raises:
        ConfigurationError: If nothing was inserted into the model by this package.
        RunFolderError: If the folder holds other files or cannot be written.
    """
    config = getattr(model, "se_config", None)
    if not isinstance(config, SEConfig):
        raise ConfigurationError(f"this {type(model).__name__} holds no SE configuration: create it with create_model")
    target = Path(folder)
    check_target(target)
    published: dict[str, Any] = dict.fromkeys(_NOT_THE_BACKBONES)
    published |= {"architecture": se_search.__name__, "description": description}
    data = {
        "input_size": input_size,
        "mean": mean,
        "std": std,
        "interpolation": interpolation,
        "crop_pct": 1.0 if input_size else None,
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
            save_config_for_hf(
                model,
                Path(temporary, _CONFIG),
                model_config={"pretrained_cfg": published},
                model_args={"se_config": config.to_dict()},
                data_config={key: value for key, value in data.items() if value is not None},
            )
            save_file(whole_state(model), Path(temporary, _WEIGHTS))
            for name in _FILES:
                move_into_place(Path(temporary, name), target / name)
    except OSError as error:
        raise RunFolderError(
            f"{target} cannot be written ({error.strerror}): choose another folder with --to"
        ) from error
