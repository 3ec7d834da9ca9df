"""Training curves, from the files that trainings leave."""

import json

import optuna
import pandas as pd
import pytest
from optuna.trial import create_trial

from se_search.errors import RunFolderError
from se_search.results.curves import Curve, curves_table, read_curves
from se_search.results.record import read_results, write_results


def test_a_run_has_the_losses_of_its_supernet(finished_run):
    folder = finished_run / "run"
    losses = [epoch["loss"] for epoch in json.loads((folder / "supernet.json").read_text())["epochs"]]
    written = pd.read_csv(folder / "curves.csv")
    assert list(written["training"]) == ["supernet"] * len(losses)
    assert list(written["epoch"]) == list(range(1, len(losses) + 1))
    assert list(written["loss"]) == pytest.approx(losses)
    write_results(folder)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "curves.csv"), written)  # no row twice


def test_trials_that_were_trained_alone_keep_the_losses_of_each_seed(tmp_path):
    study = optuna.create_study()
    attributes = {"config_id": "abc", "training_losses": [[2.0, 1.0], [2.5, 1.5]]}
    study.add_trial(create_trial(value=0.5, user_attrs={"config_id": "none"}))
    study.add_trial(create_trial(value=0.5, user_attrs=attributes))
    found = read_curves(tmp_path, study, seed=7)
    assert found == (Curve("trial", (2.0, 1.0), 1, "abc", 7), Curve("trial", (2.5, 1.5), 1, "abc", 8))
    assert [one.name for one in found] == ["trial 1 seed 7", "trial 1 seed 8"]


def test_a_damaged_summary_is_named(finished_run):
    folder = finished_run / "run"
    summary = json.loads((folder / "supernet.json").read_text())
    summary["epochs"][0]["loss"] = "low"
    (folder / "supernet.json").write_text(json.dumps(summary))
    with pytest.raises(RunFolderError, match=r"supernet\.json is damaged"):
        read_results(folder)


def test_the_table_has_a_row_for_each_epoch():
    curves = [Curve("backbone", (3.0,)), Curve("verification", (1.0, 0.5), 4, "abc", 1, 8)]
    assert curves_table(curves).to_csv(index=False).splitlines() == [
        "training,trial,config_id,seed,planned_epochs,epoch,loss",
        "backbone,,,,,1,3.0",
        "verification,4,abc,1,8,1,1.0",
        "verification,4,abc,1,8,2,0.5",
    ]
