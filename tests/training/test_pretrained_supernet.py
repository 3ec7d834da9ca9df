"""The common start from pretrained weights, and the supernet that starts from it."""

import json
import random
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import TensorDataset

from se_search import PlacedSE, SEConfig, find_sites
from se_search.data.load import load_data
from se_search.network.attention.eca import PlacedECA
from se_search.network.attention.gates import GATES
from se_search.network.backbones import network_options
from se_search.training.common_start import (
    BACKBONE_CHECKPOINT,
    BACKBONE_SUMMARY,
    BACKBONE_WEIGHTS,
    Adaptation,
    CommonStart,
)
from se_search.training.evaluator import evaluate_network
from se_search.training.pretrained_supernet import PretrainedSupernet
from se_search.training.protocols import no_progress
from se_search.training.recipe import Training, TrainingRecipe
from se_search.training.supernet import WEIGHTS
from se_search.training.tuning import Tuning

BACKBONE = "test_resnet"
DIGITS = load_data("digits")
DATA = replace(DIGITS, train=TensorDataset(*(part[:256] for part in DIGITS.train.tensors)))  # four steps an epoch
IMAGES = DATA.validation.tensors[0]
SITES = find_sites(BACKBONE, position="standard")
WIDEST = tuple(PlacedSE(site, 2) for site in SITES)
STANDS_STILL = TrainingRecipe(epochs=1, batch=64, learning_rate=1e-30)


def draw(rng: random.Random) -> SEConfig:
    gate = rng.choice(tuple(GATES))
    return SEConfig(
        BACKBONE, tuple(PlacedSE(site, rng.choice((2, 4, 8)), gate) for site in SITES if rng.random() < 0.6)
    )


SPACE = SimpleNamespace(draw=draw, widen=lambda config: SEConfig(BACKBONE, WIDEST))


def weights(folder, classes, backbone=BACKBONE, **changes):
    """A checkpoint of a backbone with random weights; all norms scale by values near one, none by zero."""
    torch.manual_seed(1)
    model = timm.create_model(backbone, num_classes=classes)
    for value in model.state_dict().values():
        if value.dim() == 1 and value.is_floating_point():
            value.uniform_(0.5, 1.5)
    file = folder / f"{backbone}-{classes}.safetensors"
    save_file(model.state_dict() | changes, file)
    return file


def start_of(file, recipe=STANDS_STILL, adaptation=None, data=DATA, backbone=BACKBONE):
    return CommonStart(backbone, data, recipe, weights=str(file), adaptation=adaptation)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A run folder with a supernet whose training did not move the adapted backbone."""
    folder = tmp_path_factory.mktemp("adapted")
    start = start_of(weights(folder, 7))
    network = PretrainedSupernet(start, WIDEST)
    network.prepare(folder, SPACE, no_progress)
    return network, start, folder


@pytest.mark.parametrize("seed", range(4))
def test_before_training_every_configuration_is_the_adapted_backbone_image_by_image(adapted, seed):
    network, start, folder = adapted
    backbone = start.load(folder).eval()
    config = draw(random.Random(seed))
    expected, found = evaluate_network(backbone, DATA.validation), network.evaluate(config)
    assert (found.correct == expected.correct).all()
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(network.network(config)(IMAGES), backbone(IMAGES), rtol=0, atol=1e-5)


def test_only_the_classifier_is_adapted_to_other_classes(adapted):
    _, _, folder = adapted
    given, backbone = load_file(folder / f"{BACKBONE}-7.safetensors"), load_file(folder / BACKBONE_WEIGHTS)
    heads = {"fc.weight", "fc.bias"}
    assert backbone["fc.weight"].shape[0] == 10
    assert all(torch.equal(value, given[name]) for name, value in backbone.items() if name not in heads)
    summary = json.loads((folder / BACKBONE_SUMMARY).read_text())
    assert summary["weights"] == str(folder / f"{BACKBONE}-7.safetensors")
    assert summary["adaptation"] == {"epochs": 4, "learning_rate": 0.002, "freeze": "backbone"}
    losses = [epoch["loss"] for epoch in summary["epochs"]]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_weights_of_the_same_classes_are_taken_as_they_are(tmp_path):
    start = start_of(weights(tmp_path, 10))
    start.prepare(tmp_path, no_progress)
    given, taken = load_file(tmp_path / f"{BACKBONE}-10.safetensors"), load_file(tmp_path / BACKBONE_WEIGHTS)
    assert all(torch.equal(value, given[name]) for name, value in taken.items())
    assert json.loads((tmp_path / BACKBONE_SUMMARY).read_text())["adaptation"] is None


def test_a_whole_network_is_adapted_if_nothing_is_frozen(tmp_path):
    start = start_of(weights(tmp_path, 10), adaptation=Adaptation(1, 0.003, "none"))
    start.prepare(tmp_path, no_progress)
    given, taken = load_file(tmp_path / f"{BACKBONE}-10.safetensors"), load_file(tmp_path / BACKBONE_WEIGHTS)
    assert not [name for name, value in taken.items() if value.is_floating_point() and torch.equal(value, given[name])]


class Killed(Exception):
    """Simulates a process that is killed during training."""


def killing_after(last):
    """Return a list of the trainings that begin, and a progress bar that ends each after so many steps."""
    begun = []

    @contextmanager
    def interrupting(title, total, completed):
        begun.append((title, total, completed))
        steps = 0

        def advance(step=1, line=None):
            nonlocal steps
            steps += step
            if steps == last:
                raise Killed

        yield advance

    return begun, interrupting


def test_an_interrupted_adaptation_ends_as_an_uninterrupted_one(tmp_path):
    file = weights(tmp_path, 7)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    start_of(file, adaptation=Adaptation(2, 0.003)).prepare(tmp_path / "whole", no_progress)
    begun, interrupting = killing_after(6)
    with pytest.raises(Killed):
        start_of(file, adaptation=Adaptation(2, 0.003)).prepare(tmp_path / "parts", interrupting)
    assert (tmp_path / "parts" / BACKBONE_CHECKPOINT).exists()
    start_of(file, adaptation=Adaptation(2, 0.003)).prepare(tmp_path / "parts", interrupting)
    title = "Adapting the classifier (7 classes to 10)"
    assert begun == [(title, 8, 0), (title, 8, 4)]
    whole, parts = (load_file(tmp_path / name / BACKBONE_WEIGHTS) for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert not (tmp_path / "parts" / BACKBONE_CHECKPOINT).exists()


def train(adapted, folder, rate, epochs=1, progress_bar=no_progress):
    """Train a supernet from the adapted backbone with a learning rate of the backbone."""
    _, _, source = adapted
    folder.mkdir(exist_ok=True)
    for name in (BACKBONE_WEIGHTS, BACKBONE_SUMMARY):
        (folder / name).write_bytes((source / name).read_bytes())
    recipe = TrainingRecipe(epochs=epochs, batch=64, learning_rate=0.003)
    network = PretrainedSupernet(start_of("not read again", recipe), WIDEST, rate)
    network.prepare(folder, SPACE, progress_bar)
    return network


def test_an_interrupted_joint_training_ends_as_an_uninterrupted_one(adapted, tmp_path):
    train(adapted, tmp_path / "whole", 0.1, epochs=2)
    begun, interrupting = killing_after(6)
    with pytest.raises(Killed):
        train(adapted, tmp_path / "parts", 0.1, 2, interrupting)
    assert not (tmp_path / "parts" / WEIGHTS).exists()
    train(adapted, tmp_path / "parts", 0.1, 2, interrupting)
    assert [(total, completed) for _, total, completed in begun] == [(8, 0), (8, 4)]
    whole, parts = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_backbone_is_frozen_or_learns_and_its_statistics_stay(adapted, tmp_path, rate):
    network = train(adapted, tmp_path, rate)
    after, before = (load_file(tmp_path / name) for name in (WEIGHTS, BACKBONE_WEIGHTS))
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    parameters = {name for name, _ in timm.create_model(BACKBONE).named_parameters()}
    assert moved == (parameters if rate else set())
    assert all(after[f"{site.block}.se.fc2.weight"].abs().max() > 1e-3 for site in SITES)
    config = draw(random.Random(3))
    plain, evaluation = network.network(config), network.evaluate(config)
    with torch.no_grad():
        logits = plain(IMAGES)
    assert (evaluation.correct[0] == (logits.argmax(1) == DATA.validation.tensors[1]).numpy()).all()
    again = PretrainedSupernet(start_of("not read again"), WIDEST)
    again.load(tmp_path)
    assert (again.evaluate(config).losses == evaluation.losses).all()


@pytest.mark.parametrize(("rate", "distillation"), [(0.1, 0.0), (0.0, 0.0), (0.1, 0.5)])
def test_each_step_trains_one_network_in_turn_or_two_for_distillation(adapted, monkeypatch, rate, distillation):
    _, start, folder = adapted
    network = PretrainedSupernet(start, WIDEST, rate, distillation)
    selected = []
    monkeypatch.setattr(network, "select", selected.append)
    training = Training(start.load(folder), STANDS_STILL, DATA, "cpu")
    losses = network._losses(training, SPACE)
    images, labels = (part[:8] for part in DATA.train.tensors)
    counts = []
    for training.step in range(8):
        counts.append(len(list(losses(images, labels))))
    widest, bare = SEConfig(BACKBONE, WIDEST), SEConfig.without_attention(BACKBONE)
    assert counts == [2 if distillation else 1] * 8
    smaller = selected[1::2] if distillation else selected
    assert [one == bare for one in smaller] == [rate > 0 and step in (0, 4) for step in range(8)]
    assert [one == widest for one in smaller] == [step in (2, 6) for step in range(8)]
    if distillation:
        assert set(selected[::2]) == {widest}


def test_the_backbones_parameters_learn_at_their_own_rate(adapted):
    _, start, folder = adapted
    model = start.load(folder)
    recipe = TrainingRecipe(epochs=2, batch=64, learning_rate=0.01, warm_up=0.0)
    training = Training(model, recipe, DATA, "cpu", tuning=Tuning({"fc.weight", "fc.bias"}, 0.1))
    rates = {id(one): group["lr"] for group in training._optimizer.param_groups for one in group["params"]}
    assert {name: rates[id(one)] for name, one in model.named_parameters()} == {
        name: pytest.approx(0.01 if name.startswith("fc.") else 0.001) for name, _ in model.named_parameters()
    }
    decays = {id(one): group["weight_decay"] for group in training._optimizer.param_groups for one in group["params"]}
    assert decays[id(model.fc.weight)] == decays[id(model.conv1[0].weight)] == recipe.weight_decay
    assert decays[id(model.fc.bias)] == decays[id(model.bn1.weight)] == 0


@pytest.mark.parametrize("kinds", [(PlacedECA,), (PlacedSE, PlacedECA)])
def test_other_kinds_and_several_start_at_identity_too(adapted, kinds):
    _, start, folder = adapted
    network = PretrainedSupernet(start, [kind(site) for site in SITES for kind in kinds])
    network._prepare_start(folder, no_progress, None)
    backbone = start.load(folder).eval()
    config = SEConfig(BACKBONE, tuple(kinds[i % len(kinds)](site, gate="tanh") for i, site in enumerate(SITES)))
    with torch.no_grad():
        torch.testing.assert_close(network.network(config)(IMAGES), backbone(IMAGES), rtol=0, atol=1e-5)


def test_the_backbones_own_attention_is_kept_to_the_bit_and_can_be_removed(tmp_path):
    backbone = "regnety_002"
    sites = find_sites(backbone, position="existing")
    start = start_of(weights(tmp_path, 10, backbone), backbone=backbone)
    network = PretrainedSupernet(start, [PlacedSE(site, 16) for site in sites])
    network._prepare_start(tmp_path, no_progress, None)
    own = timm.create_model(backbone, num_classes=10, **network_options(backbone, DATA.input_size)).eval()
    own.load_state_dict(load_file(tmp_path / f"{backbone}-10.safetensors"))
    images = IMAGES[:32]
    with torch.no_grad():
        assert torch.equal(network.network(SEConfig(backbone))(images), own(images))
        removed = network.network(SEConfig(backbone, removed=sites))
        for name in [name for name, _ in own.named_modules()]:
            if name.endswith(".se"):
                own.set_submodule(name, torch.nn.Identity())
        assert torch.equal(removed(images), own(images))
