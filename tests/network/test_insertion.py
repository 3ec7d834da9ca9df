"""Insertion against timm's own SE networks, and timm's operations on the result."""

import copy

import pytest
import timm
import torch
from full_disk import files_no_larger_than
from safetensors.torch import load_file

from se_search import PlacedSE, SEConfig, create_model, find_sites, insert
from se_search.errors import BackboneError, ConfigurationError
from se_search.network.insertion import (
    block_name,
    copy_with_blocks,
    count_parameters,
    create_model_on_meta,
    detach,
    whole_state,
    write_weights,
)
from se_search.network.sites import find_places

TWINS = [
    ("resnet50", "seresnet50"),
    ("resnet18", "seresnet18"),
    ("resnext50_32x4d", "seresnext50_32x4d"),
    ("resnet50t", "seresnet50t"),  # deep stem, pooled shortcuts
]
SMALL = SEConfig.uniform("resnet18", 16)


def branching(config):
    """Create a network with non-zero branches; timm initialises them to zero, which would hide the effect of SE."""
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


@pytest.mark.parametrize(
    ("backbone", "position", "name"),
    [
        ("test_resnet", "standard", "layer1.0.se"),
        ("test_resnet", "pre", "layer1.0.conv1.se_pre"),
        ("test_resnet", "post", "layer1.0.se_post"),
        ("test_resnet", "identity", "layer1.0.downsample"),
        ("test_resnet", "3x3", "layer1.0.conv2.se_3x3"),
        ("test_convnext", "standard", "stages.0.blocks.0.mlp.se"),
        ("test_vit", "pre", "blocks.0.norm1.se_pre"),
        ("mobilenetv3_small_050", "standard", "blocks.1.1.drop_path.se"),
    ],
)
def test_new_parameters_are_named_after_where_they_stand(backbone, position, name):
    site = find_sites(backbone, position=position)[0]
    model = create_model(SEConfig(backbone, (PlacedSE(site),)))
    layers = {f"{name}.{layer}.{kind}" for layer in ("fc1", "fc2") for kind in ("weight", "bias")}
    assert model.state_dict().keys() - timm.create_model(backbone).state_dict().keys() == layers
    assert block_name(model, site, find_places(backbone)[site]) == name


@pytest.mark.parametrize("position", ["standard", "pre", "post"])
def test_a_detached_block_leaves_the_backbone_and_its_hooks(position, images):
    site = find_sites("test_resnet", position=position)[0]
    model = branching(SEConfig("test_resnet", (PlacedSE(site),))).eval()
    name = block_name(model, site, find_places("test_resnet")[site])
    host, _, child = name.rpartition(".")
    seen = []
    handle = model.get_submodule(host).register_forward_pre_hook(lambda *_: seen.append(1))
    model.get_submodule(host)._forward_pre_hooks.move_to_end(handle.id, last=False)
    detach(model, name)
    bare = timm.create_model("test_resnet").eval()
    bare.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(images), bare(images))
    assert seen
    # timm's slot remains, and a module that a hook applied does not.
    left = getattr(model.get_submodule(host), child, None)
    assert type(left) is (torch.nn.Identity if position == "standard" else type(None))


@pytest.mark.parametrize(("given", "named"), [("resnet18", "resnet18"), (3, "resnet50")])
def test_what_is_no_configuration_is_refused_with_an_example(given, named):
    with pytest.raises(ConfigurationError, match=rf"SEConfig\.uniform\('{named}', 16\)"):
        create_model(given)


def test_hooks_scale_the_input_and_the_output_of_their_module():
    first = [find_sites("test_resnet", position=position)[0] for position in ("pre", "post")]
    model = branching(SEConfig("test_resnet", tuple(PlacedSE(site, 2) for site in first))).eval()
    bare = timm.create_model("test_resnet").eval()
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if ".se_" not in name})
    ours, plain = model.layer1[0], bare.layer1[0]
    x = torch.randn(2, ours.conv1.in_channels, 8, 8)
    with torch.no_grad():
        assert torch.equal(ours.conv1(x), plain.conv1(ours.conv1.se_pre(x)))
        branch = plain.bn2(plain.conv2(plain.act1(plain.bn1(ours.conv1(x)))))
        torch.testing.assert_close(ours(x), ours.se_post(plain.act2(branch + x)))


class Scaled(torch.nn.Module):
    """A layer with two inputs, like attention with a bias."""

    def forward(self, x, factor):
        return x * factor


class TwoInputs(torch.nn.Module):
    """A network that starts with a residual branch whose first layer has two inputs."""

    def __init__(self):
        super().__init__()
        self.scale = Scaled()
        self.conv = torch.nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x + self.conv(self.scale(x, torch.full((), 3.0, device=x.device)))


def test_a_block_before_a_layer_of_two_inputs_scales_the_first():
    model = torch.nn.Sequential(TwoInputs()).double().eval()
    (site,) = find_sites(model, (4, 8, 8), position="pre")
    bare = copy.deepcopy(model)
    insert(model, SEConfig("two-inputs", (PlacedSE(site, 2, rounding=1),)), input_size=(4, 8, 8))
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), x + bare[0].conv(3 * model[0].scale.se_pre(x)))


def test_removed_attention_leaves_nothing_in_its_place():
    model = create_model(SEConfig.without_attention("test_efficientnet"))
    names = {site.block for site in find_sites("test_efficientnet", position="existing")}
    assert len(names) == 2
    assert all(type(model.get_submodule(f"{name}.se")) is torch.nn.Identity for name in names)


@pytest.fixture
def weights(tmp_path):
    """A checkpoint for ``test_resnet`` and its weights."""
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    return {"pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pth")}}, state


def test_blocks_start_without_an_effect_where_the_weights_are_pretrained(weights):
    options, state = weights
    config = SEConfig.uniform("test_resnet", 4)
    trained = create_model(config, pretrained=True, **options)
    assert all(torch.equal(trained.state_dict()[name], value) for name, value in state.items())
    assert trained.se_config == config.starting_at_identity()
    assert create_model(config).se_config == config
    assert create_model(config, pretrained=True, identity_start=False, **options).se_config == config
    assert create_model(config, identity_start=True).se_config == config.starting_at_identity()
    assert insert(timm.create_model("test_resnet"), config).se_config == config
    started = insert(timm.create_model("test_resnet"), config, identity_start=True)
    assert started.se_config == config.starting_at_identity()
    x = torch.randn(1, config.sites[-1].channels, 4, 4)
    assert torch.equal(started.get_submodule(f"{config.sites[-1].block}.se")(x), x)


def test_the_state_of_a_network_has_no_shared_memory_and_one_order_of_dimensions():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(3, 4, 3)).to(
        memory_format=torch.channels_last
    )
    model[1].weight = model[0].weight
    state = whole_state(model)
    assert state.keys() == model.state_dict().keys()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    assert all(value.is_contiguous() and not value.requires_grad for value in state.values())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def test_a_network_on_the_meta_device_has_shapes_and_no_weights():
    model = create_model_on_meta(SMALL, num_classes=7)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert not any(module.training for module in model.modules())
    assert count_parameters(model) == count_parameters(create_model(SMALL, num_classes=7))


def test_a_network_built_for_another_size_takes_blocks():
    model = create_model(SEConfig.uniform("test_vit", 4), img_size=96)
    assert model(torch.randn(1, 3, 96, 96)).shape == (1, 1000)


@pytest.mark.parametrize("place", [torch.float16, torch.bfloat16, torch.float64, "meta"])
@pytest.mark.parametrize("training", [True, False])
def test_blocks_follow_the_precision_device_and_mode_of_their_place(place, training):
    model = timm.create_model("resnet10t").to(place).train(training)
    before = {(parameter.dtype, parameter.device) for parameter in model.parameters()}
    insert(model, SEConfig.uniform("resnet10t", 16))
    assert {(parameter.dtype, parameter.device) for parameter in model.parameters()} == before
    assert {module.training for module in model.modules()} == {training}


def test_a_block_follows_the_precision_of_the_layer_that_it_stands_at():
    model = timm.create_model("test_resnet")
    model.layer1[0].conv2.double()
    site = find_sites("test_resnet", position="3x3")[0]
    insert(model, SEConfig("test_resnet", (PlacedSE(site),)))
    assert {value.dtype for value in model.layer1[0].conv2.se_3x3.state_dict().values()} == {torch.float64}


def test_a_network_without_sites_takes_a_configuration_without_blocks():
    model = torch.nn.Linear(3, 4)
    before = dict(model.named_modules())
    assert insert(model, SEConfig("linear")) is model
    assert dict(model.named_modules()) == before
    assert model.se_config == SEConfig("linear")


@pytest.mark.parametrize("second", [SMALL, SEConfig.uniform("resnet18", 4), SEConfig.uniform("resnet18", stages=[2])])
def test_a_second_insertion_is_refused_and_leaves_the_first(second):
    """Refused even without a collision: ``se_config`` would no longer describe the network."""
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
    with pytest.raises(ConfigurationError, match="64 channels in NCHW, not the 256 in NCHW"):
        insert(model, SEConfig.uniform("resnet50", 16))
    assert list(model.state_dict()) == before


def test_other_input_channels_and_truncated_networks_take_blocks():
    assert create_model(SMALL, in_chans=1).conv1.in_channels == 1
    first = SEConfig.uniform("resnet18", 16, stages=[2])
    truncated = create_model(first, features_only=True, out_indices=(1,))
    assert sum(".se." in name for name in truncated.state_dict()) == 2 * 4
    (features,) = truncated.eval()(torch.randn(1, 3, 64, 64))
    assert features.shape == (1, 64, 16, 16)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_features_are_by_default_those_that_timm_gives(backbone):
    ours = create_model(SEConfig.uniform(backbone, 4), features_only=True)
    timms = timm.create_model(backbone, features_only=True)
    assert ours.feature_info.out_indices == timms.feature_info.out_indices
    assert ours.feature_info.channels() == timms.feature_info.channels()


def test_an_unknown_architecture_is_refused():
    with pytest.raises(BackboneError, match="'resnet81' is not an architecture of timm"):
        create_model(SEConfig("resnet81"))


def test_an_unknown_tag_is_refused():
    with pytest.raises(BackboneError, match="no_such_tag"):
        create_model(SEConfig("resnet18.no_such_tag"))


class OneSize(torch.nn.Module):
    """A user's own network with a fixed input size of 16×16."""

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


def test_what_timm_refuses_is_told_in_a_sentence(monkeypatch):
    def refuse(*given, **options):
        raise ValueError("img_size and input_size differ")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(BackboneError, match="'resnet18' cannot be created by timm: img_size and input_size differ"):
        create_model(SEConfig("resnet18"), img_size=64)


def test_weights_that_cannot_be_written_leave_no_file(tmp_path):
    model = create_model(SEConfig("test_resnet"))
    with files_no_larger_than(10_000), pytest.raises(OSError, match="File too large"):
        write_weights(model, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
    write_weights(model, tmp_path / "model.safetensors")
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(value, written[name]) for name, value in model.state_dict().items())


def test_a_copy_with_blocks_is_the_network_that_is_created_with_them(images):
    config = SEConfig.uniform("resnet18", ratio=4)
    backbone, created = branching(SEConfig("resnet18")), branching(config)
    copied = copy_with_blocks(backbone, config, zero_init_last=False)
    created.load_state_dict(copied.state_dict())
    assert torch.equal(copied.eval()(images), created.eval()(images))
    assert not torch.equal(copied(images), backbone.eval()(images))
    assert all(torch.equal(copied.state_dict()[name], value) for name, value in backbone.state_dict().items())
