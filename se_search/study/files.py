"""Space and study files: found by name, of a plugin or by path, and read."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from ..errors import DefinitionError, SeSearchError, did_you_mean
from ..files import read_text
from ..plugins import SPACES, Plugin, find_plugin, find_plugins
from .checking import check_definition
from .definitions import StudyDefinition
from .options import python_parameters, replace_keys, shows_parameters, values_given
from .safe_yaml import read_yaml
from .space_definition import SpaceDefinition

MOST_BYTES = 2**18
"""Size of the largest space or study file that is read."""

_Kind = Literal["search_spaces", "studies"]


def _shipped(kind: _Kind) -> Any:  # a Traversable, whose home depends on the version of Python
    # Packages of their own: in a checkout they stand beside se_search/.
    return resources.files(f"{__package__.partition('.')[0]}.{kind}")


def shipped_names(kind: _Kind) -> tuple[str, ...]:
    """Names of the definitions that travel with the package."""
    files = _shipped(kind).iterdir()
    return tuple(sorted(Path(file.name).stem for file in files if file.name.endswith(".yaml")))


def load_space(name: str) -> SpaceDefinition:
    """Read a space by the name of a shipped one or of a plugin's, or by path.

    Raises:
        DefinitionError: If it does not exist, is malformed or holds an impossible value.
    """
    plugin = find_plugin(SPACES, name, shipped_names("search_spaces"))
    if plugin is not None:
        return check_definition(SpaceDefinition, _read_plugin(plugin), str(plugin))
    return _read_space(name)


def _read_space(name: str) -> SpaceDefinition:
    return check_definition(SpaceDefinition, _read(name, "search_spaces", "space"), name)


@dataclass(frozen=True)
class ListedSpace:
    """A space that is known by its name.

    Attributes:
        name: Its name.
        package: The package that brings it, empty for a shipped one.
        definition: The space, ``None`` where it cannot be used.
        problem: Why not, empty otherwise.
    """

    name: str
    package: str
    definition: SpaceDefinition | None
    problem: str = ""


def list_spaces() -> tuple[ListedSpace, ...]:
    """List the shipped spaces, then those of plugins, also where these cannot be used."""
    shipped = shipped_names("search_spaces")
    listed = [ListedSpace(name, "", _read_space(name)) for name in shipped]
    for plugin in find_plugins(SPACES):
        definition, problem = None, "se-search ships a space of that name"
        if plugin.name not in shipped:
            try:
                definition, problem = load_space(plugin.name), ""
            except SeSearchError as error:
                problem = str(error)
        listed.append(ListedSpace(plugin.name, plugin.package, definition, problem))
    return tuple(listed)


@shows_parameters(python_parameters())
def load_study(name: str, settings: Mapping[str, Any] | None = None, **arguments: Any) -> StudyDefinition:
    """Read a study by the name of a shipped one or by path, and resolve it: its space is in it, not named.

    Args:
        name: Name or path.
        settings: Values that replace the file's, by key, such as ``{"evaluator.label_smoothing": 0.1}``.
        **arguments: The same by argument, as in :data:`se_search.study.options.OPTIONS`; ``None`` replaces nothing.

    Raises:
        DefinitionError: If it does not exist, is malformed or holds an impossible value.
    """
    content = _read(name, "studies", "study")
    study = check_definition(StudyDefinition, content, name)
    given = values_given(arguments, settings or {})
    if given:
        # What the file says of its evaluator but would be so anyway does not bind another one.
        content |= {"evaluator": {"name": study.evaluator.name} | study.evaluator.model_dump(exclude_defaults=True)}
        names = {key: one.name for key, one in given.items()}
        study = check_definition(StudyDefinition, replace_keys(content, given), name, names)
    if isinstance(study.space, SpaceDefinition):
        return study
    return study.model_copy(update={"space": load_space(study.space)})


def parse_definition(text: str, source: str) -> StudyDefinition:
    """Read a study from the text of a file, resolved: its space is in it.

    Args:
        text: YAML, or JSON, which is a part of it.
        source: What to call it in messages.

    Raises:
        DefinitionError: If it is malformed or holds an impossible value.
    """
    if len(text) > MOST_BYTES:
        raise DefinitionError(f"{source} has more than {MOST_BYTES:,} characters")
    return check_definition(StudyDefinition, read_yaml(text, source), source)


def _read(name: str, kind: _Kind, word: str) -> Any:
    known = shipped_names(kind)
    if name in known:
        text = _shipped(kind).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        return read_yaml(text, name)
    if not os.path.isfile(name):  # not Path's, which raises for names that no file can have
        plugins = find_plugins(SPACES) if kind == "search_spaces" else ()
        offered = f"; of plugins: {', '.join(plugin.name for plugin in plugins)}" if plugins else ""
        near = did_you_mean(name, [*known, *(plugin.name for plugin in plugins)])
        raise DefinitionError(
            f"{word} {name!r} is neither a file nor a shipped {word}: shipped are {', '.join(known)}{offered}{near}"
        )
    try:
        text = read_text(Path(name), MOST_BYTES)
    except (OSError, ValueError) as error:
        raise DefinitionError(f"{name} cannot be read as text: {error}") from error
    return read_yaml(text, name)


def _read_plugin(plugin: Plugin) -> Any:
    content = plugin.content()
    try:
        # Files that travel in a package are Path objects or, in an archive, of another class that reads alike.
        text = content.read_text(encoding="utf-8") if hasattr(content, "read_text") else content
    except Exception as error:  # a foreign class can raise anything
        raise plugin.refusal("cannot be read", error) from error
    return read_yaml(text, str(plugin)) if isinstance(text, str) else text
