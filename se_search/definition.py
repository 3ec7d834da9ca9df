"""Base class and validators of definitions."""

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from .errors import ConfigurationError


def as_value_error(check: Any, value: Any) -> Any:
    """Run a check and convert a ConfigurationError to the :class:`ValueError` that pydantic expects."""
    try:
        return check(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Reject duplicate values."""
    if len(set(values)) < len(values):
        raise ValueError("must not contain a value twice")
    return values


class Definition(BaseModel):
    """Validated, immutable data without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
