"""Insert the attention blocks of a configuration into a network."""

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from timm.models._features import FeatureGetterNet  # timm.models does not export it
from torch import nn

from ..errors import ConfigurationError
from ..files import write_atomically
from .backbones import create_backbone, create_on_meta
from .config import SEConfig
from .discovery import Place
from .sites import Site, check_grid, find_places, find_places_once


def attach(model: nn.Module, site: Site, place: Place, block: nn.Module) -> None:
    """Attach ``block`` to ``model`` at a site, with the device and dtype of adjacent weights.

    :func:`se_search.network.sites.find_places` gives the place of a site.
    """
    parent, _, child = place.host.rpartition(".")
    neighbour = _nearest_parameter(model, parent if place.side == "slot" else place.host)
    block.train(model.get_submodule(parent).training)
    block.to(device=neighbour.device, dtype=neighbour.dtype)
    if place.side in ("slot", "existing"):
        setattr(model.get_submodule(parent), child, block)
        return
    host = model.get_submodule(place.host)
    name = "se" if site.position == "standard" and not hasattr(host, "se") else f"se_{site.position}"
    host.add_module(name, block)
    if place.side == "output":
        host.register_forward_hook(functools.partial(_scale_output, name))
    else:
        host.register_forward_pre_hook(functools.partial(_scale_input, name))


def block_name(model: nn.Module, site: Site, place: Place) -> str:
    """Return the name of the attention module at a site, as :func:`attach` named it or the backbone has it."""
    if place.side in ("slot", "existing"):
        return place.host
    own = f"{place.host}.se_{site.position}"
    return own if site.position != "standard" or own in dict(model.named_modules()) else f"{place.host}.se"


def detach(model: nn.Module, name: str) -> None:
    """Remove the attention block ``name`` from ``model``: one that :func:`attach` attached, or the backbone's own."""
    parent, _, child = name.rpartition(".")
    host = model.get_submodule(parent)
    for hooks in (host._forward_hooks, host._forward_pre_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, functools.partial) and hook.func in _HOOKS and hook.args == (child,):
                del hooks[key]
                delattr(host, child)
                return
    setattr(host, child, nn.Identity())


# Hooks look up the block by name in their module, so that a copy of the network uses its own block.
def _scale_output(name: str, module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return getattr(module, name)(output)


def _scale_input(name: str, module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (getattr(module, name)(args[0]), *args[1:])


_HOOKS = (_scale_output, _scale_input)


def _nearest_parameter(model: nn.Module, name: str) -> nn.Parameter:
    found = next(model.get_submodule(name).parameters(), None)
    while found is None and name:
        name = name.rpartition(".")[0]
        found = next(model.get_submodule(name).parameters(), None)
    return nn.Parameter(torch.empty(0)) if found is None else found


def insert(
    model: nn.Module,
    config: SEConfig,
    identity_start: bool = False,
    input_size: tuple[int, int, int] | None = None,
) -> nn.Module:
    """Insert the blocks of ``config`` into ``model`` in place and return it, with the configuration as ``se_config``.

    The backbone's parameters keep their names. If timm's block has an SE slot, the new parameters have the names of
    timm's ``seresnet50``: ``<block>.se.fc1.weight`` and so on. Otherwise the new module is ``se``, or for example
    ``se_post``, of the module whose input or output it scales, and a hook applies it.

    Args:
        model: A network from timm.
        config: The configuration.
        identity_start: Let the blocks start without an effect, also if the configuration does not.
        input_size: ``(channels, height, width)`` to trace the model with; timm's input size by default.

    Raises:
        ConfigurationError: If the model already has inserted blocks, lacks a site, or has another number of channels
            or no grid for windows there. It is then unchanged.
    """
    config = config.starting_at_identity() if identity_start else config
    return _insert(model, config, lambda bare: find_places(bare, input_size))


def _insert(model: nn.Module, config: SEConfig, find: Callable[[nn.Module], dict[Site, Place]]) -> nn.Module:
    kind = type(model).__name__
    inserted = getattr(model, "se_config", None)
    if isinstance(inserted, SEConfig) and inserted.sites:
        raise ConfigurationError(f"this {kind} already has the SE blocks of a configuration: insert into a bare one")
    places = find(model) if config.sites else {}
    here = {(site.block, site.position): site for site in places}
    for site in config.sites:
        found = here.get((site.block, site.position))
        if found is None:
            raise ConfigurationError(f"{site.block} ({site.position}) does not exist in this {kind}")
        if (found.channels, found.layout) != (site.channels, site.layout):
            raise ConfigurationError(
                f"{site.block} ({site.position}) of this {kind} has {found.channels} channels in {found.layout}, "
                f"not the {site.channels} in {site.layout} of the configuration"
            )
    for placed in config.placed:
        check_grid(placed, places[here[placed.site.block, placed.site.position]], f"this {kind}")
    for site in (*config.removed, *config.constant):
        attach(model, site, places[here[site.block, site.position]], nn.Identity())
    for placed in config.placed:
        place = places[here[placed.site.block, placed.site.position]]
        attach(model, placed.site, place, placed.on_grid(place.known_grid).create())
    model.se_config = config  # type: ignore[assignment]  # for exports
    return model


def check_config(config: object, called: str) -> None:
    """Check that the argument of a function is a configuration.

    Raises:
        ConfigurationError: If it is not, such as the name of a backbone.
    """
    if isinstance(config, SEConfig):
        return
    name = config if isinstance(config, str) else "resnet50"
    raise ConfigurationError(
        f"{called} takes an SEConfig, not {type(config).__name__} {str(config)[:100]!r}: give "
        f"SEConfig.uniform({name!r}, 16), or SEConfig({name!r}) for the backbone as it is"
    )


def create_model(
    config: SEConfig,
    pretrained: bool = False,
    identity_start: bool | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **timm_kwargs: Any,
) -> nn.Module:
    """Create the backbone with timm and insert the blocks of ``config``.

    Args:
        config: The configuration.
        pretrained: Load timm's pretrained weights of the backbone.
        identity_start: Let the blocks start without an effect; by default, only with pretrained weights.
        features_only: Return a feature extractor, see :func:`extract_features`.
        out_indices: Indices of the features; timm's defaults for the backbone if ``None``.
        **timm_kwargs: Passed to ``timm.create_model``, such as ``num_classes``.

    Raises:
        BackboneError: If timm does not know the backbone or its tag.
        ConfigurationError: If ``config`` is no configuration, or the backbone lacks a site of it.
    """
    check_config(config, "create_model")
    model = create_backbone(config.backbone, pretrained=pretrained, **timm_kwargs)
    if identity_start or (identity_start is None and pretrained):
        config = config.starting_at_identity()
    _insert(model, config, lambda bare: find_places_once(bare, config.backbone, timm_kwargs))
    return extract_features(model, config.backbone, out_indices) if features_only else model


def copy_with_blocks(backbone: nn.Module, config: SEConfig, **timm_kwargs: Any) -> nn.Module:
    """Return a copy of a bare backbone with the blocks of ``config``, faster than with new weights.

    Args:
        backbone: A network that :func:`create_model` made from a configuration without blocks and ``timm_kwargs``.
        config: The configuration.
        **timm_kwargs: As for :func:`create_model`.

    Raises:
        ConfigurationError: If the backbone lacks a site of ``config``.
    """
    return _insert(copy.deepcopy(backbone), config, lambda bare: find_places_once(bare, config.backbone, timm_kwargs))


def extract_features(model: nn.Module, backbone: str, out_indices: int | Sequence[int] | None = None) -> nn.Module:
    """Wrap ``model`` so that it returns feature maps, as ``timm.create_model(backbone, features_only=True)`` does.

    They are NCHW for every backbone, even if timm's own extractor returns NHWC (Swin).

    Args:
        model: A network of ``backbone``; the layers after the last feature are removed from it.
        backbone: A timm architecture name.
        out_indices: Indices of the features; timm's defaults for the backbone if ``None``.
    """
    if out_indices is None:
        features: Any = create_on_meta(backbone, features_only=True)
        out_indices = features.feature_info.out_indices
    return FeatureGetterNet(model, out_indices=out_indices)


def whole_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of ``model`` on the CPU. No tensors share memory (CoaT's do), as safetensors requires."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }


def write_weights(model: nn.Module, file: Path) -> None:
    """Write the state of ``model`` to a safetensors file atomically.

    Raises:
        OSError: If the file cannot be written; safetensors' own writer raises another exception type.
    """
    write_atomically(file, lambda path: path.write_bytes(save(whole_state(model))))


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def create_model_on_meta(config: SEConfig, **timm_kwargs: Any) -> nn.Module:
    """Create a model without weights, on the meta device in evaluation mode."""
    with torch.device("meta"):
        return create_model(config, **timm_kwargs).eval()
