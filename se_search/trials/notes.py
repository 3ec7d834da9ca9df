"""The attributes that a search stores with its study and trials."""

import base64
import copy
import io
import math
import warnings
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..data.fingerprint import describe_difference
from ..data.image_data import ImageData
from ..data.load import absolute_name
from ..errors import RunFolderError
from ..latency.meter import LatencyConditions
from ..study.definitions import StudyDefinition
from ..study.objectives import Objective, quality_among
from .pooling import keep_pooled, pooled_trials

_MAX_BYTES = 2**25  # a text of a third-party study can decompress to any size
_FIRST_OF_HEADER = 12  # bytes before the text of the header at most; a newline ends it
_MAX_LOSSES = 4096  # per seed: the packed text stays below 25 kB
_MAX_LOSSES_OF_ALL_SEEDS = 10_000  # the packed text stays below 50 kB

FOREIGN = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""Exceptions that reading a third-party study can raise."""

MEASURED_LATENCY = "measured_latency:"
"""Prefix of study attributes; with a trial's number, the measured latency that replaces the predicted one."""

PREDICTED = "model"
"""Value of ``latency_stopped`` for a predicted latency."""

ENDED = "ended"
"""Study attribute: the budget of the last search that ended normally."""


def pack(values: npt.NDArray[Any]) -> str:
    """Compress an array of numbers to text; :func:`unpack` reverses it."""
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    return base64.b64encode(zlib.compress(stream.getvalue())).decode()


def unpack(text: str) -> npt.NDArray[Any]:
    """Decompress a trial's array of shape (seeds, images), which :func:`pack` has compressed.

    Raises:
        ValueError: If ``text`` is not such an array, or one of more than 32 MiB.
    """
    try:
        stream = zlib.decompressobj()
        content = stream.decompress(base64.b64decode(text), _MAX_BYTES)
        start = content.index(b"\n", _FIRST_OF_HEADER) + 1
        shape, columns_first, kind = _read_header(content[:start])
        # NumPy would allocate the size that the header states, even if less data follow.
        if not stream.eof or len(content) - start != math.prod(shape) * kind.itemsize or kind.kind not in "bf":
            raise ValueError("not a whole array of numbers")
        values = np.frombuffer(bytearray(content[start:]), kind).reshape(shape, order="F" if columns_first else "C")
    except Exception as error:  # base64, zlib and NumPy raise many types
        raise ValueError(f"a packed array cannot be read ({type(error).__name__})") from error
    if values.ndim != 2:
        raise ValueError("a packed array has no row for each seed and column for each image")
    return values


@lru_cache  # NumPy parses it as Python; the arrays of a study have the same
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    content = io.BytesIO(header)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    described = read_header[np.lib.format.read_magic(content)](content)
    if content.read():
        raise ValueError("the header ends earlier")
    return described


def pack_losses(losses: npt.NDArray[np.float32]) -> str:
    """Pack losses of shape (seeds, images); above a limit, pack the means over blocks of consecutive images.

    The block means have the same mean and the same expected standard error of the mean.
    """
    block = max(-(-losses.shape[1] // _MAX_LOSSES), -(-losses.size // _MAX_LOSSES_OF_ALL_SEEDS))
    whole = losses.shape[1] // block * block
    return pack(losses[:, :whole].reshape(len(losses), -1, block).mean(2).astype(np.float32))


def with_measured_latency(study: optuna.Study) -> optuna.Study:
    """Return an in-memory study with the latencies that all measurements of a run give.

    Optuna does not change finished trials: their latencies are those known when they ended. Pooled latencies are
    computed from the stored measurements, and measured ones, which study attributes store, replace predicted ones. The
    trials' objectives and constraints follow. A study without either is returned unchanged.
    """
    with converting_foreign_trial_errors():
        measured = {
            int(name.removeprefix(MEASURED_LATENCY)): note
            for name, note in study.user_attrs.items()
            if name.startswith(MEASURED_LATENCY)
        }
        pooled = pooled_trials(study)
        if pooled is not None:
            measured |= pooled.notes()
        if not measured:
            return study
        names = list(study.metric_names or ())
        trials = [
            _with_latency(trial, measured[trial.number], names) if trial.number in measured else trial
            for trial in study.get_trials(deepcopy=False)
        ]
        with errors_of_optuna_only():  # Optuna would log the creation of the study
            merged = _StudyOf(study.directions, trials)
            merged.set_metric_names(names)
        for name, value in study.user_attrs.items():
            merged.set_user_attr(name, value)
        keep_pooled(study, merged)
        return merged


class _StudyOf(optuna.Study):
    """A study in memory that has given trials: Optuna would copy and check each of thousands."""

    def __init__(self, directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial]) -> None:
        storage = InMemoryStorage()
        super().__init__(optuna.create_study(storage=storage, directions=directions).study_name, storage)
        self._given = trials

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        """Return the trials, or those of some states."""
        found = [trial for trial in self._given if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found


@contextmanager
def errors_of_optuna_only() -> Iterator[None]:
    """Silence Optuna's messages below errors, and its experimental warnings."""
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
            for name, value in zip(names, trial.values or (), strict=True)
        ]
        if trial.state == TrialState.COMPLETE
        else None,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=trial.user_attrs | note,
        constraints=limits,
    )
    changed.number = trial.number
    changed.datetime_start, changed.datetime_complete = trial.datetime_start, trial.datetime_complete
    return changed


def latency_conditions(study: optuna.Study) -> LatencyConditions | None:
    """Return the latency conditions of the first complete trial; ``None`` without one."""
    with converting_foreign_trial_errors():
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return LatencyConditions.from_dict(trial.user_attrs["latency_conditions"])
        return None


@contextmanager
def converting_foreign_trial_errors() -> Iterator[None]:
    """Convert errors of reading trials that se-search did not write to :class:`RunFolderError`."""
    try:
        yield
    except FOREIGN as error:
        raise RunFolderError(f"the study's trials were not written by se-search: {error!r}") from error


def quality_of(study: optuna.Study) -> Objective:
    """Return the quality objective of a study: log-loss if it is an objective and accuracy is not, else accuracy."""
    return quality_among(study.metric_names or ())


def note_data(folder: Path, study: optuna.Study, data: ImageData) -> None:
    """Store a description of the run's data, or check that it is unchanged.

    Raises:
        RunFolderError: If the data have changed.
    """
    check_data(folder, study, data)
    study.set_user_attr("data", describe_data(data))


def check_data(folder: Path, study: optuna.Study, data: ImageData) -> None:
    """Check that images are those of a run.

    Raises:
        RunFolderError: If they are others.
    """
    before = study.user_attrs.get("data")
    difference = "" if before is None else compare_data(before, describe_data(data))
    if difference:
        raise RunFolderError(
            f"{folder} was started with other images: {difference}; restore them, or choose another folder with --out"
        )


def compare_data(before: Any, now: Mapping[str, Any]) -> str:
    """Say what differs between two descriptions of data, from :func:`describe_data`; empty if they are the same.

    Folders with the same fingerprint are the same, wherever they lie.
    """
    if not isinstance(before, dict):
        return "their description is damaged"
    known, found = before.get("fingerprint"), now.get("fingerprint")
    if isinstance(known, dict) and isinstance(found, dict):
        difference = describe_difference(known, found)
        if difference:
            return difference
    elif absolute_name(str(before.get("name"))) != absolute_name(now["name"]):
        return f"name was {before.get('name')} and is {now['name']} now"
    for key in now.keys() - {"name", "fingerprint"}:
        if before.get(key) != now[key]:
            return f"{key} was {before.get(key)} and is {now[key]} now"
    return ""


def note_unreadable(study: optuna.Study, images: Iterable[str]) -> None:
    """Add images to the study's list of unreadable ones."""
    known = study.user_attrs.get("unreadable_images", [])
    study.set_user_attr("unreadable_images", sorted({*known, *images}))


def note_ended(study: optuna.Study, definition: StudyDefinition) -> None:
    """Store that a search has spent its budget or exhausted its space."""
    study.set_user_attr(ENDED, definition.budget)


def describe_data(data: ImageData) -> dict[str, Any]:
    """Return the name, numbers of images, number of classes, input size and fingerprint of a run's data."""
    return {
        "name": data.name,
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
        "classes": data.classes,
        "size": list(data.input_size),
        "fingerprint": None if data.fingerprint is None else dict(data.fingerprint),
    }
