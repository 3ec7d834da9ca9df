"""Start of a search or a worker, and lists of spaces and studies."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cluster.dispatch import ClusterOptions
from ..cluster.worker import WorkerOptions, run_worker
from ..driver.loop import run_search
from ..errors import DefinitionError
from ..report.excitation_page import render_excitation
from ..study.definitions import StudyDefinition
from ..study.evaluator_definition import FROM_PYTHON
from ..study.files import load_study, shipped_names
from ..study.objectives import OBJECTIVES
from ..study.options import python_parameters, shows_parameters
from ..trials.evaluators import EvaluatorFactory
from ..trials.trials import Measure
from .run import Run


@shows_parameters(python_parameters())
def search(  # noqa: PLR0913
    backbone: str | None = None,
    study: str | os.PathLike[str] = "digits",
    budget: int | None = None,
    out: str | os.PathLike[str] | None = None,
    evaluator: str | Mapping[str, Any] | EvaluatorFactory | None = None,
    objectives: Sequence[str] | Mapping[str, str | tuple[Measure, str]] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    workers: int = 1,
    storage: str | None = None,
    study_name: str | None = None,
    artifacts: str | None = None,
    latency_device: str | None = None,
    worker_timeout: float = 60.0,
    **arguments: Any,
) -> Run:
    """Search for the places where SE blocks are worth their cost; ``se-search run`` calls this.

    An unfinished search in the run folder is resumed. Functions must then be given again under the same names. All
    arguments are independent options.

    Args:
        backbone: A timm architecture name.
        study: Name of a shipped study or path of a study file.
        budget: Number of distinct configurations to complete; the study's own by default.
        out: Run folder; by default ``runs/<backbone>-<study>``, or ``runs/<backbone>-<data>`` if ``data`` is given.
        evaluator: Name of a shipped or plugin evaluator; the keys of a study's ``evaluator``; or a class or function
            ``(study, space, data)`` that returns a :class:`se_search.training.evaluator.Evaluator`.
        objectives: Two or three. Names as in a study file, or a mapping from each name to its direction
            (``"maximize"`` or ``"minimize"``) or, for a custom objective, to a function and its direction. The function
            takes the configuration and the evaluated network, and returns a finite number.
        settings: Values of any keys of the study, such as ``{"evaluator.label_smoothing": 0.1}``.
        workers: Number of evaluating processes on this machine; 1 is this process if there is no ``storage``, and 0
            leaves evaluation to other machines. They share the CPU threads, and pause while latency is measured.
        storage: URL of an Optuna storage through which workers on other machines join (:func:`work`):
            ``postgresql://…``, ``mysql+pymysql://…``, ``journal:FILE``, ``redis://…`` or ``grpc://HOST:PORT``.
        study_name: Name of the study there; that of the run folder by default.
        artifacts: Exchange of files with workers: a folder that all machines see, ``s3://BUCKET`` or ``gs://BUCKET``;
            ``artifacts`` in the run folder by default.
        latency_device: Part of the name of the device whose latency counts; by default this process measures it.
        worker_timeout: Seconds without a heartbeat after which a worker counts as lost.
        **arguments: Other keys of the study, by the names in the signature; ``se-search run --help`` describes them. A
            mapping replaces a section such as ``latency``, and single keys of it, such as ``latency_runtime``, may be
            given as well. ``latency="model"`` is its source.

    Raises:
        SeSearchError: If an argument is invalid. Nothing is written.
    """
    name = os.fspath(study)
    create: EvaluatorFactory | None = None
    measures: dict[str, Measure] = {}
    if isinstance(evaluator, Mapping):
        evaluator = dict(evaluator)
    elif evaluator is not None and not isinstance(evaluator, str):
        create, evaluator = evaluator, FROM_PYTHON + _name_of(evaluator)
    if isinstance(objectives, Mapping):
        measures, directions = _split(objectives)
        arguments |= {"custom_objectives": directions}
    listed = None if objectives is None else list(objectives)
    arguments |= {"backbone": backbone, "budget": budget, "evaluator": evaluator, "objectives": listed}
    definition = load_study(name, settings, **arguments)
    named = arguments.get("data")
    ending = Path(name).stem if named is None else Path(named).resolve().name
    folder = Path(out) if out is not None else Path("runs") / f"{definition.backbone}-{ending}"
    cluster = ClusterOptions(workers, storage, study_name, artifacts, latency_device, worker_timeout)
    run_search(definition, folder, create, measures, render_excitation, cluster)
    run = Run(folder, create)
    run.report()
    return run


def work(
    storage: str,
    study: str,
    *,
    artifacts: str | None = None,
    data: str | None = None,
    data_root: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    patience: float = 600.0,
) -> int:
    """Evaluate configurations for a search in another process until that ends; ``se-search worker`` calls this.

    Args:
        storage: As in :func:`search`.
        study: Name of the study there.
        artifacts: As in :func:`search`; by default where the search puts them.
        data: Folder or name of the study's images on this machine, if that differs.
        data_root: Root folder of a timm dataset on this machine, if that differs.
        device: A torch device; the study's by default.
        threads: Number of threads of CPU operations; PyTorch's default if not given.
        patience: Seconds without a heartbeat of the search after which the worker exits.

    Returns:
        The number of completed tasks.

    Raises:
        SeSearchError: If it cannot join, or finds no search.
    """
    return run_worker(WorkerOptions(storage, study, artifacts, data, data_root, device, threads, patience))


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", "")
    if not callable(function) or not name.isidentifier():
        raise DefinitionError(
            f"evaluator {function!r} has no name to resume by: give a class or a named function (study, space, data)"
        )
    return str(name)


def _split(objectives: Mapping[str, str | tuple[Measure, str]]) -> tuple[dict[str, Measure], dict[str, str]]:
    measures: dict[str, Measure] = {}
    directions: dict[str, str] = {}
    for name, given in objectives.items():
        if isinstance(given, tuple) and len(given) == 2 and callable(given[0]):
            measures[name], directions[name] = given
        elif name not in OBJECTIVES or given != OBJECTIVES[name].direction:
            right = repr(OBJECTIVES[name].direction) if name in OBJECTIVES else "a function and its direction"
            raise DefinitionError(f"objective {name!r} is {given!r}: it must be {right}")
    return measures, directions


def studies() -> dict[str, StudyDefinition]:
    """Return the shipped studies by name; ``se-search studies`` prints them."""
    return {name: load_study(name) for name in shipped_names("studies")}
