"""Find timm's own architecture that equals a network, by comparing outputs instead of a table of names."""

import copy
import re
from typing import Any

import timm
import torch
from timm.models import get_arch_name, get_model_args
from torch import nn

from ..errors import ExportError, first_reason
from ..network.attention import KINDS
from ..network.backbones import create_on_meta
from ..network.insertion import whole_state
from ..words import by


def find_twin(model: nn.Module, backbone: str, input_size: tuple[int, int, int]) -> str | None:
    """Return the timm architecture that is the same network, or ``None``.

    Candidates are the backbone's name and the names that differ from it by one kind of attention, such as ``se``. Names
    and shapes of the parameters must be equal, and outputs bit-identical in evaluation mode with random weights.
    Random, because zero-initialised weights would hide a block. The network is not changed.

    Raises:
        ExportError: If the network does not accept such images.
    """
    state = {name: value.shape for name, value in model.state_dict().items()}
    network = copy.deepcopy(model).cpu().float().eval()
    _randomise(network)
    arguments = bare_arguments(model)
    try:
        expected = outputs(network, input_size)
    except Exception as error:  # timm's networks raise various exceptions for invalid images
        raise ExportError(
            f"this {type(model).__name__} cannot take images of {by(input_size)}: {first_reason(error)}"
        ) from error
    for name in _near_names(get_arch_name(backbone)):
        try:
            twin = create_on_meta(name, **arguments)
            if {key: value.shape for key, value in twin.state_dict().items()} != state:
                continue
            if torch.equal(expected, outputs(load_twin(name, network), input_size)):
                return name
        except Exception:  # noqa: S112  # timm's networks raise various exceptions for invalid arguments
            continue
    return None


def load_twin(name: str, model: nn.Module) -> nn.Module:
    """Create timm's architecture ``name`` with the arguments and state of ``model``, in evaluation mode."""
    twin = timm.create_model(name, **bare_arguments(model))
    twin.load_state_dict(whole_state(model))
    return twin.eval()


def bare_arguments(model: nn.Module) -> dict[str, Any]:
    """Return the keyword arguments with which ``timm.create_model`` builds ``model`` without SE blocks."""
    return {key: value for key, value in get_model_args(model).items() if key != "se_config"}


def outputs(network: nn.Module, input_size: tuple[int, int, int]) -> torch.Tensor:
    """Return the outputs of ``network`` for two fixed random images; several tensors are flattened into one."""
    images = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made = network(images)
    return made if isinstance(made, torch.Tensor) else torch.cat([one.flatten() for one in made])


def _near_names(backbone: str) -> list[str]:
    """``backbone`` and the architectures whose names differ from it by one kind of attention."""

    def without_kind(name: str) -> set[str]:
        return {name[: at.start()] + name[at.end() :] for kind in KINDS for at in re.finditer(kind, name)}

    shorter = without_kind(backbone)
    return [backbone, *(name for name in timm.list_models() if name in shorter or backbone in without_kind(name))]


def _randomise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            nn.init.uniform_(parameter, 0.2, 0.6, generator=generator)
