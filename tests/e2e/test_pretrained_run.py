"""A search from pretrained weights of other classes, its verification, and what the cards say of the weights."""

import json

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from se_search import search
from se_search.cli import app
from se_search.data.load import load_data
from se_search.errors import DefinitionError
from se_search.training.evaluator import evaluate_network

STUDY = {
    "backbone": "test_resnet",
    "budget": 3,
    "data": "digits",
    "threads": 1,
    "evaluator": {"epochs": 1, "learning_rate": 1e-30, "adapt": {"epochs": 1, "learning_rate": 0.01}},
    "latency": {"limit": 0.05, "size": "data"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose supernet stays at the adapted backbone."""
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(1)
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    for value in state.values():
        if value.dim() == 1:
            value.uniform_(0.5, 1.5)  # timm's last norm of each block is zero, which hides the block
    save_file(state, folder / "weights.safetensors")
    return search(**STUDY, pretrained=str(folder / "weights.safetensors"), out=folder / "run")


def test_every_trial_has_the_adapted_backbones_values(run):
    backbone = timm.create_model("test_resnet", num_classes=10)
    backbone.load_state_dict(load_file(run.folder / "backbone.safetensors"))
    expected = evaluate_network(backbone.eval(), load_data("digits").validation)
    assert run.trials["parameter_overhead"].max() > 0
    assert set(run.trials["accuracy"]) == {expected.accuracy.value}
    assert run.trials["log_loss"].to_numpy() == pytest.approx(expected.log_loss.value, abs=1e-5)


def test_it_resumes_without_the_weights_and_not_with_others(run, tmp_path):
    given = run.folder.parent / "weights.safetensors"
    given.rename(tmp_path / "away.safetensors")
    try:
        again = search(**STUDY | {"budget": 4}, pretrained=str(given), out=run.folder)
        assert len(again.trials) == 4
        with pytest.raises(DefinitionError, match=r"weights\.safetensors' does not exist: use timm, local-dir:FOLDER"):
            search(**STUDY, pretrained=str(given), out=tmp_path / "new")
        assert not (tmp_path / "new").exists()
    finally:
        (tmp_path / "away.safetensors").rename(given)


def test_verification_starts_from_the_adapted_backbone_and_the_card_says_so(run, tmp_path):
    run.verify("1", seeds=1, epochs=1)
    verified = pd.read_csv(run.folder / "trials.csv")["verified_accuracy"].dropna()
    assert len(verified) > 0
    start = (
        "backbone weights that the user gave, whose licence applies and whose classifier was first adapted to the same "
        "images for 1 epoch"
    )
    run.export(trial=0, to=tmp_path / "verified")
    assert start in (tmp_path / "verified" / "README.md").read_text()
    run.export(trial=1, to=tmp_path / "slice", verified=False)
    card = (tmp_path / "slice" / "README.md").read_text()
    assert start in card
    assert "random weights" not in card
    summary = json.loads((run.folder / "backbone.json").read_text())
    assert summary["adaptation"] == {"epochs": 1, "learning_rate": 0.01, "freeze": "backbone"}
    timings = json.loads((run.folder / "run.json").read_text())["timings"]
    assert timings.keys() == {"backbone", "supernet", "trials"}
    assert timings["backbone"] == pytest.approx(sum(epoch["seconds"] for epoch in summary["epochs"]))
    exported = timm.create_model(f"local-dir:{tmp_path / 'slice'}", pretrained=True).eval()
    backbone = timm.create_model("test_resnet", num_classes=10)
    backbone.load_state_dict(load_file(run.folder / "backbone.safetensors"))
    images = load_data("digits").validation.tensors[0][:50]
    with torch.no_grad():
        torch.testing.assert_close(exported(images), backbone.eval()(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("test_vit", {}, "tensors of this backbone are missing in it"),
        ("test_resnet", {"bn1.bias": torch.zeros(3)}, "1 of its tensors have another shape, the first is bn1.bias"),
        ("test_resnet", {"bn1.bias": torch.full((32,), torch.nan)}, "NaN or infinite values in bn1.bias"),
        ("test_resnet", {"bn1.bias": print}, "Python objects, which are not read because they can run code"),
    ],
)
def test_wrong_weights_are_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, architecture, changes, words):
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model(architecture, num_classes=10).state_dict() | changes, "weights.pth")
    result = CliRunner().invoke(app, ["run", "--backbone", "test_resnet", "--pretrained", "weights.pth"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: --pretrained weights.pth ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]
