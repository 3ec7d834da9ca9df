"""The embedded controls, from command to verified result: no gain for the negative one, a gain for the positive one."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from se_search import SEConfig

STUDIES = Path(__file__).parents[2] / "studies"
COMMAND = [sys.executable, "-m", "se_search"]


def walk(folder, study, seeds):
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    for arguments in (
        ["run", "--study", "study.yaml", "--out", "run"],
        ["verify", "run", "--members", "2", "--seeds", str(seeds)],
    ):
        done = subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    run = json.loads((folder / "run" / "run.json").read_text())
    trials = pd.read_csv(folder / "run" / "trials.csv").set_index("number")
    return run, trials, (folder / "run" / "report.html").read_text()


@pytest.mark.slow
def test_the_negative_control_ends_with_no_measurable_gain_and_the_cheapest_network(tmp_path):
    study = {"backbone": "resnet10t", "data": "digits", "budget": 16, "latency": {"limit": 0.05}}
    run, trials, report = walk(tmp_path, study, seeds=3)
    knee = trials.loc[run["picks"]["knee"]]
    assert knee["counted_parameters"] == trials["counted_parameters"].min() == 0
    assert run["gain"].startswith("No significant gain from SE (estimated by the search)")
    assert run["gain"] in report
    (schedule,) = run["verified"]
    assert schedule["finding"].startswith("No significant gain from SE. The best of")
    assert schedule["finding"] in report
    for member in schedule["members"]:
        _, low, high = member["accuracy_difference"]
        assert low <= 0 <= high


@pytest.mark.slow
def test_the_positive_control_picks_a_network_that_is_better_verified(tmp_path):
    """Without attention, test_efficientnet cannot combine the two ends of a strip; see the task."""
    study = {
        "backbone": "test_efficientnet",
        "data": "digits-context",
        "budget": 16,
        "evaluator": {"epochs": 8, "learning_rate": 0.004},
        "latency": {"limit": 0.05},
    }
    run, trials, report = walk(tmp_path, study, seeds=3)
    knee = trials.loc[run["picks"]["knee"]]
    assert knee["se_blocks"] > 0
    assert run["gain"].startswith("Significant gain from SE (estimated by the search).")
    assert knee["verified_log_loss_difference_high"] < 0
    assert knee["verified_seeds"] == 3
    (schedule,) = run["verified"]
    assert schedule["finding"].startswith("Significant gain from SE. Trial")
    assert schedule["finding"] in report
    # At least five standard errors: a quarter of the 95 % interval's width is one, and with few seeds more.
    difference, low, high = next(
        member["log_loss_difference"] for member in schedule["members"] if member["config_id"] == knee["config_id"]
    )
    assert -difference > 5 * (high - low) / 4


@pytest.mark.slow
def test_the_control_with_a_local_cue_picks_local_blocks_that_are_better_verified(tmp_path):
    """A transformer must learn which patches are neighbours, and a local convolution knows it; see the task.

    Five seeds, because of some picks one training in a few learns less, and the interval of three is then wide.
    """
    study = yaml.safe_load((STUDIES / "digits-local.yaml").read_text())
    study |= {"budget": 12, "latency": {"limit": 0.05}}
    run, trials, _ = walk(tmp_path, study, seeds=5)
    knee = trials.loc[run["picks"]["knee"]]
    assert "local" in {one.kind for one in SEConfig.from_json(knee["config"]).placed}
    (schedule,) = run["verified"]
    difference, low, high = next(
        member["log_loss_difference"] for member in schedule["members"] if member["config_id"] == knee["config_id"]
    )
    assert -difference > 5 * (high - low) / 4
    assert run["focus"].startswith("Local focus helps here: the best network with it, ")
    # Global attention alone gains less than half of that.
    (uniform,) = (member for member in schedule["members"] if member["name"] == "uniform r=16")
    assert uniform["log_loss_difference"][0] > difference / 2
