"""Pretrained weights of a backbone: published by timm, or given by the user."""

import os
from typing import Any

import timm
from timm.models import get_arch_name, get_pretrained_cfg_value, load_state_dict
from timm.models._hub import load_model_config_from_path  # timm.models does not export it
from torch import nn

from ..errors import DefinitionError, as_given
from ..network.config import SEConfig
from ..network.insertion import create_model

LOCAL_DIR = "local-dir:"
"""Prefix of a folder with weights, as in timm."""


def load_pretrained(backbone: str, pretrained: str | None, options: dict[str, Any]) -> nn.Module:
    """Create a bare backbone with pretrained weights, or random ones if ``pretrained`` is ``None``.

    A classifier for another number of classes is initialised at random, as in timm.

    Args:
        backbone: A timm architecture name.
        pretrained: As in :class:`~se_search.training.stand_alone.Finetune`.
        options: Passed to ``timm.create_model``.

    Raises:
        DefinitionError: If the weights are missing, damaged or of another architecture.
    """
    if pretrained is None:
        return create_model(SEConfig(backbone), **options)
    try:
        if pretrained == "timm":
            return timm.create_model(backbone, pretrained=True, **options)
        if pretrained.startswith(LOCAL_DIR):
            _, architecture, _ = load_model_config_from_path(pretrained.removeprefix(LOCAL_DIR))
            if architecture != get_arch_name(backbone):
                raise DefinitionError(f"{as_given('pretrained')} {pretrained} holds a {architecture}, not a {backbone}")
            return timm.create_model(pretrained, pretrained=True, **options)
        overlay = {"file": pretrained, "num_classes": _classes_of(pretrained, backbone) or options["num_classes"]}
        return timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    except DefinitionError:
        raise
    except Exception as error:  # timm and torch raise many exception types for missing and damaged files
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DefinitionError(
            f"{as_given('pretrained')} {pretrained} cannot be loaded into {backbone}: {reason}"
        ) from error


def _classes_of(checkpoint: str, backbone: str) -> int | None:
    """Return the number of classes of a checkpoint's classifier; ``None`` if its name is not timm's."""
    named = get_pretrained_cfg_value(backbone, "classifier")  # one name, or two for heads of the same classes
    classifier = named if isinstance(named, str) or not named else named[0]
    weights = load_state_dict(checkpoint).get(f"{classifier}.weight")
    return None if weights is None else len(weights)


def check_pretrained(pretrained: str) -> None:
    """Check that weights exist, without reading them; ``pretrained`` is as for :func:`load_pretrained`.

    Raises:
        DefinitionError: If they do not exist.
    """
    if pretrained.startswith(LOCAL_DIR):
        exists = os.path.isdir(pretrained.removeprefix(LOCAL_DIR))
    else:
        exists = pretrained == "timm" or os.path.isfile(pretrained)  # Path.is_file raises for impossible names
    if not exists:
        raise DefinitionError(
            f"{as_given('pretrained')} {pretrained!r} does not exist: use timm, {LOCAL_DIR}FOLDER or the path of a "
            "checkpoint"
        )
