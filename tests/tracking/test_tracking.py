"""What a tracker gets, once, also across processes."""

import sys

import optuna
import plotly.graph_objects as go
import pytest
from optuna.trial import create_trial

from se_search.errors import DefinitionError
from se_search.results.curves import Curve
from se_search.tracking import tracking as module
from se_search.tracking.tracker import Tracker
from se_search.tracking.tracking import Tracking

LOSSES = (2.0, 1.5, 1.25)
CURVES = (Curve("supernet", LOSSES), Curve("verification", (0.5,), 1, "abc", 0, 8))


def study_of(count):
    """A study with some complete trials, whose accuracies are 0.5, 0.6 and so on."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.set_metric_names(["accuracy", "energy"])
    kinds = {"stage2.ratio": optuna.distributions.CategoricalDistribution([4, 8])}
    for number in range(count):
        study.add_trial(
            create_trial(
                values=[0.5 + number / 10, 3.0],
                params={"stage2.ratio": 8},
                distributions=kinds,
                user_attrs={"accuracy": 0.5 + number / 10, "log_loss": 1.0},
            )
        )
    return study


def track(package, folder, count):
    tracking = Tracking(package, folder)
    tracking.log_trials(study_of(count))
    tracking.log_results(CURVES, lambda: {"overhead": go.Figure(go.Scatter(x=[1], y=[2]))})
    tracking.close()


class Listed(Tracker):
    """A tracker that keeps what it gets."""

    def __init__(self, folder, key):
        self.key = key or "the key"
        self.got = []

    def log_trial(self, number, parameters, values):
        self.got.append((number, dict(parameters), dict(values)))

    def log_curve(self, name, losses):
        self.got.append((name, tuple(losses)))

    def log_figure(self, name, figure):
        self.got.append(name)

    def close(self):
        self.got.append("closed")


@pytest.fixture
def listed(monkeypatch):
    """Every tracker that is opened."""
    opened = []

    def create(folder, key):
        opened.append(Listed(folder, key))
        return opened[-1]

    monkeypatch.setattr(module, "_find", lambda package: create)
    return opened


def test_a_tracker_gets_trials_losses_and_figures(listed, tmp_path):
    track("wandb", tmp_path, 1)
    assert listed[0].got == [
        (0, {"stage2.ratio": 8}, {"accuracy": 0.5, "log_loss": 1.0, "energy": 3.0}),
        ("supernet", LOSSES),
        ("verification 8 epochs trial 1 seed 0", (0.5,)),
        "overhead",
        "closed",
    ]


def test_what_was_logged_is_not_logged_again(listed, tmp_path):
    track("wandb", tmp_path, 1)
    track("wandb", tmp_path, 2)
    assert [one if isinstance(one, str) else one[0] for one in listed[1].got] == [1, "overhead", "closed"]
    assert listed[1].key == "the key"
    track("mlflow", tmp_path, 1)  # another package gets everything
    assert len(listed[2].got) == 5


def test_without_a_package_nothing_is_written(tmp_path):
    track(None, tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_fails_is_left_alone(listed, tmp_path, capsys, monkeypatch):
    def fail(self, number, parameters, values):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Listed, "log_trial", fail)
    track("mlflow", tmp_path, 2)
    assert capsys.readouterr().out == "mlflow no longer tracks this run: no route to host\n"
    assert listed[0].got == []
    monkeypatch.undo()


def test_a_tracker_that_does_not_start_is_left_alone(tmp_path, capsys, monkeypatch):
    def fail(folder, key):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(module, "_find", lambda package: fail)
    track("wandb", tmp_path, 2)
    assert capsys.readouterr().out == "wandb no longer tracks this run: no route to host\n"
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "se_search.tracking.wandb", raising=False)
    with pytest.raises(DefinitionError, match=r'wandb needs the package wandb: pip install "se-search\[wandb\]"'):
        Tracking("wandb", tmp_path)


def test_tensorboards_events_are_read_back(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    track("tensorboard", tmp_path, 2)
    track("tensorboard", tmp_path, 3)
    found = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    accuracies = [(event.step, event.value) for event in found.Scalars("trials/accuracy")]
    assert accuracies == [(number, pytest.approx(0.5 + number / 10)) for number in range(3)]
    losses = [(event.step, event.value) for event in found.Scalars("loss/supernet")]
    assert losses == list(enumerate(LOSSES, start=1))
    trial = reader.EventAccumulator(str(tmp_path / "tensorboard" / "trial-1")).Reload()
    assert [event.value for event in trial.Scalars("final/energy")] == [3.0]


@pytest.mark.slow
def test_wandb_keeps_a_run_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    track("wandb", tmp_path, 2)
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.mark.slow
def test_mlflows_runs_are_read_back(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    track("mlflow", tmp_path, 1)
    track("mlflow", tmp_path, 2)
    runs = mlflow.search_runs(experiment_names=["se-search"], output_format="list")
    (whole,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(runs) == 3
    client = mlflow.MlflowClient()
    history = client.get_metric_history(whole.info.run_id, "trials/accuracy")
    assert [(one.step, one.value) for one in history] == [(0, 0.5), (1, 0.6)]
    assert [one.value for one in client.get_metric_history(whole.info.run_id, "loss/supernet")] == list(LOSSES)
    assert [one.path for one in client.list_artifacts(whole.info.run_id, "figures")] == ["figures/overhead.html"]
