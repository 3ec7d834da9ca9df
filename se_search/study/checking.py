"""Validate definitions and report errors in one sentence."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError

from ..definition import Definition
from ..errors import DefinitionError, as_given, did_you_mean
from .definitions import StudyDefinition
from .evaluator_definition import EVALUATOR_TAGS, SHIPPED_EVALUATORS
from .space_definition import SpaceDefinition

_D = TypeVar("_D", bound=Definition)


def check_definition(kind: type[_D], data: Any, source: str, names: Mapping[str, str] = MappingProxyType({})) -> _D:
    """Validate plain data as a definition.

    Args:
        kind: Class of the definition.
        data: Parsed content of the source.
        source: Name of the source, such as a file, in error messages.
        names: Options or arguments that set keys, by key, such as ``--epochs`` for ``evaluator.epochs``.

    Raises:
        DefinitionError: If the data is invalid. The message names the source and the key, or the user's option.
    """
    if not isinstance(data, dict):
        raise DefinitionError(f"{source} is not a mapping of keys such as {', '.join(_keys(kind, data, []))}")
    if kind is StudyDefinition and isinstance(
        data.get("space"), dict
    ):  # the union's own errors would be about the name of a space
        inside = {key.removeprefix("space."): name for key, name in names.items() if key.startswith("space.")}
        whose = names.get("space", f"{source}: space")
        data = data | {"space": check_definition(SpaceDefinition, data["space"], whose, inside)}
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise DefinitionError(_one_sentence(error, kind, data, source, names)) from error


def _one_sentence(
    error: ValidationError, kind: type[Definition], data: Any, source: str, names: Mapping[str, str]
) -> str:
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"] if part not in ("str", "[key]", *EVALUATOR_TAGS))
    typed = _typed(location, names)
    where = typed or f"{source}: {location}"
    if first["type"] == "extra_forbidden":
        *parents, key = first["loc"]
        evaluator = EVALUATOR_TAGS.get(str(parents[-1])) if parents else None
        if evaluator is not None and any(key in one.model_fields for one in EVALUATOR_TAGS.values()):
            if typed:
                having = [name for name, one in SHIPPED_EVALUATORS.items() if key in one.model_fields]
                required = f"{as_given('evaluator')} {' or '.join(having)}" if having else "an evaluator of a plugin"
                return f"{where} requires {required}"
            whose = evaluator.model_fields["name"].default if evaluator.shipped else "an evaluator of a plugin"
            return f"{where} is not a setting of {whose}, which has {', '.join(evaluator.own_settings())}"
        known = _keys(kind, data, parents)
        near = did_you_mean(str(key), known)
        return f"{where} is not a known key{near}; known are {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where} is missing"
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{where} is {first['input']!r}: {reason}"


def _typed(key: str, names: Mapping[str, str]) -> str:
    """Return the option or argument that set a key, a section around it or a key in it; empty if the file set it."""
    around = [one for one in names if f"{key}.".startswith(f"{one}.")]
    if around:
        nearest = max(around, key=len)
        return names[nearest] + key[len(nearest) :]
    return next((name for one, name in names.items() if one.startswith(f"{key}.")), "")


def _keys(kind: type[Definition], data: Any, parents: list[int | str]) -> list[str]:
    if issubclass(kind, SpaceDefinition):
        return list(kind.keys_for(data, tuple(map(str, parents))))
    for parent in parents:
        kind = EVALUATOR_TAGS.get(str(parent)) or type(kind.model_fields[str(parent)].default)
    return list(kind.model_fields)
