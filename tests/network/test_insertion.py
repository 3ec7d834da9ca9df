"""Inserted networks against timm's own SE networks, and what users do with a timm model."""

import copy
import pickle

import pytest
import timm
import torch

from se_search import PlacedSE, SEConfig, create_model, find_sites, insert
from se_search.errors import BackboneError, ConfigurationError
from se_search.network.insertion import count_parameters

TWINS = [
    ("resnet50", "seresnet50"),
    ("resnet18", "seresnet18"),
    ("resnext50_32x4d", "seresnext50_32x4d"),
    ("resnet50t", "seresnet50t"),  # deep stem, pooled shortcuts
]
SMALL = SEConfig.uniform("resnet18", 16)


def branching(config):
    """Create a network whose branches count: timm starts them at zero, which would hide what SE does."""
    return create_model(config, zero_init_last=False)


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("plain", "with_se"), TWINS)
def test_uniform_16_is_timms_own_se_network(plain, with_se, images):
    ours = branching(SEConfig.uniform(plain, 16)).eval()
    timms = timm.create_model(with_se, zero_init_last=False).eval()
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (ours, timms)]
    assert shapes[0] == shapes[1]

    with torch.no_grad():
        theirs = timms(images)
        assert not torch.equal(ours(images), theirs)
        before = ours(images)
        weights = copy.deepcopy(ours.state_dict())
        ours.load_state_dict(timms.state_dict())
        assert torch.equal(ours(images), theirs)
        timms.load_state_dict(weights)
        assert torch.equal(timms(images), before)


def test_seresnet50_has_the_published_number_of_parameters():
    assert count_parameters(create_model(SEConfig.uniform("resnet50", 16))) == 28_088_024


def test_the_backbones_own_weights_keep_their_names(images):
    plain = timm.create_model("resnet18").eval()
    inserted = insert(copy.deepcopy(plain), SMALL)
    added = inserted.state_dict().keys() - plain.state_dict().keys()
    assert plain.state_dict().keys() <= inserted.state_dict().keys()
    assert all(".se.fc" in name for name in added)
    assert inserted.se_config == SMALL


def test_copies_and_pickles_are_networks_of_their_own(images):
    model = branching(SMALL).eval()
    with torch.no_grad():
        expected = model(images)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(images), expected)
            twin.layer1[0].se.fc2.weight.add_(1.0)
            assert not torch.equal(twin(images), expected)
            assert torch.equal(model(images), expected)


def test_torch_export_gives_equal_outputs(images):
    model = branching(SMALL).eval()
    exported = torch.export.export(model, (images,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(images), model(images))


def test_channels_last_and_autocast_give_near_outputs(images):
    model = branching(SMALL).eval()
    with torch.no_grad():
        expected = model(images)
        laid_out = copy.deepcopy(model).to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            laid_out(images.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-3, atol=1e-3
        )
        with torch.autocast("cpu", torch.bfloat16):
            cast = model(images).float()
    assert torch.nn.functional.cosine_similarity(cast.flatten(), expected.flatten(), dim=0) > 0.99


def test_timms_interfaces_work(images):
    model = branching(SMALL).eval()
    with torch.no_grad():
        final, intermediates = model.forward_intermediates(images)
        assert torch.equal(final, model.forward_features(images))
        assert [part.shape[1] for part in intermediates] == [64, 64, 128, 256, 512]
    model.reset_classifier(7)
    assert model(images).shape == (2, 7)

    features = create_model(SMALL, features_only=True).eval()
    plain = timm.create_model("resnet18", features_only=True).eval()
    assert [part.shape for part in features(images)] == [part.shape for part in plain(images)]
    assert sum(".se." in name for name in features.state_dict()) == 8 * 4


@pytest.mark.parametrize("place", [torch.float16, torch.bfloat16, torch.float64, "meta"])
@pytest.mark.parametrize("training", [True, False])
def test_blocks_follow_the_precision_device_and_mode_of_their_place(place, training):
    model = timm.create_model("resnet10t").to(place).train(training)
    before = {(parameter.dtype, parameter.device) for parameter in model.parameters()}
    insert(model, SEConfig.uniform("resnet10t", 16))
    assert {(parameter.dtype, parameter.device) for parameter in model.parameters()} == before
    assert {module.training for module in model.modules()} == {training}


@pytest.mark.parametrize("second", [SMALL, SEConfig.uniform("resnet18", 4), SEConfig.uniform("resnet18", stages=[2])])
def test_a_second_insertion_is_refused_and_leaves_the_first(second):
    """Also where no block collides: ``se_config`` would no longer tell what the network holds."""
    first = SEConfig.uniform("resnet18", 16, stages=[4, 5])
    model = insert(timm.create_model("resnet18"), first)
    before = dict(model.named_modules())
    with pytest.raises(ConfigurationError):
        insert(model, second)
    assert dict(model.named_modules()) == before
    assert model.se_config == first


@pytest.mark.parametrize(
    ("backbone", "reason"),
    [("resnet10t", "does not exist"), ("seresnet18", "does not exist"), ("vgg11", "does not exist")],
)
def test_a_network_that_lacks_a_site_is_refused_and_stays_as_it_is(backbone, reason):
    model = timm.create_model(backbone)
    before = list(model.state_dict())
    with pytest.raises(ConfigurationError, match=reason):
        insert(model, SMALL)
    assert list(model.state_dict()) == before
    assert not hasattr(model, "se_config")


def test_a_network_of_other_widths_is_refused_and_stays_as_it_is():
    """resnet34 has resnet50's block names, with a quarter of the channels."""
    model = timm.create_model("resnet34")
    before = list(model.state_dict())
    with pytest.raises(ConfigurationError):
        insert(model, SEConfig.uniform("resnet50", 16))
    assert list(model.state_dict()) == before


def test_other_input_channels_and_truncated_networks_take_blocks():
    assert create_model(SMALL, in_chans=1).conv1.in_channels == 1
    first = SEConfig.uniform("resnet18", 16, stages=[2])
    truncated = create_model(first, features_only=True, out_indices=(1,))
    assert sum(".se." in name for name in truncated.state_dict()) == 2 * 4


def test_an_unknown_tag_is_refused():
    with pytest.raises(BackboneError, match="no_such_tag"):
        create_model(SEConfig("resnet18.no_such_tag"))


class OneSize(torch.nn.Module):
    """A network of a user's own that takes images of 16×16 only."""

    def __init__(self):
        super().__init__()
        self.block = timm.models.resnet.BasicBlock(3, 3)
        self.head = torch.nn.Linear(3 * 16 * 16, 2)

    def forward(self, x):
        return self.head(self.block(x).flatten(1))


def test_a_network_of_the_users_own_is_traced_at_the_size_it_takes():
    model = OneSize().eval()
    sites = find_sites(model, (3, 16, 16), position="standard")
    config = SEConfig("one-size", tuple(PlacedSE(site, 1, rounding=1) for site in sites))
    insert(model, config, input_size=(3, 16, 16))
    assert model.block.se.fc1.in_channels == 3
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 2)
