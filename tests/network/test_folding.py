"""Constant gates are folded into the weights beside them: the same outputs, and nothing left of the block."""

import copy

import pytest
import torch
from networks import Operations, bare_network
from torch import nn

from se_search import PlacedECA, PlacedLocal, PlacedSE, SEConfig, create_model, find_sites, insert
from se_search.errors import ConfigurationError
from se_search.network.backbones import create_on_meta, default_input_size
from se_search.network.folding import find_folds, fold_gates, foldable_sites
from se_search.network.insertion import block_name, count_parameters
from se_search.network.overhead import added_flops, added_parameters, count_flops
from se_search.network.sites import find_places

# What stands at each site, by hand from the code of timm's blocks.
WHERE = {
    ("test_resnet", "standard"): "output",  # of bn2 or bn3
    ("test_resnet", "pre"): "input",  # of conv1
    ("test_resnet", "post"): "input",  # of conv1 and of the projection of the next stage, or of the classifier
    ("test_resnet", "3x3"): "output",  # of the convolution
    ("test_efficientnet", "existing"): "input",  # of conv_pwl: an activation precedes
    ("test_byobnet", "identity"): "output",  # of the projection's norm
    ("test_vit", "standard"): "output",  # of proj or fc2, tokens
    ("test_mambaout", "standard"): "output",  # of fc2, channels last
    ("test_vit", "pre"): "normalises the tensor",
    ("test_vit", "post"): "normalises the tensor",
    ("test_convnext", "identity"): "also reads the tensor; after it, add in",  # the shortcut is the stream itself
    ("legacy_seresnet18", "existing"): "output",  # of bn2, through a ReLU
}
SIDE = 64


class Constant(nn.Module):
    """The block with a constant gate, by hand."""

    def __init__(self, gate, axis):
        super().__init__()
        self.gate, self.axis = gate, axis

    def forward(self, x):
        shape = [1] * x.dim()
        shape[self.axis] = -1
        return x * self.gate.reshape(shape)


def gated(name, position):
    """A network with attention at every site of a position, and the sites by module."""
    places = find_places(name)
    config = SEConfig(name) if position == "existing" else SEConfig.uniform(name, 4, position=position)
    model = insert(bare_network(name), config).double().eval()
    sites = [site for site in places if site.position == position]
    return model, {block_name(model, site, places[site]): site for site in sites}


def made_up_gates(sites, low=0.3):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(site.channels, generator=generator, dtype=torch.double) * 2 + low
        for name, site in sites.items()
    }


def with_constants(model, sites, gates):
    model = copy.deepcopy(model)
    for name, gate in gates.items():
        parent, _, child = name.rpartition(".")
        axis = {"NCHW": 1, "NHWC": 3, "NLC": 2, "NCL": 1}[sites[name].layout]
        setattr(model.get_submodule(parent), child, Constant(gate, axis))
    return model


def outputs_of(model, batch=2):
    size = default_input_size(model)
    size = size if "Vi" in type(model).__name__ else (3, SIDE, SIDE)
    images = torch.randn(batch, *size, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    with torch.no_grad():
        return model(images)


def difference(one, other):
    return float((one - other).abs().max() / other.abs().max())


def operations_of(model):
    with Operations() as seen:
        outputs_of(model)
    return seen.names


@pytest.mark.parametrize(("name", "position"), WHERE)
def test_folded_networks_equal_those_with_constant_gates(name, position):
    model, sites = gated(name, position)
    folds = find_folds(model, sites)
    if WHERE[name, position] not in ("output", "input"):
        assert all(WHERE[name, position] in reason for reason in folds.values())
        with pytest.raises(ConfigurationError, match=r"cannot become constant: before it, .*; after it, "):
            fold_gates(model, made_up_gates(sites))
        return
    assert {fold.side for fold in folds.values()} == {WHERE[name, position]}
    gates = made_up_gates(sites)
    before = copy.deepcopy(model.state_dict())
    folded = fold_gates(model, gates)
    expected = outputs_of(with_constants(model, sites, gates))
    assert difference(outputs_of(folded), expected) < 1e-12
    assert difference(outputs_of(model), expected) > 1e-3
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    bare = SEConfig(name, removed=tuple(sites.values())) if position == "existing" else SEConfig(name)
    without = create_model(bare).double().eval()
    assert {key: value.shape for key, value in folded.state_dict().items()} == {
        key: value.shape for key, value in without.state_dict().items()
    }
    assert operations_of(folded) == operations_of(without)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in folded.modules())
    assert folded.se_config.constant == (tuple(sites.values()) if position == "existing" else ())
    assert folded.se_config.placed == ()


def test_single_precision_is_within_a_hundred_thousandth():
    model, sites = gated("test_byobnet", "existing")
    gates = made_up_gates(sites)
    folded = fold_gates(model.float(), gates)
    assert difference(outputs_of(folded.double()), outputs_of(with_constants(model.double(), sites, gates))) < 1e-5


def test_the_normalisation_that_reads_a_scaled_tensor_absorbs_it_in_evaluation_mode():
    model, sites = gated("resnetv2_18", "pre")
    (name,) = [name for name in sites if "stages.0.blocks.1" in name]
    assert find_folds(model, [name])[name].modules == ("stages.0.blocks.1.norm1",)
    norm = model.get_submodule("stages.0.blocks.1.norm1")
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    gates = {name: torch.linspace(0, 2, sites[name].channels, dtype=torch.double)}  # zero is a factor too
    folded = fold_gates(model, gates)
    assert difference(outputs_of(folded), outputs_of(with_constants(model, sites, gates))) < 1e-12


def test_a_rectifier_needs_gates_that_are_not_negative():
    model, sites = gated("legacy_seresnet18", "existing")
    name, site = next(iter(sites.items()))
    assert find_folds(model, [name])[name].positive
    gate = torch.linspace(-0.1, 1, site.channels)
    with pytest.raises(ConfigurationError, match="negative, and a rectifier stands between"):
        fold_gates(model, {name: gate})


def test_grouped_convolutions_scale_the_inputs_of_each_group():
    model, sites = gated("regnetx_002", "pre")
    model.get_submodule("s2.b1.conv1").conv = nn.Conv2d(24, 56, 1, groups=8, bias=False).double()
    (name,) = [name for name in sites if name.startswith("s2.b1.conv1")]
    gates = made_up_gates({name: sites[name]})
    folded = fold_gates(model, gates)
    assert difference(outputs_of(folded), outputs_of(with_constants(model, sites, gates))) < 1e-12


def test_one_block_becomes_constant_and_the_others_stay():
    model, sites = gated("test_byobnet", "existing")
    name, site = list(sites.items())[1]
    gates = made_up_gates({name: site})
    folded = fold_gates(model, gates)
    assert difference(outputs_of(folded), outputs_of(with_constants(model, sites, gates))) < 1e-12
    assert folded.se_config == SEConfig("test_byobnet", constant=(site,))
    assert folded.se_config.block_count == len(sites) - 1
    assert type(folded.get_submodule(name)) is nn.Identity


def test_windows_leave_the_class_token_out_and_cannot_be_folded():
    sites = find_sites("test_vit", position="standard")
    model = create_model(SEConfig("test_vit", (PlacedSE(sites[0], 4, extent=2),)))
    (name,) = [name for name, module in model.named_modules() if type(module).__name__ == "LaidOutSE"]
    assert find_folds(model, [name]) == {name: "it does not scale class and register tokens"}


def test_other_kinds_at_other_sites_stay_in_the_configuration():
    first, second, third, *_ = find_sites("test_resnet", position="standard")
    config = SEConfig("test_resnet", (PlacedECA(first), PlacedSE(second, 4), PlacedLocal(third)))
    model = create_model(config).double().eval()
    folded = fold_gates(model, {"layer1.0.se": torch.ones(first.channels), "layer2.0.se": torch.ones(second.channels)})
    assert folded.se_config == SEConfig("test_resnet", (PlacedLocal(third),))
    assert {key for key in folded.state_dict() if ".se." in key} == {"layer3.0.se.conv.weight", "layer3.0.se.conv.bias"}


def test_attention_that_adds_is_refused():
    model = create_on_meta("gcresnet33ts")
    sites = foldable_sites("gcresnet33ts")
    assert len(sites) == sum(type(module).__name__ == "GlobalContext" for module in model.modules())
    assert set(sites.values()) == {"it also adds to its input"}


def test_a_configuration_with_constants_costs_what_its_network_costs():
    own = find_sites("test_efficientnet", position="existing")
    config = SEConfig("test_efficientnet", constant=own[1:])
    model, backbone = create_model(config), create_model(SEConfig("test_efficientnet"))
    assert added_parameters(config) == count_parameters(model) - count_parameters(backbone)
    assert added_flops(config) == count_flops(model) - count_flops(backbone)
    assert added_parameters(config) == added_parameters(SEConfig("test_efficientnet", removed=own[1:]))


def test_constants_are_part_of_a_configuration_only_if_there_are_any():
    first, second = find_sites("test_efficientnet", position="existing")
    config = SEConfig("test_efficientnet", removed=(first,), constant=(second,))
    assert SEConfig.from_json(config.to_json()) == config
    assert "constant" not in SEConfig("test_efficientnet", removed=(first, second)).to_dict()
    ids = {one.id for one in (config, SEConfig("test_efficientnet", removed=(first, second)))}
    assert len(ids) == len({config.structure, SEConfig("test_efficientnet", removed=(first, second)).structure}) == 2
    assert config.with_constant(first) == SEConfig("test_efficientnet", constant=(first, second))
    assert config.with_site(second).constant == ()
    with pytest.raises(ConfigurationError, match="has no attention that could be constant"):
        SEConfig("test_resnet", constant=find_sites("test_resnet", position="standard"))
    with pytest.raises(ConfigurationError, match="2 entries"):
        SEConfig("test_efficientnet", removed=(first,), constant=(first,))
    with pytest.raises(ConfigurationError, match="must be a list"):
        SEConfig.from_dict(config.to_dict() | {"constant": None})
