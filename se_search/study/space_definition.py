"""The definition of a search space."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from ..definition import Definition, Listed, Several, distinct
from ..network.attention import DEFAULT_KIND, KINDS
from ..network.attention.kind import Choices, check_choice


class SpaceDefinition(Definition):
    """The choices of a search space. Its extra keys and attributes are those of the kind of attention.

    In a space with a list of kinds they are the names of the kinds, each with the keys of its own.
    """

    model_config = ConfigDict(extra="allow")

    description: str = ""
    """One-sentence description for ``se-search spaces``."""

    placement: Literal["stage", "block"]
    """Unit in which attention is added or left out: ``"stage"`` or ``"block"``."""

    positions: Several[Literal["default", "standard", "pre", "post", "identity", "3x3", "existing"]] = ("default",)
    """Allowed positions of SE blocks. ``"default"`` is ``existing`` in a backbone with attention, ``standard`` in
    another with residual branches and ``post`` in a plain one."""

    position_per: Literal["network", "stage"] = "network"
    """Scope of a chosen position: the whole ``"network"`` or each ``"stage"``."""

    depth_parts: Annotated[int, Field(ge=1, le=12)] = 1
    """Number of equal parts by depth that play the part of stages in a backbone with a single stage."""

    constant: bool = False
    """Whether the backbone's own attention may also become constant: its mean gate is folded into adjacent weights."""

    attention_per: Literal["network", "stage"] = "network"
    """Scope of a chosen kind of attention: the whole ``"network"`` or each ``"stage"``."""

    attention: Annotated[str | tuple[str, ...], Listed] = DEFAULT_KIND
    """Kind of attention, or a list of kinds: of :data:`se_search.network.attention.KINDS`."""

    @field_validator("attention")
    @classmethod
    def _check_kinds(cls, attention: str | tuple[str, ...]) -> str | tuple[str, ...]:
        names = (attention,) if isinstance(attention, str) else distinct(attention)
        if not names:
            raise ValueError("must name at least one kind of attention")
        for name in names:
            check_choice("kind of attention", name, KINDS)
        return attention

    @model_validator(mode="before")
    @classmethod
    def _check_choices(cls, data: Any) -> Any:
        kinds = cls._kinds_of(data)
        if not kinds or "placement" not in data:  # the field's own validation reports the error
            return data
        own = {key: value for key, value in data.items() if key not in cls.model_fields}
        if isinstance(data.get("attention", DEFAULT_KIND), str):
            return {**data, **dict(KINDS[kinds[0]].choices.model_validate(own))}
        for name in own.keys() - set(kinds):
            raise _inside((), "extra_forbidden", (name,), own[name])
        for name in kinds:
            if not isinstance(own.get(name, {}), dict | Choices):
                raise _inside((), "dict_type", (name,), own[name])
            try:
                own[name] = dict(KINDS[name].choices.model_validate(dict(own.get(name, {}))))
            except ValidationError as error:
                first = error.errors()[0]
                raise _inside((name,), first["type"], first["loc"], first["input"], first.get("ctx")) from error
        return {**data, **own}

    @staticmethod
    def _kinds_of(data: Any) -> tuple[str, ...]:
        """Return the kinds that ``data`` name; empty if they are invalid."""
        named = data.get("attention", DEFAULT_KIND) if isinstance(data, dict) else ()
        names = (named,) if isinstance(named, str) else named
        known = isinstance(names, list | tuple) and all(isinstance(name, str) and name in KINDS for name in names)
        return tuple(names) if known and len(set(names)) == len(names) else ()

    @classmethod
    def keys_for(cls, data: Any, parents: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the allowed keys of a space with the kinds of attention in ``data``, or of its part for a kind."""
        kinds = cls._kinds_of(data)
        if parents:
            return tuple(KINDS[parents[-1]].choices.model_fields)
        if isinstance(data, dict) and isinstance(data.get("attention", DEFAULT_KIND), str):
            return (*cls.model_fields, *(key for name in kinds for key in KINDS[name].choices.model_fields))
        return (*cls.model_fields, *kinds)

    @property
    def kinds(self) -> dict[str, Choices]:
        """The choices of each kind of attention, by its name."""
        own = self.model_extra or {}
        if isinstance(self.attention, str):
            return {self.attention: KINDS[self.attention].choices.model_validate(own)}
        return {name: KINDS[name].choices.model_validate(own[name]) for name in self.attention}


def _inside(
    parents: tuple[str, ...], kind: str, location: tuple[int | str, ...], value: Any, context: Any = None
) -> ValidationError:
    """Return a pydantic error about a key of a kind's own choices."""
    line: Any = {"type": kind, "loc": (*parents, *location), "input": value} | ({"ctx": context} if context else {})
    return ValidationError.from_exception_data("SpaceDefinition", [line])
