"""Run the tasks of a search in a process, with an evaluator that is prepared once."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import __version__
from ..data.image_data import ImageData
from ..errors import DataError, DefinitionError
from ..study.definitions import StudyDefinition
from ..study.files import parse_definition
from ..study.space import SearchSpace
from ..time_limit import time_limit
from ..training.evaluator import Evaluator
from ..training.protocols import no_progress
from ..trials.evaluators import EvaluatorFactory, find_evaluator, study_data, use_device
from ..trials.latency import StudyLatency
from ..trials.notes import compare_data, describe_data
from ..trials.trials import Measure, evaluate_quality, measure_custom_objectives
from .executor import Outcome, Task


def evaluate(definition: StudyDefinition, evaluator: Evaluator, measures: Mapping[str, Measure], task: Task) -> Outcome:
    """Evaluate a configuration within the time limit of a trial.

    Args:
        definition: The study.
        evaluator: The prepared evaluator.
        measures: Measure the study's ``custom_objectives``.
        task: The task.
    """
    with time_limit(definition.trial_limit):
        notes, stopped = evaluate_quality(definition, task.config, evaluator, task.costs, task.rungs, task.is_known)
        if not stopped:
            notes |= measure_custom_objectives(measures, task.config, evaluator)
    return Outcome(notes, stopped)


@dataclass(frozen=True)
class Job:
    """What another process needs for the tasks of a search.

    Attributes:
        definition: The study, as JSON.
        uses_gpu: Whether it evaluates on a GPU.
        threads: CPU threads of a task.
        evaluator: Creates the evaluator if it was given from Python.
        measures: Measure the study's ``custom_objectives``.
        files: Contents of the files that the evaluator has prepared, by their path in the run folder.
        data: Description of the images, from :func:`se_search.trials.notes.describe_data`.
        directory: The directory to which relative paths refer.
        scratch: Parent of the process's temporary folder; the system's by default.
        version: Version of this package.
    """

    definition: str
    uses_gpu: bool
    threads: int
    evaluator: EvaluatorFactory | None
    measures: Mapping[str, Measure]
    files: Mapping[str, npt.NDArray[np.uint8]]
    data: Mapping[str, Any]
    directory: str
    scratch: str | None = None
    version: str = __version__


_prepared: dict[str, Callable[[Task], Outcome]] = {}
"""The prepared function of this process, by search and kind of work."""


def do_elsewhere(search: str, fetch: Callable[[], Job], task: Task) -> Outcome:
    """Run a task in another process than the search's.

    Args:
        search: Identifies the search, because a process may serve several.
        fetch: Fetches what the search needs; called once for each search and kind of work.
        task: The task.
    """
    try:
        do = prepare_elsewhere(search, fetch, task.work)
    except Exception as error:  # what is missing on this machine is missing for every trial
        return Outcome(unfit=f"{type(error).__name__}: {error}")
    return do(task)


def prepare_elsewhere(search: str, fetch: Callable[[], Job], work: str) -> Callable[[Task], Outcome]:
    """Prepare this process for a kind of work, once; arguments as :func:`do_elsewhere`."""
    key = f"{search} {work}"
    if key not in _prepared:
        _prepared[key] = (_prepare_latency if work == "latency" else _prepare_evaluation)(fetch())
    return _prepared[key]


def _prepare_latency(job: Job) -> Callable[[Task], Outcome]:
    definition, space, data = _prepare_process(job, evaluates=False)
    latency = StudyLatency(definition, space, data.input_size, data.classes)

    def measure(task: Task) -> Outcome:
        with time_limit(definition.trial_limit):
            return Outcome(latency.measured(task.config))

    return measure


def _prepare_evaluation(job: Job) -> Callable[[Task], Outcome]:
    definition, space, data = _prepare_process(job, evaluates=True)
    if difference := compare_data(job.data, describe_data(data)):
        raise DataError(f"the images here differ from those of the search: {difference}")
    evaluator = (job.evaluator or find_evaluator(definition.evaluator.name))(definition, space, data)
    scratch = TemporaryDirectory(prefix="se-search-", dir=job.scratch)
    folder = Path(scratch.name)
    for name, content in job.files.items():
        content.tofile(folder / name)
    evaluator.prepare(folder, space, no_progress)
    before = set(folder.rglob("*"))

    def evaluate_here(task: Task) -> Outcome:
        try:
            outcome = evaluate(definition, evaluator, job.measures, task)
            files = {path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8) for path in new_files()}
        finally:
            for path in new_files():
                path.unlink()
        return replace(outcome, files=files, unreadable=tuple(data.unreadable))

    def new_files() -> list[Path]:
        return [path for path in Path(scratch.name).rglob("*") if path not in before and path.is_file()]

    return evaluate_here


def _prepare_process(job: Job, evaluates: bool) -> tuple[StudyDefinition, SearchSpace, ImageData]:
    if job.version != __version__:
        raise DefinitionError(f"se-search is version {__version__} here and {job.version} in the search")
    if os.path.isdir(job.directory):
        os.chdir(job.directory)
    definition = parse_definition(job.definition, "the study of the search")
    uses_gpu = job.uses_gpu if evaluates else definition.device != "cpu"
    # Ray shows a process its own GPUs only.
    definition = definition.model_copy(update={"device": "cuda" if uses_gpu else "cpu", "threads": job.threads})
    use_device(definition)
    return definition, SearchSpace(definition.backbone, definition.resolved_space), study_data(definition)
