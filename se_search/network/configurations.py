"""Configurations provided by plugins."""

from ..errors import ConfigurationError, did_you_mean
from ..plugins import CONFIGURATIONS, find_plugin, find_plugins
from .config import SEConfig


def configurations() -> dict[str, str]:
    """Return the package of each configuration that plugins provide, by name."""
    return {plugin.name: plugin.package for plugin in find_plugins(CONFIGURATIONS)}


def load_config(name: str) -> SEConfig:
    """Return a configuration that a plugin provides.

    Raises:
        ConfigurationError: If no plugin provides that name, or its object is not an ``SEConfig``.
    """
    plugin = find_plugin(CONFIGURATIONS, name)
    if plugin is None:
        known = configurations()
        raise ConfigurationError(
            f"configuration {name!r} is unknown: plugins provide {', '.join(known) or 'none'}"
            f"{did_you_mean(name, known)}"
        )
    config = plugin.content()
    if not isinstance(config, SEConfig):
        raise plugin.refusal("cannot be used", TypeError(f"an SEConfig is needed, not {type(config).__name__}"))
    return config
