"""The architecture ``se_search`` in timm's registry.

It is imported while timm's own import ends, possibly from within one of this package's modules, so it loads the rest
of the package only when a network is created.
"""

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import nn


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
        pretrained: Load the weights that ``pretrained_cfg`` names, those of the exported folder.
        se_config: An ``SEConfig`` or its plain data.
        features_only: Return the network as an extractor of features.
        out_indices: Indices of the features; by default those that timm gives for the backbone.
        **kwargs: Passed to ``timm.models.build_model_with_cfg`` and on to the backbone; ``num_classes`` and
            ``in_chans`` work as with timm's own networks.

    Raises:
        ConfigurationError: If ``se_config`` is no configuration or does not fit its backbone.
    """
    from ..network.config import SEConfig
    from ..network.insertion import create_model, extract_features

    config = se_config if isinstance(se_config, SEConfig) else SEConfig.from_dict(se_config)

    def create(**model_kwargs: Any) -> nn.Module:
        return create_model(config, **model_kwargs)

    model = build_model_with_cfg(create, "se_search", pretrained, **kwargs)
    return extract_features(model, config.backbone, out_indices) if features_only else model
