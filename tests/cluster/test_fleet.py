"""Searches with workers: local ones, and remote ones that share a storage."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import torch
from fleet_faults import Orders, here
from own_evaluators import answer
from postgresql_server import Server, find_programs

import se_search
from se_search import SEConfig, load_run
from se_search.cluster import fleet
from se_search.cluster.dispatch import ClusterOptions, check_cluster_options
from se_search.cluster.worker import WorkerOptions, _prepared
from se_search.driver.loop import load_network
from se_search.errors import DefinitionError, RunFolderError
from se_search.latency import meter as latency
from se_search.study.files import load_study
from se_search.training.evaluator import evaluate_network
from se_search.trials.folder import load_trials

VALIDATION_IMAGES = 400  # of digits
QUICK = {"evaluator": "obedient", "latency_limit": 0.01, "sampler": "random", "budget": 8}


def search(folder, **settings):
    torch.set_num_threads(1)
    return se_search.search("test_resnet", out=folder, **(QUICK | settings))


def complete(run):
    trials = run.trials
    return trials[trials["state"] == "complete"]


@pytest.fixture
def orders(tmp_path, monkeypatch):
    given = Orders(tmp_path / "orders", seconds=0.2)
    here(given, monkeypatch)
    return given


@pytest.fixture
def start(orders, tmp_path):
    """A function that starts a command with its output in the file ``name``, and returns its process."""
    started = []

    def command(name, *arguments, **environment):
        output = (tmp_path / name).open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "se_search", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | orders.environment | {"OMP_NUM_THREADS": "1"} | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield command
    for process in started:
        process.kill()
        process.wait()


def wait_until(condition, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_workers_of_one_machine_share_the_trials_and_replace_those_that_die(orders, tmp_path):
    dies_once, dies_always = SEConfig.uniform("test_resnet", 16), SEConfig.without_attention("test_resnet")
    orders.kill(dies_once, "once")
    orders.kill(dies_always, "always")
    run = search(tmp_path / "run", workers=2)
    trials = run.trials
    assert list(trials["state"]).count("complete") == 8
    assert trials["config_id"].is_unique
    (failed,) = trials[trials["state"] == "failed"].to_dict("records")
    assert failed["config_id"] == dies_always.id
    assert failed["error"].startswith("all 3 workers that evaluated it died: local-")
    assert dies_once.id in set(complete(run)["config_id"])
    evaluated = orders.evaluated()
    processes = {process for _, process in evaluated}
    assert str(os.getpid()) not in processes
    assert len(processes) == 2 + 4  # two at the start, and one replacement for each that died
    assert len(evaluated) == 8 + 1 + 3
    for row in complete(run).to_dict("records"):
        expected = answer(SEConfig.from_json(row["config"]), VALIDATION_IMAGES)
        assert row["accuracy"] == pytest.approx(expected.accuracy.value)
        assert row["log_loss"] == pytest.approx(expected.log_loss.value)
        assert row["latency_ratio"] > 0


@pytest.mark.slow
def test_workers_of_this_machine_stay_however_long_the_search_takes(orders, tmp_path, monkeypatch):
    """Without a shared storage the search writes no heartbeat, so local workers must ignore ``--patience``."""
    start = subprocess.Popen

    def impatient(command, **options):
        if "worker" in command:
            after = command.index("worker") + 1
            command = [*command[:after], "--patience", "1", *command[after:]]
        return start(command, **options)

    monkeypatch.setattr(fleet.subprocess, "Popen", impatient)
    (orders.folder / "seconds").write_text("1.5")
    search(tmp_path / "run", workers=2, budget=4)
    assert len({process for _, process in orders.evaluated()}) == 2


@pytest.mark.slow
def test_what_workers_began_another_process_alone_goes_on_with(orders, tmp_path):
    search(tmp_path / "run", workers=2, budget=3)
    run = search(tmp_path / "run", budget=5)
    assert len(complete(run)) == 5
    assert complete(run)["config_id"].is_unique
    assert str(os.getpid()) in {process for _, process in orders.evaluated()}


@pytest.mark.slow
def test_a_worker_that_reads_other_images_costs_no_configuration(orders, tmp_path, capsys):
    search(tmp_path / "run", budget=1)
    orders.lose_an_image()
    run = search(tmp_path / "run", workers=2, budget=4)
    assert list(run.trials["state"]) == ["complete"] * 4
    told = capsys.readouterr().out
    assert len(re.findall(r"Worker local-\S+ receives no more trials: 400 validation images .* 399 can", told)) == 1
    orders.lose_an_image("every process")
    with pytest.raises(RunFolderError, match="every worker reads images that differ from the run's"):
        search(tmp_path / "run", workers=2, budget=5)
    assert "failed" not in set(load_run(run.folder).trials["state"])


def processes_with(text):
    """Ids of the processes whose command line contains ``text``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_an_interrupted_or_killed_search_leaves_no_worker_behind_and_goes_on(orders, start, tmp_path):
    (orders.folder / "seconds").write_text("1")
    run = ("run", "--backbone", "test_resnet", "--evaluator", "obedient", "--budget", 4, "--out", "run")
    run = (*run, "--workers", 2, "--study", study_file(tmp_path))
    parents = []
    for number, (end, code) in enumerate([(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]):
        search_process = start(f"{number}.log", *run)
        begun = len(orders.evaluated())
        wait_until(lambda begun=begun: len(orders.evaluated()) > begun)
        search_process.send_signal(end)
        assert search_process.wait(30) == code
        parents.append(f"--parent\0{search_process.pid}")
    assert "Stopped. The same command resumes." in (tmp_path / "0.log").read_text()
    wait_until(lambda: not any(map(processes_with, parents)), seconds=30)
    assert start("last.log", *run).wait(180) == 0
    done = complete(load_run(tmp_path / "run"))
    assert len(done) == 4
    assert done["config_id"].is_unique


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_search_with_their_reason(orders, tmp_path, monkeypatch):
    monkeypatch.setenv("SE_SEARCH_TEST_ORDERS", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(se_search.SeSearchError, match=r"3 workers in a row failed to start.*with code 2.*obedient"):
        search(tmp_path / "run", workers=2)


@pytest.fixture
def journal(tmp_path):
    return f"journal:{tmp_path / 'study.log'}"


def test_trained_weights_come_back_from_workers_elsewhere(start, journal, tmp_path):
    worker = start("worker.log", "worker", "--study", "run", "--storage", journal, "--threads", 1)
    run = se_search.search(
        "test_resnet",
        out=tmp_path / "run",
        budget=2,
        evaluator={"name": "finetune", "epochs": 1},
        latency_limit=0.01,
        storage=journal,
        workers=0,
    )
    assert worker.wait(60) == 0
    assert "2 tasks completed" in (tmp_path / "worker.log").read_text()
    for row in complete(run).to_dict("records"):
        network, data = load_network(run.folder, SEConfig.from_json(row["config"]))
        assert evaluate_network(network, data.validation).accuracy.value == pytest.approx(row["accuracy"], abs=0.003)
    assert not (run.folder / "artifacts").exists()


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_leaves_its_trial_to_another_and_it_does_not_count_against_it(
    orders, start, journal, tmp_path
):
    (orders.folder / "seconds").write_text("3")
    options = ("worker", "--study", "run", "--storage", journal, "--threads", 1)
    workers = [start("first.log", *options)]

    def first_has_begun():
        return len(orders.evaluated()) == 1

    search_process = start(
        "search.log",
        *("run", "--backbone", "test_resnet", "--evaluator", "obedient", "--budget", 2, "--out", "run"),
        *("--storage", journal, "--workers", 0, "--study", study_file(tmp_path)),
    )
    wait_until(first_has_begun)
    workers[0].send_signal(signal.SIGTERM)
    assert workers[0].wait(30) == 128 + signal.SIGTERM
    start("second.log", *options)
    assert search_process.wait(180) == 0
    told = (tmp_path / "search.log").read_text()
    assert "has left: trial 0 is reassigned" in told
    assert len(complete(load_run(tmp_path / "run"))) == 2


def study_file(folder):
    file = folder / "quick.yaml"
    file.write_text("backbone: test_resnet\nlatency: {limit: 0.01}\nsampler: random\n")
    return file


@pytest.fixture
def server(tmp_path_factory):
    if find_programs() is None and not os.environ.get("CI"):
        pytest.skip("PostgreSQL is not installed")
    running = Server(tmp_path_factory.mktemp("postgresql", numbered=True) / "server")
    yield running
    running.stop()


def test_with_postgresql_restarts_and_killed_processes_lose_nothing_and_do_nothing_twice(
    orders, start, server, tmp_path
):
    budget = 12
    secret = {"SE_SEARCH_STORAGE": server.url}
    run = ("run", "--backbone", "test_resnet", "--evaluator", "obedient", "--budget", budget, "--out", "run")
    run = (*run, "--workers", 0, "--worker-timeout", 10, "--study", study_file(tmp_path))

    def work(name):
        return start(name, "worker", "--study", "run", "--threads", 1, **secret)

    def finished():
        return [trial for trial in stored(server, "run") if trial.state == optuna.trial.TrialState.COMPLETE]

    workers = [work("1.log"), work("2.log")]
    first = start("first.log", *run, **secret)
    wait_until(lambda: len(finished()) >= 2)
    workers[0].kill()
    orders.take(10)  # the replacement must come before the last trial, and before the server is gone
    workers.append(work("3.log"))
    wait_until(lambda: "works for run" in (tmp_path / "3.log").read_text())
    orders.take(0.2)
    wait_until(lambda: len(finished()) >= 4)
    server.stop()
    wait_until(lambda: "The storage does not respond" in (tmp_path / "first.log").read_text())
    server.start()
    wait_until(lambda: len(finished()) >= 6)
    first.kill()
    first.wait()
    before = {trial.number: trial.values for trial in finished()}
    second = start("second.log", *run, **secret)
    assert second.wait(240) == 0, (tmp_path / "second.log").read_text()
    for worker in workers[1:]:
        assert worker.wait(60) == 0

    trials = complete(load_run(tmp_path / "run"))
    assert len(trials) == budget
    assert trials["config_id"].is_unique
    ended = finished()
    assert [trial.number for trial in ended] == list(trials["number"])
    for number, values in before.items():
        (row,) = trials[trials["number"] == number].to_dict("records")
        assert [row["accuracy"], row["parameter_overhead"], row["latency_ratio"]] == pytest.approx(values)
    told = "".join(file.read_text() for file in tmp_path.glob("*.log"))
    assert "The storage does not respond" in told
    kept = [file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()]
    for secret_text in (server.password, "pa55-w0rd"):
        assert secret_text not in told
        assert not any(secret_text.encode() in content for content in kept)


@pytest.mark.slow
def test_four_workers_complete_sixty_trials_although_two_are_killed(start, server, tmp_path):
    """The supernet of a small backbone; workers are killed at random moments."""
    budget = 60
    secret = {"SE_SEARCH_STORAGE": server.url}
    run = ("run", "--backbone", "test_resnet", "--epochs", 1, "--space", "blocks", "--budget", budget, "--out", "run")
    search_process = start(
        "run.log", *run, "--workers", 0, "--worker-timeout", 15, "--study", study_file(tmp_path), **secret
    )

    def work(name):
        return start(name, "worker", "--study", "run", "--threads", 1, **secret)

    def finished():
        return sum(trial.state == optuna.trial.TrialState.COMPLETE for trial in stored(server, "run"))

    workers = [work(f"{number}.log") for number in range(4)]
    for number, moment in enumerate(sorted(random.sample(range(5, 45), 2))):
        wait_until(lambda moment=moment: finished() >= moment, seconds=600)
        time.sleep(random.random())
        workers[number].kill()
        workers.append(work(f"{4 + number}.log"))
    assert search_process.wait(900) == 0, (tmp_path / "run.log").read_text()
    for worker in workers[2:]:
        assert worker.wait(60) == 0
    trials = load_run(tmp_path / "run").trials
    assert list(trials["state"]) == ["complete"] * budget
    assert trials["config_id"].nunique() == budget
    print((tmp_path / "run.log").read_text())


def test_latency_is_left_to_the_worker_that_has_the_device(orders, start, journal, tmp_path, monkeypatch):
    """This process reports another processor, as a search on another machine would."""
    there = latency.processor_name("cpu")
    monkeypatch.setattr(latency, "processor_name", lambda device: "another processor")
    options = ("worker", "--study", "run", "--storage", journal, "--threads", 1)
    start("1.log", *options)
    start("2.log", *options)
    run = search(tmp_path / "run", storage=journal, workers=0, budget=3, latency_device=there.split()[0].lower())
    done = complete(run)
    assert len(done) == 3
    attributes = [trial.user_attrs for trial in load_trials(run.folder).get_trials()]
    assert {one["latency_conditions"]["processor"] for one in attributes} == {there}
    assert (done["latency_pairs"] > 0).all()
    works = re.findall(
        "latency: done|accuracy: done", "".join((tmp_path / f"{name}.log").read_text() for name in (1, 2))
    )
    assert sorted(works) == ["accuracy: done"] * 3 + ["latency: done"] * 3
    with pytest.raises(RunFolderError, match="started elsewhere: latency was measured with processor"):
        search(tmp_path / "run", budget=4)


def stored(server, name):
    """The trials in the server's study ``name``, read with Optuna; none if there is no such study yet."""
    storage = optuna.storages.RDBStorage(server.url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except (KeyError, optuna.exceptions.StorageInternalError):
        return []
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.parametrize(
    ("cluster", "told"),
    [
        (ClusterOptions(), ""),
        (ClusterOptions(workers=0, storage="journal:study.log"), ""),
        (ClusterOptions(storage="journal:study.log"), r"^workers is 1: .* must be 0 with storage and 1 without"),
        (ClusterOptions(workers=2), r"^workers is 2: .* must be 0 with storage and 1 without"),
    ],
)
def test_workers_that_cannot_be_paused_are_not_started(cluster, told, monkeypatch):
    """Windows has no SIGSTOP."""
    monkeypatch.delattr(signal, "SIGSTOP")
    refusal = pytest.raises(DefinitionError, match=told) if told else contextlib.nullcontext()
    with refusal:
        check_cluster_options(cluster, load_study("digits", backbone="test_resnet"), {})


@pytest.mark.parametrize(("option", "value", "told"), [("threads", 0, "greater than"), ("device", "tpu", "cpu, cuda")])
def test_what_a_worker_is_given_is_checked_under_its_own_name(option, value, told):
    definition = load_study("digits", backbone="test_resnet").model_dump_json()
    study = SimpleNamespace(user_attrs={"definition": definition})
    options = WorkerOptions("journal:study.log", "run", **{option: value})
    with pytest.raises(DefinitionError, match=rf"^{option} is {value!r}: .*{told}"), _prepared(study, options):
        pass


def test_a_second_search_of_one_study_is_refused(orders, start, journal, tmp_path):
    (orders.folder / "seconds").write_text("60")
    run = ("run", "--backbone", "test_resnet", "--evaluator", "obedient", "--storage", journal, "--workers", 0)
    run = (*run, "--study-name", "shared", "--study", study_file(tmp_path))
    start("first.log", *run, "--out", "first")
    wait_until(lambda: "Evaluating" in (tmp_path / "first.log").read_text())
    second = start("second.log", *run, "--out", "second")
    assert second.wait(120) == 2
    assert "Error: another process is running study 'shared': wait for it" in (tmp_path / "second.log").read_text()


def test_another_search_under_the_name_of_one_in_the_storage_is_refused(orders, journal, tmp_path):
    search(tmp_path / "first", storage=journal, study_name="shared", budget=1)
    with pytest.raises(
        RunFolderError, match="study 'shared' in the storage has another definition: seed is 0 there and 1 here"
    ):
        search(tmp_path / "second", storage=journal, study_name="shared", budget=1, seed=1)
