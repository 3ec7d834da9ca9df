"""SE blocks at every position: timm's features, copies, pickles, ``torch.compile``, ``torch.export``."""

import copy
import functools
import pickle
from collections import Counter

import pytest
import timm
import torch
from networks import bare_network
from torch import nn

from se_search import PlacedSE, SEConfig, create_model, find_sites, insert
from se_search.errors import ConfigurationError

# Layouts NCHW, NHWC, NLC; slots, output and input hooks; own attention; units without a residual branch.
SMALL = [
    *[("test_resnet", position) for position in ("standard", "pre", "post", "identity", "3x3")],
    *[("test_convnext", position) for position in ("standard", "3x3")],
    *[("test_vit", position) for position in ("standard", "pre", "post")],
    ("test_efficientnet", "existing"),
    ("mobilenetv2_035", "standard"),
    ("repvgg_a0", "post"),
]
FIXED_SIZE = ("test_vit", "swin_tiny_patch4_window7_224")
PLACED = [*SMALL, pytest.param("swin_tiny_patch4_window7_224", "standard", marks=pytest.mark.slow)]
FEW_QUICK = [
    *(pytest.param(*one, marks=() if place % 3 == 0 else pytest.mark.slow) for place, one in enumerate(SMALL)),
    PLACED[-1],
]
SEVERAL_SIZES = [one for one in SMALL if one[0] not in FIXED_SIZE]
SIDE = 64


def searched_network(name, position):
    return insert(small_network(name), SEConfig.uniform(name, 4, position=position)).eval()


def options_for(name):
    """Build networks with a fixed input size for a small one."""
    return {"img_size": SIDE} if name in FIXED_SIZE else {}


@functools.cache
def _small_network(name):
    return bare_network(name, **options_for(name))


def small_network(name):
    """Return a copy of a cached network; copying is many times faster than creating."""
    return copy.deepcopy(_small_network(name))


def images_for(name, batch=2):
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def se_blocks(model):
    """Inserted blocks by name; only they have layers with these two names."""
    return {
        name: module for name, module in model.named_modules() if hasattr(module, "fc1") and hasattr(module, "gate")
    }


def equal(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_every_block_runs_once_and_scales_its_channels():
    """Covers units without a residual branch; test_positions_by_hand covers the other places."""
    name, position = "repvgg_a0", "post"
    model = searched_network(name, position)
    runs, scaled = Counter(), {}

    def watch(key):
        def hook(module, args, output):
            runs[key] += 1
            scaled[key] = (args[0].clone(), output.clone())  # timm adds to what a block returns in place

        return hook

    for key, block in se_blocks(model).items():
        block.register_forward_hook(watch(key))
    with torch.no_grad():
        model(images_for(name))
    sites = find_sites(name, position=position)
    assert len(runs) == len(sites)
    assert set(runs.values()) == {1}
    assert Counter(one.channels for one in sites) == Counter(
        block.fc1.in_channels for block in se_blocks(model).values()
    )
    for key, (entered, left) in scaled.items():
        axis = getattr(se_blocks(model)[key], "channel_axis", 1)
        assert entered.shape[axis] == se_blocks(model)[key].fc1.in_channels
        # One factor for each image and channel, the same at all places.
        flat_in, flat_out = (one.movedim(axis, 1).flatten(2).double() for one in (entered, left))
        factor = (flat_in * flat_out).sum(2) / (flat_in * flat_in).sum(2).clamp_min(1e-30)
        torch.testing.assert_close(
            flat_out, flat_in * factor[..., None], rtol=1e-5, atol=1e-5 * float(flat_out.abs().max())
        )


@pytest.mark.parametrize(("name", "position"), PLACED)
def test_identity_start_changes_no_output_and_lets_gradients_through(name, position):
    bare = small_network(name)
    config = SEConfig.uniform(name, 4, position=position)
    if position == "existing":
        bare = insert(bare, SEConfig.without_attention(name))
        model = insert(small_network(name), config, identity_start=True).eval()
    else:
        model = insert(copy.deepcopy(bare), config, identity_start=True).eval()
    images = images_for(name)
    with torch.no_grad():
        expected = bare(images)
    output = model(images)
    assert float((output.detach() - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    output.square().mean().backward()
    for key, block in se_blocks(model).items():
        assert block.fc1.weight.grad.abs().sum() > 0, key
        assert block.fc2.weight.grad.abs().sum() > 0, key


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "tanh", "relu"])
def test_every_gate_starts_at_one(gate):
    bare = small_network("resnet10t")
    model = insert(copy.deepcopy(bare), SEConfig.uniform("resnet10t", gate=gate), identity_start=True)
    images = images_for("resnet10t")
    with torch.no_grad():
        torch.testing.assert_close(model(images), bare(images), rtol=0, atol=1e-5 * float(bare(images).abs().max()))


@pytest.mark.parametrize(("name", "position"), PLACED)
def test_the_backbones_parameters_keep_names_and_values(name, position):
    bare, model = small_network(name), searched_network(name, position)
    kept = bare.state_dict()
    if position == "existing":
        kept = insert(copy.deepcopy(bare), SEConfig.without_attention(name)).state_dict()
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in kept.items())
    again = searched_network(name, position)
    again.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(again(images_for(name)), model(images_for(name)))


@pytest.mark.parametrize(("name", "position"), PLACED)
def test_copies_and_pickles_have_blocks_of_their_own(name, position):
    model = searched_network(name, position)
    images = images_for(name)
    with torch.no_grad():
        expected = model(images)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(images), expected)
            for block in se_blocks(twin).values():
                block.fc2.weight.zero_()
                block.fc2.bias.fill_(-9.0)
            assert not torch.allclose(twin(images), expected)
            assert torch.equal(model(images), expected)


@pytest.mark.parametrize(("name", "position"), FEW_QUICK)
def test_compile_takes_the_whole_graph(name, position):
    model = searched_network(name, position)
    images = images_for(name)
    torch.compiler.reset()
    with torch.no_grad():
        equal(torch.compile(model, backend="eager", fullgraph=True)(images), model(images))


@pytest.mark.parametrize(("name", "position"), FEW_QUICK)
def test_export_gives_equal_outputs(name, position):
    model = searched_network(name, position)
    images = images_for(name)
    with torch.no_grad():
        equal(torch.export.export(model, (images,)).module()(images), model(images))


@pytest.mark.parametrize(("name", "position"), PLACED)
def test_features_are_those_of_timm(name, position):
    """With identity start the features equal those of the bare backbone."""
    config = SEConfig.uniform(name, 4, position=position)
    if position == "existing":
        config = SEConfig(name)
    torch.manual_seed(0)
    expected = timm.create_model(name, features_only=True, **options_for(name)).eval()
    model = create_model(config, identity_start=True, features_only=True, **options_for(name)).eval()
    # timm's extractors rename what they hold: "layers.0" becomes "layers_0", or "model.layers.0".
    timms = {key.replace(".", "_").removeprefix("model_"): value for key, value in expected.state_dict().items()}
    for key, value in model.state_dict().items():
        value.copy_(timms.get(key.removeprefix("model.").replace(".", "_"), value))
    assert len(se_blocks(model)) == len(config.placed)
    images = images_for(name)
    with torch.no_grad():
        ours, timms = model(images), expected(images)
    if expected.__dict__.get("output_fmt") == "NHWC":  # ours are NCHW for every backbone
        timms = [one.permute(0, 3, 1, 2) for one in timms]
    assert [one.shape for one in ours] == [one.shape for one in timms]
    for one, other in zip(ours, timms, strict=True):
        equal(one, other)
    assert model.feature_info.channels() == expected.feature_info.channels()


@pytest.mark.parametrize(("name", "position"), PLACED)
def test_intermediates_classifier_and_checkpointing_work(name, position):
    model = searched_network(name, position)
    images = images_for(name)
    with torch.no_grad():
        final, intermediates = model.forward_intermediates(images)
        equal(final, model.forward_features(images))
        _, timms = small_network(name).forward_intermediates(images)
    assert [part.shape for part in intermediates] == [part.shape for part in timms]

    model.set_grad_checkpointing(True)
    model.train()
    output = model(images)
    output.square().mean().backward()
    assert all(block.fc2.weight.grad is not None for block in se_blocks(model).values())
    model.eval()
    model.reset_classifier(7)
    assert model(images).shape == (2, 7)


@pytest.mark.parametrize(("name", "position"), PLACED)
def test_autocast_and_channels_last_give_near_outputs(name, position):
    model = searched_network(name, position)
    images = images_for(name)
    with torch.no_grad():
        expected = model(images)
        laid_out = copy.deepcopy(model).to(memory_format=torch.channels_last)
        equal(laid_out(images.contiguous(memory_format=torch.channels_last)), expected)
        with torch.autocast("cpu", torch.bfloat16):
            cast = model(images).float()
    assert torch.nn.functional.cosine_similarity(cast.flatten(), expected.flatten(), dim=0) > 0.98


@pytest.mark.parametrize(("name", "position"), SEVERAL_SIZES)
def test_a_second_resolution_works(name, position):
    model = searched_network(name, position)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 96, 80)).shape == (1, 1000)


def test_positions_stand_together_in_one_network():
    sites = find_sites("resnet18")
    config = SEConfig("resnet18", tuple(PlacedSE(site, 4) for site in sites))
    bare = small_network("resnet18")
    model = insert(copy.deepcopy(bare), config, identity_start=True)
    assert len(se_blocks(model)) == len(sites) == 5 * 8
    images = images_for("resnet18")
    with torch.no_grad():
        assert float((model(images) - bare(images)).abs().max()) <= 1e-5 * float(bare(images).abs().max())


def test_a_slot_for_a_shortcut_layer_that_gets_something_else_stays_empty():
    """In timm's ResNetV2 and NFNet a shortcut layer reads the activated input."""
    for name in ("nf_resnet26", "resnetv2_50"):
        assert not {site.block for site in find_sites(name, position="identity")} & {"stages.0.1", "stages.1.1"}


def test_a_module_that_runs_twice_is_no_site():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            x = x + self.conv(x)
            return x + self.conv(x)

    model = nn.Sequential(Twice())
    from se_search.network.sites import trace_backbone

    found = trace_backbone(model, (3, 8, 8))
    assert {site.position for site in found.places} == {"post"}
    assert any(one.position == "3x3" and "more than once" in one.reason for one in found.skipped)
    site = find_sites("resnet10t", position="standard")[0]
    with pytest.raises(ConfigurationError, match="does not exist"):
        insert(model, SEConfig("resnet10t", (PlacedSE(site),)))
