"""ECA blocks against the paper's equation and timm's own module."""

import math
import random

import pytest
import torch
from networks import bare_network
from timm.layers import EcaModule
from torch import nn

from se_search import SEConfig, create_model, export_timm, find_sites, insert, optimize_for_inference
from se_search.data.load import load_data
from se_search.errors import ConfigurationError, DefinitionError
from se_search.excitation.gates import find_gates, gate_name
from se_search.network.attention.eca import KERNELS, PUBLISHED, PlacedECA, published_kernel
from se_search.network.attention.eca_layers import ElasticECA, create_eca_block
from se_search.network.attention.gates import GATES
from se_search.network.attention.kind import LAYOUTS
from se_search.network.insertion import create_model_on_meta
from se_search.network.overhead import added_flops, count_flops, formula_by_stage, parameter_overhead
from se_search.study.checking import check_definition
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.training.recipe import TrainingRecipe
from se_search.training.supernet import Supernet

SIZE = (3, 64, 64)
PLACED = [
    ("test_resnet", "standard"),  # NCHW, a slot
    ("test_resnet", "pre"),
    ("test_resnet", "post"),
    ("test_resnet", "3x3"),
    ("test_convnext", "standard"),  # NHWC
    ("test_vit", "standard"),  # tokens
    ("test_vit", "post"),
    ("mobilenetv3_small_050", "existing"),
]


def by_the_equation(weight, x):
    """Equations 8 and 9 of the paper, a sum over the neighbours of each channel, with a sigmoid."""
    pooled = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    around = weight.flatten()
    half, channels = len(around) // 2, x.shape[1]
    z = torch.zeros_like(pooled)
    for channel in range(channels):
        for step in range(-half, half + 1):
            if 0 <= channel + step < channels:
                z[:, channel] += around[half + step] * pooled[:, channel + step]
    return x * (1 / (1 + torch.exp(-z)))[:, :, None, None]


def laid_out(x, layout):
    """Convert a tensor ``(N, C, H, W)`` to another layout, tokens in row-major order."""
    return {
        "NCHW": x,
        "NHWC": x.permute(0, 2, 3, 1),
        "NCL": x.flatten(2),
        "NLC": x.flatten(2).transpose(1, 2),
    }[layout]


def config_of(name, position="standard", **options):
    return SEConfig(name, tuple(PlacedECA(site, **options) for site in find_sites(name, position=position)))


def space(name="test_resnet", kernels=(PUBLISHED, 3, 7), **keys):
    return SearchSpace(name, SpaceDefinition(placement="stage", attention="eca", kernels=kernels, **keys))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_block_computes_the_papers_equation_in_every_layout(kernel, layout):
    torch.manual_seed(0)
    block = create_eca_block(kernel, layout=layout)
    elastic = ElasticECA(kernel, layout)
    elastic.load_state_dict(block.state_dict())
    elastic.select(kernel)
    x = torch.randn(3, 12, 5, 7)
    expected = laid_out(by_the_equation(block.conv.weight.detach(), x), layout)
    torch.testing.assert_close(block(laid_out(x, layout)), expected)
    torch.testing.assert_close(elastic(laid_out(x, layout)), expected)


@pytest.mark.parametrize("channels", [2, 8, 24, 64, 96, 128, 256, 320, 512, 1000, 1024, 2048, 4096])
def test_the_published_kernel_and_the_outputs_are_those_of_timms_module(channels):
    torch.manual_seed(0)
    timms = EcaModule(channels)
    assert timms.conv.kernel_size == (published_kernel(channels),)
    nearest = min(range(3, 19, 2), key=lambda odd: (abs(odd - (math.log2(channels) / 2 + 0.5)), -odd))
    assert published_kernel(channels) == nearest
    ours = create_eca_block(published_kernel(channels))
    assert type(ours) is EcaModule
    ours.load_state_dict(timms.state_dict())
    x = torch.randn(2, channels, 3, 3)
    assert torch.equal(ours(x), timms(x))


@pytest.mark.parametrize("gate", GATES)
def test_a_block_that_starts_at_identity_returns_its_input_and_learns(gate):
    block = create_eca_block(5, gate, start="identity")
    for size in (1.0, 1e6):
        x = size * torch.randn(2, 16, 3, 3)
        torch.testing.assert_close(block(x), x, rtol=1e-6, atol=0)
    block(x).square().sum().backward()
    assert block.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("kernel", [1, *KERNELS])
def test_the_middle_of_an_elastic_kernel_is_a_plain_block(kernel, gate):
    torch.manual_seed(0)
    elastic, plain = ElasticECA(9), create_eca_block(kernel, gate)
    plain.load_state_dict(elastic.slice_state(kernel))
    elastic.select(kernel, gate)
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(elastic(x), plain(x), rtol=0, atol=1e-6)
    elastic(x).square().sum().backward()
    outside = (9 - kernel) // 2
    gradient = elastic.conv.weight.grad.flatten()
    assert (gradient != 0).tolist() == [outside <= place < 9 - outside for place in range(9)]


def test_an_elastic_block_that_starts_at_identity_returns_its_input_at_every_kernel():
    elastic, x = ElasticECA(9, start="identity"), torch.randn(2, 16, 4, 4)
    for kernel in KERNELS:
        elastic.select(kernel, start="identity")
        assert torch.equal(elastic(x), x)


def test_an_elastic_block_keeps_the_backbones_attention_until_a_kernel_is_selected():
    elastic, x = ElasticECA(9, kept=nn.Tanh()), torch.randn(2, 16, 4, 4)
    elastic.keep()
    assert torch.equal(elastic(x), x.tanh())
    elastic.select(3)
    plain = create_eca_block(3)
    plain.load_state_dict(elastic.slice_state(3))
    torch.testing.assert_close(elastic(x), plain(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kernel", [0, 4, 11])
def test_a_refused_selection_leaves_the_elastic_block_as_it_was(kernel):
    elastic = ElasticECA(9)
    x = torch.randn(1, 16, 2, 2)
    assert elastic(x) is x
    elastic.select(3, "tanh")
    before = elastic(x)
    with pytest.raises(ConfigurationError, match="must be odd and at most 9"):
        elastic.select(kernel)
    with pytest.raises(ConfigurationError, match="softmax"):
        elastic.select(3, "softmax")
    assert torch.equal(elastic(x), before)
    elastic.select(None)
    assert elastic(x) is x


@pytest.mark.parametrize("kernel", [0, 4, 11, True, 3.0, "3", None, [3]])
def test_an_impossible_kernel_is_refused(kernel):
    site = find_sites("test_resnet", position="standard")[0]
    with pytest.raises(ConfigurationError, match="choose one of published, 3, 5, 7, 9"):
        PlacedECA(site, kernel)
    data = {"placement": "stage", "attention": "eca", "kernels": [kernel]}
    with pytest.raises(DefinitionError, match="choose one of published, 3, 5, 7, 9"):
        check_definition(SpaceDefinition, data, "space.yaml")


@pytest.mark.parametrize(("name", "position"), PLACED)
def test_identity_start_changes_no_output_and_costs_are_those_counted(name, position):
    bare = SEConfig.without_attention(name) if position == "existing" else SEConfig(name)
    config = config_of(name, position)
    model = bare_network(name)
    state = insert(model, bare).state_dict()
    network = create_model(config, identity_start=True).eval()
    network.load_state_dict(state, strict=False)
    images = torch.randn(2, *(SIZE if "vit" not in name else (3, 160, 160)))
    with torch.no_grad():
        expected = model(images)
        assert float((network(images) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())

    overhead = parameter_overhead(config)
    assert sum(placed.parameters for placed in config.placed) == sum(
        published_kernel(site.channels) for site in config.sites
    )
    if position != "existing":
        assert overhead.counted == sum(placed.parameters for placed in config.placed)
        assert formula_by_stage(config) == overhead.by_stage
    for one in (config, config.starting_at_identity()):
        counted = count_flops(create_model_on_meta(one)) - count_flops(create_model_on_meta(SEConfig(name)))
        assert added_flops(one) == counted


def test_gates_of_every_block_can_be_analysed():
    model = create_model(config_of("test_convnext", gate="tanh"))
    gates = find_gates(model)
    assert len(gates) == len(find_sites("test_convnext", position="standard"))
    assert {gate_name(gate) for gate in gates.values()} == {"tanh"}


def test_a_space_varies_the_kernel_and_knows_the_published_one():
    searched = space(gates=("sigmoid", "tanh"))
    assert searched.distributions["stage2.kernel"].choices == ("none", PUBLISHED, 3, 7)
    assert searched.distributions["gate"].choices == ("sigmoid", "tanh")
    known = searched.known_answers()
    assert list(known) == ["no ECA", "uniform ECA", "ECA without the last stage"]
    assert known["uniform ECA"] == config_of("test_resnet")
    rng = random.Random(0)
    for config in (searched.draw(rng) for _ in range(20)):
        assert searched.to_config(searched.to_parameters(config)) == config
        assert SEConfig.from_json(config.to_json()) == config
        assert {placed.kernel for placed in searched.widen(config).placed} == {7}
    # 64 channels have the published kernel 3: these are one network.
    assert config_of("test_resnet", kernel=3).structure[0] == config_of("test_resnet").structure[0]


def test_a_slice_of_the_supernet_is_the_plain_network():
    data, searched = load_data("digits"), space(kernels=(PUBLISHED, 3, 9))
    network = Supernet("test_resnet", searched.widest_blocks(), data, TrainingRecipe(1, 64, 0.003))
    for module in network.model.modules():
        if isinstance(module, ElasticECA):
            nn.init.normal_(module.conv.weight)
    rng = random.Random(1)
    config = next(one for one in iter(lambda: searched.draw(rng), None) if len(one.placed) > 2)
    plain = network.network(config)
    images = data.validation.tensors[0][:32]
    with torch.no_grad():
        torch.testing.assert_close(plain(images), network.model(images), rtol=0, atol=1e-5)
    assert sum(isinstance(module, EcaModule) for module in plain.modules()) == len(config.placed)


@pytest.mark.parametrize(("name", "start"), [("test_resnet", "paper"), ("test_convnext", "identity")])
def test_a_stand_alone_file_and_an_optimized_network_have_the_same_outputs(tmp_path, name, start):
    model = insert(bare_network(name), config_of(name, start=start)).eval()
    for module in model.modules():
        if isinstance(module, EcaModule):
            nn.init.normal_(module.conv.weight)
    export_timm(model, tmp_path / "exported", standalone=True)  # compares
    source = (tmp_path / "exported" / "model.py").read_text(encoding="utf-8")
    assert "EfficientChannelAttention(3, 'sigmoid'" in source
    assert "Σ k" in (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    images = torch.randn(2, *SIZE)
    with torch.no_grad():
        expected = model(images)
        optimized = optimize_for_inference(model, SIZE)(images)
    assert float((optimized - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
