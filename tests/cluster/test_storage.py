"""Storages that several machines share: opening errors, retries during outages, copied trials."""

import logging
import sqlite3
import sys
import warnings

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import OperationalError, ProgrammingError

from se_search.cluster import storage as storage_module
from se_search.cluster.storage import (
    RetryingStorage,
    check_same_search,
    copy_finished,
    open_shared,
    open_storage,
    without_password,
)
from se_search.errors import DefinitionError, RunFolderError
from se_search.study.files import load_study
from se_search.trials.search_study import SearchStudy

SECRET = "hunter2-and-more"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://me:{SECRET}@host:5432/studies", "postgresql://me:***@host:5432/studies"),
        (f"mysql+pymysql://me:{SECRET}@host/studies?ssl=1", "mysql+pymysql://me:***@host/studies?ssl=1"),
        (f"redis://:{SECRET}@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql://host/studies", "postgresql://host/studies"),
        ("journal:/shared/study.log", "journal:/shared/study.log"),
        ("grpc://host:13000", "grpc://host:13000"),
    ],
)
def test_a_storage_is_shown_without_its_password(url, shown):
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgresql://me:{SECRET}@127.0.0.1:1/studies", ["cannot be opened", "refused"]),
        (f"oracle://me:{SECRET}@host/studies", ["needs the package", "not installed"]),
        (f"nosuchdatabase://me:{SECRET}@host/studies", ["cannot be opened", "nosuchdatabase"]),
        (f"me:{SECRET}@host", ["cannot be opened"]),
        ("grpc://127.0.0.1:x", ["cannot be opened"]),
        ("journal:/nowhere/at/all/study.log", ["cannot be opened", "No such file"]),
        ("sqlite:////nowhere/at/all.db", ["cannot be opened", "unable to open database file"]),
        ("", ["cannot be opened"]),
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_in_a_sentence_without_its_password(url, words, caplog):
    with caplog.at_level(logging.DEBUG), pytest.raises(DefinitionError) as refusal:
        open_storage(url)
    told = str(refusal.value)
    assert told.startswith("storage ")
    assert "\n" not in told
    assert SECRET not in told + caplog.text
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("postgresql://host/studies", "psycopg", "postgresql"), ("mysql+pymysql://host/studies", "pymysql", "mysql")],
)
def test_the_extra_that_brings_a_missing_driver_is_named(url, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DefinitionError) as refusal:
        open_storage(url)
    told = f'storage {url} needs the package {package}, which is not installed: pip install "se-search[{extra}]"'
    assert str(refusal.value) == told


def test_what_optuna_calls_experimental_is_no_warning_to_the_user(monkeypatch, recwarn):
    """Redis and gRPC are experimental in Optuna."""

    def open_it(url):
        warnings.warn("JournalRedisBackend is experimental", ExperimentalWarning, stacklevel=2)
        return InMemoryStorage()

    monkeypatch.setattr(storage_module, "_open", open_it)
    open_storage("redis://host:6379")
    assert not recwarn.list


class Interrupted(InMemoryStorage):
    """Fails a given number of times before, or after, a call takes effect."""

    def __init__(self, error):
        super().__init__()
        self.error, self.before, self.after = error, 0, 0

    def get_all_trials(self, *args, **kwargs):
        return self._now_and_then(super().get_all_trials, *args, **kwargs)

    def set_trial_state_values(self, *args, **kwargs):
        return self._now_and_then(super().set_trial_state_values, *args, **kwargs)

    def _now_and_then(self, method, *args, **kwargs):
        if self.before:
            self.before -= 1
            raise self.error
        answer = method(*args, **kwargs)
        if self.after:
            self.after -= 1
            raise self.error
        return answer


def closed_connection():
    return OperationalError("SELECT 1", {}, sqlite3.OperationalError("server closed the connection"))


def internal(cause):
    """Wrap an exception as Optuna wraps SQLAlchemy's."""
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = cause
    return error


@pytest.fixture
def quickly(monkeypatch):
    """Sleeping takes no time and advances a simulated clock."""
    passed = [0.0]
    monkeypatch.setattr(storage_module.time, "sleep", lambda seconds: passed.__setitem__(0, passed[0] + seconds))
    monkeypatch.setattr(storage_module.time, "monotonic", lambda: passed[0])
    return passed


@pytest.mark.parametrize("error", [closed_connection(), internal(closed_connection()), OSError(116, "Stale handle")])
def test_a_storage_is_asked_again_after_an_outage(quickly, capsys, error):
    interrupted = Interrupted(error)
    study = optuna.create_study(storage=RetryingStorage(interrupted))
    study.add_trial(create_trial(value=1.0))
    interrupted.before = 8
    assert len(study.get_trials()) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(" (")[0] for line in told if "storage" in line] == [
        "The storage does not respond",
        "The storage responds again.",
    ]
    assert 10 < quickly[0] < 30


def test_a_trial_that_ended_although_the_answer_was_lost_ends_once(quickly):
    interrupted = Interrupted(closed_connection())
    study = optuna.create_study(storage=RetryingStorage(interrupted))
    trial = study.ask()
    interrupted.after = 1
    study.tell(trial, 0.5)
    (ended,) = study.get_trials()
    assert (ended.state, ended.value) == (TrialState.COMPLETE, 0.5)


def test_a_trial_that_another_has_ended_is_told(quickly):
    study = optuna.create_study(storage=RetryingStorage(InMemoryStorage()))
    trial = study.ask()
    study.tell(trial, 0.5)
    with pytest.raises(ValueError, match="Cannot tell a COMPLETE trial"):
        study.tell(trial, 0.7)


def test_what_is_no_outage_is_raised_at_once(quickly):
    refused = ProgrammingError("SELECT 1", {}, sqlite3.ProgrammingError("permission denied for table trials"))
    refused.__cause__ = refused.orig
    interrupted = Interrupted(internal(refused))
    study = optuna.create_study(storage=RetryingStorage(interrupted))
    interrupted.before = 1
    told = r"^the storage rejects a request \(permission denied for table trials\)"
    with pytest.raises(RunFolderError, match=told):
        study.get_trials()
    assert quickly[0] == 0


def test_a_storage_that_is_gone_for_ten_minutes_ends_the_search_in_a_sentence_and_is_not_waited_for_again(quickly):
    interrupted = Interrupted(closed_connection())
    study = optuna.create_study(storage=RetryingStorage(interrupted))
    interrupted.before = 10_000
    with pytest.raises(RunFolderError, match=r"has not responded for 600 s .*run the same command again"):
        study.get_trials()
    waited = quickly[0]
    assert 600 < waited < 620
    with pytest.raises(RunFolderError):
        study.get_trials()
    assert quickly[0] - waited < 1


def trial_of(number, state=TrialState.COMPLETE):
    return create_trial(
        state=state,
        values=[0.5, float(number)] if state == TrialState.COMPLETE else None,
        params={"x": number},
        distributions={"x": CategoricalDistribution(range(9))},
        user_attrs={"config_id": f"c{number}"},
        constraints={"max_params": -0.1},
    )


def two_studies():
    return [optuna.create_study(directions=["maximize", "minimize"]) for _ in range(2)]


def test_finished_trials_are_copied_with_their_numbers_up_to_the_first_that_is_not(tmp_path):
    source, target = two_studies()
    for number in range(3):
        source.add_trial(trial_of(number, TrialState.FAIL if number == 1 else TrialState.COMPLETE))
    source.add_trial(trial_of(3, TrialState.RUNNING))
    source.add_trial(trial_of(4))
    source.set_user_attr("validation_images", 400)
    source.set_user_attr("worker:one", {"beat": 3})
    target.add_trial(trial_of(0))
    copy_finished(source, target)
    copied = target.get_trials()
    assert [(trial.number, trial.user_attrs["config_id"], trial.state) for trial in copied] == [
        (0, "c0", TrialState.COMPLETE),
        (1, "c1", TrialState.FAIL),
        (2, "c2", TrialState.COMPLETE),
    ]
    assert copied[2].values == [0.5, 2.0]
    assert copied[2].params == {"x": 2}
    assert copied[2].constraints == {"max_params": -0.1}
    assert target.user_attrs == {"validation_images": 400}
    copy_finished(source, target)
    assert len(target.get_trials()) == 3


def test_what_both_began_and_one_has_finished_comes_after_what_the_other_has():
    own, shared = two_studies()
    for number in range(3):
        own.add_trial(trial_of(number))
    own.set_user_attr("measured_latency:1", {"latency_ratio": 1.02})
    shared.add_trial(trial_of(0))
    shared.add_trial(trial_of(7, TrialState.FAIL))
    for _ in range(2):
        copy_finished(own, shared)
        copy_finished(shared, own)
    assert [trial.user_attrs.get("config_id") for trial in shared.get_trials()] == ["c0", "c7", "c1", "c2"]
    assert [trial.user_attrs.get("config_id") for trial in own.get_trials()] == ["c0", "c1", "c2", None]
    assert own.get_trials()[3].state == TrialState.FAIL
    assert {"measured_latency:2": {"latency_ratio": 1.02}}.items() <= shared.user_attrs.items()
    shared.add_trial(trial_of(4))
    copy_finished(shared, own)
    assert own.get_trials()[4].user_attrs == shared.get_trials()[4].user_attrs == {"config_id": "c4"}


def test_two_searches_of_one_definition_are_not_mixed(tmp_path):
    own, shared = two_studies()
    own.add_trial(trial_of(0))
    check_same_search(tmp_path, own, shared)
    check_same_search(tmp_path, own, shared)
    (other,) = two_studies()[:1]
    other.add_trial(trial_of(0))
    with pytest.raises(RunFolderError, match=r"and study .* in the storage hold different searches"):
        check_same_search(tmp_path, other, shared)
    new, _ = two_studies()
    check_same_search(tmp_path, new, shared)
    assert new.user_attrs == shared.user_attrs == own.user_attrs


def test_a_shared_study_has_the_objectives_of_its_definition_and_is_opened_again():
    definition = load_study("digits")
    storage = RetryingStorage(InMemoryStorage())
    study = open_shared(storage, "mine", definition)
    assert study.metric_names == list(definition.objectives)
    assert [one.name.lower() for one in study.directions] == list(definition.directions)
    study.set_user_attr("seen", True)
    again = open_shared(storage, "mine", definition)
    assert again.user_attrs == {"seen": True}


def test_what_is_noted_on_a_running_trial_of_a_shared_study_is_there(tmp_path):
    storage = open_storage(f"journal:{tmp_path / 'study.log'}")
    study = open_shared(storage, "mine", load_study("digits"))
    trial = study.ask()
    with study.at_once() as note:
        note(trial.number, {"config_id": "abc", "losses": [1, 2]})
    other = SearchStudy("mine", open_storage(f"journal:{tmp_path / 'study.log'}"))
    assert other.get_trials()[0].user_attrs == {"config_id": "abc", "losses": [1, 2]}
