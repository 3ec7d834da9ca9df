"""What a resumed run takes from its folder: what the user left out, or left to the program."""

from pydantic import BaseModel

from ..study.definitions import StudyDefinition

_CHOSEN = (
    "device",
    "threads",
    "track",
    "splits.cut",
    "latency.source",
    "latency.size",
    "evaluator.precision",
    "evaluator.channels_last",
    "evaluator.recalibration_images",
)
"""Keys that the program, the machine or an earlier version may have chosen."""

_LATER = ("space.depth_parts", "space.constant")
"""Keys that study files of earlier versions lack; their defaults were another space."""


def with_choices_of(there: StudyDefinition, definition: StudyDefinition) -> StudyDefinition:
    """Return a study whose choices are those of the study of its run folder, unless the user gives others."""
    for key in (*_CHOSEN, *_LATER):
        section, _, name = key.rpartition(".")
        mine, theirs = (_section(one, section) for one in (definition, there))
        if not all(name in type(one).model_fields for one in (mine, theirs)):  # of another evaluator
            continue
        left_out = name not in mine.model_fields_set or getattr(mine, name) in (None, "auto")
        if left_out if key in _CHOSEN else name not in theirs.model_fields_set:
            chosen = mine.model_copy(update={name: getattr(theirs, name)})
            definition = definition.model_copy(update={section: chosen}) if section else chosen  # type: ignore[assignment]
    return definition


def _section(definition: StudyDefinition, name: str) -> BaseModel:
    section: BaseModel = getattr(definition, name) if name else definition
    return section
