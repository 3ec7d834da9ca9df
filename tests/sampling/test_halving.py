"""Successive halving of several objectives, compared with rankings made by hand."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from optuna.study._multi_objective import _fast_non_domination_rank

import se_search
from se_search import load_run
from se_search.driver.loop import run_search
from se_search.sampling.fronts import is_on_front, non_domination_ranks, passes_rung
from se_search.study.files import load_study
from se_search.training import stand_alone
from se_search.trials.folder import load_trials


def test_ranks_of_a_hand_made_set():
    values = np.array([[1, 4], [2, 2], [4, 1], [2, 3], [3, 3], [5, 5], [2, 2]], dtype=float)
    assert non_domination_ranks(values).tolist() == [0, 0, 0, 1, 2, 3, 0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_ranks_are_optunas(seed, objectives):
    values = np.random.default_rng(seed).integers(0, 6, (40, objectives)).astype(float)
    assert non_domination_ranks(values).tolist() == _fast_non_domination_rank(values).tolist()


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_front_alone_is_the_first_of_all_fronts(objectives):
    rng = np.random.default_rng(objectives)
    for rows in range(40):
        values = rng.integers(0, 5, (rows, objectives)).astype(float)
        on_front = is_on_front(values)
        assert on_front.dtype == bool
        assert on_front.tolist() == (non_domination_ranks(values) == 0).tolist()


def test_the_first_at_a_rung_goes_on():
    assert passes_rung([9.0, 9.0], [], 3)


def test_a_cheap_network_is_not_stopped_for_being_less_accurate_than_a_dear_one():
    others = [[-0.9, 0.5], [-0.91, 0.6], [-0.92, 0.7], [-0.93, 0.8], [-0.94, 0.9]]
    assert passes_rung([-0.5, 0.0], others, 3)
    assert not passes_rung([-0.5, 0.6], others, 3)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_of_a_chain_the_best_part_goes_on(factor):
    chain = [[float(place), float(place)] for place in range(24)]
    going_on = [
        place for place, values in enumerate(chain) if passes_rung(values, chain[:place] + chain[place + 1 :], factor)
    ]
    assert going_on == list(range(math.ceil(24 / factor)))


HALVING = {
    "sampler": "tpe",  # its first proposals are random, so some are bad
    "backbone": "test_resnet",
    "budget": 9,
    "objectives": ["accuracy", "parameter_overhead"],
    "evaluator": {"name": "scratch", "epochs": 4, "halving": 2},
    "latency": {"limit": 0.05, "size": "data"},
}


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """A search with successive halving, and the epochs that each network was trained for."""
    import yaml

    folder = tmp_path_factory.mktemp("halving")
    (folder / "study.yaml").write_text(yaml.safe_dump(HALVING))
    trainings: dict[str, stand_alone.Training] = {}
    usual = stand_alone.Scratch.training

    def recorded(self, config, *arguments):
        trainings[config.id] = usual(self, config, *arguments)
        return trainings[config.id]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stand_alone.Scratch, "training", recorded)
        run_search(load_study(str(folder / "study.yaml")), folder / "run")
    trained = {config: len(training.history) for config, training in trainings.items()}
    return load_run(folder / "run"), trained


@pytest.mark.slow
def test_stopped_trials_have_their_last_values_and_are_never_on_the_front(halved):
    run, trained = halved
    trials = run.trials
    assert set(trials["state"]) == {"complete", "stopped"}
    assert len(trials) == HALVING["budget"]
    stopped = trials[trials["state"] == "stopped"]
    assert not stopped["on_front"].any()
    assert stopped["accuracy"].notna().all()
    assert set(stopped["epochs"]) <= {1, 2}
    assert (trials.set_index("config_id")["epochs"] == trials["config_id"].map(trained).to_numpy()).all()
    assert (trials[trials["state"] == "complete"]["epochs"] == 4).all()


@pytest.mark.slow
def test_the_known_answers_are_trained_to_the_end(halved):
    trials = halved[0].trials
    assert (trials[trials["name"] != ""]["state"] == "complete").all()


@pytest.mark.slow
def test_the_report_counts_stopped_trials(halved):
    run = halved[0]
    stopped = int((run.trials["state"] == "stopped").sum())
    page = run.report().read_text()
    assert f"<b>{stopped}</b> stopped early" in page
    assert "stopped after" in page


@pytest.mark.slow
def test_tpe_goes_on_with_stopped_trials(halved, tmp_path):
    """Optuna's TPE starts modelling after ten trials, pruned ones included."""
    run, _ = halved
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    study = load_study(str(run.folder.parent / "study.yaml"))
    run_search(study.model_copy(update={"budget": 13}), folder)
    trials = load_run(folder).trials
    assert len(trials) == 13
    assert trials["config_id"].is_unique


@pytest.mark.slow
def test_an_objective_of_the_users_own_is_not_measured_on_stopped_networks(tmp_path):
    """Successive halving ranks networks by accuracy even if accuracy is not an objective."""
    measured = []

    def size(config, network):
        measured.append(config.id)
        return float(len(config.placed))

    run = se_search.search(
        backbone="test_resnet",
        budget=8,
        out=tmp_path / "run",
        objectives={"size": (size, "minimize"), "flops_overhead": "minimize"},
        evaluator={"name": "scratch", "epochs": 2, "halving": 2},
        latency={"limit": 0.05, "size": "data"},
    )
    stopped = run.trials[run.trials["state"] == "stopped"]
    assert len(stopped)
    assert stopped["size"].isna().all()
    assert not set(stopped["config_id"]) & set(measured)
    _, heading, table = (tmp_path / "run" / "report.html").read_text().partition("All 8 trials")
    assert heading
    assert "nan" not in table.partition("</table>")[0]
    rungs = [trial.user_attrs["rungs"]["1"] for trial in load_trials(tmp_path / "run").trials]
    assert all(len(values) == 2 and -1 <= min(values) < 0 for values in rungs)
