"""The evaluators scratch and finetune, which train each configuration independently."""

import json
import re
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg_value, save_for_hf

from se_search import SEConfig
from se_search.data.load import load_data
from se_search.errors import DefinitionError, RunFolderError
from se_search.statistics import crossed_mean
from se_search.training.common_start import BACKBONE_SUMMARY
from se_search.training.evaluator import evaluate_network
from se_search.training.pretrained import check_pretrained, load_pretrained, pretrained_classes
from se_search.training.protocols import no_progress
from se_search.training.recipe import TrainingRecipe
from se_search.training.stand_alone import Finetune, Scratch, rung_epochs

BACKBONE = "test_resnet"
DATA = load_data("digits")
RECIPE = TrainingRecipe(epochs=2, batch=64, learning_rate=0.002)
BARE = SEConfig(BACKBONE)
UNIFORM = SEConfig.uniform(BACKBONE, 4)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    evaluator = Scratch(BACKBONE, DATA, RECIPE, seeds=2)
    evaluator.prepare(tmp_path_factory.mktemp("scratch"), None, no_progress)
    return evaluator, evaluator.evaluate(UNIFORM)


@pytest.mark.parametrize(
    ("epochs", "factor", "rungs"),
    [(8, None, (8,)), (8, 2, (1, 2, 4, 8)), (9, 3, (1, 3, 9)), (10, 3, (1, 3, 10)), (1, 2, (1,)), (5, 7, (5,))],
)
def test_rungs(epochs, factor, rungs):
    assert rung_epochs(epochs, factor) == rungs


def test_all_configurations_start_from_the_same_weights_of_the_backbone():
    evaluator = Scratch(BACKBONE, DATA, RECIPE)
    bare, uniform = evaluator.start(BARE, 3).state_dict(), evaluator.start(UNIFORM, 3).state_dict()
    assert bare.keys() < uniform.keys()
    assert all(torch.equal(value, uniform[name]) for name, value in bare.items())
    assert not torch.equal(bare["conv1.0.weight"], evaluator.start(BARE, 4).state_dict()["conv1.0.weight"])


def test_the_kept_network_is_the_one_that_was_evaluated_first(scratch):
    evaluator, evaluation = scratch
    network = evaluator.network(UNIFORM)
    images, labels = DATA.validation.tensors
    with torch.no_grad():
        logits = network(images)
    assert (evaluation.correct[0] == (logits.argmax(1) == labels).numpy()).all()
    losses = F.cross_entropy(logits, labels, reduction="none").numpy()
    assert evaluation.losses[0] == pytest.approx(losses, abs=1e-4)


def test_several_seeds_are_pooled(scratch):
    _, evaluation = scratch
    assert evaluation.losses.shape == evaluation.correct.shape == (2, 400)
    assert not (evaluation.losses[0] == evaluation.losses[1]).all()
    assert evaluation.log_loss == crossed_mean(evaluation.losses)
    assert evaluation.accuracy.value == pytest.approx(evaluation.correct.mean())


def test_evaluating_again_gives_the_same_values(scratch, tmp_path):
    again = Scratch(BACKBONE, DATA, replace(RECIPE, seed=1))
    again.prepare(tmp_path, None, no_progress)
    torch.manual_seed(123)
    np.random.seed(9)
    assert (again.evaluate(UNIFORM).losses[0] == scratch[1].losses[1]).all()


def test_rungs_end_with_the_evaluation_of_an_undisturbed_training(tmp_path):
    recipe = replace(RECIPE, epochs=2)
    values = {}
    for halving in (None, 2):
        evaluator = Scratch(BACKBONE, DATA, recipe, halving=halving)
        evaluator.prepare(tmp_path, None, no_progress)
        values[halving] = dict(evaluator.rungs(UNIFORM))
    assert list(values[2]) == [1, 2]
    assert (values[None][2].losses == values[2][2].losses).all()
    assert values[2][1].log_loss.value > values[2][2].log_loss.value


def test_a_network_that_was_not_evaluated_is_refused(scratch):
    with pytest.raises(RunFolderError, match="evaluate the configuration first"):
        scratch[0].network(BARE)


@pytest.fixture(scope="module")
def finetune(tmp_path_factory):
    """An evaluator with a common backbone trained on the data."""
    folder = tmp_path_factory.mktemp("finetune")
    evaluator = Finetune(BACKBONE, DATA, RECIPE)
    evaluator.prepare(folder, None, no_progress)
    return evaluator, folder


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "tanh", "relu"])
def test_finetuning_starts_at_exactly_the_backbones_accuracy(finetune, gate):
    evaluator, _ = finetune
    config = SEConfig.uniform(BACKBONE, 4, gate=gate)
    bare, inserted = (evaluator.start(one, 0).eval() for one in (BARE, config))
    assert len(inserted.state_dict()) > len(bare.state_dict())
    before, after = (evaluate_network(one, DATA.validation) for one in (bare, inserted))
    assert before.accuracy.value > 0.5  # a trained backbone
    assert (before.correct == after.correct).all()
    assert (before.losses == after.losses).all()


def test_finetuning_moves_the_gates(finetune):
    evaluator, _ = finetune
    before = evaluator.start(UNIFORM, 0).state_dict()
    evaluation = evaluator.evaluate(UNIFORM)
    network = evaluator.network(UNIFORM)
    assert evaluation.accuracy.value > 0.5
    moved = [
        name for name, value in network.state_dict().items() if ".se." in name and not torch.equal(value, before[name])
    ]
    assert any("fc2.weight" in name for name in moved)
    with torch.no_grad():
        logits = network(DATA.validation.tensors[0])
    assert (evaluation.correct[0] == (logits.argmax(1) == DATA.validation.tensors[1]).numpy()).all()


def test_the_common_backbone_is_kept_with_its_origin(finetune):
    evaluator, folder = finetune
    summary = json.loads((folder / BACKBONE_SUMMARY).read_text())
    assert summary["weights"] == "2 epochs on digits"
    assert len(summary["epochs"]) == 2
    again = Finetune(BACKBONE, DATA, replace(RECIPE, epochs=7))
    again.load(folder)
    assert torch.equal(again.start(BARE, 0).fc.weight, evaluator.start(BARE, 5).fc.weight)


@pytest.fixture
def trained(finetune):
    """A bare backbone trained on the data."""
    return finetune[0].start(BARE, 0).eval()


def prepared(folder, pretrained):
    folder.mkdir()
    evaluator = Finetune(BACKBONE, DATA, RECIPE, pretrained=pretrained)
    evaluator.prepare(folder, None, no_progress)
    return evaluator


def test_weights_of_a_local_timm_folder_are_taken_whole(trained, tmp_path):
    save_for_hf(trained, tmp_path / "saved", model_config={"num_classes": 10}, safe_serialization=True)
    evaluator = prepared(tmp_path / "run", f"local-dir:{tmp_path / 'saved'}")
    started = evaluator.start(UNIFORM, 0).eval()
    before, after = (evaluate_network(one, DATA.validation) for one in (trained, started))
    assert before.accuracy.value > 0.5
    assert (before.losses == after.losses).all()


def test_a_folder_with_other_classes_gives_all_but_the_classifier(trained, tmp_path):
    trained.reset_classifier(7)
    save_for_hf(trained, tmp_path / "saved", model_config={"num_classes": 7}, safe_serialization=True)
    started = prepared(tmp_path / "run", f"local-dir:{tmp_path / 'saved'}").start(BARE, 0)
    assert started.fc.out_features == 10
    assert torch.equal(started.layer1[0].conv1.weight, trained.layer1[0].conv1.weight)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_a_checkpoint_are_taken_whole(trained, tmp_path, suffix):
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": trained.state_dict()}, file)
    else:
        save_file(trained.state_dict(), file)
    started = prepared(tmp_path / "run", str(file)).start(UNIFORM, 0).eval()
    assert (
        evaluate_network(started, DATA.validation).losses == evaluate_network(trained, DATA.validation).losses
    ).all()


@pytest.mark.parametrize("classes", [7, 1000])
def test_a_checkpoint_with_other_classes_gives_all_but_the_classifier(trained, tmp_path, classes):
    trained.reset_classifier(classes)
    save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    started = prepared(tmp_path / "run", str(tmp_path / "weights.safetensors")).start(BARE, 0)
    assert started.fc.out_features == 10
    assert torch.equal(started.layer1[0].conv1.weight, trained.layer1[0].conv1.weight)


class Payload:
    """Creates a file when unpickled."""

    def __reduce__(self):
        return open, ("executed", "w")


def test_a_checkpoint_never_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"x": Payload()}}, tmp_path / "evil.pth")
    with pytest.raises(DefinitionError, match=r"loaded into test_resnet: it contains Python objects.*run code"):
        prepared(tmp_path / "run", str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("given", ["nothing.pth", "local-dir:nothing", "imagenet"])
def test_weights_that_are_not_there_are_refused(tmp_path, given, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DefinitionError, match=r"^pretrained '.*' does not exist: use timm"):
        check_pretrained(given)


def test_weights_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    torch.manual_seed(0)
    other, state = (timm.create_model(name, num_classes=10).state_dict() for name in ("test_vit", BACKBONE))
    own = [name for name in state if not name.startswith("fc.")]
    changed = "layer1.0.conv1.weight"
    shapes = rf"\(1, 2, 3, 3\) instead of {re.escape(str(tuple(state[changed].shape)))}"
    cases = {
        "other": (other, rf"{len(own)} of the {len(own)} tensors .* are missing in it, the first is {own[0]}"),
        "wide": (state | {changed: torch.zeros(1, 2, 3, 3)}, rf"1 of its tensors .* {changed} with {shapes}"),
        "nan": (state | {"bn1.bias": state["bn1.bias"] * torch.nan}, r"has NaN or infinite values in bn1\.bias: .*"),
    }
    for name, (weights, told) in cases.items():
        save_file(weights, tmp_path / f"{name}.safetensors")
        with pytest.raises(DefinitionError, match=rf"^pretrained \S+{name}\.safetensors .*{told}$"):
            load_pretrained(BACKBONE, str(tmp_path / f"{name}.safetensors"), {"num_classes": 10})


def test_weights_of_the_hub_are_taken_from_its_cache_without_a_network(tmp_path, monkeypatch):
    torch.manual_seed(0)
    published = timm.create_model(BACKBONE, num_classes=7)
    repository = tmp_path / "models--me--network"
    snapshot = repository / "snapshots" / ("0" * 40)
    save_for_hf(published, snapshot, model_config={"num_classes": 7}, safe_serialization=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    check_pretrained("hf-hub:me/network")
    assert pretrained_classes(BACKBONE, "hf-hub:me/network") == 7
    loaded = load_pretrained(BACKBONE, "hf-hub:me/network", {"num_classes": 10}).state_dict()
    before = published.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in loaded.items() if not name.startswith("fc."))
    with pytest.raises(DefinitionError, match=r"^pretrained hf-hub:me/other cannot be loaded into test_resnet: "):
        pretrained_classes(BACKBONE, "hf-hub:me/other")
    with pytest.raises(DefinitionError, match="holds a test_resnet, not a test_vit"):
        load_pretrained("test_vit", "hf-hub:me/network", {"num_classes": 10})


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_for_hf(timm.create_model("test_vit"), tmp_path / "saved", safe_serialization=True)
    with pytest.raises(DefinitionError, match="holds a test_vit, not a test_resnet"):
        prepared(tmp_path / "run", f"local-dir:{tmp_path / 'saved'}")


def test_a_checkpoint_with_two_heads_of_other_classes_is_loaded(tmp_path):
    torch.manual_seed(0)
    published = timm.create_model("levit_128s", num_classes=7)
    assert not isinstance(get_pretrained_cfg_value("levit_128s", "classifier"), str)
    torch.save(published.state_dict(), tmp_path / "checkpoint.pth")
    loaded = load_pretrained("levit_128s", str(tmp_path / "checkpoint.pth"), {"num_classes": 3})
    assert loaded.num_classes == 3
    state, before = loaded.state_dict(), published.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in state.items() if not name.startswith("head"))
