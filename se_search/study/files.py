"""Find and read space and study files, by name, from a plugin or by path."""

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
"""Maximum size of a space or study file, in bytes."""

_DESCRIBED = ("backbone", "data")

_Kind = Literal["search_spaces", "studies"]


def _shipped(kind: _Kind) -> Any:  # a Traversable, whose module depends on the Python version
    # Separate packages: a checkout has their folders beside se_search/.
    return resources.files(f"{__package__.partition('.')[0]}.{kind}")


def shipped_names(kind: _Kind) -> tuple[str, ...]:
    """Return the names of the definitions that the package ships."""
    files = _shipped(kind).iterdir()
    return tuple(sorted(Path(file.name).stem for file in files if file.name.endswith(".yaml")))


def load_space(name: str) -> SpaceDefinition:
    """Read a shipped space or a plugin's by name, or a file by path.

    Raises:
        DefinitionError: If the space does not exist, is malformed or has an invalid value.
    """
    plugin = find_plugin(SPACES, name, shipped_names("search_spaces"))
    if plugin is not None:
        return check_definition(SpaceDefinition, _read_plugin(plugin), str(plugin))
    return _read_space(name)


def _read_space(name: str) -> SpaceDefinition:
    return check_definition(SpaceDefinition, _read(name, "search_spaces", "space"), name)


@dataclass(frozen=True)
class ListedSpace:
    """An available space.

    Attributes:
        name: Name of the space.
        package: The package that provides it; empty for a shipped space.
        definition: The space; ``None`` if it cannot be used.
        problem: Why it cannot be used; empty otherwise.
    """

    name: str
    package: str
    definition: SpaceDefinition | None
    problem: str = ""


def list_spaces() -> tuple[ListedSpace, ...]:
    """List the shipped spaces, then those of plugins, including unusable ones."""
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


def list_studies() -> dict[str, StudyDefinition]:
    """Return the shipped studies by name."""
    return {name: load_study(name) for name in shipped_names("studies")}


@shows_parameters(python_parameters())
def load_study(name: str, settings: Mapping[str, Any] | None = None, **arguments: Any) -> StudyDefinition:
    """Read a shipped study by name or a file by path, and replace the name of its space by the space.

    Args:
        name: Name or path.
        settings: Values that override the file's, by key, such as ``{"evaluator.label_smoothing": 0.1}``.
        **arguments: Values that override the file's, by argument of :data:`se_search.study.options.OPTIONS`;
            ``None`` overrides nothing.

    Raises:
        DefinitionError: If the study does not exist, is malformed or has an invalid value.
    """
    content = _read(name, "studies", "study")
    study = check_definition(StudyDefinition, content, name)
    given = values_given(arguments, settings or {})
    if given:
        # Settings at their defaults are dropped, as another evaluator may lack them.
        content |= {"evaluator": {"name": study.evaluator.name} | study.evaluator.model_dump(exclude_defaults=True)}
        names = {key: one.name for key, one in given.items()}
        described = study
        study = check_definition(StudyDefinition, replace_keys(content, given), name, names)
        if "description" not in given and any(
            getattr(study, key) != getattr(described, key) for key in _DESCRIBED
        ):  # the file's description would be about another backbone or other images
            study = study.model_copy(update={"description": ""})
    if isinstance(study.space, SpaceDefinition):
        return study
    return study.model_copy(update={"space": load_space(study.space)})


def parse_definition(text: str, source: str) -> StudyDefinition:
    """Parse a resolved study.

    Args:
        text: YAML or JSON.
        source: Name of the text in error messages.

    Raises:
        DefinitionError: If the study is malformed or has an invalid value.
    """
    if len(text) > MOST_BYTES:
        raise DefinitionError(f"{source} has more than {MOST_BYTES:,} characters")
    return check_definition(StudyDefinition, read_yaml(text, source), source)


def _read(name: str, kind: _Kind, word: str) -> Any:
    known = shipped_names(kind)
    if name in known:
        text = _shipped(kind).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        return read_yaml(text, name)
    if not os.path.isfile(name):  # Path.is_file raises for invalid file names
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
        # A file of a package is a Path or, in an archive, an object with the same method.
        text = content.read_text(encoding="utf-8") if hasattr(content, "read_text") else content
    except Exception as error:  # a plugin's class can raise anything
        raise plugin.refusal("cannot be read", error) from error
    return read_yaml(text, str(plugin)) if isinstance(text, str) else text
