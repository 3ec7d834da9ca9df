"""Notes that a search keeps with its trials and study, in a form that others may rely on."""

import base64
import io
import math
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..data.image_data import ImageData
from ..errors import RunFolderError
from ..latency.meter import LatencyConditions
from ..study.definitions import StudyDefinition
from ..study.objectives import Objective, quality_among

_MOST_BYTES = 2**25  # a study of somebody else's may hold a text that grows without end


_MOST_LOSSES = 4096  # of one training: a trial's note of them stays below 25 kB


_MOST_LOSSES_OF_ALL = 10_000  # seeds together: the note stays below 50 kB


FOREIGN = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a study of somebody else's may raise."""


MEASURED_LATENCY = "measured_latency:"
"""A study's attribute of this name and a trial's number holds the latency that took the place of the predicted one."""


PREDICTED = "model"
"""What ``latency_stopped`` is where the latency was not measured but predicted."""


def pack(values: npt.NDArray[Any]) -> str:
    """Write an array of numbers as a short text; :func:`unpack` undoes it."""
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    return base64.b64encode(zlib.compress(stream.getvalue())).decode()


def unpack(text: str) -> npt.NDArray[Any]:
    """Undo :func:`pack` for what trials keep: a row for each training seed, a column for each image.

    Raises:
        ValueError: If ``text`` is anything else, or an array of more than 32 MiB.
    """
    try:
        stream = zlib.decompressobj()
        content = io.BytesIO(stream.decompress(base64.b64decode(text), _MOST_BYTES))
        # The header may promise more than follows, for which NumPy would make room.
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, kind = read_header[np.lib.format.read_magic(content)](content)
        whole = stream.eof and content.getbuffer().nbytes - content.tell() == math.prod(shape) * kind.itemsize
        content.seek(0)
        values = np.load(content, allow_pickle=False) if whole and kind.kind in "bf" else np.empty(0)
    except Exception as error:  # base64, zlib and NumPy raise many kinds
        raise ValueError(f"a packed array cannot be read ({type(error).__name__})") from error
    if values.ndim != 2:
        raise ValueError("a packed array has no row for each seed and column for each image")
    return values


def pack_losses(losses: npt.NDArray[np.float32]) -> str:
    """Pack the losses of images, of very many their means over blocks of consecutive images.

    Means of blocks have the same mean and tell the same standard error of it.

    Args:
        losses: One row for each training seed, one column for each image.
    """
    block = max(-(-losses.shape[1] // _MOST_LOSSES), -(-losses.size // _MOST_LOSSES_OF_ALL))
    whole = losses.shape[1] // block * block
    return pack(losses[:, :whole].reshape(len(losses), -1, block).mean(2).astype(np.float32))


def with_measured_latency(study: optuna.Study) -> optuna.Study:
    """Return a study, in memory, whose trials have their measured latency in place of the predicted one.

    Finished trials of a study cannot be changed, so what is measured afterwards is noted with the study. Objectives and
    limits follow; nothing else differs. A study without such notes is returned as it is.
    """
    with refusing_foreign_trials():
        measured = {
            int(name.removeprefix(MEASURED_LATENCY)): note
            for name, note in study.user_attrs.items()
            if name.startswith(MEASURED_LATENCY)
        }
        if not measured:
            return study
        names = list(study.metric_names or ())
        merged = _study_in_memory(study.directions, names)
        for name, value in study.user_attrs.items():
            merged.set_user_attr(name, value)
        for trial in study.get_trials(deepcopy=False):
            note = measured.get(trial.number)
            merged.add_trial(trial if note is None else _with_latency(trial, note, names))
        return merged


def _study_in_memory(directions: Sequence[StudyDirection], names: list[str]) -> optuna.Study:
    with errors_of_optuna_only():  # it would tell everybody of the new study
        study = optuna.create_study(directions=directions)
        study.set_metric_names(names)
    return study


@contextmanager
def errors_of_optuna_only() -> Iterator[None]:
    """Let Optuna log errors only while the block runs."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _with_latency(trial: FrozenTrial, note: dict[str, Any], names: Sequence[str]) -> FrozenTrial:
    limits = dict(trial.constraints)
    if "max_latency" in limits:
        limits["max_latency"] += note["latency_ratio"] - trial.user_attrs["latency_ratio"]
    changed = optuna.trial.create_trial(
        state=trial.state,
        values=[
            note["latency_ratio"] if name == "latency_ratio" else value
            for name, value in zip(names, trial.values, strict=True)
        ],
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs | note,
        constraints=limits,
    )
    changed.datetime_start, changed.datetime_complete = trial.datetime_start, trial.datetime_complete
    return changed


def latency_conditions(study: optuna.Study) -> LatencyConditions | None:
    """Return how latency was measured; ``None`` before a trial is complete."""
    with refusing_foreign_trials():
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return LatencyConditions.from_dict(trial.user_attrs["latency_conditions"])
        return None


@contextmanager
def refusing_foreign_trials() -> Iterator[None]:
    """Refuse in a sentence what the block reads, where it is not what a search writes.

    Raises:
        RunFolderError: If it is not.
    """
    try:
        yield
    except FOREIGN as error:
        raise RunFolderError(f"the study's trials were not written by se-search: {error!r}") from error


def quality_of(study: optuna.Study) -> Objective:
    """Return what a study judges networks by: log-loss where that is an objective and accuracy is not."""
    return quality_among(study.metric_names or ())


ENDED = "ended"  # a study's attribute: the budget with which the search came to its end


def note_data(folder: Path, study: optuna.Study, data: ImageData) -> None:
    """Note what the data of a run are, or check that they are still the same.

    Raises:
        RunFolderError: If they are not.
    """
    there, here = study.user_attrs.get("data"), describe_data(data)
    if there is not None and there != here:
        different = next(key for key in here if there.get(key) != here[key])
        raise RunFolderError(
            f"{folder} was begun on other images: {different} was {there.get(different)} and is {here[different]} now; "
            "restore them, or choose another folder with --out"
        )
    study.set_user_attr("data", here)


def note_unreadable(study: optuna.Study, images: Iterable[str]) -> None:
    """Add images that could not be read to those that the run has noted."""
    known = study.user_attrs.get("unreadable_images", [])
    study.set_user_attr("unreadable_images", sorted({*known, *images}))


def note_ended(study: optuna.Study, definition: StudyDefinition) -> None:
    """Note that a search has done what its budget asks for, or what its space had for it."""
    study.set_user_attr(ENDED, definition.budget)


def describe_data(data: ImageData) -> dict[str, Any]:
    """Return what a run notes of its data: name, numbers of images, classes and the size of the images."""
    return {
        "name": data.name,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "classes": data.classes,
        "size": list(data.input_size),
    }
