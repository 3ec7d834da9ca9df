"""The supernet: slices, recalibration, resumable training."""

import json
import random
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from se_search import PlacedSE, SEConfig, create_model, find_sites
from se_search.data.load import load_data
from se_search.errors import EvaluationError, RunFolderError
from se_search.network.attention.gates import GATES
from se_search.network.backbones import network_options
from se_search.training import supernet as supernet_module
from se_search.training.recipe import Training, TrainingRecipe
from se_search.training.supernet import CHECKPOINT, SUMMARY, WEIGHTS, Supernet

BACKBONE = "test_resnet"
DATA = load_data("digits")
LARGEST = SEConfig.uniform(BACKBONE, 2)


def draw(rng: random.Random) -> SEConfig:
    """A space: each block with any ratio or without SE, one gate."""
    gate = rng.choice(tuple(GATES))
    sites = [site for site in find_sites(BACKBONE, position="standard") if rng.random() < 0.6]
    return SEConfig(BACKBONE, tuple(PlacedSE(site, rng.choice((2, 3, 4, 8, 16, 32)), gate) for site in sites))


def widen(config):
    """Every site at r=2 with the gate of the configuration."""
    gate = config.placed[0].gate if config.placed else "sigmoid"
    return SEConfig.uniform(BACKBONE, 2, gate=gate)


SPACE = SimpleNamespace(draw=draw, widen=widen)


@contextmanager
def silent(description, total, completed):
    yield lambda steps=1, line=None: None


def supernet(epochs=1, seed=0, learning_rate=0.003, recalibration_images=128, data=DATA, **settings):
    widest = [PlacedSE(site, 2) for site in find_sites(BACKBONE, position="standard")]
    recipe = TrainingRecipe(epochs=epochs, batch=64, learning_rate=learning_rate, seed=seed)
    return Supernet(BACKBONE, widest, data, recipe, recalibration_images=recalibration_images, **settings)


def train(network, folder, progress_bar=silent):
    network.prepare(folder, SPACE, progress_bar)
    return network


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(supernet(), tmp_path_factory.mktemp("supernet"))


@pytest.mark.parametrize("seed", range(10))
def test_a_slice_is_the_plain_network_that_was_evaluated(trained, seed):
    config = draw(random.Random(seed))
    evaluation = trained.evaluate(config)
    plain = trained.network(config)
    images, labels = DATA.validation.tensors
    with torch.no_grad():
        logits = plain(images)
        torch.testing.assert_close(logits, trained.model(images), rtol=0, atol=1e-5)
    correct = (logits.argmax(1) == labels).numpy()
    assert evaluation.accuracy.value == correct.mean()
    assert (evaluation.correct == correct[None]).all()
    assert evaluation.log_loss.value == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-5)
    expected = F.cross_entropy(logits, labels, reduction="none").numpy()
    assert evaluation.losses == pytest.approx(expected[None], abs=1e-5)
    assert plain.se_config == config
    assert sum(".se.fc1.weight" in name for name in plain.state_dict()) == len(config.placed)


# Tokens, NHWC, input hooks, slots of shortcuts, repeated units, and attention that is kept, replaced or removed.
PLACED = [
    ("vit_tiny_patch16_224", "standard"),
    ("vit_tiny_patch16_224", "pre"),
    ("swin_tiny_patch4_window7_224", "standard"),
    ("convnext_atto", "3x3"),
    ("resnet10t", "identity"),
    ("repvgg_a0", "post"),
    ("regnety_002", "existing"),
    ("mobilenetv3_small_050", "existing"),
]


def placed_supernet(name, position):
    sites = find_sites(name, position=position)
    widest = [PlacedSE(site, 2) for site in sites]
    return Supernet(name, widest, DATA, TrainingRecipe(1, 64, 0.003), recalibration_images=128), sites


@pytest.mark.parametrize(
    ("name", "position"),
    [pytest.param(*one, marks=pytest.mark.slow if one[0].startswith("swin") else ()) for one in PLACED],
)
def test_slices_at_every_position_and_of_own_attention_are_the_plain_networks(name, position):
    network, sites = placed_supernet(name, position)
    rng = random.Random(0)
    kept, removed, placed = [], [], []
    for site in sites:
        rng.choice((kept, removed, placed)).append(site)
    config = SEConfig(
        name,
        tuple(PlacedSE(site, rng.choice((2, 4, 16)), "sigmoid") for site in placed),
        tuple(removed) if position == "existing" else (),
    )
    plain = network.network(config)
    images = DATA.validation.tensors[0][:64]
    with torch.no_grad():
        expected = network.model(images)
        torch.testing.assert_close(plain(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    twin = create_model(config, num_classes=10, **network_options(name, DATA.input_size))
    assert plain.state_dict().keys() == twin.state_dict().keys()


def test_keeping_all_attention_is_timms_network_to_the_bit():
    network, _ = placed_supernet("regnety_002", "existing")
    plain = network.network(SEConfig("regnety_002"))
    timms = timm.create_model("regnety_002", num_classes=10).eval()
    timms.load_state_dict(plain.state_dict())
    images = DATA.validation.tensors[0][:64]
    with torch.no_grad():
        assert torch.equal(plain(images), timms(images))
        assert torch.equal(network.model(images), timms(images))


def test_an_evaluation_does_not_depend_on_what_was_evaluated_before(trained):
    first, other = SEConfig.uniform(BACKBONE, 4), SEConfig(BACKBONE)
    before = trained.evaluate(first)
    trained.evaluate(other)
    after = trained.evaluate(first)
    assert (before.accuracy, before.log_loss) == (after.accuracy, after.log_loss)
    assert (before.correct == after.correct).all()


def test_recalibration_uses_the_configurations_own_statistics(trained):
    """The input of the stem's norm does not depend on the configuration; that of the last norm does."""
    running = {}
    for name, config in (("none", SEConfig(BACKBONE)), ("all", LARGEST)):
        state = trained.network(config).state_dict()
        running[name] = (state["bn1.running_mean"], state["layer4.0.bn1.running_mean"])
    assert torch.equal(running["none"][0], running["all"][0])
    assert not torch.allclose(running["none"][1], running["all"][1])


def test_training_lowers_the_loss(tmp_path):
    train(supernet(epochs=3), tmp_path)
    epochs = json.loads((tmp_path / SUMMARY).read_text())["epochs"]
    assert len(epochs) == 3
    assert epochs[2]["loss"] < epochs[0]["loss"] / 2
    assert not (tmp_path / CHECKPOINT).exists()


class Killed(Exception):
    """Simulates a process that is killed during training."""


def test_interrupted_training_ends_with_the_weights_of_uninterrupted_training(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = train(supernet(epochs=3), tmp_path / "whole")

    begun_at = []

    @contextmanager
    def interrupting(description, total, completed):
        begun_at.append(completed)
        steps = 0

        def advance(step=1, line=None):
            nonlocal steps
            steps += step
            if steps == 20:  # an epoch has 16
                raise Killed

        yield advance

    for _ in range(2):
        with pytest.raises(Killed):
            train(supernet(epochs=3), tmp_path / "parts", interrupting)
    parts = train(supernet(epochs=3), tmp_path / "parts")
    assert begun_at == [0, 16]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


def test_trained_weights_are_loaded_and_not_trained_again(tmp_path):
    network = train(supernet(), tmp_path)
    before = (tmp_path / WEIGHTS).stat().st_mtime_ns

    def no_progress(*arguments):
        raise AssertionError("trained again")

    again = train(supernet(seed=5), tmp_path, no_progress)
    assert (tmp_path / WEIGHTS).stat().st_mtime_ns == before
    assert torch.equal(again.model.conv1[0].weight, network.model.conv1[0].weight)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04cos\nsystem\n."])
def test_damaged_weights_and_checkpoints_are_refused(tmp_path, content):
    (tmp_path / CHECKPOINT).write_bytes(content)
    with pytest.raises(RunFolderError, match=f"{CHECKPOINT} is damaged"):
        train(supernet(), tmp_path)
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(RunFolderError, match=f"{WEIGHTS} is damaged"):
        supernet().load(tmp_path)


def test_missing_weights_are_refused(tmp_path):
    with pytest.raises(RunFolderError, match="run the search to its end"):
        supernet().load(tmp_path)


def test_outputs_that_are_not_finite_fail_the_evaluation():
    network = supernet()
    with torch.no_grad():
        network.model.fc.weight.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="not finite"):
        network.evaluate(SEConfig(BACKBONE))


def test_training_that_diverges_says_what_to_change(tmp_path):
    with pytest.raises(EvaluationError, match="learning_rate"):
        train(supernet(learning_rate=1e30), tmp_path)
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize("distillation", [0.0, 0.3, 1.0])
def test_each_step_trains_the_widest_and_a_drawn_network_or_in_every_fourth_no_se(distillation, monkeypatch):
    network = supernet(distillation=distillation)
    selected = []
    select = network.select
    monkeypatch.setattr(network, "select", lambda config: (selected.append(config), select(config)))
    training = Training(network.model, network.recipe, DATA, "cpu")
    losses = network._losses(training, SPACE)
    images, labels = (part[:64] for part in DATA.train.tensors)
    network.model.train()
    steps = []
    for training.step in range(5):
        steps.append([loss.item() for loss in losses(images, labels)])
    monkeypatch.undo()

    pairs = list(zip(selected[::2], selected[1::2], strict=True))
    assert [smaller == SEConfig(BACKBONE) for _, smaller in pairs] == [True, False, False, False, True]
    widths = {placed.hidden for placed in LARGEST.placed}
    for larger, smaller in pairs:
        assert {placed.site for placed in larger.placed} == {placed.site for placed in LARGEST.placed}
        assert {placed.hidden for placed in larger.placed} == widths
        assert {placed.gate for placed in smaller.placed} <= {placed.gate for placed in larger.placed}
    for (larger, smaller), (first, second) in zip(pairs[:2], steps[:2], strict=True):
        with torch.no_grad():
            network.select(larger)
            teacher = network.model(images)
            network.select(smaller)
            student = network.model(images)
        assert first == pytest.approx(F.cross_entropy(teacher, labels).item(), abs=1e-5)
        from_widest = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
        expected = (1 - distillation) * F.cross_entropy(student, labels) + distillation * from_widest
        assert second == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [
        ([3.0, 2.0, 1.0], 2, False),
        ([3.0, 1.0, 1.0, 1.0], 2, True),
        ([3.0, 1.0, 0.9995, 0.9991], 2, True),
        ([3.0, 1.0, 1.1, 0.9], 2, False),
        ([3.0, 3.0], 2, False),
        ([1.0, 1.0, 1.0, 1.0], None, False),
    ],
)
def test_training_ends_where_the_loss_no_longer_falls(losses, patience, ends):
    network = supernet()
    training = Training(network.model, network.recipe, DATA, "cpu")
    training.history = [{"loss": loss, "seconds": 1.0} for loss in losses]
    assert training.is_on_plateau(patience) is ends


@pytest.mark.slow
def test_an_early_end_is_written_like_any_other(tmp_path):
    network = train(supernet(epochs=6, learning_rate=1e-12, patience=1), tmp_path)
    assert len(json.loads((tmp_path / SUMMARY).read_text())["epochs"]) < 6
    assert torch.equal(supernet_of(tmp_path).model.fc.weight, network.model.fc.weight)


def supernet_of(folder):
    network = supernet(seed=3)
    network.load(folder)
    return network


def test_statistics_of_a_configuration_are_estimated_once(trained, monkeypatch):
    trained._statistics.clear()
    calls = []
    usual = supernet_module.update_bn
    monkeypatch.setattr(supernet_module, "update_bn", lambda *arguments: (calls.append(1), usual(*arguments)))
    first = trained.evaluate(LARGEST)
    trained.evaluate(SEConfig(BACKBONE))
    again = trained.evaluate(LARGEST)
    assert len(calls) == 2
    assert (first.losses == again.losses).all()


def test_with_an_average_of_the_weights_the_average_is_kept(trained, tmp_path):
    widest = [PlacedSE(site, 2) for site in find_sites(BACKBONE, position="standard")]
    network = train(Supernet(BACKBONE, widest, DATA, TrainingRecipe(1, 64, 0.003, ema_decay=0.9)), tmp_path)
    # The weights themselves are those of a training without an average.
    assert not torch.equal(network.model.fc.weight, trained.model.fc.weight)
    assert torch.allclose(network.model.fc.weight, trained.model.fc.weight, atol=0.01)
    assert torch.equal(supernet_of(tmp_path).model.fc.weight, network.model.fc.weight)


def test_images_in_the_order_of_their_classes_are_not_recalibrated_with_class_by_class():
    images, labels = (part[:500] for part in DATA.calibration.tensors)
    order = labels.argsort()
    ordered = replace(DATA, calibration=TensorDataset(images[order], labels[order]))
    for count in (400, 500, 600):
        network = supernet(recalibration_images=count, data=ordered)
        drawn = [labels for _, labels in network._calibration_batches()]
        assert sum(map(len, drawn)) == min(count, 500)
        assert min(len(set(some.tolist())) for some in drawn[:-1]) > 7  # 64 images of ten classes


def test_a_last_recalibration_batch_of_one_image_is_left_out():
    network = supernet(recalibration_images=65)
    assert network.evaluate(LARGEST).losses.shape == (1, 400)
