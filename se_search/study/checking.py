"""Checking of definitions, with errors in one sentence."""

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
    """Check plain data against a definition.

    Args:
        kind: The definition.
        data: What was read.
        source: The file it comes from.
        names: What the user has typed to give a key, where it does not come from the file: ``--epochs`` for
            ``evaluator.epochs``.

    Raises:
        DefinitionError: Naming the source and the key, or what the user has typed, and what would be right.
    """
    if not isinstance(data, dict):
        raise DefinitionError(f"{source} is not a mapping of keys such as {', '.join(_keys(kind, data, []))}")
    if kind is StudyDefinition and isinstance(data.get("space"), dict):  # the study's errors would be about its name
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
                return f"{where} requires {as_given('evaluator')} {' or '.join(having) or 'of a plugin'}"
            whose = evaluator.model_fields["name"].default if evaluator.shipped else "an evaluator of a plugin"
            return f"{where}: {whose} has no such setting; its own are {', '.join(evaluator.own_settings())}"
        known = _keys(kind, data, parents)
        near = did_you_mean(str(key), known)
        return f"{where} is not a known key{near}; known are {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where} is missing"
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{where} is {first['input']!r}: {reason}"


def _typed(key: str, names: Mapping[str, str]) -> str:
    """Return what the user has typed to give a key, a section around it, or a key in it; empty for one of the file."""
    around = [one for one in names if f"{key}.".startswith(f"{one}.")]
    if around:
        nearest = max(around, key=len)
        return names[nearest] + key[len(nearest) :]
    return next((name for one, name in names.items() if one.startswith(f"{key}.")), "")


def _keys(kind: type[Definition], data: Any, parents: list[int | str]) -> list[str]:
    if issubclass(kind, SpaceDefinition):
        return list(kind.keys_for(data))
    for parent in parents:
        kind = EVALUATOR_TAGS.get(str(parent)) or type(kind.model_fields[str(parent)].default)
    return list(kind.model_fields)
