"""Start and plan of a search."""

import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from ..cluster.executor import ClusterOptions
from ..driver.loop import plan_search, run_search
from ..driver.plan import Plan
from ..errors import DefinitionError
from ..report.excitation_page import render_excitation
from ..report.figures import report_figures
from ..results.record import read_results
from ..study.definitions import StudyDefinition
from ..study.evaluator_definition import FROM_PYTHON
from ..study.files import load_study
from ..study.objectives import OBJECTIVES
from ..study.options import python_parameters, shows_parameters
from ..tracking.tracking import Tracking
from ..trials.evaluators import EvaluatorFactory
from ..trials.folder import STUDY_FILE, read_definition
from ..trials.images import check_text, with_absolute_paths
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
    ray: str | None = None,
    gpus_per_trial: float | None = None,
    latency_node: bool = False,
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
        workers: Number of parallel trials on this machine, each in a Ray process; 1 evaluates in this process.
        ray: ``"auto"`` or ``"HOST:PORT"`` of a running Ray cluster that evaluates instead; this machine is one of its
            nodes.
        gpus_per_trial: GPUs of a trial in another process; by default one if the device is CUDA.
        latency_node: Whether the cluster's node that offers the resource ``latency`` measures latency, not this
            process.
        **arguments: Other keys of the study, by the names in the signature; ``se-search run --help`` describes them. A
            mapping replaces a section such as ``latency``, and single keys of it, such as ``latency_runtime``, may be
            given as well. ``latency="model"`` is its source.

    Raises:
        SeSearchError: If an argument is invalid. Nothing is written.
    """
    call = _read_call(
        backbone=backbone,
        study=study,
        budget=budget,
        out=out,
        evaluator=evaluator,
        objectives=objectives,
        settings=settings,
        cluster=ClusterOptions(workers, ray, gpus_per_trial, latency_node),
        **arguments,
    )
    track = call.definition.track
    if track is None and (call.folder / STUDY_FILE).is_file():
        track = read_definition(call.folder).track
    with closing(Tracking(track, call.folder)) as tracking:
        run_search(
            call.definition, call.folder, call.evaluator, call.measures, render_excitation, call.cluster, tracking
        )
        run = Run(call.folder, call.evaluator)
        run.report()
        if track is not None:
            trials, record = read_results(call.folder)
            tracking.log_results(record.curves, lambda: report_figures(trials, record))
    return run


@shows_parameters(
    one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in inspect.signature(search).parameters.values()
)
def plan(
    *,
    workers: int = 1,
    ray: str | None = None,
    gpus_per_trial: float | None = None,
    latency_node: bool = False,
    **arguments: Any,
) -> Plan:
    """Plan a search without writing anything: exact costs, and the estimated time, memory and disk.

    Estimates are from a few timed steps; ``se-search run --dry-run`` prints them.

    Args:
        workers: As in :func:`search`.
        ray: As in :func:`search`.
        gpus_per_trial: As in :func:`search`.
        latency_node: As in :func:`search`.
        **arguments: As in :func:`search`, by name.

    Raises:
        SeSearchError: If an argument is invalid.
    """
    call = _read_call(cluster=ClusterOptions(workers, ray, gpus_per_trial, latency_node), **arguments)
    return plan_search(call.definition, call.folder, call.evaluator, call.measures, call.cluster)


class _Call(NamedTuple):
    """Checked arguments of a search."""

    definition: StudyDefinition
    folder: Path
    evaluator: EvaluatorFactory | None
    measures: Mapping[str, Measure]
    cluster: ClusterOptions


def _read_call(
    *,
    cluster: ClusterOptions,
    study: str | os.PathLike[str] = "digits",
    out: str | os.PathLike[str] | None = None,
    evaluator: str | Mapping[str, Any] | EvaluatorFactory | None = None,
    objectives: Sequence[str] | Mapping[str, str | tuple[Measure, str]] | None = None,
    settings: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> _Call:
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
    arguments |= {"evaluator": evaluator, "objectives": listed}
    definition = with_absolute_paths(load_study(name, settings, **arguments))
    named = arguments.get("data")
    ending = Path(name).stem if named is None else os.path.basename(os.path.abspath(named))
    folder = Path(out) if out is not None else Path("runs") / f"{definition.backbone}-{ending}"
    check_text(folder, "out")
    return _Call(definition, folder, create, measures, cluster)


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
