"""Plugins: entry points of other installed packages, loaded on demand."""

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from .errors import ConfigurationError, DefinitionError, ExportError, SeSearchError


@dataclass(frozen=True)
class Group:
    """A group of entry points, its plugins' name in messages, and the exception for one that cannot be used."""

    name: str
    word: str
    error: type[SeSearchError]


SPACES = Group("se_search.spaces", "space", DefinitionError)
"""A path object, YAML text, a mapping, or a function without arguments that returns one of them."""

EVALUATORS = Group("se_search.evaluators", "evaluator", DefinitionError)
"""A function ``(study, space, data)`` that returns an :class:`se_search.training.evaluator.Evaluator`."""

EXPORTERS = Group("se_search.exporters", "export format", ExportError)
"""A function ``(model, folder, input_size)`` that writes ``model`` into ``folder``."""

CONFIGURATIONS = Group("se_search.configurations", "configuration", ConfigurationError)
"""An :class:`se_search.SEConfig`, or a function without arguments that returns one."""


@dataclass(frozen=True)
class Plugin:
    """One entry point of an installed package, not imported yet."""

    group: Group
    name: str
    package: str
    entry_point: metadata.EntryPoint

    def __str__(self) -> str:
        return f"{self.group.word} {self.name!r} of package {self.package}"

    def load(self) -> Any:
        """Import it.

        Raises:
            SeSearchError: Of the group's kind, if that fails for any reason.
        """
        try:
            return self.entry_point.load()
        except Exception as error:  # the import of a foreign package can raise anything
            raise self.refusal("cannot be imported", error) from error

    def content(self) -> Any:
        """Import it and, where it is a function, call it.

        Raises:
            SeSearchError: Of the group's kind, if that fails for any reason.
        """
        content = self.load()
        try:
            return content() if callable(content) else content
        except Exception as error:  # a foreign function can raise anything
            raise self.refusal("cannot be read", error) from error

    def refusal(self, what: str, error: Exception) -> SeSearchError:
        """Return the error for a failure, naming the package and the entry point."""
        reason = f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")
        where = f"entry point {self.name} = {self.entry_point.value} of group {self.group.name}"
        return self.group.error(f"{self} {what} ({where}): {reason}")


def find_plugins(group: Group) -> tuple[Plugin, ...]:
    """Return the plugins of ``group``, sorted by name; nothing is imported."""
    found = [
        Plugin(group, entry_point.name, entry_point.dist.name if entry_point.dist else "unknown", entry_point)
        for entry_point in metadata.entry_points(group=group.name)
    ]
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.package)))


def find_plugin(group: Group, name: str, shipped: Collection[str] = ()) -> Plugin | None:
    """Return the plugin ``name`` of ``group``; ``None`` if there is none.

    Names that are ``shipped`` take precedence: a plugin of such a name is not used, with a warning.

    Raises:
        SeSearchError: Of the group's kind, if several packages offer the name.
    """
    named = [plugin for plugin in find_plugins(group) if plugin.name == name]
    if name in shipped:
        for plugin in named:
            warnings.warn(f"{plugin} is not used: se-search ships one of that name", stacklevel=2)
        return None
    if len(named) > 1:
        packages = ", ".join(plugin.package for plugin in named)
        raise group.error(f"{group.word} {name!r} is offered by several packages ({packages}): keep one of them")
    return named[0] if named else None
