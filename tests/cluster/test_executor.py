"""The contract of executors: the same tasks in this process and on two nodes of a Ray cluster."""

import time
from functools import partial
from pathlib import Path

import pytest
import torch
from faults import TESTS
from own_evaluators import Quick, answer

from se_search import SEConfig
from se_search.cluster.evaluate import Job, evaluate
from se_search.cluster.executor import ClusterOptions, InProcess, Task
from se_search.errors import EvaluationError
from se_search.network.insertion import create_model
from se_search.study.files import load_study
from se_search.study.space import SearchSpace
from se_search.trials.evaluators import study_data
from se_search.trials.notes import describe_data

UNIFORM, PLAIN = SEConfig.uniform("test_resnet", 16), SEConfig.without_attention("test_resnet")
LIMIT = 10


class Scripted(Quick):
    """Fails, hangs or stops as its configuration says; a class of this file, as a user's would be."""

    def __init__(self, study, space, data):
        super().__init__(study, space, data)
        self.folder = None

    def prepare(self, folder, space, progress_bar):
        self.folder = folder

    def rungs(self, config):
        if config == UNIFORM.without_stage(2):
            raise MemoryError("one network was too large")
        if config == UNIFORM.without_stage(3):
            time.sleep(10 * LIMIT)
        (self.folder / "weights").mkdir(exist_ok=True)
        torch.save(create_model(config).state_dict(), self.folder / "weights" / f"{config.id}.pt")
        for epochs in (1, 2):
            yield epochs, answer(config, len(self.data.validation))


def blocks(config, network):
    return float(len(config.placed))


STUDY = load_study(
    "digits",
    backbone="test_resnet",
    threads=1,
    trial_limit=LIMIT,
    objectives=["accuracy", "parameter_overhead", "blocks"],
    custom_objectives={"blocks": "minimize"},
    evaluator={"name": "python:Scripted", "epochs": 2, "halving": 2},
)


@pytest.fixture(scope="module", params=["in this process", "on Ray"])
def executor(request, tmp_path_factory):
    data, measures = study_data(STUDY), {"blocks": blocks}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(TESTS))
        if request.param == "in this process":
            used = Scripted(STUDY, SearchSpace("test_resnet", STUDY.resolved_space), data)
            used.prepare(tmp_path_factory.mktemp("run"), None, None)
            made = InProcess(partial(evaluate, STUDY, used, measures))
            yield made
            made.close()
            return
        pytest.importorskip("ray")
        from ray.cluster_utils import Cluster

        from se_search.cluster.ray_executor import RayExecutor

        cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        job = Job(STUDY.model_dump_json(), False, 1, Scripted, measures, {}, describe_data(data), str(Path.cwd()))
        made = RayExecutor(job, ClusterOptions(ray=cluster.address))
        yield made
        made.close()
        cluster.shutdown()


def test_it_evaluates_with_functions_of_the_users_own_and_files_come_back_whole(executor, tmp_path):
    for config in (UNIFORM, PLAIN):
        outcome = executor.submit(Task(config, {"parameter_overhead": 0.1})).result()
        assert outcome.unfit == ""
        assert outcome.notes["accuracy"] == pytest.approx(answer(config, 400).accuracy.value)
        assert outcome.notes["blocks"] == len(config.placed)
        assert not outcome.stopped
        assert list(outcome.files) == ([f"weights/{config.id}.pt"] if outcome.node else [])
        for content in outcome.files.values():
            content.tofile(tmp_path / "weights.pt")
            create_model(config).load_state_dict(torch.load(tmp_path / "weights.pt"))


def test_an_error_comes_back_as_it_was_raised_and_a_task_ends_at_its_limit(executor):
    with pytest.raises(MemoryError, match=r"^one network was too large$"):
        executor.submit(Task(UNIFORM.without_stage(2))).result()
    with pytest.raises(EvaluationError, match=f"took longer than its limit of {LIMIT} s"):
        executor.submit(Task(UNIFORM.without_stage(3))).result()
    assert executor.submit(Task(PLAIN, {"parameter_overhead": 0.0})).result().notes


@pytest.mark.parametrize(("is_known", "stopped"), [(False, True), (True, False)])
def test_halving_compares_with_the_rungs_of_other_trials(executor, is_known, stopped):
    better = [{"1": [-1.0, 0.0]}] * 3
    task = Task(UNIFORM, {"parameter_overhead": 0.1}, is_known, better)
    outcome = executor.submit(task).result()
    assert outcome.stopped == stopped
    assert list(outcome.notes["rungs"]) == (["1"] if stopped else ["1", "2"])
    assert ("blocks" in outcome.notes) == (not stopped)


def test_a_node_that_is_avoided_gets_no_task(executor):
    assert executor.slots() == (1 if isinstance(executor, InProcess) else 2)
    assert executor.runs_here
    assert executor.missing() == ""
    first = executor.submit(Task(PLAIN, {"parameter_overhead": 0.0})).result().node
    avoid = frozenset({first})
    assert executor.slots(avoid) == executor.slots() - 1
    if executor.slots(avoid):
        tasks = [executor.submit(Task(PLAIN, {"parameter_overhead": 0.0}), avoid) for _ in range(3)]
        others = {task.result().node for task in tasks}
        assert len(others) == 1
        assert first not in others
