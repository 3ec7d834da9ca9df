"""Configurations that plugins bring."""

from ..errors import ConfigurationError, did_you_mean
from ..plugins import CONFIGURATIONS, find_plugin, find_plugins
from .config import SEConfig


def configurations() -> dict[str, str]:
    """Return the names of the configurations that plugins bring, each with its package."""
    return {plugin.name: plugin.package for plugin in find_plugins(CONFIGURATIONS)}


def load_config(name: str) -> SEConfig:
    """Return a configuration that a plugin brings.

    Raises:
        ConfigurationError: If there is none of that name or it cannot be used.
    """
    plugin = find_plugin(CONFIGURATIONS, name)
    if plugin is None:
        known = configurations()
        raise ConfigurationError(
            f"configuration {name!r} is unknown: plugins bring {', '.join(known) or 'none'}{did_you_mean(name, known)}"
        )
    config = plugin.content()
    if not isinstance(config, SEConfig):
        raise plugin.refusal("cannot be used", TypeError(f"an SEConfig is needed, not {type(config).__name__}"))
    return config
