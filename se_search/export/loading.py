"""Exported folders: what they are, and reading them as untrusted input."""

import json
import os
from pathlib import Path
from typing import Any

import timm
from torch import nn

from ..errors import ExportError, SeSearchError
from ..files import digest_of, is_name, read_text
from ..network.config import SEConfig
from .registry import NOT_FOR_NETWORKS, se_search

CONFIG, WEIGHTS = "config.json", "model.safetensors"

RECORD = "se_search"
"""Key of ``config.json`` under which an export says what it is; timm leaves it alone."""

_ELSEWHERE = ("file", "url", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "custom_load")
"""Keys of ``pretrained_cfg`` by which timm would look for weights outside the folder, or load them in another way."""


def load_exported(folder: str | os.PathLike[str], **timm_kwargs: Any) -> nn.Module:
    """Load an exported folder after checking it: all that is loaded lies in it and is what was written.

    The weights must have the digest that ``config.json`` records. That finds damage and exchanged files; it is no
    signature, as whoever changes one file can change both.

    Args:
        folder: A folder that :func:`export_timm` has written.
        **timm_kwargs: Passed to ``timm.create_model``, such as ``num_classes`` or ``features_only``.

    Returns:
        The network, in evaluation mode.

    Raises:
        ExportError: If the folder is not an export, is damaged, or names anything outside itself.
        ConfigurationError: If its configuration is none or does not fit its backbone.
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
        raise ExportError(
            f"{weights} is damaged or not the file that was exported: its SHA-256 is not the one in {CONFIG}"
        )
    try:
        return timm.create_model(f"local-dir:{target}", pretrained=True, **timm_kwargs).eval()
    except SeSearchError:
        raise
    except Exception as error:  # timm's networks raise many kinds for arguments and weights that they do not take
        raise ExportError(f"{target} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def is_export(folder: Path) -> bool:
    """Whether a folder says that an export has written it."""
    return _record(folder) is not None


def recorded_formats(folder: Path) -> list[str]:
    """Names of the folders in an export that formats of plugins have written; nothing else may be taken for one."""
    named = (_record(folder) or {}).get("formats")
    return [name for name in named if isinstance(name, str) and is_name(name)] if isinstance(named, list) else []


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        record = _read_config(folder).get(RECORD)
    except ExportError:
        return None
    return record if isinstance(record, dict) else None


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        config = json.loads(read_text(file))
    except FileNotFoundError as error:
        raise ExportError(f"{folder} is no exported folder: it has no {CONFIG}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ExportError(f"{file} is damaged: it must hold one JSON object")
    return config


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    file = folder / CONFIG
    for key in (RECORD, "pretrained_cfg", "model_args"):
        if not isinstance(config.get(key, {} if key == "model_args" else None), dict):
            raise ExportError(f"{file} is not of an export: {key!r} is missing or no object")
    architecture, arguments = config.get("architecture"), config.get("model_args", {})
    if architecture == se_search.__name__:
        SEConfig.from_dict(arguments.get("se_config"))
    elif not isinstance(architecture, str) or not timm.is_model(architecture) or "se_config" in arguments:
        raise ExportError(f"{file} names the architecture {architecture!r}: it must be se_search or one of timm's own")
    for key in sorted(NOT_FOR_NETWORKS.intersection(arguments)):
        raise ExportError(f"{file} has model_args.{key} ({arguments[key]!r}), which is no argument of a network")
    for key in _ELSEWHERE:
        if config["pretrained_cfg"].get(key):
            raise ExportError(
                f"{file} has pretrained_cfg.{key} ({config['pretrained_cfg'][key]!r}): the weights of an exported "
                f"folder are its own {WEIGHTS}"
            )
