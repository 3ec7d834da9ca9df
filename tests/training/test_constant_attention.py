"""Attention that becomes constant, in the supernet and from a common backbone: mean gates, without training."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Subset

from se_search import PlacedSE, SEConfig, create_model
from se_search.data.image_data import sample
from se_search.data.load import load_data
from se_search.network.gates import find_gates
from se_search.network.insertion import whole_state
from se_search.network.sites import find_places, find_sites
from se_search.study.definitions import StudyDefinition
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.training.protocols import no_progress
from se_search.training.recipe import TrainingRecipe
from se_search.training.stand_alone import Finetune
from se_search.training.supernet import Supernet

BACKBONE = "test_byobnet"
DIGITS = load_data("digits")
DATA = replace(
    DIGITS, calibration=Subset(DIGITS.calibration, range(64)), validation=Subset(DIGITS.validation, range(50))
)
RECIPE = TrainingRecipe(epochs=1, batch=32, learning_rate=0.002)
OWN = find_sites(BACKBONE, position="existing")
CONSTANT = SEConfig(BACKBONE, removed=OWN[1:2], constant=(OWN[0], OWN[3]))


def images_of(part):
    return torch.stack([image for image, _ in part]), torch.tensor([label for _, label in part])


def vary_gates(model):
    """Let gates vary strongly between images, and branches count, which timm starts at zero."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    for name in find_gates(model):
        block = model.get_submodule(name)
        if hasattr(block, "fc2"):
            nn.init.normal_(block.fc2.weight, std=4.0, generator=torch.Generator().manual_seed(0))
    return model


def with_mean_gates(model, sites, part=DATA.calibration):
    """The network with constant gates by hand: recorded from one pass, then returned by the gate."""
    gates, means = find_gates(model), {}
    names = [find_places(BACKBONE)[site].host for site in sites]
    handles = [
        gates[name].register_forward_hook(lambda _, __, output, name=name: means.update({name: output.mean(0)}))
        for name in names
    ]
    with torch.no_grad():
        model(images_of(part)[0])
    for handle in handles:
        handle.remove()
    for name in names:
        gates[name].register_forward_hook(lambda _, __, output, name=name: means[name].expand_as(output))
    return model


def losses_of(model):
    images, labels = images_of(DATA.validation)
    with torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="none").numpy()


@pytest.fixture(scope="module")
def supernet():
    torch.manual_seed(0)
    made = Supernet(BACKBONE, [PlacedSE(site, 4) for site in OWN], DATA, RECIPE, recalibration_images=64)
    vary_gates(made.model)
    return made


def test_the_supernet_evaluates_the_mean_gate_and_returns_the_folded_network(supernet):
    evaluation = supernet.evaluate(CONSTANT)
    kept = supernet.network(replace(CONSTANT, constant=()))
    by_hand = with_mean_gates(kept, CONSTANT.constant)
    assert evaluation.losses[0] == pytest.approx(losses_of(by_hand), abs=1e-4)
    folded = supernet.network(CONSTANT)
    assert folded.se_config == CONSTANT
    assert not any(name.startswith(find_places(BACKBONE)[OWN[0]].host) for name, _ in folded.named_parameters())
    assert evaluation.losses[0] == pytest.approx(losses_of(folded), abs=1e-4)


def test_a_supernet_from_pretrained_weights_averages_gates_over_the_studys_number_of_images():
    settings = {"pretrained": "not read", "recalibration_images": 8}
    definition = StudyDefinition(backbone=BACKBONE, data="digits", device="cpu", evaluator=settings)
    made = definition.evaluator.create(definition, SearchSpace(BACKBONE, load_space("stages")), DATA, RECIPE)
    vary_gates(made.model)
    kept = made.network(replace(CONSTANT, constant=()))
    by_hand = with_mean_gates(kept, CONSTANT.constant, sample(DATA.calibration, 8, RECIPE.seed))
    assert made.evaluate(CONSTANT).losses[0] == pytest.approx(losses_of(by_hand), abs=1e-4)


def test_attention_is_back_when_another_configuration_is_selected(supernet):
    kept = supernet.evaluate(SEConfig(BACKBONE))
    assert supernet.evaluate(CONSTANT).log_loss != kept.log_loss
    assert (supernet.evaluate(SEConfig(BACKBONE)).losses == kept.losses).all()


def test_a_stand_alone_training_starts_from_the_mean_gates_of_the_common_backbone(tmp_path):
    torch.manual_seed(0)
    common = vary_gates(create_model(SEConfig(BACKBONE), num_classes=10)).eval()
    save_file(whole_state(common), tmp_path / "weights.safetensors")
    evaluator = Finetune(BACKBONE, DATA, RECIPE, pretrained=str(tmp_path / "weights.safetensors"))
    evaluator.prepare(tmp_path, None, no_progress)
    config = replace(CONSTANT, removed=())
    start = evaluator.start(config, 0).eval()
    assert start.se_config == config
    assert losses_of(start) == pytest.approx(losses_of(with_mean_gates(common, config.constant)), abs=1e-4)
