"""Traced sites against the modules of timm's models."""

import copy

import pytest
import timm
import torch

from se_search import PlacedSE, SEConfig, Site, create_model, find_sites
from se_search.errors import BackboneError
from se_search.network import sites
from se_search.network.overhead import backbone_costs
from se_search.network.sites import trace_backbone

RESNETS = [
    "resnet18",
    "resnet10t",
    "resnet26t",
    "resnet50",
    "resnet50d",
    "resnet50s",
    "resnext50_32x4d",
    "wide_resnet50_2",
]


def sites_by_attribute(name):
    """Blocks of ``layer1`` to ``layer4`` with the channels of their last norm."""
    model = timm.create_model(name)
    return tuple(
        Site(
            f"layer{number}.{index}",
            number + 1,
            "standard",
            (getattr(block, "bn3", None) or block.bn2).num_features,
            "NCHW",
        )
        for number in range(1, 5)
        for index, block in enumerate(getattr(model, f"layer{number}"))
    )


@pytest.mark.parametrize("name", RESNETS)
def test_sites_are_the_blocks_of_the_four_layers(name):
    assert find_sites(name, position="standard") == sites_by_attribute(name)


def test_resnet50_has_the_blocks_and_channels_of_the_paper():
    sites = find_sites("resnet50", position="standard")
    by_stage = {stage: [site.channels for site in sites if site.stage == stage] for stage in (2, 3, 4, 5)}
    assert by_stage == {2: [256] * 3, 3: [512] * 4, 4: [1024] * 6, 5: [2048] * 3}
    assert (sites[0].block, sites[-1].block) == ("layer1.0", "layer4.2")


def test_stages_of_one_resolution_are_told_apart_by_width():
    model = timm.create_model("resnet50", output_stride=8)
    assert [site.stage for site in find_sites(model, position="standard")] == [
        site.stage for site in find_sites("resnet50", position="standard")
    ]


def test_parallel_branches_of_different_resolutions_are_different_stages():
    sites = [site for site in find_sites("hrnet_w18_small", position="standard") if site.block.startswith("stage")]
    stage_of = {site.channels: site.stage for site in sites}
    assert len(set(stage_of.values())) == len(stage_of) == 4
    assert all(site.stage == stage_of[site.channels] for site in sites)


def test_widths_that_grow_from_block_to_block_make_no_stages():
    """Each block of rexnet_100 has its own width: 27 to 174 channels at four resolutions."""
    sites = find_sites("rexnet_100", position="pre")
    assert len({site.channels for site in sites}) == 11
    assert len({site.stage for site in sites}) == 4


def test_a_model_is_traced_without_being_changed():
    model = timm.create_model("resnet18").train()
    before = copy.deepcopy(model.state_dict())
    assert find_sites(model, position="standard") == find_sites("resnet18", position="standard")
    assert model.training
    assert all(model.get_submodule(site.block).se is None for site in find_sites("resnet18", position="standard"))
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "resnet26"])
def test_a_site_is_on_the_branch_just_before_the_addition(name):
    """With all gates at zero a block reduces to its shortcut and activation."""
    model = create_model(SEConfig.uniform(name, gate="relu")).eval()
    for site in find_sites(name, position="standard"):
        block = model.get_submodule(site.block)
        torch.nn.init.zeros_(block.se.fc2.weight)
        torch.nn.init.zeros_(block.se.fc2.bias)
        x = torch.randn(1, block.conv1.in_channels, 8, 8)
        shortcut = x if block.downsample is None else block.downsample(x)
        assert torch.equal(block(x.clone()), torch.relu(shortcut))


@pytest.mark.parametrize("name", ["resnet10t", "resnet18", "skresnet18"])
def test_a_block_adds_exactly_what_its_se_block_gives(name):
    model = create_model(SEConfig.uniform(name), zero_init_last=False).eval()
    sites = find_sites(name, position="standard")
    seen = {}

    def keep(key):
        # A copy, as timm's blocks add the shortcut to SE's output in place.
        return lambda module, args, output: seen.__setitem__(key, (args[0].clone(), output.clone()))

    for site in sites:
        block = model.get_submodule(site.block)
        block.register_forward_hook(keep(site))
        block.se.register_forward_hook(keep((site, "se")))
        if block.downsample is not None:
            block.downsample.register_forward_hook(keep((site, "downsample")))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    for site in sites:
        entered, left = seen[site]
        shortcut = seen[site, "downsample"][1] if (site, "downsample") in seen else entered
        branch, scaled = seen[site, "se"]
        assert torch.equal(left, torch.relu(shortcut + scaled))
        assert not torch.equal(scaled, branch)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet5o", "near names: resnet50"),
        ("", "not an architecture"),
        ("resnet50.no_such_tag", "tag"),
    ],
)
def test_an_unknown_backbone_is_refused_with_its_name_and_reason(name, reason):
    with pytest.raises(BackboneError, match=reason) as refusal:
        find_sites(name)
    assert repr(name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason():
    with pytest.raises(BackboneError, match="4×8×8"):
        find_sites("resnet10t", (4, 8, 8))


def test_a_network_without_a_place_is_refused():
    with pytest.raises(BackboneError, match="no site"):
        find_sites(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), (3, 8, 8))


def test_half_precision_and_other_devices_make_no_difference():
    model = timm.create_model("convnext_atto").half()
    assert find_sites(model) == find_sites("convnext_atto")


@pytest.mark.parametrize("name", ["repvgg_a0", "fastvit_t8", "levit_128s"])
def test_blocks_stay_when_timm_merges_layers_for_inference(name):
    """Merging renames its own modules but no SE block, and keeps the outputs."""
    torch.manual_seed(0)
    config = SEConfig(name, tuple(PlacedSE(site, 4) for site in find_sites(name) if site.position != "existing"))
    model = create_model(config).eval()
    merged = timm.utils.reparameterize_model(copy.deepcopy(model))
    se = {key for key in model.state_dict() if ".se" in key and ".fc" in key}
    assert len(se) >= 4 * len(config.placed)
    assert se <= set(merged.state_dict())
    assert len(merged.state_dict()) < len(model.state_dict())
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(merged(images), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


class HandsBack(torch.nn.Module):
    """A block whose layer receives its input through no-op calls."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x):
        return x + self.layer(self.norm(x.float().contiguous()))


def test_a_tensor_handed_back_as_it_was_stays_the_stream():
    found = trace_backbone(
        torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Flatten(2), Turned(HandsBack())), (3, 4, 4)
    )
    assert [one.channels for one in found.additions] == [8]


class Turned(torch.nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x.transpose(1, 2)).mean(1)


def test_a_backbone_is_traced_once_for_any_number_of_classes(monkeypatch):
    traced, discover = [], sites._discover
    monkeypatch.setattr(sites, "_discover", lambda *given: traced.append(given) or discover(*given))
    monkeypatch.setattr(sites, "_places_of_created", {})
    for cached in (sites._trace_by_name, backbone_costs):
        cached.cache_clear()
    config = SEConfig.uniform("test_resnet", 16)
    for classes in (10, 1000):
        create_model(config, num_classes=classes)
    backbone_costs("test_resnet")
    assert len(traced) == 1
    create_model(config, in_chans=1)
    assert len(traced) == 2
