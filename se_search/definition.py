"""Base class, types and validators of definitions."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MOST_PIXELS, MOST_IMAGES = 2**14, 2**20  # larger values are mistakes or exhaust memory
Threads = Annotated[int, Field(ge=1, le=4096)]
Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Reject duplicate values."""
    if len(set(values)) < len(values):
        raise ValueError("must not contain a value twice")
    return values


_T = TypeVar("_T")
Several = Annotated[tuple[_T, ...], Listed, Field(min_length=1), AfterValidator(distinct)]
"""One or more distinct values, a list in YAML."""


class Definition(BaseModel):
    """Validated, immutable data without unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),  # up to pydantic 2.9 a field called model_file was a warning
    )
