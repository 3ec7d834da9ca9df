"""The training loop against timm's own parts and independent computations."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn
from torch.utils.data import TensorDataset

from se_search import SEConfig, create_model
from se_search.data.image_data import ImageData
from se_search.errors import EvaluationError, RunFolderError
from se_search.training.recipe import Training, TrainingRecipe, classification_losses, load_weights

RECIPE = TrainingRecipe(epochs=2, batch=8, learning_rate=0.01)


def tiny_data(count=24, classes=4):
    generator = torch.Generator().manual_seed(0)
    images = TensorDataset(
        torch.randn(count, 3, 32, 32, generator=generator), torch.randint(classes, (count,), generator=generator)
    )
    return ImageData("tiny", classes, (3, 32, 32), (0.0,) * 3, (1.0,) * 3, "bilinear", images, images, images, images)


def tiny_network(seed=0):
    torch.manual_seed(seed)
    return create_model(SEConfig.uniform("test_resnet", 4), num_classes=4)


def linear_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))


def train(recipe, model=None, data=None, checkpoint=None, epochs=None):
    training = Training(tiny_network() if model is None else model, recipe, data or tiny_data(), "cpu", checkpoint)
    for done in training.epochs(classification_losses(training.model, recipe)):
        if done == epochs:
            break
    return training


def learning_rates(recipe, steps):
    """Train and record the learning rate of each step."""
    training = Training(linear_network(), recipe, tiny_data(), "cpu")
    seen = []
    step = training._optimizer.step

    def noting(*arguments, **options):
        seen.append(training._optimizer.param_groups[0]["lr"])
        return step(*arguments, **options)

    training._optimizer.step = noting
    for _ in training.epochs(classification_losses(training.model, recipe)):
        pass
    assert len(seen) == steps
    return seen


def test_the_learning_rate_rises_to_its_peak_and_falls_as_half_a_cosine():
    recipe = replace(RECIPE, epochs=10, warm_up=0.2)
    rates = learning_rates(recipe, 30)
    warm_up = [0.0001 + (0.01 - 0.0001) * step / 6 for step in range(6)]
    cosine = [0.005 * (1 + math.cos(math.pi * step / 30)) for step in range(6, 30)]
    assert rates == pytest.approx(warm_up + cosine)


def test_without_warm_up_training_begins_at_the_peak():
    assert learning_rates(replace(RECIPE, warm_up=0.0), 6)[0] == pytest.approx(0.01)


def test_biases_and_norms_have_no_weight_decay():
    training = Training(tiny_network(), RECIPE, tiny_data(), "cpu")
    decayed = {
        id(one) for group in training._optimizer.param_groups if group["weight_decay"] > 0 for one in group["params"]
    }
    free = {
        id(parameter)
        for module in training.model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, BatchNormAct2d | nn.BatchNorm2d) or name == "bias"
    }
    assert decayed
    assert not decayed & free
    assert len(decayed | free) == len(list(training.model.parameters()))


def test_the_optimizer_is_timms():
    training = Training(tiny_network(), replace(RECIPE, optimizer="lamb"), tiny_data(), "cpu")
    assert type(training._optimizer).__name__ == "Lamb"


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_updating_weights_in_one_pass_changes_no_more_than_rounding_does(optimizer, channels_last):
    recipe = replace(RECIPE, optimizer=optimizer, channels_last=channels_last)
    trainings = [Training(tiny_network(), recipe, tiny_data(), "cpu") for _ in range(2)]
    for group in trainings[1]._optimizer.param_groups:
        assert group["fused"]
        group["fused"] = False
    fused, plain = (training.finish().state_dict() for training in trainings)
    for name, value in fused.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-4)


def test_the_gradient_is_clipped():
    """The first step with Nesterov's momentum of 0.9 (timm's sgd) is the learning rate times 1.9 gradients."""
    recipe = replace(
        RECIPE,
        epochs=1,
        batch=24,
        optimizer="sgd",
        weight_decay=0.0,
        scheduler="constant",
        warm_up=0.0,
        clip_gradient=0.1,
    )
    before = linear_network()
    training = train(recipe, linear_network())
    moved = torch.cat(
        [(new - old).flatten() for new, old in zip(training.model.parameters(), before.parameters(), strict=True)]
    )
    assert float(moved.detach().norm()) == pytest.approx(0.01 * 1.9 * 0.1, rel=1e-4)


def test_label_smoothing_is_cross_entropy_with_smoothed_labels():
    recipe = replace(RECIPE, label_smoothing=0.2)
    model = linear_network()
    images, labels = tiny_data().train.tensors
    (loss,) = classification_losses(model, recipe)(images, labels)
    smoothed = 0.8 * F.one_hot(labels, 4) + 0.2 / 4
    assert float(loss.detach()) == pytest.approx(
        float(-(smoothed * model(images).detach().log_softmax(1)).sum(1).mean())
    )


@pytest.mark.parametrize("settings", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.2, "label_smoothing": 0.1}])
def test_mixed_targets_are_shares_that_sum_to_one(settings):
    recipe = replace(RECIPE, batch=7, **settings)
    training = Training(linear_network(), recipe, tiny_data(), "cpu")
    seen = []
    usual = classification_losses(training.model, recipe)

    def noting(images, targets):
        seen.append(targets)
        assert len(images) == len(targets)
        return usual(images, targets)

    for _ in training.epochs(noting):
        pass
    targets = torch.cat(seen)
    assert targets.shape[1] == 4
    torch.testing.assert_close(targets.sum(1), torch.ones(len(targets)))
    assert ((targets > 0.01) & (targets < 0.99)).any()


def test_the_average_of_the_weights_is_what_is_evaluated():
    """timm's decay at step n is 1 - n^(-2/3), at most 0.3 here: the first update copies the weights."""
    recipe = replace(RECIPE, epochs=1, batch=6, ema_decay=0.3)
    training = Training(linear_network(), recipe, tiny_data(), "cpu")
    weights = []
    usual = classification_losses(training.model, recipe)

    def noting(images, targets):
        weights.append(training.model[1].weight.detach().clone())
        return usual(images, targets)

    for _ in training.epochs(noting):
        pass
    weights.append(training.model[1].weight.detach().clone())
    expected = weights[1]
    for step, after in enumerate(weights[2:], start=2):
        decay = min(0.3, 1 - step ** (-2 / 3))
        expected = decay * expected + (1 - decay) * after
    torch.testing.assert_close(training.evaluated[1].weight, expected)
    assert not torch.equal(training.evaluated[1].weight, training.model[1].weight)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_network_runs_in_the_precision_of_the_recipe(precision, dtype):
    model = tiny_network()
    seen = []
    model.layer1[0].conv1.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    training = train(replace(RECIPE, precision=precision, epochs=1), model)
    assert set(seen) == {dtype}
    assert {parameter.dtype for parameter in training.model.parameters()} == {torch.float32}


def test_channels_last_is_kept_through_training():
    training = train(replace(RECIPE, channels_last=True, epochs=1))
    assert training.model.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("settings", "count"), [({}, 24), ({"mixup": 0.5, "ema_decay": 0.9, "optimizer": "sgd"}, 24), ({}, 17)]
)
def test_a_training_that_was_interrupted_ends_with_the_same_weights(tmp_path, settings, count):
    recipe, data = replace(RECIPE, epochs=4, **settings), tiny_data(count)  # of 17 images the last batch has one
    whole = train(recipe, data=data)
    train(recipe, data=data, checkpoint=tmp_path / "checkpoint.pt", epochs=2)
    torch.manual_seed(77)
    parts = train(recipe, tiny_network(seed=5), data, checkpoint=tmp_path / "checkpoint.pt")
    assert len(parts.history) == 4
    for name, value in whole.evaluated.state_dict().items():
        assert torch.equal(value, parts.evaluated.state_dict()[name]), name


def test_a_loss_that_is_not_finite_tells_where_and_what_to_change():
    with pytest.raises(EvaluationError, match=r"is (nan|inf) in epoch 1, step \d: .*learning_rate"):
        train(replace(RECIPE, learning_rate=1e30))


def test_a_last_batch_of_one_image_is_left_out():
    """Batch normalisation over a single 1×1 position is impossible."""
    steps = []
    training = Training(tiny_network(), replace(RECIPE, epochs=1), tiny_data(count=9), "cpu")
    training.finish(steps.append)
    assert math.isfinite(training.history[0]["loss"])
    assert sum(steps) == training.steps == 2


@pytest.mark.slow
def test_a_compiled_network_trains_as_one_that_is_not():
    recipe = replace(RECIPE, epochs=1)
    plain, compiled = train(recipe, linear_network()), train(replace(recipe, compile=True), linear_network())
    assert compiled.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-3)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()


def test_damaged_weights_are_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunFolderError, match="damaged or of another network"):
        load_weights(linear_network(), tmp_path / "x.safetensors", "train first")
    with pytest.raises(RunFolderError, match="train first"):
        load_weights(linear_network(), tmp_path / "y.safetensors", "train first")
