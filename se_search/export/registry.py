"""The architecture ``se_search`` in timm's registry.

This module is imported at the end of timm's own import, possibly from a module of this package. It therefore imports
the rest of the package only when it creates a network.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from timm.models._builder import pretrained_cfg_for_features  # timm.models does not export it
from torch import nn

from ..errors import ConfigurationError

NOT_FOR_NETWORKS = frozenset(
    {
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args"),
        *("pretrained_strict", "pretrained_filter_fn", "checkpoint_path", "cache_dir", "pruned"),
        *("model_cfg", "feature_cfg", "kwargs_filter", "features_only", "out_indices"),
        *("scriptable", "exportable", "no_jit", "device", "dtype"),
    }
)
"""Arguments about the source of weights and timm's build process, not about the network: no folder may contain them."""

_REFUSED = ("checkpoint_path", "pretrained_strict", "pretrained_filter_fn", "pruned", "model_cfg", "kwargs_filter")


@register_model
def se_search(
    pretrained: bool = False,
    se_config: Any = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Create a searched network for ``timm.create_model("se_search", se_config=…)`` or an exported folder.

    Args:
        pretrained: Load the weights that ``pretrained_cfg`` names, which are those of the exported folder.
        se_config: An ``SEConfig`` or its plain data.
        features_only: Return the network as a feature extractor.
        out_indices: Indices of the features; timm's default for the backbone if not given.
        **kwargs: Passed to ``timm.models.build_model_with_cfg`` and on to the backbone; ``num_classes`` and
            ``in_chans`` work as with timm's own networks.

    Raises:
        ConfigurationError: If ``se_config`` is invalid or does not fit its backbone, or an argument would load weights
            from elsewhere or partially.
    """
    from ..network.config import SEConfig
    from ..network.insertion import create_model, extract_features

    for name in _REFUSED:
        if name in kwargs:
            raise ConfigurationError(f"the architecture se_search does not support the argument {name!r}")
    if se_config is None:
        raise ConfigurationError("se_config is missing: pass an SEConfig or its plain data")
    config = se_config if isinstance(se_config, SEConfig) else SEConfig.from_dict(se_config)
    create = partial(create_model, config)
    model = build_model_with_cfg(create, "se_search", pretrained, pretrained_filter_fn=_adapt, **kwargs)
    if not features_only:
        return model
    features = extract_features(model, config.backbone, out_indices)
    # timm's own extractors have these attributes.
    features.pretrained_cfg = features.default_cfg = pretrained_cfg_for_features(model.pretrained_cfg)
    features.in_chans = model.in_chans
    return features


def _adapt(state: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Adapt weights to a network for another image size with the backbone's own ``checkpoint_filter_fn``.

    Without such a function, loading rejects weights of other shapes.
    """
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    if all(value.shape == shapes.get(name) for name, value in state.items()):
        return state
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return adapt(state, model) if adapt else state
