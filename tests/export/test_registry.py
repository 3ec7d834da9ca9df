"""The architecture ``se_search`` in timm's registry."""

import pytest
import timm
import torch

from se_search import SEConfig
from se_search.errors import ConfigurationError


def test_timm_creates_it_from_a_configuration_or_its_plain_data():
    config = SEConfig.uniform("resnet10t", 8)
    for given in (config, config.to_dict()):
        model = timm.create_model("se_search", se_config=given, num_classes=3)
        assert model.se_config == config
        assert model.num_classes == 3


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("checkpoint_path", "weights.pth"),
        ("pretrained_strict", False),
        ("pretrained_filter_fn", dict),
        ("pruned", True),
        ("model_cfg", {}),
        ("kwargs_filter", ["num_classes"]),
    ],
)
def test_arguments_that_would_load_other_weights_or_only_a_part_are_refused(argument, value):
    arguments = {"se_config": SEConfig("resnet10t"), argument: value}
    with pytest.raises(ConfigurationError, match=f"does not support the argument '{argument}'"):
        timm.models.model_entrypoint("se_search")(**arguments)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data | {"note": 1},
        lambda data: data | {"sites": [data["sites"][0] | {"note": 1}]},
        lambda data: data | {"removed": [data["sites"][0]]},
    ],
)
def test_unknown_keys_of_the_configuration_are_refused_by_name(change):
    data = SEConfig.uniform("resnet10t", 8).to_dict()
    with pytest.raises(ConfigurationError, match=r"key '\w+' of an? .*SE configuration.* is unknown"):
        timm.create_model("se_search", se_config=change(data))


def test_an_extractor_of_features_knows_its_input_like_timms_own():
    searched = timm.create_model("se_search", se_config=SEConfig("test_vit"), features_only=True, in_chans=1)
    own = timm.create_model("test_vit", features_only=True, in_chans=1)
    assert searched.in_chans == own.in_chans == 1
    assert "num_classes" not in searched.pretrained_cfg
    assert [one.shape for one in searched(torch.randn(1, 1, 160, 160))] == [
        one.shape for one in own(torch.randn(1, 1, 160, 160))
    ]


def test_without_a_configuration_it_is_asked_for():
    with pytest.raises(ConfigurationError, match="se_config is missing"):
        timm.create_model("se_search")
