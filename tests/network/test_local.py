"""Local blocks against a sum over neighbours, in maps and in tokens; exports of all kinds together."""

import random
import subprocess
import sys

import pytest
import torch
from networks import bare_network
from torch import nn

from se_search import PlacedSE, SEConfig, create_model, export_timm, find_sites, insert, optimize_for_inference
from se_search.data.load import load_data
from se_search.errors import ConfigurationError, DefinitionError
from se_search.excitation.gates import find_gates
from se_search.network.attention.eca import PlacedECA
from se_search.network.attention.grid import Grid
from se_search.network.attention.kind import LAYOUTS
from se_search.network.attention.local import PlacedLocal
from se_search.network.attention.local_layers import ElasticLocal, LocalBlock
from se_search.network.insertion import create_model_on_meta
from se_search.network.overhead import added_flops, count_flops, formula_by_stage, parameter_overhead
from se_search.study.checking import check_definition
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.training.recipe import TrainingRecipe
from se_search.training.supernet import Supernet

PLACED = [
    ("test_resnet", "standard"),  # NCHW, a slot
    ("test_resnet", "post"),
    ("test_convnext", "standard"),  # NHWC
    ("test_vit", "standard"),  # tokens
    ("test_vit", "pre"),
    ("test_vit", "post"),
]


def by_the_neighbours(conv, x):
    """The sum over the neighbours of each position in a map ``(N, C, H, W)``, added to it."""
    half = conv.weight.shape[2] // 2
    height, width = x.shape[2:]
    total = x.clone()
    for row in range(-half, half + 1):
        for column in range(-half, half + 1):
            weight = conv.weight[:, 0, half + row, half + column]
            rows = slice(max(0, -row), min(height, height - row))
            columns = slice(max(0, -column), min(width, width - column))
            from_rows = slice(rows.start + row, rows.stop + row)
            from_columns = slice(columns.start + column, columns.stop + column)
            total[:, :, rows, columns] += weight[:, None, None] * x[:, :, from_rows, from_columns]
    return total if conv.bias is None else total + conv.bias[:, None, None]


def laid_out(x, layout, first):
    """Convert ``(N, C, H, W)`` to another layout; tokens are in row-major order after ``first``, ``(N, C, prefix)``."""
    tokens = torch.cat((first, x.flatten(2)), 2)
    return {"NCHW": x, "NHWC": x.permute(0, 2, 3, 1), "NCL": tokens, "NLC": tokens.transpose(1, 2)}[layout]


def randomised(model):
    for module in model.modules():
        if isinstance(module, (LocalBlock, ElasticLocal)):
            for parameter in module.conv.parameters():
                nn.init.normal_(parameter, std=0.3)
    return model


def config_of(name, position="standard", **options):
    return SEConfig(name, tuple(PlacedLocal(site, **options) for site in find_sites(name, position=position)))


def space(name="test_vit", **keys):
    keys = {"placement": "stage", "attention": "local", "kernels": (3, 5), "depth_parts": 3} | keys
    return SearchSpace(name, SpaceDefinition(**keys))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kernel", "bias", "prefix"), [(3, True, 1), (3, False, 0), (5, True, 3), (1, True, 1)])
def test_the_block_adds_the_sum_over_neighbours_in_every_layout(layout, kernel, bias, prefix):
    torch.manual_seed(0)
    grid = Grid(prefix, 5, 7)
    block = randomised(LocalBlock(6, kernel, bias, layout, grid))
    elastic = ElasticLocal(6, 5, bias, layout, grid)
    randomised(elastic)
    block.load_state_dict(elastic.slice_state(kernel))
    elastic.select(kernel)
    x, first = torch.randn(2, 6, 5, 7), torch.randn(2, 6, prefix)
    expected = laid_out(by_the_neighbours(block.conv, x), layout, first)
    torch.testing.assert_close(block(laid_out(x, layout, first)), expected)
    torch.testing.assert_close(elastic(laid_out(x, layout, first)), expected)
    elastic.select(None)
    given = laid_out(x, layout, first)
    assert elastic(given) is given


def test_the_convolution_that_is_added_has_three_by_three_taps_and_a_bias_for_each_channel_by_default():
    block = randomised(LocalBlock(4))
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(block(x), x + block.conv(x))
    shapes = {"conv.weight": (4, 1, 3, 3), "conv.bias": (4,)}
    for state in (block.state_dict(), ElasticLocal(4, 5).slice_state(3)):
        assert {name: tuple(value.shape) for name, value in state.items()} == shapes


def test_a_refused_kernel_leaves_the_elastic_block_as_it_was():
    elastic = randomised(ElasticLocal(4, 5))
    elastic.select(3)
    x = torch.randn(1, 4, 3, 3)
    before = elastic(x)
    for kernel in (0, 4, 7):
        with pytest.raises(ConfigurationError, match="must be odd and at most 5"):
            elastic.select(kernel)
    assert torch.equal(elastic(x), before)


@pytest.mark.parametrize("kernel", [1, 4, 7, True, 3.0, "3", None])
def test_an_impossible_kernel_is_refused(kernel):
    site = find_sites("test_resnet", position="standard")[0]
    with pytest.raises(ConfigurationError, match="choose one of 3, 5"):
        PlacedLocal(site, kernel)
    data = {"placement": "stage", "attention": "local", "kernels": [kernel]}
    with pytest.raises(DefinitionError, match="choose one of 3, 5"):
        check_definition(SpaceDefinition, data, "space.yaml")


@pytest.mark.parametrize(("name", "position"), PLACED)
def test_it_starts_without_an_effect_learns_and_costs_what_is_counted(name, position):
    model = bare_network(name)
    images = torch.randn(2, 3, *((160, 160) if "vit" in name else (64, 64)))
    config = config_of(name, position)
    network = create_model(config).eval()
    network.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        expected = model(images)
    outputs = network(images)
    assert float((outputs.detach() - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    outputs.square().mean().backward()
    blocks = [module for module in network.modules() if isinstance(module, LocalBlock)]
    assert len(blocks) == len(config.placed)
    # A classifier of the class token does not see the patches after the last attention.
    assert all(block.conv.weight.grad.abs().sum() > 0 for block in blocks[:-2])

    for one in (config, config_of(name, position, kernel=5, bias=False)):
        overhead = parameter_overhead(one)
        kernel, bias = one.placed[0].kernel, one.placed[0].bias
        assert overhead.counted == sum((kernel**2 + bias) * site.channels for site in one.sites)
        assert sum(formula_by_stage(one).values()) == sum(kernel**2 * site.channels for site in one.sites)
        counted = count_flops(create_model_on_meta(one)) - count_flops(create_model_on_meta(SEConfig(name)))
        assert added_flops(one) == counted


def test_tokens_without_rows_and_columns_are_refused_with_the_reason():
    with pytest.raises(ConfigurationError, match="rows and columns of the image are unknown"):
        space("hiera_tiny_224")


def test_its_blocks_have_no_gate():
    assert find_gates(create_model(config_of("test_vit"))) == {}


def test_a_space_varies_the_kernel():
    searched = space()
    assert searched.distributions["stage2.kernel"].choices == ("none", 3, 5)
    known = searched.known_answers()
    assert list(known) == ["no local convolution", "uniform local 3×3", "local 3×3 without the last stage"]
    assert known["uniform local 3×3"] == config_of("test_vit")
    rng = random.Random(0)
    for config in (searched.draw(rng) for _ in range(20)):
        assert searched.to_config(searched.to_parameters(config)) == config
        assert SEConfig.from_json(config.to_json()) == config
    identity = config.starting_at_identity()
    assert identity == config
    assert [one.structure for one in identity.placed] == [one.structure for one in config.placed]


def test_a_slice_of_the_supernet_of_tokens_is_the_plain_network():
    data, searched = load_data("digits-local"), space()
    network = Supernet("test_vit", searched.widest_blocks(), data, TrainingRecipe(1, 64, 0.003))
    randomised(network.model)
    rng = random.Random(1)
    config = next(one for one in iter(lambda: searched.draw(rng), None) if len({b.kernel for b in one.placed}) > 1)
    plain = network.network(SEConfig.from_json(config.to_json()))
    images = data.validation.tensors[0][:16]
    with torch.no_grad():
        torch.testing.assert_close(plain(images), network.model(images), rtol=0, atol=1e-5)


def mixed(name, position):
    """All kinds in one network."""
    kinds = (PlacedLocal, PlacedSE, PlacedECA)
    sites = find_sites(name, position=position)
    return SEConfig(name, tuple(kinds[place % 3](site) for place, site in enumerate(sites)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_exports_of_all_kinds_have_the_same_outputs(tmp_path, name):
    torch.manual_seed(0)
    config = mixed(name, "standard")
    model = randomised(insert(bare_network(name), SEConfig.from_json(config.to_json()))).eval()
    size = (3, 160, 160)
    folder = tmp_path / "exported"
    export_timm(model, folder, formats=("onnx", "pt2"), standalone=True)  # compares each
    assert "LocalConvolution(" in (folder / "model.py").read_text(encoding="utf-8")
    assert "local 3×3, position standard" in (folder / "README.md").read_text(encoding="utf-8")
    images = torch.randn(2, *size)
    with torch.no_grad():
        expected = model(images)
        optimized = optimize_for_inference(model, size)(images)
    assert float((optimized - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    torch.save((images, expected), tmp_path / "expected.pt")
    code = (
        "import timm, torch, se_search; images, expected = torch.load('expected.pt'); "
        "model = timm.create_model('local-dir:exported', pretrained=True).eval(); "
        "assert torch.equal(model(images), expected)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
