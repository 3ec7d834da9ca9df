"""Pretrained weights of a backbone: published by timm or on the Hugging Face Hub, or given by the user."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from timm.models import get_arch_name, get_pretrained_cfg_value, load_state_dict
from timm.models._hub import (  # timm.models does not export them
    load_model_config_from_hf,
    load_model_config_from_path,
)
from torch import nn

from ..errors import DefinitionError, as_given
from ..network.backbones import create_on_meta
from ..network.config import SEConfig
from ..network.insertion import create_model

LOCAL_DIR = "local-dir:"
"""Prefix of a folder with weights, as in timm."""

HF_HUB = "hf-hub:"
"""Prefix of a repository of the Hugging Face Hub, as in timm."""


def load_pretrained(backbone: str, pretrained: str | None, options: dict[str, Any]) -> nn.Module:
    """Create a bare backbone with pretrained weights, or random ones if ``pretrained`` is ``None``.

    A classifier for another number of classes is initialised at random, as in timm.

    Args:
        backbone: A timm architecture name.
        pretrained: ``"timm"`` for the weights that timm downloads, ``"local-dir:FOLDER"`` for a folder saved by timm,
            ``"hf-hub:NAME"`` for such a repository, or the path of a checkpoint.
        options: Passed to ``timm.create_model``.

    Raises:
        DefinitionError: If the weights are missing, damaged, not finite or of another architecture.
    """
    if pretrained is None:
        return create_model(SEConfig(backbone), **options)
    with _naming_weights(backbone, pretrained):
        model = _create(backbone, pretrained, options)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise DefinitionError(
                f"{as_given('pretrained')} {pretrained} has NaN or infinite values in {name}: use another checkpoint"
            )
    return model


@contextmanager
def _naming_weights(backbone: str, pretrained: str) -> Iterator[None]:
    """Report in one sentence why weights cannot be loaded."""
    try:
        yield
    except DefinitionError:
        raise
    except Exception as error:  # timm and torch raise many exception types for missing and damaged files
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError) or isinstance(error.__cause__, pickle.UnpicklingError):
            reason = (
                "it contains Python objects, which are not read because they can run code, or is damaged; save the "
                "network's state_dict() as safetensors"
            )
        elif isinstance(error, RuntimeError) and os.path.isfile(pretrained):
            reason = _difference(backbone, pretrained) or reason
        raise DefinitionError(
            f"{as_given('pretrained')} {pretrained} cannot be loaded into {backbone}: {reason}"
        ) from error


def _create(backbone: str, pretrained: str, options: dict[str, Any]) -> nn.Module:
    if pretrained == "timm":
        return timm.create_model(backbone, pretrained=True, **options)
    if pretrained.startswith((LOCAL_DIR, HF_HUB)):
        _, architecture, _ = _model_config(pretrained)
        if architecture != get_arch_name(backbone):
            raise DefinitionError(f"{as_given('pretrained')} {pretrained} holds a {architecture}, not a {backbone}")
        return timm.create_model(pretrained, pretrained=True, **options)
    overlay = {"file": pretrained, "num_classes": _classes_of(pretrained, backbone) or options["num_classes"]}
    return timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay=overlay, **options)


def _model_config(pretrained: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return timm's configuration, architecture name and arguments of a folder or a repository."""
    if pretrained.startswith(LOCAL_DIR):
        return load_model_config_from_path(pretrained.removeprefix(LOCAL_DIR))
    return load_model_config_from_hf(pretrained.removeprefix(HF_HUB))


def pretrained_classes(backbone: str, pretrained: str) -> int | None:
    """Return the number of classes of pretrained weights; ``None`` if it is unknown.

    Raises:
        DefinitionError: If the weights are missing or damaged.
    """
    with _naming_weights(backbone, pretrained):
        if pretrained == "timm":
            return get_pretrained_cfg_value(backbone, "num_classes")
        if pretrained.startswith((LOCAL_DIR, HF_HUB)):
            return _model_config(pretrained)[0].get("num_classes")
        return _classes_of(pretrained, backbone)


def _classes_of(checkpoint: str, backbone: str) -> int | None:
    """Return the number of classes of a checkpoint's classifier; ``None`` if its name is not timm's."""
    named = classifier_names(backbone)
    weights = load_state_dict(checkpoint).get(f"{named[0]}.weight") if named else None
    return None if weights is None else len(weights)


def classifier_names(backbone: str) -> tuple[str, ...]:
    """Return the names of a backbone's classifiers: mostly one, two in distilled networks."""
    named = get_pretrained_cfg_value(backbone, "classifier")
    return (named,) if isinstance(named, str) else tuple(named or ())


def _difference(backbone: str, checkpoint: str) -> str:
    """Say how a checkpoint's tensors differ from those of a backbone, or return an empty string."""
    given, heads = load_state_dict(checkpoint), classifier_names(backbone)
    own = {name: one for name, one in create_on_meta(backbone).state_dict().items() if not name.startswith(heads)}
    missing = [name for name in own if name not in given]
    if missing:
        return f"{len(missing)} of the {len(own)} tensors of this backbone are missing in it, the first is {missing[0]}"
    other = [name for name, one in own.items() if one.shape != given[name].shape]
    if not other:
        return ""
    first, shapes = other[0], [tuple(one[other[0]].shape) for one in (given, own)]
    return (
        f"{len(other)} of its tensors have another shape, the first is {first} with {shapes[0]} instead of {shapes[1]}"
    )


def is_downloaded(pretrained: str) -> bool:
    """Whether timm downloads the weights; ``pretrained`` is as for :func:`load_pretrained`."""
    return pretrained == "timm" or pretrained.startswith(HF_HUB)


def check_pretrained(pretrained: str) -> None:
    """Check that weights exist, without reading them; ``pretrained`` is as for :func:`load_pretrained`.

    A repository of the Hugging Face Hub is not looked up.

    Raises:
        DefinitionError: If they do not exist.
    """
    if pretrained.startswith(LOCAL_DIR):
        exists = os.path.isdir(pretrained.removeprefix(LOCAL_DIR))
    else:  # Path.is_file raises for impossible names
        exists = is_downloaded(pretrained) or os.path.isfile(pretrained)
    if not exists:
        raise DefinitionError(
            f"{as_given('pretrained')} {pretrained!r} does not exist: use timm, {LOCAL_DIR}FOLDER, {HF_HUB}NAME or the "
            "path of a checkpoint"
        )
