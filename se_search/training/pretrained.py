"""Published and given weights of a backbone."""

import os
from typing import Any

import timm
from timm.models import get_arch_name, get_pretrained_cfg_value, load_state_dict
from timm.models._hub import load_model_config_from_path  # timm.models leaves it out of its names
from torch import nn

from ..errors import DefinitionError, as_given
from ..network.config import SEConfig
from ..network.insertion import create_model

LOCAL_DIR = "local-dir:"
"""What a folder of weights is named with, as in timm."""


def load_pretrained(backbone: str, pretrained: str | None, options: dict[str, Any]) -> nn.Module:
    """Create a bare backbone with the weights that ``pretrained`` names; fresh ones for ``None``.

    A classifier for another number of classes is replaced by a fresh one, as timm does.

    Args:
        backbone: A timm architecture name.
        pretrained: As in :class:`Finetune`.
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
    except Exception as error:  # timm and torch raise many kinds for what they cannot fetch or read
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DefinitionError(
            f"{as_given('pretrained')} {pretrained} cannot be loaded into {backbone}: {reason}"
        ) from error


def _classes_of(checkpoint: str, backbone: str) -> int | None:
    """Number of classes of the classifier in a checkpoint, where it has the name that timm gives it."""
    named = get_pretrained_cfg_value(backbone, "classifier")  # one, or two heads of the same classes
    classifier = named if isinstance(named, str) or not named else named[0]
    weights = load_state_dict(checkpoint).get(f"{classifier}.weight")
    return None if weights is None else len(weights)


def check_pretrained(pretrained: str) -> None:
    """Check that weights are at the place that ``pretrained`` names, without reading them.

    Args:
        pretrained: As in :class:`Finetune`.

    Raises:
        DefinitionError: If there is nothing.
    """
    if pretrained.startswith(LOCAL_DIR):
        there = os.path.isdir(pretrained.removeprefix(LOCAL_DIR))
    else:
        there = pretrained == "timm" or os.path.isfile(pretrained)  # Path's raises for names that no file can have
    if not there:
        raise DefinitionError(
            f"{as_given('pretrained')} {pretrained!r} is not there: give timm, {LOCAL_DIR}FOLDER or the path of a "
            f"checkpoint"
        )
