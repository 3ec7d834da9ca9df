"""The definition of a search space."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, model_validator

from ..definition import Definition, Several
from ..network.attention import DEFAULT_KIND, KINDS
from ..network.attention.kind import Choices, PlacedAttention, check_choice


class SpaceDefinition(Definition):
    """The choices of a search space. Its extra keys and attributes are those of the kind of attention."""

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

    attention: Annotated[str, AfterValidator(lambda name: check_choice("kind of attention", name, KINDS))] = (
        DEFAULT_KIND
    )
    """Kind of attention: one of :data:`se_search.network.attention.KINDS`."""

    @model_validator(mode="before")
    @classmethod
    def _check_choices(cls, data: Any) -> Any:
        kind = cls._kind_of(data)
        if kind is None or "placement" not in data:  # the field's own validation reports the error
            return data
        own = {key: value for key, value in data.items() if key not in cls.model_fields}
        return {**data, **dict(kind.choices.model_validate(own))}

    @staticmethod
    def _kind_of(data: Any) -> type[PlacedAttention] | None:
        name = data.get("attention", DEFAULT_KIND) if isinstance(data, dict) else None
        return KINDS.get(name) if isinstance(name, str) else None

    @classmethod
    def keys_for(cls, data: Any) -> tuple[str, ...]:
        """Return the allowed keys of a space with the kind of attention in ``data``."""
        kind = cls._kind_of(data)
        return (*cls.model_fields, *(kind.choices.model_fields if kind else ()))

    @property
    def kind(self) -> type[PlacedAttention]:
        """The kind of attention."""
        return KINDS[self.attention]

    @property
    def choices(self) -> Choices:
        """The choices of the kind of attention."""
        return self.kind.choices.model_validate(self.model_extra)
