"""The course of a search: prepare the evaluator once, then evaluate configurations until the budget is spent."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import nn

from ..cluster.evaluate import Job, evaluate
from ..cluster.executor import ClusterOptions, Executor, InProcess
from ..data.folders import ImageCounts
from ..data.image_data import ImageData
from ..data.load import EMBEDDED
from ..devices import is_there
from ..errors import RunFolderError
from ..memory import memory_told
from ..network.config import SEConfig
from ..progress import Schedule, following, progress_bar, say
from ..results.power import power_of_run
from ..study.definitions import StudyDefinition
from ..study.space import SearchSpace
from ..tracking.tracking import Tracking
from ..training.distributed import rank, take_part
from ..training.evaluator import Evaluator
from ..trials.evaluators import (
    EvaluatorFactory,
    TrainingSpeed,
    choose_device,
    choose_training,
    find_evaluator,
    use_device,
    warn_if_busy,
)
from ..trials.folder import (
    STORAGE_FILE,
    STUDY_FILE,
    check_folder,
    load_trials,
    open_folder,
    read_definition,
    reporting_unwritable,
)
from ..trials.images import located, run_data
from ..trials.latency import StudyLatency, latency_size, resolve_latency
from ..trials.notes import describe_data, note_data, note_ended, note_unreadable
from ..trials.priors import check_priors, priors_from_excitation
from ..trials.provenance import counting_warnings, record_start
from ..trials.resume import with_choices_of
from ..trials.trials import Measure, Trials, count_finished
from .plan import Plan, make_plan
from .trial_loop import StudyLoop, needs_looks


def run_search(
    definition: StudyDefinition,
    folder: Path,
    evaluator: EvaluatorFactory | None = None,
    measures: Mapping[str, Measure] | None = None,
    render: Callable[[dict[str, Any]], str] | None = None,
    cluster: ClusterOptions | None = None,
    tracking: Tracking | None = None,
) -> None:
    """Search until ``definition.budget`` distinct configurations are complete in ``folder``; resume an unfinished run.

    The folder then contains the study and the files of its evaluator; :mod:`se_search.results.record` writes tables.

    Args:
        definition: A resolved study, which includes its space.
        folder: The run folder; created if missing.
        evaluator: Creates the evaluator if it was given from Python.
        measures: Measure the study's ``custom_objectives``.
        render: Renders the page of the supernet's excitation if priors come from it.
        cluster: How the search uses workers.
        tracking: Logs the trials.

    Raises:
        SeSearchError: If an argument is invalid. Nothing is written.
    """
    measures, cluster = measures or {}, cluster or ClusterOptions()
    search = _prepare(definition, folder, evaluator, measures, cluster)
    definition, space, data, used = search.definition, search.space, search.data, search.evaluator
    # The other processes of torchrun end here: only the first one writes to the folder.
    take_part(used, space, data, definition.device)
    warn_if_busy()
    definition.evaluator.check(folder, definition.backbone, data)
    latency = search.open_latency(folder)

    def open_executor() -> Executor:
        if not cluster.uses_ray:
            return InProcess(partial(evaluate, definition, used, measures))
        from ..cluster.ray_executor import RayExecutor

        job = Job(
            definition=definition.model_dump_json(),
            uses_gpu=definition.device != "cpu",
            threads=torch.get_num_threads(),
            evaluator=evaluator,
            measures=measures,
            files={name: np.fromfile(folder / name, np.uint8) for name in getattr(used, "shared_files", ())},
            data=describe_data(data),
            directory=str(Path.cwd()),
        )
        return RayExecutor(job, cluster)

    _say_scope(definition)
    with closing(latency), reporting_unwritable(folder), open_folder(folder, definition, search.there) as study:
        note_data(folder, study, data)
        record_start(folder, definition, search.speeds)
        latency.resume(folder, study, cluster.latency_node)
        counts = ImageCounts(len(data.train), len(data.validation), len(data.test))
        for sentence in power_of_run(definition, study, folder, counts).sentences:
            say(sentence)
        try:
            with (
                counting_warnings(folder),
                following(search.show_plan(folder, latency, count_finished(study), cluster.parallel)),
            ):
                with memory_told():
                    used.prepare(folder, space, progress_bar)
                further = {}
                if definition.priors == "excitation":
                    further = priors_from_excitation(folder, definition, space, data, used, render)
                latency.fit_model(folder)
                size = latency_size(definition, data.input_size)
                trials = Trials(definition, space, size, study, further, measures, parallel=cluster.uses_ray)
                if trials.left or needs_looks(latency, study):
                    with closing(open_executor()) as executor:
                        log = (tracking or Tracking(None, folder)).log_trials
                        loop = StudyLoop(
                            definition, trials, executor, latency, study, folder, cluster.latency_node, log
                        )
                        if trials.left:
                            loop.run()
                        loop.measure_contenders()
                latency.measure_front(study)
                note_ended(study, definition)
        finally:
            note_unreadable(study, data.unreadable)


@dataclass(frozen=True)
class _Search:
    """A checked search, of which nothing is written yet.

    Attributes:
        definition: The study, with explicit settings.
        there: The study of the run folder, if it has one.
        space: The space.
        data: The data.
        evaluator: The evaluator, not prepared.
        speeds: What precision and memory format were chosen from, if they were left to the program.
    """

    definition: StudyDefinition
    there: StudyDefinition | None
    space: SearchSpace
    data: ImageData
    evaluator: Evaluator
    speeds: tuple[TrainingSpeed, ...]

    def open_latency(self, folder: Path) -> StudyLatency:
        """Run the backbone in its runtime, so that an unsupported one is rejected before hours of training."""
        return StudyLatency(self.definition, self.space, self.data.input_size, self.data.classes, folder)

    def plan(self, folder: Path, latency: StudyLatency, done: int, parallel: int | None) -> Plan:
        """Return :func:`se_search.driver.plan.make_plan` of the search."""
        return make_plan(self.definition, folder, self.space, self.data, self.evaluator, latency, done, parallel)

    def show_plan(self, folder: Path, latency: StudyLatency, done: int, parallel: int | None) -> Schedule:
        """Print the plan if trials are left, without the published results just printed, and return its schedule."""
        if done >= self.definition.budget:
            return Schedule()
        plan = self.plan(folder, latency, done, parallel)
        plan.show(known=False)
        return Schedule(plan.phases)


def _prepare(
    definition: StudyDefinition,
    folder: Path,
    evaluator: EvaluatorFactory | None,
    measures: Mapping[str, Measure],
    cluster: ClusterOptions,
) -> _Search:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    there = read_definition(folder) if (folder / STUDY_FILE).is_file() else None
    if there is not None:
        _check_given(str(folder), there, evaluator, measures)
        definition = with_choices_of(there, definition)
    definition = choose_device(definition)
    _check_given("the study", definition, evaluator, measures)
    check_priors(definition)
    cluster.check(definition)
    use_device(definition)
    definition = definition.model_copy(update={"threads": torch.get_num_threads()})
    definition = resolve_latency(definition)
    space = SearchSpace(definition.backbone, definition.resolved_space)
    check_folder(folder, definition, there)
    data = run_data(folder, definition)
    definition, speeds = choose_training(definition, data)
    sizes = data.input_size, latency_size(definition, data.input_size)
    for size in sizes:
        space.check_images(size)
    space.merge_extents(*sizes)
    used = (evaluator or find_evaluator(definition.evaluator.name))(definition, space, data)
    return _Search(definition, there, space, data, used, speeds)


def plan_search(
    definition: StudyDefinition,
    folder: Path,
    evaluator: EvaluatorFactory | None = None,
    measures: Mapping[str, Measure] | None = None,
    cluster: ClusterOptions | None = None,
) -> Plan:
    """Plan what :func:`run_search` would do with the same arguments. Nothing is written.

    Raises:
        SeSearchError: If an argument is invalid.
        SystemExit: On ranks above 0 of torchrun.
    """
    cluster = cluster or ClusterOptions()
    search = _prepare(definition, folder, evaluator, measures or {}, cluster)
    if rank() > 0:  # one process of torchrun plans
        raise SystemExit(0)
    search.definition.evaluator.check(folder, search.definition.backbone, search.data)
    done = 0
    if (folder / STORAGE_FILE).exists():
        with closing(load_trials(folder)) as study:
            done = count_finished(study)
    with closing(search.open_latency(folder)) as latency:
        return search.plan(folder, latency, done, cluster.parallel)


def _say_scope(definition: StudyDefinition) -> None:
    """Say what a search on an embedded task can tell, and the command for the user's images."""
    if definition.data in EMBEDDED:
        say(EMBEDDED[definition.data].scope)
        say(f"For your images: se-search run --backbone {definition.backbone} --data FOLDER", to_copy=True)


def load_network(
    folder: Path, config: SEConfig, evaluator: EvaluatorFactory | None = None, images: str | None = None
) -> tuple[nn.Module, ImageData]:
    """Load the network of ``config`` with the evaluated weights, and the data that it was trained on.

    Args:
        folder: A run folder.
        config: A configuration of its space.
        evaluator: Creates the run's evaluator if it was given from Python.
        images: The folder where the run's images are now; that in the study by default.

    Raises:
        RunFolderError: If the evaluator's files are missing or damaged, the evaluator is not given, or the images are
            others.
    """
    definition = located(read_definition(folder), images)
    if evaluator is None:
        _check_evaluator_given(str(folder), definition)
        evaluator = find_evaluator(definition.evaluator.name)
    data = run_data(folder, definition)
    if not is_there(definition.device):  # a network trained on a GPU can be used without one
        definition = definition.model_copy(update={"device": "cpu"})
    used = evaluator(definition, SearchSpace(definition.backbone, definition.resolved_space), data)
    used.load(folder)
    return used.network(config), data


def _check_given(
    whose: str, definition: StudyDefinition, evaluator: EvaluatorFactory | None, measures: Mapping[str, Measure]
) -> None:
    missing = [name for name in definition.custom_objectives if name not in measures]
    if missing:
        raise RunFolderError(
            f"{whose} has an objective that a Python function measures ({', '.join(missing)}): "
            "use Python and pass objectives=… to se_search.search"
        )
    if evaluator is None:
        _check_evaluator_given(whose, definition)


def _check_evaluator_given(whose: str, definition: StudyDefinition) -> None:
    if definition.evaluator.function:
        raise RunFolderError(
            f"{whose} has an evaluator given from Python ({definition.evaluator.function}): "
            "use Python and pass evaluator=… to se_search.search or se_search.load_run"
        )
