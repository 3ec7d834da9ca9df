"""A failure in one trial is recorded on it and the search continues; a stopped search loses no finished trial."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch
from own_evaluators import Quick

import se_search
from se_search import SEConfig, load_run
from se_search.data.image_data import batches
from se_search.deployment.deployment import Deployment
from se_search.errors import EvaluationError
from se_search.latency.isolated import IsolatedMeter
from se_search.network.insertion import create_model
from se_search.results.record import write_results
from se_search.time_limit import time_limit
from se_search.training.evaluator import evaluate_network


def quick(fault=lambda config, data: None):
    """An immediate evaluator that calls ``fault`` for each configuration with SE."""

    class Faulty(Quick):
        def evaluate(self, config):
            if config.placed:
                fault(config, self.data)
            return super().evaluate(config)

    return Faulty


def search(folder, fault=lambda config, data: None, budget=4, **settings):
    torch.set_num_threads(1)
    settings = {"latency_limit": 0.01, "latency_size": "data", "sampler": "random"} | settings
    return se_search.search("test_resnet", out=folder, budget=budget, evaluator=quick(fault), **settings)


def once(happens):
    """Return a function that acts only on its first call."""
    done = []

    def fault(config, data):
        if not done:
            done.append(config)
            happens(config, data)

    return fault


def nothing_is_left_running():
    for _ in range(50):
        if not multiprocessing.active_children():
            return True
        time.sleep(0.1)
    return False


def has_no_finite_output(config, data):
    network = create_model(config, num_classes=10).eval()
    for parameter in network.parameters():
        parameter.data.fill_(float("nan"))
    evaluate_network(network, data.validation)


def allocates_more_than_there_is(config, data):
    torch.empty(2**50)


def finds_its_device_full(config, data):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def needs_more_than_there_is(config, data):
    raise MemoryError("one network was too large")


class Hanging(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        time.sleep(1000)


def waits_for_a_process_that_loads_images(config, data):
    next(iter(batches(Hanging(), 4, workers=1)))


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (has_no_finite_output, "not finite"),
        (allocates_more_than_there_is, "allocate"),
        (needs_more_than_there_is, "MemoryError: one network was too large"),
        (finds_its_device_full, "OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_what_happens_to_one_trial_is_noted_on_it_and_the_search_goes_on(tmp_path, happens, told):
    trials = search(tmp_path / "run", once(happens)).trials
    (failed,) = trials[trials["state"] == "failed"]["error"]
    assert told in failed
    assert (trials["state"] == "complete").sum() == 4
    assert trials["config_id"].is_unique


def test_a_trial_that_hangs_ends_at_its_limit(tmp_path):
    limit = 8  # seconds: longer than any other trial takes on a busy machine
    trials = search(tmp_path / "run", once(waits_for_a_process_that_loads_images), trial_limit=limit).trials
    (failed,) = trials[trials["state"] == "failed"]["error"]
    assert failed == "EvaluationError: the trial took longer than its limit of 8 s"
    assert (trials["state"] == "complete").sum() == 4
    assert nothing_is_left_running()


def test_when_every_training_explodes_the_search_stops_early_and_says_why(tmp_path):
    with pytest.raises(EvaluationError, match="5 trials in a row failed, the last with: the training loss is nan"):
        se_search.search(
            "test_resnet",
            out=tmp_path / "run",
            budget=20,
            evaluator={"name": "scratch", "epochs": 1, "learning_rate": 1e30},
            latency_limit=0.01,
            latency_size="data",
        )
    trials = load_run(tmp_path / "run").trials
    assert list(trials["state"]) == ["failed"] * 5


def processes_of_a_meter():
    """Ids of the child processes that measure latency, from ``/proc``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_text()
        except OSError:
            continue
        if parent == os.getpid() and "popen_loky" in command:
            found.append(int(entry.name))
    return found


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes as Linux lists them")


@pytest.mark.slow
@linux
def test_a_runtime_that_crashes_fails_one_trial(tmp_path):
    def crash_while_the_next_is_measured(config, data):
        (process,) = processes_of_a_meter()
        threading.Timer(0.3, os.kill, (process, signal.SIGSEGV)).start()

    folder = tmp_path / "run"
    fault = once(crash_while_the_next_is_measured)
    trials = search(folder, fault, budget=3, latency_runtime="onnxruntime", latency_limit=0.5).trials
    (failed,) = trials[trials["state"] == "failed"]["error"]
    assert failed.startswith("EvaluationError: ONNX Runtime ")
    assert failed.endswith("crashed while it ran the network")
    assert (trials["state"] == "complete").sum() == 3
    assert processes_of_a_meter() == []


@linux
def test_a_measurement_that_nobody_waits_for_any_more_ends():
    network = create_model(SEConfig("test_resnet")).eval()
    meter = IsolatedMeter(network, Deployment(size=(3, 32, 32)), target=1e-9, limit=600, seed=0)
    assert meter.conditions.threads == torch.get_num_threads()
    with pytest.raises(EvaluationError, match=r"limit of 0\.5 s"), time_limit(0.5):
        meter.measure(network)
    assert processes_of_a_meter() == []


def test_without_a_limit_or_before_it_nothing_is_raised():
    with time_limit(None):
        pass
    with time_limit(0.05):
        pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


def test_a_configuration_that_kills_its_process_thrice_is_given_up(tmp_path):
    uniform = SEConfig.uniform("test_resnet", 16)

    def kill_itself(config, data):
        if config.structure == uniform.structure:
            os.kill(os.getpid(), signal.SIGKILL)

    folder = tmp_path / "run"
    for _ in range(3):
        process = multiprocessing.get_context("fork").Process(target=search, args=(folder, kill_itself))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    trials = search(folder, kill_itself).trials
    (given_up,) = trials[trials["config_id"] == uniform.id].to_dict("records")
    assert given_up["state"] == "failed"
    assert given_up["error"] == "the process was killed in all 3 attempts to evaluate it"
    complete = trials[trials["state"] == "complete"]
    assert len(complete) == 4
    assert complete["config_id"].is_unique


def test_a_clock_that_was_set_back_loses_nothing(tmp_path):
    folder = tmp_path / "run"
    search(folder, budget=3)
    with closing(sqlite3.connect(folder / "study.db")) as connection, connection:
        connection.execute("UPDATE trials SET datetime_start = '2100-01-01 00:00:00' WHERE number = 1")
    trials = search(folder, budget=5).trials
    assert list(trials["state"]) == ["complete"] * 5
    assert list(trials["seconds"].isna()) == [False, True, False, False, False]
    assert (trials["seconds"].dropna() >= 0).all()
    assert write_results(folder)[1].timings["trials"] == pytest.approx(trials["seconds"].sum())
