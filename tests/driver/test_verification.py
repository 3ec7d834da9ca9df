"""Verification of a finished run: values, differences, resume and the resulting run folder."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy import stats

from se_search import SEConfig, load_run
from se_search.data.load import load_data
from se_search.driver import verification
from se_search.driver.loop import run_search
from se_search.errors import DefinitionError, RunFolderError
from se_search.results.trainings import VERIFICATION, result_file, weights_file
from se_search.statistics import crossed_difference, crossed_mean
from se_search.study.files import load_study
from se_search.study.objectives import VERIFIED_COLUMNS
from se_search.training.recipe import Training
from se_search.trials import evaluators
from se_search.trials.notes import pack, unpack

BARE = SEConfig("test_resnet")
UNIFORM = SEConfig.uniform("test_resnet", 16)
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def _verified(_finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified") / "run"
    shutil.copytree(_finished_run / "run", folder)
    load_run(folder).verify(members="all", seeds=len(SEEDS))
    return folder


@pytest.fixture
def verified(_verified, tmp_path):
    """A copy of a run folder with all members verified, after one epoch with two seeds."""
    return shutil.copytree(_verified, tmp_path / "verified")


def arrays(folder, config, name, epochs=1):
    files = [result_file(folder, config, epochs, seed) for seed in SEEDS]
    return np.concatenate([unpack(json.loads(file.read_text())[name]) for file in files])


def kept_seeds(folder, config):
    """Seeds of the trainings whose weights are in the folder."""
    names = f"{config.id}-epochs1-seed*.safetensors"
    return [int(file.stem.rpartition("seed")[2]) for file in (folder / VERIFICATION).glob(names)]


def member(folder, config):
    run = json.loads((folder / "run.json").read_text())
    (schedule,) = run["verified"]
    return next(one for one in schedule["members"] if one["config_id"] == config.id)


def test_the_kept_weights_give_the_values_on_the_test_images(verified):
    model = timm.create_model("test_resnet", num_classes=10)
    (kept,) = kept_seeds(verified, BARE)
    model.load_state_dict(load_file(weights_file(verified, BARE, 1, kept)))
    images, labels = load_data("digits").test.tensors
    with torch.no_grad():
        logits = model.eval()(images)
    assert (arrays(verified, BARE, "correct")[kept] == (logits.argmax(1) == labels).numpy()).all()
    losses = F.cross_entropy(logits, labels, reduction="none").numpy()
    assert arrays(verified, BARE, "losses")[kept] == pytest.approx(losses, abs=1e-4)


def test_seeds_differ_and_configurations_share_them(verified):
    losses = arrays(verified, BARE, "losses")
    assert losses.shape == (2, 397)
    assert not np.allclose(losses[0], losses[1])
    # Equal backbone weights and batches: configurations are more similar than seeds.
    other = arrays(verified, UNIFORM, "losses")
    assert np.corrcoef(losses[0], other[0])[0, 1] > np.corrcoef(losses[0], losses[1])[0, 1]


def test_values_and_differences_are_those_of_the_arrays(verified):
    one = member(verified, UNIFORM)
    correct, losses = (arrays(verified, UNIFORM, name) for name in ("correct", "losses"))
    assert one["accuracy"][0] == correct.mean()
    assert one["log_loss"] == pytest.approx(list(vars(crossed_mean(losses)).values()))
    difference = crossed_difference(losses, arrays(verified, BARE, "losses"))
    assert one["log_loss_difference"] == pytest.approx([difference.value, difference.low, difference.high])
    bare = arrays(verified, BARE, "losses")
    assert difference.value == pytest.approx(losses.mean(dtype=float) - bare.mean(dtype=float), abs=1e-9)
    assert member(verified, BARE)["log_loss_difference"] == [0.0, 0.0, 0.0]


def test_the_tables_have_the_verified_values(verified):
    trials = pd.read_csv(verified / "trials.csv")
    assert trials["verified_log_loss"].notna().all()
    row = trials[trials["config_id"] == UNIFORM.id].iloc[0]
    assert row["verified_log_loss"] == pytest.approx(arrays(verified, UNIFORM, "losses").mean())
    assert (row["verified_epochs"], row["verified_seeds"]) == (1, 2)
    assert set(VERIFIED_COLUMNS) <= set(pd.read_csv(verified / "pareto.csv").columns)


def test_rank_agreement_is_kendalls_tau_of_search_and_verification(verified):
    trials = pd.read_csv(verified / "trials.csv")
    (schedule,) = json.loads((verified / "run.json").read_text())["verified"]
    expected = stats.kendalltau(trials["log_loss"], trials["verified_log_loss"]).statistic
    assert schedule["agreement"][0] == pytest.approx(expected)
    assert schedule["agreement"][1] <= expected <= schedule["agreement"][2]
    assert -1 <= schedule["ceiling"][0] <= 1


def test_the_report_shows_the_verified_values(verified):
    page = (verified / "report.html").read_text()
    assert "Verified: retrained independently (1 epoch, 2 seeds)<" in page
    assert f"{member(verified, UNIFORM)['log_loss'][0]:.4f}" in page
    assert "noise allows at most" in page


def test_an_export_of_verified_weights_has_their_outputs_and_says_what_they_are(verified, tmp_path):
    trials = load_run(verified).trials.set_index("config_id")
    number = int(trials.loc[UNIFORM.id, "number"])
    load_run(verified).export(trial=number, to=tmp_path / "exported", verified=True)
    model = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True).eval()
    images, labels = load_data("digits").test.tensors
    with torch.no_grad():
        correct = (model(images).argmax(1) == labels).numpy()
    (kept,) = kept_seeds(verified, UNIFORM)
    assert (correct == arrays(verified, UNIFORM, "correct")[kept]).all()
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "Trained independently from random weights" in card
    assert f"{trials.loc[UNIFORM.id, 'verified_accuracy']:.2%}".replace("%", " %") in card
    assert "397 test images of digits that neither" in card


def test_an_export_of_weights_that_were_not_verified_is_refused(finished_run, tmp_path):
    with pytest.raises(RunFolderError, match="has not been verified"):
        load_run(finished_run / "run").export(to=tmp_path / "exported", verified=True)
    assert not (tmp_path / "exported").exists()


def test_verifying_again_trains_nothing(verified, monkeypatch):
    monkeypatch.setattr(verification, "_verify", None)
    before = (verified / "trials.csv").read_text()
    found = load_run(verified).verify(members="all", seeds=2)
    assert len(found) == len(load_run(verified).trials)
    assert (verified / "trials.csv").read_text() == before


def test_a_longer_schedule_stands_beside_the_shorter_and_says_whether_the_order_held(verified):
    load_run(verified).verify(members=1, seeds=1, epochs=2)
    run = json.loads((verified / "run.json").read_text())
    assert [schedule["epochs"] for schedule in run["verified"]] == [1, 2]
    longer = run["verified"][1]
    assert {BARE.id, UNIFORM.id} <= {one["config_id"] for one in longer["members"]}
    assert "With one seed, the interval excludes" in longer["finding"]
    trials = load_run(verified).trials.set_index("config_id")
    assert trials.loc[BARE.id, "verified_epochs"] == 2


class Killed(BaseException):
    """Stands in for a process that is killed during training."""


@pytest.mark.slow
def test_an_interrupted_training_goes_on_from_its_last_epoch(finished_run, monkeypatch):
    folder = finished_run / "run"
    steps = []
    usual = Training._train_epoch

    def interrupted(self, epoch, losses, advance):
        steps.append(epoch)
        if steps == [0, 1]:
            raise Killed
        return usual(self, epoch, losses, advance)

    monkeypatch.setattr(Training, "_train_epoch", interrupted)
    with pytest.raises(Killed):
        load_run(folder).verify(members=1, seeds=1, epochs=2)
    assert list((folder / VERIFICATION).glob("*.checkpoint.pt"))
    load_run(folder).verify(members=1, seeds=1, epochs=2)
    assert steps == [0, 1, 1, 0, 1]  # the first network's first epoch was kept; then the uniform one
    whole = losses_of(folder)
    shutil.rmtree(folder / VERIFICATION)
    load_run(folder).verify(members=1, seeds=1, epochs=2)
    assert whole == losses_of(folder)
    assert not list((folder / VERIFICATION).glob("*.checkpoint.pt"))


def losses_of(folder):
    return {file.name: json.loads(file.read_text())["losses"] for file in (folder / VERIFICATION).glob("*.json")}


@pytest.mark.parametrize("members", ["fronts", "0", "-1", "1.5"])
def test_impossible_members_are_refused(finished_run, members):
    with pytest.raises(DefinitionError, match="give front, all or a number"):
        load_run(finished_run / "run").verify(members=members)
    assert not (finished_run / "run" / VERIFICATION).exists()


def test_impossible_lengths_are_refused(finished_run):
    for settings in ({"seeds": 0}, {"epochs": 0}):
        with pytest.raises(DefinitionError, match="must be at least 1"):
            load_run(finished_run / "run").verify(**settings)


@pytest.mark.parametrize("content", ["", "{}", '{"correct": "x", "losses": "y"}', "[]"])
def test_a_damaged_result_is_refused(verified, content):
    file = result_file(verified, UNIFORM, 1, 0)
    file.write_text(content)
    with pytest.raises(RunFolderError, match=rf"{file.name} is damaged"):
        load_run(verified).report()


def test_seeds_that_are_only_begun_hide_nothing(verified):
    before = json.loads((verified / "run.json").read_text())["verified"]
    shutil.copy(result_file(verified, BARE, 1, 0), result_file(verified, BARE, 1, 2))
    load_run(verified).report()
    assert json.loads((verified / "run.json").read_text())["verified"] == before


def test_a_network_whose_training_diverges_does_not_keep_the_others_from_being_verified(
    finished_run, monkeypatch, capsys
):
    folder = finished_run / "run"
    usual = verification.Scratch.training

    def diverging(self, config, seed, checkpoint=None):
        training = usual(self, config, seed, checkpoint)
        if config == BARE:
            next(training.model.parameters()).data.fill_(float("nan"))
        return training

    monkeypatch.setattr(verification.Scratch, "training", diverging)
    load_run(folder).verify(members=1, seeds=1)
    assert "no SE, seed 0 failed: the training loss is nan" in capsys.readouterr().out
    assert result_file(folder, UNIFORM, 1, 0).exists()
    # A training that diverged is a result beside the others, which another call does not repeat.
    assert "the training loss is nan" in json.loads(result_file(folder, BARE, 1, 0).read_text())["error"]
    (schedule,) = json.loads((folder / "run.json").read_text())["verified"]
    none = schedule["members"][0]
    assert (none["name"], none["learned"], none["accuracy"][0]) == ("no SE", 0, 0.0)
    assert none["log_loss"][0] == pytest.approx(math.log(10), rel=1e-6)
    number = int(load_run(folder).trials.set_index("config_id").loc[BARE.id, "number"])
    assert schedule["failures"][0].startswith(
        f"Trial {number} (no SE): 1 of 1 trainings did not learn (the training loss is nan in epoch 1"
    )
    run = load_run(folder)
    assert run.decision.headline == "Unknown whether SE helps: all trainings of the network without SE diverged"
    run.verify(members=1, seeds=1)
    assert ": 0 of " in capsys.readouterr().out
    with pytest.raises(RunFolderError, match=f"all trainings of trial {number} of .* diverged"):
        run.export(trial=number, to=folder.parent / "exported", verified=True)
    assert not (folder.parent / "exported").exists()


def test_results_of_other_images_are_refused(verified):
    file = result_file(verified, UNIFORM, 1, 0)
    content = json.loads(file.read_text())
    content["correct"] = pack(np.ones((1, 5), bool))
    file.write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match="other images"):
        load_run(verified).report()


def test_a_run_on_other_images_is_not_verified(finished_run, monkeypatch):
    usual = evaluators.load_data
    monkeypatch.setattr(evaluators, "load_data", lambda *given: replace(usual(*given), test=Forbidden(300)))
    with pytest.raises(RunFolderError, match="test was 397 and is 300 now"):
        load_run(finished_run / "run").verify(members=1, seeds=1)


class Forbidden:
    """Images that raise an error when read."""

    def __init__(self, count=397):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raise AssertionError("a test image was looked at")


def test_a_search_never_looks_at_the_test_images_and_verification_does(finished_run, tmp_path, monkeypatch):
    usual = evaluators.load_data
    monkeypatch.setattr(evaluators, "load_data", lambda *given: replace(usual(*given), test=Forbidden()))
    study = load_study(str(finished_run / "tiny.yaml")).model_copy(update={"budget": 2})
    run_search(study, tmp_path / "run")
    assert len(load_run(tmp_path / "run").trials) == 2
    with pytest.raises(AssertionError, match="test image"):
        load_run(tmp_path / "run").verify(members=1, seeds=1)
