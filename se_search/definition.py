"""What all definitions have in common: plain data checked whole, and frozen."""

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from .errors import ConfigurationError


def as_value_error(check: Any, value: Any) -> Any:
    """Check a value; pydantic takes a :class:`ValueError` for its own."""
    try:
        return check(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a value that stands twice."""
    if len(set(values)) < len(values):
        raise ValueError("must not hold a value twice")
    return values


class Definition(BaseModel):
    """Plain data that is checked, frozen, and has no keys but its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
