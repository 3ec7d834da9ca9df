"""Run folders: whose they are, one process at a time, nothing half-written."""

import multiprocessing
import os
import signal
import sqlite3
import threading
from contextlib import closing

import optuna
import pytest
import yaml
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from se_search import SEConfig
from se_search.errors import RunFolderError
from se_search.sampling.distinct import DistinctSampler
from se_search.study.files import load_study
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.trials import folder as folder_module
from se_search.trials.folder import load_trials, open_folder, read_definition
from se_search.trials.search_study import SearchStudy

STUDY = load_study("digits", backbone="resnet10t", budget=5)


def test_a_new_folder_holds_the_study_and_an_empty_storage(tmp_path):
    with open_folder(tmp_path / "deep" / "run", STUDY) as study:
        assert study.trials == []
        assert study.metric_names == list(STUDY.objectives)
    assert read_definition(tmp_path / "deep" / "run") == STUDY


def test_what_others_created_comes_back_and_a_larger_budget_is_welcome(tmp_path):
    with open_folder(tmp_path / "run", STUDY) as study:
        study.add_trial(_trial())
    larger = STUDY.model_copy(update={"budget": 50, "description": "longer"})
    with open_folder(tmp_path / "run", larger) as study:
        assert len(study.trials) == 1
    assert read_definition(tmp_path / "run").budget == 50


def test_a_second_interruption_does_not_disturb_the_closing(tmp_path, monkeypatch):
    def interrupt(study, close=SearchStudy.close):
        signal.raise_signal(signal.SIGINT)
        close(study)

    monkeypatch.setattr(SearchStudy, "close", interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="the first"), open_folder(tmp_path / "run", STUDY):
        raise KeyboardInterrupt("the first")
    assert signal.getsignal(signal.SIGINT) is before
    assert not list((tmp_path / "run").glob("study.db-*"))


@pytest.mark.parametrize("name", ["why?", "no #1", "100%25", "{mine}", "Größe & Maß", "what?mode=memory"])
def test_a_folder_may_have_any_name(tmp_path, name):
    folder = tmp_path / name / "run"
    with open_folder(folder, STUDY) as study:
        study.add_trial(_trial())
    assert len(load_trials(folder).trials) == 1
    assert (folder / "study.db").is_file()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["study.db", "verification", "excitation/trial-1", "tensorboard/trial-1"])
def test_no_link_in_a_run_folder_leads_what_is_written_out_of_it(tmp_path, name):
    with open_folder(tmp_path / "run", STUDY):
        pass
    link, outside = tmp_path / "run" / name, tmp_path / "outside"
    if link.exists():
        link.rename(outside)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.raises(RunFolderError, match="is a link: replace it by what it leads to"),
        open_folder(tmp_path / "run", STUDY),
    ):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_what_changes_no_result_may_change(tmp_path):
    with open_folder(tmp_path / "run", STUDY):
        pass
    changed = STUDY.model_copy(
        update={"data_workers": 4, "trial_limit": 60.0, "description": "again", "budget": 99, "track": "wandb"}
    )
    with open_folder(tmp_path / "run", changed):
        pass
    assert read_definition(tmp_path / "run").data_workers == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"backbone": "resnet18"}, "backbone is 'resnet10t' there and 'resnet18' here"),
        ({"seed": 7}, "seed is 0 there and 7 here"),
        ({"max_params": "5%"}, "constraints.max_params is None there and 0.05 here"),
        ({"space": "blocks"}, "space.placement is 'stage' there and 'block' here"),
    ],
)
def test_another_study_is_refused_by_what_differs(tmp_path, change, words):
    with open_folder(tmp_path / "run", STUDY):
        pass
    other = load_study("digits", **({"backbone": "resnet10t", "budget": 5} | change))
    with pytest.raises(RunFolderError, match="another study") as refusal, open_folder(tmp_path / "run", other):
        pass
    assert words in str(refusal.value)
    assert read_definition(tmp_path / "run") == STUDY


def test_a_folder_in_use_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    with open_folder(tmp_path / "run", STUDY), context.Pool(1) as pool:
        answer = pool.apply(_try_to_open, (tmp_path / "run",))
    assert "in use by another process" in answer
    assert _try_to_open(tmp_path / "run") == "opened"


def test_an_unwritable_place_is_refused_and_stays_as_it_is(tmp_path, monkeypatch):
    # Permissions do not bind the superuser, so the failure of the file system is injected.
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(RunFolderError, match=r"cannot be written \(Permission denied\)"),
        open_folder(tmp_path / "deep" / "run", STUDY),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", "backbone: [", "backbone: resnet10t\nbudget: 0\n", "seed: 1\n"])
def test_a_damaged_study_file_is_named(tmp_path, text):
    with open_folder(tmp_path / "run", STUDY):
        pass
    (tmp_path / "run" / "study.yaml").write_text(text)
    with pytest.raises(RunFolderError, match=r"study\.yaml is damaged"):
        read_definition(tmp_path / "run")


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path):
    with open_folder(tmp_path / "run", STUDY):
        pass
    left = tmp_path / "run" / ".supernet.checkpoint.pt.x1y2z3_4.unfinished"
    left.write_bytes(b"half")
    with open_folder(tmp_path / "run", STUDY):
        pass
    assert not left.exists()


def test_a_folder_without_a_storage_has_nothing_to_load(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"backbone": "resnet10t"}))
    with pytest.raises(RunFolderError, match=r"has no study\.db"):
        load_trials(tmp_path)


def test_what_is_written_at_once_is_seen_by_others_as_a_whole(tmp_path):
    with open_folder(tmp_path / "run", STUDY) as study:
        with study.at_once() as note:
            trial = study.ask()
            note(trial.number, {"kind": "first", "of": [1, 2]})
            assert load_trials(tmp_path / "run").trials == []
        with study.at_once() as note:
            note(trial.number, {"kind": "last", "share": 0.1})
            study.tell(trial, [0.5] * len(STUDY.objectives))
            assert load_trials(tmp_path / "run").trials[0].state == TrialState.RUNNING
        (seen,) = load_trials(tmp_path / "run").trials
    assert seen.state == TrialState.COMPLETE
    assert seen.user_attrs == {"kind": "last", "of": [1, 2], "share": 0.1}


def test_proposals_are_written_together_as_optuna_writes_them_one_by_one(tmp_path, monkeypatch):
    space = SearchSpace("resnet10t", SpaceDefinition(placement="stage", ratios=(4, 16), gates=("sigmoid",)))
    reads, get_trials = [], RDBStorage._get_trials
    monkeypatch.setattr(
        RDBStorage, "_get_trials", lambda *given, **named: reads.append(1) or get_trials(*given, **named)
    )
    written = []
    for name in ("together", "one by one"):
        with open_folder(tmp_path / name, STUDY) as study:
            study.sampler = DistinctSampler(space, "ehvi", 0, lambda config: True, {}, {})
            study.enqueue_trial(space.to_parameters(SEConfig.uniform("resnet10t", 16, position="standard")))
            for turn in range(3):
                if name == "together":
                    reads.clear()
                    with study.reading_once(), study.at_once():
                        assert not study.sampler.is_exhausted(study)
                        trial, parameters = study.ask_all(space.distributions)
                    assert len(reads) == (2 if turn == 0 else 1)  # Optuna reads again to take the enqueued trial
                else:
                    trial = study.ask(space.distributions)
                    parameters = trial.params
                study.tell(trial, [0.5] * len(STUDY.objectives))
                written.append((parameters, study.trials[-1].params, study.trials[-1].distributions))
    assert written[:3] == written[3:]
    assert written[0][0] == space.to_parameters(SEConfig.uniform("resnet10t", 16, position="standard"))
    assert all(parameters == stored for parameters, stored, _ in written)


@pytest.mark.parametrize("last", [{"what JSON cannot hold": {1, 2}}, {"kind": "last"}])
def test_of_what_fails_before_its_end_nothing_is_written(tmp_path, last):
    with open_folder(tmp_path / "run", STUDY) as study:
        trial = study.ask()

        def write():
            with study.at_once() as note:
                note(trial.number, {"before": 1})
                study.tell(trial, [0.5] * len(STUDY.objectives))
                note(trial.number, last)
                raise TypeError

        with pytest.raises(TypeError):
            write()
        (kept,) = study.trials
        assert kept.state == TrialState.RUNNING
        assert kept.user_attrs == {}
        study.tell(trial, [0.5] * len(STUDY.objectives))
    assert load_trials(tmp_path / "run").trials[0].state == TrialState.COMPLETE


def test_a_killed_process_leaves_what_it_had_finished(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_die_within_a_trial, args=(tmp_path / "run",))
    process.start()
    process.join()
    assert process.exitcode == 9
    with open_folder(tmp_path / "run", STUDY) as study:
        assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.RUNNING]
        assert [trial.user_attrs for trial in study.trials] == [{"of": 0}, {}]


def test_the_storage_is_one_file_when_nobody_searches(tmp_path):
    def journal():
        with closing(sqlite3.connect(tmp_path / "run" / "study.db")) as connection:
            return connection.execute("PRAGMA journal_mode").fetchone()

    with open_folder(tmp_path / "run", STUDY) as study:
        study.ask()
        assert journal() == ("wal",)
    assert journal() == ("delete",)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"study.yaml", "study.db", ".lock"}


def test_a_reader_in_the_way_of_the_journal_is_waited_for_by_nobody(tmp_path):
    with open_folder(tmp_path / "run", STUDY) as study:
        study.ask()
    with closing(sqlite3.connect(tmp_path / "run" / "study.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM trials").fetchall()
        with open_folder(tmp_path / "run", STUDY) as study:
            assert len(study.trials) == 1
    with open_folder(tmp_path / "run", STUDY) as study:
        study.ask()
    assert len(load_trials(tmp_path / "run").trials) == 2


def test_damaged_trials_are_refused_before_anything_is_written(tmp_path):
    with open_folder(tmp_path / "run", STUDY) as study:
        study.ask().set_user_attr("config", "{}")
    with closing(sqlite3.connect(tmp_path / "run" / "study.db")) as connection, connection:
        connection.execute("UPDATE trial_user_attributes SET value_json = '{'")
    larger = STUDY.model_copy(update={"budget": 50})
    with pytest.raises(RunFolderError, match=r"study\.db is damaged"), open_folder(tmp_path / "run", larger):
        pass
    assert read_definition(tmp_path / "run").budget == STUDY.budget


@pytest.fixture
def sound(tmp_path):
    """A run folder with three finished trials."""
    with open_folder(tmp_path / "run", STUDY) as study:
        for _ in range(3):
            study.tell(study.ask(), [0.5] * len(STUDY.objectives))
    return tmp_path / "run"


def test_a_locked_storage_is_waited_for_and_then_told_as_such(sound, monkeypatch):
    monkeypatch.setattr(folder_module, "LOCK_LIMIT", 0.2)
    with closing(sqlite3.connect(sound / "study.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RunFolderError, match=r"study\.db is locked by another process: end it"):
            load_trials(sound)
    assert len(load_trials(sound).trials) == 3


def test_a_lock_that_ends_in_time_is_no_error(sound):
    other = sqlite3.connect(sound / "study.db", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    ending = threading.Timer(0.5, other.close)
    ending.start()
    assert len(load_trials(sound).trials) == 3
    ending.join()


@pytest.mark.parametrize(
    ("revision", "remedy"),
    [("v3.0.0.a", "run optuna storage upgrade --storage sqlite:///"), ("v9.9.9.a", "run pip install --upgrade optuna")],
)
def test_a_storage_of_another_optuna_names_the_versions_and_the_command(sound, revision, remedy):
    with closing(sqlite3.connect(sound / "study.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.execute("UPDATE version_info SET library_version = '1.2.3'")
    written = (sound / "study.db").read_bytes()
    with pytest.raises(RunFolderError, match=f"written by Optuna 1.2.3, and Optuna {optuna.__version__} .*{remedy}"):
        load_trials(sound)
    assert (sound / "study.db").read_bytes() == written


@pytest.mark.parametrize(
    ("change", "number"),
    [("DELETE FROM trials WHERE number = 1", 1), ("UPDATE trials SET number = 1 WHERE number = 2", 2)],
)
def test_trials_that_were_deleted_are_told_as_such(sound, change, number):
    with closing(sqlite3.connect(sound / "study.db")) as connection, connection:
        connection.execute(change)
    with pytest.raises(
        RunFolderError, match=f"is inconsistent: trial {number} is missing, or its number is used twice"
    ):
        load_trials(sound)


@pytest.mark.parametrize("name", ["study.db-journal", "study.db-wal"])
def test_a_pipe_beside_the_storage_is_refused_and_not_waited_for(sound, name):
    os.mkfifo(sound / name)
    with pytest.raises(RunFolderError, match=f"{name} is not a regular file"):
        load_trials(sound)


def _die_within_a_trial(folder):
    with open_folder(folder, STUDY) as study:
        with study.at_once() as note:
            note(study.ask().number, {"of": 0})
        with study.at_once() as note:
            study.tell(0, [0.5] * len(STUDY.objectives))
        study.ask()
        with study.at_once() as note:
            note(1, {"of": 1})
            study.tell(1, [0.5] * len(STUDY.objectives))
            os._exit(9)


def _try_to_open(folder):
    try:
        with open_folder(folder, STUDY):
            return "opened"
    except RunFolderError as error:
        return str(error)


def _trial():
    return optuna.trial.create_trial(values=[0.5] * len(STUDY.objectives))
