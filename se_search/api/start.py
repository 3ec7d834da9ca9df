"""The start of a search or of a worker, and what can be searched."""

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
from ..study.files import ListedSpace, list_spaces, load_study, shipped_names
from ..study.objectives import OBJECTIVES
from ..study.options import python_parameters, shows_parameters
from ..trials.evaluators import EvaluatorFactory
from ..trials.trials import Measure
from .run import Run


@shows_parameters(python_parameters())
def search(
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
    """Search where SE blocks are worth their cost; what ``se-search run`` calls.

    A folder that holds a part of the same search is gone on with. Where functions were given, the same names must be
    given again.

    Args:
        backbone: A timm architecture name.
        study: Name of a shipped study or path of a study file.
        budget: Distinct configurations to complete; the study's own by default.
        out: Run folder; ``runs/<backbone>-<study>`` by default, or with the last part of the name of ``data`` where
            that is given.
        evaluator: Name of a shipped evaluator or of a plugin's; the keys of a study's ``evaluator``; or a class or
            function ``(study, space, data)`` that returns a :class:`se_search.training.evaluator.Evaluator`.
        objectives: Two or three. Names as in a study file, or a mapping from each name to its direction
            (``"maximize"`` or ``"minimize"``) or, for an objective of your own, to a function and its direction. The
            function takes the configuration and the network that was evaluated and returns a finite number.
        settings: Values of any keys of the study, such as ``{"evaluator.label_smoothing": 0.1}``.
        workers: Processes of this machine that evaluate; 1 is this process itself where there is no ``storage``, and 0
            leaves the work to others. They share the CPU threads, and pause while latency is measured.
        storage: URL of an Optuna storage through which workers of other machines join (:func:`work`):
            ``postgresql://…``, ``mysql+pymysql://…``, ``journal:FILE``, ``redis://…`` or ``grpc://HOST:PORT``.
        study_name: The study's name there; the run folder's by default.
        artifacts: Where workers find and leave files: a folder that all machines see, ``s3://BUCKET`` or
            ``gs://BUCKET``; ``artifacts`` in the run folder by default.
        latency_device: Part of the name of the device whose latency counts; by default this process measures it.
        worker_timeout: Seconds without a sign of life after which a worker counts as gone.
        **arguments: Further keys of the study, in place of its own, by the names that the signature shows; ``se-search
            run --help`` describes them. A mapping replaces a whole section such as ``latency``; other keys of it may be
            given beside that, such as ``latency_runtime``. ``latency="model"`` is its source.

    Raises:
        SeSearchError: If something given is wrong; nothing is written then.
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
    """Evaluate configurations for a search of another process until it has ended; what ``se-search worker`` calls.

    Args:
        storage: As in :func:`search`.
        study: Name of the study there.
        artifacts: As in :func:`search`; by default the place that the search names.
        data: Folder or name of the study's images, where they have another one here.
        data_root: The same for a dataset of timm's.
        device: A torch device; the study's by default.
        threads: Threads of a CPU operation; PyTorch's own choice by default.
        patience: Seconds without a sign of the search after which it gives up.

    Returns:
        The number of tasks that were done.

    Raises:
        SeSearchError: If it cannot take part, or the search is not seen.
    """
    return run_worker(WorkerOptions(storage, study, artifacts, data, data_root, device, threads, patience))


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", "")
    if not callable(function) or not name.isidentifier():
        raise DefinitionError(
            f"evaluator {function!r} has no name to go on by: give a class or a named function (study, space, data)"
        )
    return str(name)


def _split(objectives: Mapping[str, str | tuple[Measure, str]]) -> tuple[dict[str, Measure], dict[str, str]]:
    """Return the functions that measure objectives, and their directions."""
    measures: dict[str, Measure] = {}
    directions: dict[str, str] = {}
    for name, given in objectives.items():
        if isinstance(given, tuple) and len(given) == 2 and callable(given[0]):
            measures[name], directions[name] = given
        elif name not in OBJECTIVES or given != OBJECTIVES[name].direction:
            right = repr(OBJECTIVES[name].direction) if name in OBJECTIVES else "a function and its direction"
            raise DefinitionError(f"objective {name!r} is {given!r}: it must be {right}")
    return measures, directions


def spaces() -> tuple[ListedSpace, ...]:
    """List the shipped search spaces and those of plugins; what ``se-search spaces`` prints."""
    return list_spaces()


def studies() -> dict[str, StudyDefinition]:
    """Return the shipped studies by name; what ``se-search studies`` prints."""
    return {name: load_study(name) for name in shipped_names("studies")}
