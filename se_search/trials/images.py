"""The images of a run folder: where they are now, and whether they are still the same."""

import os
from contextlib import closing
from pathlib import Path

from ..data.image_data import ImageData
from ..data.load import absolute_name, is_folder_name
from ..errors import DataError, RunFolderError, as_given
from ..study.definitions import StudyDefinition
from .evaluators import study_data
from .folder import STORAGE_FILE, load_trials
from .notes import check_data


def with_absolute_paths(definition: StudyDefinition) -> StudyDefinition:
    """Return a study whose data mean the same in another directory.

    Raises:
        DataError: If the path of the data is not UTF-8.
    """
    root = definition.data_root
    found = {
        "data": absolute_name(definition.data),
        "data_root": None if root is None else os.path.abspath(os.path.expanduser(root)),
    }
    for path in filter(None, found.values()):
        check_text(path, "data")
    return definition.model_copy(update=found)


def check_text(path: str | os.PathLike[str], argument: str) -> None:
    """Check that a path can be written to a file of text.

    Raises:
        DataError: If it is not UTF-8.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{as_given(argument)} {os.fspath(path)!r} is not UTF-8: rename the folder") from error


def located(definition: StudyDefinition, data: str | None) -> StudyDefinition:
    """Return the study of a run folder with the folder where its images are now.

    Args:
        definition: The study.
        data: That folder; ``None`` for the one in the study.

    Raises:
        DataError: If the run's images are not a folder.
    """
    if data is None:
        return definition
    if not (is_folder_name(definition.data) and is_folder_name(data)):
        raise DataError(
            f"{as_given('data')} {data!r} cannot replace {definition.data!r}: it only gives the new path of a run's "
            "folder of images"
        )
    return with_absolute_paths(definition.model_copy(update={"data": data}))


def run_data(folder: Path, definition: StudyDefinition) -> ImageData:
    """Load the images of a run and check that they are the same as at its start.

    Args:
        folder: The run folder.
        definition: Its study, or the one that is about to resume it.

    Raises:
        DataError: If they cannot be loaded.
        RunFolderError: If they are not where they were, or are others.
    """
    started = (folder / STORAGE_FILE).exists()
    if started and is_folder_name(definition.data) and not os.path.isdir(os.path.expanduser(definition.data)):
        raise RunFolderError(
            f"the images of {folder} are no longer a folder at {definition.data!r}: give their folder with "
            f"{as_given('data')}"
        )
    data = study_data(definition)
    if started:
        with closing(load_trials(folder)) as study:
            check_data(folder, study, data)
    return data
