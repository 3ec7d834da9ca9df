"""Networks that equal one of timm's own architectures."""

import pytest
import timm
import torch
from networks_to_export import network

from se_search import SEConfig, create_model, find_sites
from se_search.export.twin import find_twin

SIZE = (3, 64, 64)


def existing(backbone):
    return find_sites(backbone, position="existing")


@pytest.mark.parametrize(
    ("config", "twin"),
    [
        (lambda: SEConfig.uniform("resnet18", 16), "seresnet18"),
        (lambda: SEConfig.uniform("resnet18.a1_in1k", 16), "seresnet18"),
        (lambda: SEConfig("resnet18"), "resnet18"),
        (lambda: SEConfig("mobilenetv3_small_050"), "mobilenetv3_small_050"),
        (lambda: SEConfig.without_attention("seresnet18"), "resnet18"),
        (lambda: SEConfig.uniform("seresnet18", 16, position="existing"), "seresnet18"),
        (lambda: SEConfig.uniform("resnet18", 8), None),
        (lambda: SEConfig.uniform("resnet18", 16).without_stage(5), None),
        (lambda: SEConfig.uniform("resnet18", 16, bias=False), None),
        (lambda: SEConfig.uniform("resnet18", 16, position="pre"), None),
        (lambda: SEConfig.without_attention("mobilenetv3_small_050"), None),
    ],
)
def test_timms_own_architecture_is_found_where_there_is_one(config, twin):
    model = create_model(config(), num_classes=5)
    assert find_twin(model, config().backbone, SIZE) == twin


@pytest.mark.parametrize("gate", ["relu", "tanh", "hard_sigmoid"])
def test_other_gates_are_told_apart_although_the_weights_hide_them(gate):
    # timm initialises ResNet branches to zero, so no output depends on the gate yet.
    config = SEConfig.uniform("resnet18", 16, gate=gate)
    model = create_model(config).eval()
    twin = timm.create_model("seresnet18").eval()
    twin.load_state_dict(model.state_dict())
    images = torch.randn(1, *SIZE)
    assert torch.equal(model(images), twin(images))
    assert find_twin(model, config.backbone, SIZE) is None


def test_an_identity_start_is_not_timms_own():
    config = SEConfig.uniform("resnet18", 16).starting_at_identity()
    assert find_twin(create_model(config), config.backbone, SIZE) is None


def test_looking_for_a_twin_changes_nothing():
    config = SEConfig.uniform("resnet18", 16)
    model = network(config).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_twin(model, config.backbone, SIZE)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
