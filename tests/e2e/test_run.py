"""The commands from a user's point of view: whole runs, kills, resume, export."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
import yaml
from optuna.trial import TrialState
from typer.testing import CliRunner

from se_search import load_run
from se_search.cli import app

COMMAND = [sys.executable, "-m", "se_search"]
BUDGET = 10


def run_to_the_end(folder: Path, *arguments: str) -> str:
    command = [*COMMAND, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_study(folder: Path, budget: int = BUDGET, epochs: int = 3) -> list[str]:
    study = {
        "backbone": "test_resnet",
        "budget": budget,
        "evaluator": {"epochs": epochs, "recalibration_images": 64},
        "latency": {"limit": 0.05, "size": "data"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study))
    return ["run", "--study", "tiny.yaml", "--out", "run"]


def complete_trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = f"sqlite:///{folder / 'run' / 'study.db'}"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage).get_trials(states=[TrialState.COMPLETE])


def stop_when(folder: Path, arguments: list[str], is_time, which: signal.Signals) -> tuple[int, str]:
    """Start a command, send it a signal as soon as ``is_time()``, and return its exit code and output."""
    output = folder / "output.txt"
    with output.open("w") as stream:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            stdout=stream,
            stderr=stream,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in a background job it is ignored
        )
        deadline = time.monotonic() + 120
        while not is_time():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.02)
        process.send_signal(which)
        code = process.wait(60)
    return code, output.read_text()


@pytest.mark.slow
def test_killed_three_times_the_search_ends_as_if_it_had_not_been(tmp_path):
    arguments = write_study(tmp_path)
    moments = random.Random(0)

    def trained() -> bool:
        return (tmp_path / "run" / "supernet.checkpoint.pt").exists()

    def enough_complete(number):
        return lambda: (tmp_path / "run" / "supernet.json").exists() and len(complete_trials(tmp_path)) >= number

    def a_little_later(condition):
        delay = moments.uniform(0, 0.6)
        return lambda: condition() and not time.sleep(delay)

    outputs = []
    for is_time in (trained, enough_complete(moments.randint(1, 3)), enough_complete(moments.randint(4, 6))):
        code, output = stop_when(tmp_path, arguments, a_little_later(is_time), signal.SIGKILL)
        # The first signal comes early; a fast machine may finish before later ones.
        assert code == -signal.SIGKILL or (outputs and code == 0)
        outputs.append(output)
    outputs.append(run_to_the_end(tmp_path, *arguments))

    # After the first checkpoint, later processes resume from it, and all train three epochs in total.
    assert all("epoch 1/" not in output for output in outputs[1:])
    assert "training loss" not in "".join(outputs[2:])
    assert len(json.loads((tmp_path / "run" / "supernet.json").read_text())["epochs"]) == 3

    complete = complete_trials(tmp_path)
    assert len(complete) == BUDGET
    assert len({trial.user_attrs["config_id"] for trial in complete}) == BUDGET
    assert len(pd.read_csv(tmp_path / "run" / "trials.csv").query("state == 'complete'")) == BUDGET


def test_interrupted_the_command_says_so_and_goes_on_later(tmp_path, monkeypatch):
    arguments = write_study(tmp_path, budget=3, epochs=2)

    def training() -> bool:
        return (tmp_path / "run" / "supernet.checkpoint.pt").exists()

    code, output = stop_when(tmp_path, arguments, training, signal.SIGINT)
    assert code == 130
    assert "Stopped. The same command resumes." in output
    assert "Traceback" not in output
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert len(complete_trials(tmp_path)) == 3


def test_a_finished_run_leaves_all_its_files_and_says_what_next(finished_run):
    names = {path.name for path in (finished_run / "run").iterdir()}
    assert names >= {
        *("study.yaml", "study.db", "supernet.safetensors", "supernet.json"),
        *("trials.csv", "pareto.csv", "run.json", "report.html"),
    }
    output = (finished_run / "output.txt").read_text()
    assert "Plain digits need no SE: this search measures its costs and tests the installation, but" in output
    assert "For your images: se-search run --backbone test_resnet --data FOLDER\n" in output
    assert "Report: run/report.html" in output
    record = json.loads((finished_run / "run" / "run.json").read_text())
    decision = record["decision"]
    assert decision["verdict"] == "no measurable difference"  # after one epoch
    assert f"No measurable difference. {decision['headline']}." in output
    following = output.partition("\nNext: ")[2].splitlines()
    shown = [line.strip() for line in following if line.startswith("        ")]
    # Without the environment's activation a command has the program's path.
    assert [line[line.index("se-search") :] for line in shown] == ["se-search verify run"]
    assert not re.search(r"se-search export", output)
    front = pd.read_csv(finished_run / "run" / "pareto.csv")
    for number in front["number"]:
        assert re.search(rf"^{number} +\d", output, re.MULTILINE)
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert (record["seed"], record["threads"], record["dtype"]) == (0, torch.get_num_threads(), "float32")


def test_a_repeated_command_changes_no_trial_and_a_larger_budget_adds_some(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    before = pd.read_csv(finished_run / "run" / "trials.csv")
    command = ["run", "--study", "tiny.yaml", "--out", "run"]
    assert CliRunner().invoke(app, command).exit_code == 0
    pd.testing.assert_frame_equal(pd.read_csv(finished_run / "run" / "trials.csv"), before)
    assert CliRunner().invoke(app, [*command, "--budget", str(len(before) + 2)]).exit_code == 0
    after = pd.read_csv(finished_run / "run" / "trials.csv")
    assert len(after) == after["config_id"].nunique() == len(before) + 2


@pytest.mark.slow
def test_the_study_of_a_run_folder_runs_again(finished_run):
    run_to_the_end(finished_run, "run", "--study", "run/study.yaml", "--budget", "3", "--out", "again")
    first, again = (pd.read_csv(finished_run / name / "trials.csv") for name in ("run", "again"))
    # The seed determines everything except times; both evaluate the baselines first.
    columns = ["config_id", "accuracy", "log_loss", "counted_parameters"]
    pd.testing.assert_frame_equal(first[columns].head(3), again[columns])


@pytest.mark.slow
def test_torchrun_trains_the_supernet_with_two_processes_and_searches_with_one(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--module", "se_search", *write_study(tmp_path), "--budget", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    epochs = json.loads((tmp_path / "run" / "supernet.json").read_text())["epochs"]
    assert [epoch["processes"] for epoch in epochs] == [2, 2, 2]
    assert done.stdout.count("Report: ") == 1
    trials = load_run(tmp_path / "run").trials
    assert list(trials["state"]) == ["complete"] * 3
    assert trials["accuracy"].min() > 0.5
