"""The protocol between a search and its workers: heartbeats, liveness, backoff and tasks."""

import itertools
import time

import optuna
import pytest

from se_search.cluster import exchange
from se_search.cluster.exchange import (
    HEARTBEAT_INTERVAL,
    LivenessMonitor,
    Task,
    answer_of,
    backoff,
    heartbeat,
    refuse_second_search,
)
from se_search.errors import RunFolderError


@pytest.fixture
def clock(monkeypatch):
    """Replace the monotonic clock by a simulated one (s)."""
    now = [100.0]
    monkeypatch.setattr(exchange.time, "monotonic", lambda: now[0])
    return now


def test_what_has_not_been_seen_to_change_does_not_live(clock):
    watch = LivenessMonitor(patience=60)
    assert not watch.is_alive("worker", {"beat": 7})
    clock[0] += HEARTBEAT_INTERVAL
    assert not watch.is_alive("worker", {"beat": 7})
    clock[0] += HEARTBEAT_INTERVAL
    assert watch.is_alive("worker", {"beat": 8})


def test_what_does_not_change_for_longer_than_the_patience_is_gone_and_comes_back_with_its_next_beat(clock):
    watch = LivenessMonitor(patience=60)
    watch.is_alive("worker", {"beat": 0})
    alive = [watch.is_alive("worker", {"beat": 1})]
    for _ in range(70):
        clock[0] += 1
        alive.append(watch.is_alive("worker", {"beat": 1}))
    assert alive == [True] * 60 + [False] * 11
    assert watch.is_alive("worker", {"beat": 2})


def test_an_outage_in_which_nobody_can_look_is_not_held_against_anybody(clock):
    watch = LivenessMonitor(patience=60)
    watch.is_alive("worker", {"beat": 0})
    watch.is_alive("worker", {"beat": 1})
    clock[0] += 3600
    assert watch.is_alive("worker", {"beat": 1})


def test_a_clock_that_is_set_back_changes_nothing(clock, monkeypatch):
    monkeypatch.setattr(exchange.time, "time", lambda: 0.0)
    watch = LivenessMonitor(patience=60)
    watch.is_alive("worker", {"beat": 9})
    assert watch.is_alive("worker", {"beat": 1})  # as a restarted worker writes it


def test_a_beat_goes_on_while_the_block_runs_and_ends_with_it(monkeypatch):
    monkeypatch.setattr(exchange, "HEARTBEAT_INTERVAL", 0.02)
    study = optuna.create_study()
    with heartbeat(study, "search", {"state": "preparing"}) as tell:
        first = study.user_attrs["search"]
        assert first["state"] == "preparing"
        while study.user_attrs["search"]["beat"] < first["beat"] + 3:
            time.sleep(0.01)
        tell({"state": "searching"})
        told = study.user_attrs["search"]
        while study.user_attrs["search"]["beat"] == told["beat"]:
            time.sleep(0.01)
        assert study.user_attrs["search"]["state"] == "searching"
    last = study.user_attrs["search"]
    time.sleep(0.1)
    assert study.user_attrs["search"] == last


def test_who_finds_nothing_to_do_looks_ever_less_often_but_once_a_second():
    first = list(itertools.islice(backoff(), 20))
    assert first[:2] == pytest.approx([0.05, 0.065])
    assert first == sorted(first)
    assert first[-1] == 1.0


def test_an_answer_to_an_earlier_turn_does_not_count():
    task = Task("worker", "accuracy", turn=2)
    attributes = {"task": task.to_attribute(), "answer": {"turn": 1, "notes": {}}}
    assert Task.of(attributes) == task
    assert answer_of(attributes, task) is None
    attributes["answer"] = {"turn": 2, "notes": {"accuracy": 1.0}}
    assert answer_of(attributes, task) == attributes["answer"]
    assert Task.of({}) is None
    assert Task.of({"task": None}) is None


@pytest.mark.parametrize("task", [{"worker": "one"}, "one", 3, ["worker", "work", "turn"]])
def test_a_task_that_we_did_not_write_is_refused(task):
    with pytest.raises(RunFolderError, match="not written by se-search"):
        Task.of({"task": task})


@pytest.mark.parametrize("state", ["stopped", "ended", None])
def test_where_no_search_goes_on_another_may_begin(state):
    study = optuna.create_study()
    if state:
        study.set_user_attr("search", {"state": state, "beat": 4})
    refuse_second_search(study)


def test_a_search_that_was_killed_is_not_waited_for_and_one_that_lives_is_not_disturbed(monkeypatch):
    monkeypatch.setattr(exchange, "HEARTBEAT_INTERVAL", 0.3)  # the check must span a heartbeat on a busy machine
    study = optuna.create_study(study_name="shared")
    study.set_user_attr("search", {"state": "searching", "beat": 4})
    refuse_second_search(study)
    with heartbeat(study, "search", {"state": "searching"}), pytest.raises(RunFolderError, match="study 'shared'"):
        refuse_second_search(study)
