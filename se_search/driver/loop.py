"""The study loop: prepare the evaluator once, then evaluate configurations until the budget is spent."""

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import SQLAlchemyError
from torch import nn

from ..cluster.dispatch import ClusterOptions, Dispatcher, check_cluster_options
from ..cluster.exchange import ARTIFACTS, DEFINITION, SEARCH, SHARED_FILES, State, heartbeat, refuse_second_search
from ..cluster.fleet import Fleet
from ..cluster.shared_files import ArtifactStore, open_artifact_store, remove_files, share_files
from ..cluster.storage import check_same_search, check_same_study, copy_finished, open_shared, open_storage
from ..data.image_data import ImageData
from ..devices import is_there
from ..errors import RunFolderError
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..progress import progress_bar
from ..study.definitions import StudyDefinition
from ..study.space import SearchSpace
from ..time_limit import time_limit
from ..training.distributed import take_part
from ..training.evaluator import Evaluator
from ..trials.evaluators import EvaluatorFactory, find_evaluator, study_data, tell_if_busy, use_device
from ..trials.folder import STUDY_FILE, RunStudy, check_folder, open_folder, read_definition, storage_url
from ..trials.latency import StudyLatency, latency_size
from ..trials.notes import note_data, note_ended, note_unreadable
from ..trials.priors import check_priors, priors_from_excitation
from ..trials.provenance import record_start
from ..trials.search_study import SearchStudy
from ..trials.trials import Measure, Trials, check_same_images, costs_of, end_unfinished, measured_by, worth_of

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def run_search(
    definition: StudyDefinition,
    folder: Path,
    evaluator: EvaluatorFactory | None = None,
    measures: Mapping[str, Measure] | None = None,
    render: Callable[[dict[str, Any]], str] | None = None,
    cluster: ClusterOptions | None = None,
) -> None:
    """Search, or go on searching, until ``definition.budget`` distinct configurations are complete in ``folder``.

    Afterwards the folder holds the study and what its evaluator keeps there; :mod:`se_search.results.record` writes the
    tables.

    Args:
        definition: A resolved study: its space is in it.
        folder: The run folder; created where it does not exist.
        evaluator: Creates the evaluator, where the study's is given from Python.
        measures: Measure the study's ``custom_objectives``.
        render: Gives the page of the supernet's excitation, where priors are taken from that.
        cluster: How the search uses workers.

    Raises:
        SeSearchError: If something the user gave is wrong; nothing is written then.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    measures = measures or {}
    cluster = cluster or ClusterOptions()
    there = read_definition(folder) if (folder / STUDY_FILE).is_file() else None
    if there is not None:
        _check_given(str(folder), there, evaluator, measures)
        if definition.threads is None:  # PyTorch's choice depends on the process: the same command goes on all the same
            definition = definition.model_copy(update={"threads": there.threads})
    _check_given("the study", definition, evaluator, measures)
    check_priors(definition)
    check_cluster_options(cluster, definition, measures)
    use_device(definition)
    definition = definition.model_copy(update={"threads": torch.get_num_threads()})
    space = SearchSpace(definition.backbone, definition.resolved_space)
    data = study_data(definition)
    network_options(definition.backbone, data.input_size)
    network_options(definition.backbone, latency_size(definition, data.input_size))
    used = (evaluator or find_evaluator(definition.evaluator.name))(definition, space, data)
    # The other processes of torchrun's end here: the folder is the first one's.
    take_part(used, space, data, definition.device)
    tell_if_busy()
    check_folder(folder, definition, there)
    definition.evaluator.check(folder)
    # It tries the backbone in its runtime: hours of training shall not end with a refusal.
    latency = StudyLatency(definition, space, data.input_size, data.classes)
    storage = None if cluster.storage is None else open_storage(cluster.storage)

    with (
        closing(latency),
        _told_if_unwritable(folder),
        open_folder(folder, definition, there) as own,
        _shared(own, folder, definition, storage, cluster.study_name) as (study, publish_state),
    ):
        note_data(folder, study, data)
        record_start(folder, definition)
        latency.go_on_from(folder, study, cluster.latency_device)
        try:
            used.prepare(folder, space, progress_bar)
            further = {}
            if definition.priors == "excitation":
                further = priors_from_excitation(folder, definition, space, data, used, render)
            latency.learn(folder)
            size = latency_size(definition, data.input_size)
            trials = Trials(definition, space, size, study, further, measures, parallel=cluster.uses_workers)
            if cluster.uses_workers:
                shared_files = getattr(used, "shared_files", ())
                _search_with_workers(
                    definition, trials, latency, own, study, folder, cluster, shared_files, publish_state
                )
            else:
                _search(definition, trials, used, measures, latency, size, study)
            latency.measure_front(study)
            note_ended(study, definition)
        finally:
            note_unreadable(study, data.unreadable)


@contextmanager
def _told_if_unwritable(folder: Path) -> Iterator[None]:
    """Say in a sentence that a run folder can no longer be written: its disk is full, or has become read-only."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = str(getattr(cause, "orig", None) or cause or error)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        reason = str(error.strerror)
    else:
        return
    raise RunFolderError(
        f"{folder} cannot be written any more ({reason}): what is finished is kept; make it writable and give the same "
        "command again"
    )


def load_network(
    folder: Path, config: SEConfig, evaluator: EvaluatorFactory | None = None
) -> tuple[nn.Module, ImageData]:
    """Load the network of ``config`` with the weights that were evaluated, and the data that it was trained on.

    Args:
        folder: A run folder.
        config: A configuration of its space.
        evaluator: Creates the run's evaluator, where that was given from Python.

    Raises:
        RunFolderError: If what the evaluator keeps in the folder is missing or damaged, or the evaluator is not given.
    """
    definition = read_definition(folder)
    if evaluator is None:
        _check_evaluator_given(str(folder), definition)
        evaluator = find_evaluator(definition.evaluator.name)
    data = study_data(definition)
    if not is_there(definition.device):  # what a GPU has trained can be used without one
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
            "go on from Python, with se_search.search(objectives=…)"
        )
    if evaluator is None:
        _check_evaluator_given(whose, definition)


def _check_evaluator_given(whose: str, definition: StudyDefinition) -> None:
    if definition.evaluator.function:
        raise RunFolderError(
            f"{whose} has an evaluator given from Python ({definition.evaluator.function}): "
            "go on from Python, with evaluator=… of se_search.search or se_search.load_run"
        )


def _search(
    definition: StudyDefinition,
    trials: Trials,
    evaluator: Evaluator,
    measures: Mapping[str, Measure],
    latency: StudyLatency,
    size: tuple[int, int, int],
    study: SearchStudy,
) -> None:
    """Evaluate in this process, one trial after the other."""
    with progress_bar("Evaluating configurations", definition.budget, min(trials.done, definition.budget)) as advance:
        while trials.left:
            proposal = trials.propose()
            if proposal is None:
                trials.tell_that_none_is_left()
                return
            config = proposal.config
            try:
                with time_limit(definition.trial_limit):
                    notes = costs_of(config, size) | latency.of(config)
                    worth, stopped = worth_of(definition, config, evaluator, notes, study, bool(proposal.named))
                    check_same_images(worth, study)
                    notes |= worth | ({} if stopped else measured_by(measures, config, evaluator))
                line = trials.complete(proposal, notes, stopped)
            except (RunFolderError, KeyboardInterrupt):
                trials.interrupt(proposal)
                raise
            except Exception as error:  # whatever goes wrong in one trial must not end the search
                advance(0, trials.fail(proposal, error))
            else:
                advance(1, line)


@contextmanager
def _shared(
    own: RunStudy, folder: Path, definition: StudyDefinition, storage: BaseStorage | None, name: str | None
) -> Iterator[tuple[SearchStudy, Callable[[State], None]]]:
    """Give the Optuna study that the search and its workers share, and a function that tells them its state.

    In a storage of several machines it begins with what the run folder holds, and either gets what it lacks: the search
    may have gone on in one of them without the other.
    """
    if storage is None:
        yield own, lambda state: own.set_user_attr(SEARCH, {"state": state})
        return
    shared = open_shared(storage, name or folder.resolve().name, definition)
    check_same_study(shared, definition)
    refuse_second_search(shared)
    check_same_search(folder, own, shared)
    shared.set_user_attr(DEFINITION, definition.model_dump_json())
    for one in (own, shared):  # what is unfinished in one may be finished in the other, and is not copied
        end_unfinished(one)
    copy_finished(own, shared)
    copy_finished(shared, own)
    with heartbeat(shared, SEARCH, {"state": "preparing"}) as beat:
        try:
            yield shared, lambda state: beat({"state": state})
        except BaseException:
            beat({"state": "stopped"})
            raise
        else:
            beat({"state": "ended"})
        finally:
            copy_finished(shared, own)


def _search_with_workers(
    definition: StudyDefinition,
    trials: Trials,
    latency: StudyLatency,
    own: RunStudy,
    study: SearchStudy,
    folder: Path,
    cluster: ClusterOptions,
    shared_files: Iterable[str],
    publish_state: Callable[[State], None],
) -> None:
    """Let workers evaluate: several trials at once."""

    def keep() -> None:
        if study is not own:
            copy_finished(study, own)

    if study is own:
        own.set_user_attr(DEFINITION, definition.model_dump_json())
    store = None if cluster.storage is None else open_artifact_store(cluster.artifacts or _own_artifacts(folder))
    url = cluster.storage or storage_url(folder)
    with (
        _handed_over(study, folder, store, shared_files, cluster.artifacts),
        closing(Fleet(study, url, folder, cluster.workers, cluster.worker_timeout)) as fleet,
        progress_bar("Evaluating configurations", definition.budget, min(trials.done, definition.budget)) as advance,
    ):
        publish_state("searching")
        device = cluster.latency_device
        Dispatcher(definition, trials, fleet, latency, study, folder, store, device).run(advance, keep)
        publish_state("ended")


@contextmanager
def _handed_over(
    study: SearchStudy,
    folder: Path,
    store: ArtifactStore | None,
    names: Iterable[str],
    where: str | None,
) -> Iterator[None]:
    """Hand files of the run folder to workers on other machines while the block runs."""
    if store is None:
        yield
        return
    study.set_user_attr(ARTIFACTS, where or _own_artifacts(folder))
    shared = share_files(study, store, folder, [folder / name for name in names])
    study.set_user_attr(SHARED_FILES, shared)
    try:
        yield
    finally:
        remove_files(store, shared)
        with suppress(OSError):  # another one, or one that still holds something
            os.rmdir(_own_artifacts(folder))


def _own_artifacts(folder: Path) -> str:
    return str((folder / ARTIFACTS).resolve())
