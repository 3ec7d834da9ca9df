"""Searches with a Ray cluster of their own on this machine, from start to end; what is refused before they start."""

import importlib.util
import json
import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest
from faults import Orders, commands_with, starting, wait_until

from se_search import load_run
from se_search.cluster import executor
from se_search.cluster.executor import ClusterOptions
from se_search.errors import SeSearchError
from se_search.study.files import load_study
from se_search.trials.folder import load_trials

linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes as Linux lists them")
MARK = "SE_SEARCH_TEST_MARK"


@pytest.fixture
def start(tmp_path):
    """A function that starts a search of two workers, and their orders."""
    pytest.importorskip("ray")
    orders = Orders(tmp_path / "orders")
    (tmp_path / "home").mkdir()
    with starting(tmp_path, **orders.environment, HOME=str(tmp_path / "home"), **{MARK: str(tmp_path)}) as start:
        yield lambda name, workers=2, budget=4: start(name, "--workers", workers, "--budget", budget), orders


@pytest.mark.slow
@linux
def test_however_a_search_ends_no_process_is_left_and_the_same_command_goes_on(start, tmp_path):
    command, orders = start
    orders.hold()

    def left():
        commands = commands_with(f"{MARK}={tmp_path}")
        # After a SIGKILL two agents of Ray's look for its head for about a minute.
        return [one for one in commands if code != -signal.SIGKILL or "Agent" not in one]

    for end, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        process = command(f"{code}.log")
        begun = len(orders.began())
        wait_until(lambda begun=begun: len(orders.began()) == begun + 2)
        process.send_signal(end)
        assert process.wait(60) == code
        wait_until(lambda: not left(), otherwise=left)
        assert "Traceback" not in (tmp_path / f"{code}.log").read_text()
    assert "Stopped. The same command resumes." in (tmp_path / "130.log").read_text()
    token = tmp_path / "home" / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    orders.release()
    assert command("last.log").wait(240) == 0, (tmp_path / "last.log").read_text()
    wait_until(lambda: not left(), otherwise=left)
    trials = load_run(tmp_path / "run").trials
    done = trials[trials["state"] == "complete"]
    assert len(done) == 4
    assert done["config_id"].is_unique
    # Python puts the current directory on the path of ``python -m``, but the other processes must not have it.
    paths = [json.loads(file.read_text()) for file in orders.folder.glob("began-*")]
    assert not any(str(tmp_path) in path for path in paths)


@pytest.mark.slow
def test_a_run_of_several_processes_goes_on_in_one_and_one_that_was_shared_by_an_earlier_version(start, tmp_path):
    command, _ = start
    assert command("first.log").wait(240) == 0, (tmp_path / "first.log").read_text()
    with closing(load_trials(tmp_path / "run")) as study:
        for name, value in (
            ("search", {"state": "searching", "beat": 7}),
            ("definition", "{}"),
            ("artifacts", "/nowhere"),
        ):
            study.set_user_attr(name, value)
        trial = study.ask({})
        trial.set_user_attr("task", {"worker": "local-1", "work": "accuracy", "turn": 1})
    process = command("second.log", workers=1, budget=6)
    assert process.wait(240) == 0, (tmp_path / "second.log").read_text()
    trials = load_run(tmp_path / "run").trials
    assert list(trials["state"]).count("complete") == 6


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(executor, "find_spec", lambda name: None if name == "ray" else importlib.util.find_spec(name))
    for options, given in ((ClusterOptions(workers=2), "workers 2"), (ClusterOptions(ray="auto"), "ray auto")):
        with pytest.raises(SeSearchError, match=rf'^{given} requires Ray: pip install "se-search\[ray\]"$'):
            options.check(load_study("digits", backbone="test_resnet"))


def test_an_address_at_which_nothing_answers_is_refused_at_once(monkeypatch):
    pytest.importorskip("ray")
    study = load_study("digits", backbone="test_resnet")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for given in (address, "auto"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(SeSearchError, match=f"^no Ray cluster responds at {address}"):
            ClusterOptions(ray=given).check(study)
    for given in ("ray://head:10001", "head", "head:port"):
        with pytest.raises(SeSearchError, match="is neither auto nor HOST:PORT"):
            ClusterOptions(ray=given).check(study)
