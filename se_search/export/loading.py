"""Read exported folders as untrusted input."""

import json
import os
from pathlib import Path
from typing import Any

import timm
from torch import nn

from ..errors import ExportError, SeSearchError
from ..files import digest_of, is_name, read_json, read_text
from ..network.config import SEConfig
from .registry import NOT_FOR_NETWORKS, se_search

CONFIG, WEIGHTS = "config.json", "model.safetensors"

RECORD = "se_search"
"""Key of ``config.json`` that marks a folder as an export; timm ignores it."""

_ELSEWHERE = ("file", "url", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "custom_load")
"""Keys of ``pretrained_cfg`` that make timm load weights from outside the folder, or by other code."""


def load_exported(folder: str | os.PathLike[str], **timm_kwargs: Any) -> nn.Module:
    """Load an exported folder after verifying that everything to load is inside it and unchanged.

    The weights must have the SHA-256 in ``config.json``. This detects damaged and exchanged files. It is not a
    signature: whoever can change one file can change both.

    Args:
        folder: A folder written by :func:`export_timm`.
        **timm_kwargs: Passed to ``timm.create_model``, such as ``num_classes`` or ``features_only``.

    Returns:
        The network, in evaluation mode.

    Raises:
        ExportError: If the folder is not an export, is damaged, or refers to files outside.
        ConfigurationError: If its configuration is invalid or does not fit its backbone.
    """
    target = Path(folder)
    config = _read_config(target)
    _check_config(target, config)
    weights = target / WEIGHTS
    if not weights.is_file():
        others = sorted(path.name for path in target.iterdir() if path.suffix in (".bin", ".pth", ".pt", ".ckpt"))
        instead = f"; {others[0]} may hold a pickle, which is not loaded" if others else ""
        raise ExportError(f"{target} has no {WEIGHTS}{instead}: export the network again")
    if digest_of(weights) != config[RECORD].get("weights_sha256"):
        raise ExportError(f"{weights} is damaged or not the exported file: its SHA-256 differs from that in {CONFIG}")
    try:
        return timm.create_model(f"local-dir:{target}", pretrained=True, **timm_kwargs).eval()
    except SeSearchError:
        raise
    except Exception as error:  # timm's networks raise various exceptions for invalid arguments and weights
        raise ExportError(f"{target} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def is_export(folder: Path) -> bool:
    """Whether ``config.json`` marks a folder as an export."""
    return isinstance(read_json(folder / CONFIG).get(RECORD), dict)


def recorded_formats(folder: Path) -> list[str]:
    """Names of the subfolders that plugins wrote into an export, as it records them."""
    named = read_json(folder / CONFIG)[RECORD].get("formats") if is_export(folder) else None
    return [name for name in named if isinstance(name, str) and is_name(name)] if isinstance(named, list) else []


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        config = json.loads(read_text(file))
    except FileNotFoundError as error:
        raise ExportError(f"{folder} is not an exported folder: it has no {CONFIG}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ExportError(f"{file} is damaged: it must contain one JSON object")
    return config


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    file = folder / CONFIG
    for key in (RECORD, "pretrained_cfg", "model_args"):
        if not isinstance(config.get(key, {} if key == "model_args" else None), dict):
            raise ExportError(f"{file} is not from an export: {key!r} is missing or not an object")
    architecture, arguments = config.get("architecture"), config.get("model_args", {})
    if architecture == se_search.__name__:
        SEConfig.from_dict(arguments.get("se_config"))
    elif not isinstance(architecture, str) or not timm.is_model(architecture) or "se_config" in arguments:
        raise ExportError(f"{file} names the architecture {architecture!r}: it must be se_search or one of timm's own")
    for key in sorted(NOT_FOR_NETWORKS.intersection(arguments)):
        raise ExportError(f"{file} has model_args.{key} ({arguments[key]!r}), which is not a network argument")
    for key in _ELSEWHERE:
        if value := config["pretrained_cfg"].get(key):
            raise ExportError(f"{file} has pretrained_cfg.{key} ({value!r}): a folder must load its own {WEIGHTS}")
