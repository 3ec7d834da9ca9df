"""The architecture ``se_search`` in timm's registry.

It is imported while timm's own import ends, possibly from within one of this package's modules, so it loads the rest
of the package only when a network is created.
"""

from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import nn


@register_model
def se_search(pretrained: bool = False, se_config: Any = None, **kwargs: Any) -> nn.Module:
    """Create a searched network for ``timm.create_model("se_search", se_config=…)`` or an exported folder.

    Args:
        pretrained: Load the weights that ``pretrained_cfg`` names, those of the exported folder.
            ``num_classes``, ``in_chans`` and ``features_only`` work as with timm's own networks.
        se_config: An ``SEConfig`` or its plain data.
        **kwargs: Passed to ``timm.models.build_model_with_cfg`` and on to the backbone.

    Raises:
        ConfigurationError: If ``se_config`` is no configuration or does not fit its backbone.
    """
    from ..network.config import SEConfig
    from ..network.insertion import create_model

    config = se_config if isinstance(se_config, SEConfig) else SEConfig.from_dict(se_config)

    def create(**model_kwargs: Any) -> nn.Module:
        return create_model(config, **model_kwargs)

    return build_model_with_cfg(create, "se_search", pretrained, **kwargs)
