"""Checking of definitions, with errors in one sentence."""

from typing import Any, TypeVar

from pydantic import ValidationError

from ..errors import DefinitionError, did_you_mean
from .base import Definition
from .definitions import StudyDefinition
from .evaluator_definition import EVALUATOR_TAGS, SHIPPED_EVALUATORS
from .space_definition import SpaceDefinition

COMMAND_LINE = "the command line"
"""Source of values that are told apart in messages by their option."""


_D = TypeVar("_D", bound=Definition)


def check_definition(kind: type[_D], data: Any, source: str) -> _D:
    """Check plain data against a definition.

    Args:
        kind: The definition.
        data: What was read.
        source: The file it comes from, or :data:`COMMAND_LINE`.

    Raises:
        DefinitionError: Naming the source, the key and what would be right.
    """
    if not isinstance(data, dict):
        raise DefinitionError(f"{source} is not a mapping of keys such as {', '.join(kind.model_fields)}")
    if kind is StudyDefinition and isinstance(data.get("space"), dict):  # the study's errors would be about its name
        whose = "--space" if source == COMMAND_LINE else f"{source}: space"
        data = data | {"space": check_definition(SpaceDefinition, data["space"], whose)}
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise DefinitionError(_one_sentence(error, kind, source)) from error


def _one_sentence(error: ValidationError, kind: type[Definition], source: str) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("str", "[key]", *EVALUATOR_TAGS))
    if source == COMMAND_LINE:
        option = where.removesuffix(".name").removesuffix(".source").removeprefix("evaluator.")
        where = f"--{option.replace('latency.', 'latency-').replace('_', '-')}"
    else:
        where = f"{source}: {where}"
    if first["type"] == "extra_forbidden":
        *parents, key = first["loc"]
        evaluator = EVALUATOR_TAGS.get(str(parents[-1])) if parents else None
        if evaluator is not None and any(key in one.model_fields for one in EVALUATOR_TAGS.values()):
            if source == COMMAND_LINE:
                having = [name for name, one in SHIPPED_EVALUATORS.items() if key in one.model_fields]
                return f"{where} requires --evaluator {' or '.join(having) or 'of a plugin'}"
            whose = evaluator.model_fields["name"].default if evaluator.shipped else "an evaluator of a plugin"
            return f"{where}: {whose} has no such setting; its own are {', '.join(evaluator.own_settings())}"
        known = _keys(kind, parents)
        near = did_you_mean(str(key), known)
        return f"{where} is not a known key{near}; known are {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where} is missing"
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{where} is {first['input']!r}: {reason}"


def _keys(kind: type[Definition], parents: list[int | str]) -> list[str]:
    for parent in parents:
        kind = EVALUATOR_TAGS.get(str(parent)) or type(kind.model_fields[str(parent)].default)
    return list(kind.model_fields)
