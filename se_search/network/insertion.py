"""Putting the SE blocks of a configuration into a network."""

from typing import Any

import timm
import torch
from torch import nn

from ..errors import BackboneError, ConfigurationError
from .config import SEConfig
from .se_block import create_se_block
from .sites import SLOT, Site, check_backbone, find_sites


def attach(model: nn.Module, site: Site, block: nn.Module) -> None:
    """Put ``block`` at ``site`` of ``model``, on the device and in the precision of the weights around it.

    Raises:
        ConfigurationError: If the model has no such block or its slot is taken.
    """
    host = _host_of_empty_slot(model, site)
    neighbour = next(host.parameters())
    block.train(host.training)
    setattr(host, SLOT, block.to(device=neighbour.device, dtype=neighbour.dtype))


def _host_of_empty_slot(model: nn.Module, site: Site) -> nn.Module:
    try:
        host = model.get_submodule(site.block)
    except AttributeError as error:
        raise ConfigurationError(f"{site.block} does not exist in this {type(model).__name__}") from error
    if getattr(host, SLOT, host) is not None:
        raise ConfigurationError(f"{site.block} of this {type(model).__name__} has no empty SE slot")
    return host


def insert(model: nn.Module, config: SEConfig) -> nn.Module:
    """Insert the SE blocks of ``config`` into ``model``, in place, and return it.

    The backbone's own parameters keep their names; those of the SE blocks are ``<block>.se.fc1.weight`` and so on,
    as in timm's ``seresnet50``. The configuration is kept as ``model.se_config``.

    Raises:
        ConfigurationError: If the model holds SE blocks of a configuration already, lacks one of the sites or has
            other widths there; it is then unchanged.
    """
    inserted = getattr(model, "se_config", None)
    if isinstance(inserted, SEConfig) and inserted.placed:
        raise ConfigurationError(
            f"this {type(model).__name__} holds the SE blocks of a configuration already: insert into a bare one"
        )
    for placed in config.placed:
        _host_of_empty_slot(model, placed.site)
    widths = {site.block: site.channels for site in find_sites(model)} if config.placed else {}
    for placed in config.placed:
        if widths.get(placed.site.block) != placed.site.channels:
            raise ConfigurationError(
                f"{placed.site.block} of this {type(model).__name__} has {widths.get(placed.site.block)} channels, "
                f"not the {placed.site.channels} of the configuration"
            )
    for placed in config.placed:
        attach(
            model,
            placed.site,
            create_se_block(placed.site.channels, placed.ratio, placed.gate, placed.bias, placed.rounding),
        )
    model.se_config = config  # type: ignore[assignment]  # so that an export knows what was inserted
    return model


def create_model(config: SEConfig, pretrained: bool = False, **timm_kwargs: Any) -> nn.Module:
    """Create the backbone with timm and insert the SE blocks of ``config``.

    Args:
        config: What to build.
        pretrained: Load timm's weights of the backbone; the SE blocks start random.
        **timm_kwargs: Passed to ``timm.create_model``, such as ``num_classes``.

    Raises:
        BackboneError: If timm does not know the backbone or its tag.
        ConfigurationError: If a site of the configuration does not exist in it.
    """
    check_backbone(config.backbone)
    try:
        model = timm.create_model(config.backbone, pretrained=pretrained, **timm_kwargs)
    except RuntimeError as error:
        raise BackboneError(f"backbone {config.backbone!r} cannot be created by timm: {error}") from error
    return insert(model, config)


def count_parameters(model: nn.Module) -> int:
    """Number of parameters of ``model``."""
    return sum(parameter.numel() for parameter in model.parameters())


def create_model_on_meta(config: SEConfig, **timm_kwargs: Any) -> nn.Module:
    """As :func:`create_model` in evaluation mode on the meta device: shapes and counts, no weights."""
    with torch.device("meta"):
        return create_model(config, **timm_kwargs).eval()
