"""SE blocks with windows and with a maximum squeeze, against sums over windows by hand."""

import copy
import functools
import json
import random
import subprocess
import sys

import pytest
import torch
from torch import nn

from se_search import PlacedSE, SEConfig, create_model, export_timm, find_sites, insert, parameter_overhead
from se_search.data.load import load_data
from se_search.deployment.inference import optimize_for_inference
from se_search.errors import ConfigurationError
from se_search.excitation.gates import find_blocks, find_gates, mean_gates, read_gates, replaced_gates
from se_search.latency.additive import count_terms
from se_search.network.attention.grid import Grid
from se_search.network.attention.se_layers import ElasticSE, create_se_block
from se_search.network.attention.windows import Scope
from se_search.network.insertion import create_model_on_meta
from se_search.network.overhead import added_flops, added_parameters, count_flops
from se_search.report.configuration import describe_stages
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.training.recipe import TrainingRecipe
from se_search.training.supernet import Supernet
from se_search.trials.latency import configurations_to_measure

SIZE = (3, 64, 64)
BACKBONES = ["test_resnet", "test_convnext", "test_vit"]  # NCHW, NHWC and tokens after a class token
SCOPES = [("max", "global"), ("avg", 4), ("max", 2), ("avg", 1)]


def excited(block, pooled):
    """Equations 3 and 4 of the SENet paper for vectors ``(N, C)``."""
    hidden = pooled @ block.fc1.weight.flatten(1).T + block.fc1.bias
    z = hidden.clamp(min=0) @ block.fc2.weight.flatten(1).T + block.fc2.bias
    return 1 / (1 + torch.exp(-z))


def by_hand(block, x, squeeze, side):
    """Scale each window of a map ``(N, C, H, W)`` on its own."""
    result = torch.empty_like(x)
    rows, columns = x.shape[2:]
    for top in range(0, rows, side):
        for left in range(0, columns, side):
            window = x[:, :, top : top + side, left : left + side]
            flat = window.flatten(2)
            pooled = flat.sum(2) / flat.shape[2] if squeeze == "avg" else flat.max(2).values
            result[:, :, top : top + side, left : left + side] = window * excited(block, pooled)[:, :, None, None]
    return result


def laid_out(x, layout, before):
    """Convert a map to another layout; ``before``, of shape ``(N, C, prefix)``, comes first as tokens."""
    tokens = torch.cat([before, x.flatten(2)], 2)
    return {"NCHW": x, "NHWC": x.permute(0, 2, 3, 1), "NCL": tokens, "NLC": tokens.transpose(1, 2)}[layout]


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NLC", "NCL"])
@pytest.mark.parametrize("extent", [8, 4, 2, 1])
@pytest.mark.parametrize("squeeze", ["avg", "max"])
def test_each_window_is_squeezed_and_scaled_on_its_own(squeeze, extent, layout, prefix):
    torch.manual_seed(0)
    grid = Grid(prefix if "L" in layout else 0, 5, 7)  # windows of 4 and 2 are cut off at the end
    block = create_se_block(6, 2, rounding=1, layout=layout, scope=Scope(squeeze, extent, grid))
    elastic = ElasticSE(6, 3, layout=layout, grid=grid)
    elastic.load_state_dict(block.state_dict())
    elastic.select(3, "sigmoid", squeeze, extent)
    x, before = torch.randn(2, 6, 5, 7), torch.randn(2, 6, prefix)
    expected = laid_out(by_hand(block, x, squeeze, extent), layout, before)
    torch.testing.assert_close(block(laid_out(x, layout, before)), expected)
    torch.testing.assert_close(elastic(laid_out(x, layout, before)), expected)


def test_windows_leave_out_the_tokens_before_the_map():
    for extent, prefix, expected in ((2, 1, False), (2, 0, True), (None, 1, True)):
        block = create_se_block(6, 2, layout="NLC", scope=Scope("avg", extent, Grid(prefix, 5, 7)))
        assert block.scales_all is expected


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NLC", "NCL"])
def test_a_global_maximum_takes_all_positions_and_tokens(layout):
    torch.manual_seed(0)
    block = create_se_block(6, 2, rounding=1, layout=layout, scope=Scope("max"))
    x = torch.randn(2, 6, 5, 7)
    pooled = x.flatten(2).max(2).values
    expected = laid_out(x * excited(block, pooled)[:, :, None, None], layout, torch.empty(2, 6, 0))
    torch.testing.assert_close(block(laid_out(x, layout, torch.empty(2, 6, 0))), expected)


@pytest.mark.parametrize("squeeze", ["avg", "max"])
def test_a_window_as_large_as_the_map_is_global(squeeze):
    torch.manual_seed(0)
    windows, whole = (create_se_block(6, 2, scope=Scope(squeeze, extent)) for extent in (8, None))
    whole.load_state_dict(windows.state_dict())
    x = torch.randn(2, 6, 8, 5)
    torch.testing.assert_close(windows(x), whole(x), rtol=0, atol=0)


def config_of(backbone, squeeze, extent, **options):
    return SEConfig.uniform(backbone, 4, position="default", squeeze=squeeze, extent=extent, **options)


@functools.cache
def flops_of(config):
    return count_flops(create_model_on_meta(config), SIZE)


@pytest.mark.parametrize(("squeeze", "extent"), SCOPES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_parameters_and_flops_are_those_counted(backbone, squeeze, extent):
    config = config_of(backbone, squeeze, extent, bias=squeeze == "avg").starting_at_identity()
    assert parameter_overhead(config).counted == added_parameters(config)
    assert added_parameters(config) == added_parameters(config_of(backbone, "avg", "global", bias=squeeze == "avg"))
    assert added_flops(config, SIZE) == flops_of(config) - flops_of(SEConfig(backbone))


def test_flops_of_windows_by_hand():
    """24 channels and 8 hidden units on a map of 9×8 positions, in windows of 4×4."""
    site = next(site for site in find_sites("test_convnext") if site.position == "standard")
    assert (site.channels, site.grid) == (24, Grid(0, 40, 40))
    block = PlacedSE(site, 4, extent=4).on_grid(Grid(0, 9, 8))
    # Windows begin at rows 0, 4 and 8 and columns 0 and 4. Squeeze and scale read each of 72 positions.
    assert block.flops(24 * 72) == 2 * 24 * 72 + 6 * (2 * 24 * 8)


def test_windows_of_one_position_cost_what_the_paper_says_of_no_squeeze():
    """Table 16 of the journal version: 28.1 M parameters and 4.27 instead of 3.87 GFLOPs for r=16, without biases."""
    local, whole = (SEConfig.uniform("resnet50", bias=False, extent=extent) for extent in (1, "global"))
    counted = parameter_overhead(local)
    assert (counted.backbone + counted.counted) / 1e6 == pytest.approx(28.1, abs=0.05)
    # The paper counts layers only: without scaling, and here without the squeeze of the global block.
    elements = sum(site.channels * site.grid.positions for site in find_sites("resnet50", position="standard"))
    extra = (added_flops(local) - elements) - (added_flops(whole) - 2 * elements)
    assert extra / 1e9 == pytest.approx(4.27 - 3.87, abs=0.01)


@pytest.mark.parametrize(("squeeze", "extent"), SCOPES)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_identity_start_changes_no_output_until_weights_move(backbone, squeeze, extent):
    torch.manual_seed(0)
    bare = create_model(SEConfig(backbone)).eval()
    model = insert(copy.deepcopy(bare), config_of(backbone, squeeze, extent), identity_start=True).eval()
    images = torch.randn(2, *SIZE)
    with torch.no_grad():
        expected = bare(images)
        assert float((model(images) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
        assert not torch.allclose(with_random_gates(model)(images), expected)


def with_random_gates(model: nn.Module) -> nn.Module:
    """Let blocks and residual branches have an effect: timm starts the last normalisation of a branch at zero."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith("fc2.weight"):
            nn.init.normal_(parameter, generator=generator)
        elif parameter.dim() <= 1:
            nn.init.uniform_(parameter, 0.2, 0.6, generator=generator)
    return model


def test_files_leave_out_the_usual_squeeze_and_extent():
    usual = SEConfig.uniform("test_resnet")
    assert not {"squeeze", "extent"} & json.loads(usual.to_json())["sites"][0].keys()
    local = SEConfig.uniform("test_resnet", squeeze="max", extent=4)
    written = json.loads(local.to_json())["sites"][0]
    assert (written["squeeze"], written["extent"]) == ("max", 4)
    assert SEConfig.from_json(local.to_json()) == local
    assert len({config.id for config in (usual, local, SEConfig.uniform("test_resnet", extent=4))}) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extent": 3}, "extent 3 is unknown: choose one of global, 8, 4, 2, 1"),
        ({"extent": True}, "extent True is unknown"),
        ({"extent": "4"}, "extent '4' is unknown"),
        ({"squeeze": "mean"}, "squeeze 'mean' is unknown: choose one of avg, max"),
    ],
)
def test_an_unknown_squeeze_or_extent_is_refused(options, words):
    with pytest.raises(ConfigurationError, match=words):
        SEConfig.uniform("test_resnet", **options)
    data = SEConfig.uniform("test_resnet").to_dict()
    data["sites"][0] |= options
    with pytest.raises(ConfigurationError, match=words):
        SEConfig.from_dict(data)


def test_windows_are_refused_where_the_trace_knows_no_rows_and_columns():
    """Hiera orders its tokens by units."""
    words = (
        r"r=16, 4×4 windows is impossible at blocks.0.* of hiera_tiny_224: the rows and columns .* reshape in unroll"
    )
    with pytest.raises(ConfigurationError, match=words):
        SEConfig.uniform("hiera_tiny_224", extent=4)
    whole = SEConfig.uniform("hiera_tiny_224")
    with pytest.raises(ConfigurationError, match=words):
        whole.with_site(whole.sites[0], extent=4)
    with pytest.raises(ConfigurationError, match=words):
        SearchSpace("hiera_tiny_224", space_of(extents=("global", 4), ratios=(16,)))
    data = whole.to_dict()
    data["sites"][0]["extent"] = 4
    with pytest.raises(ConfigurationError, match=r"impossible at blocks.0.* of this Hiera"):
        create_model_on_meta(SEConfig.from_dict(data))


def test_images_of_another_aspect_ratio_are_refused_where_only_the_number_of_tokens_is_known():
    """An image of 256×144 has 16×9 tokens, as many as one of 12×12."""
    space = SearchSpace("test_vit", space_of(extents=(2,)))
    space.check_images((3, 32, 32))
    with pytest.raises(ConfigurationError, match=r"2×2 windows is impossible .* with images of 3×256×144"):
        space.check_images((3, 256, 144))
    SearchSpace("test_vit", space_of()).check_images((3, 256, 144))
    SearchSpace("test_resnet", space_of(extents=(2,))).check_images((3, 256, 144))


def space_of(**options):
    return SpaceDefinition(**{"placement": "stage", "ratios": (4, 8), "gates": ("sigmoid",)} | options)


def test_a_space_varies_extents_by_stage_and_squeezes_by_network():
    usual = SearchSpace("test_resnet", space_of())
    assert not any("extent" in name or "squeeze" in name for name in usual.distributions)
    fixed = SearchSpace("test_resnet", space_of(extents=(2,), squeezes=("max",)))
    assert fixed.distributions == usual.distributions
    assert {(one.squeeze, one.extent) for one in fixed.largest().placed} == {("max", 2)}

    space = SearchSpace("test_resnet", space_of(ratios=(4, 16), extents=("global", 4, 1), squeezes=("avg", "max")))
    assert space.distributions["stage2.extent"].choices == ("global", 4, 1)
    assert space.distributions["squeeze"].choices == ("avg", "max")
    for seed in range(10):
        config = space.draw(random.Random(seed))
        assert space.to_config(space.to_parameters(config)) == config
        widened = space.widen(config)
        assert {one.ratio for one in widened.placed} == {4}
        kept = {one.site: (one.squeeze, one.extent) for one in widened.placed}
        assert all(kept[one.site] == (one.squeeze, one.extent) for one in config.placed)
    assert space.known_answers()["uniform r=16"] == SEConfig.uniform("test_resnet")
    assert "uniform r=16" not in space.paper_variants()
    assert space.paper_variants()["uniform r=16, 1×1 windows"] == SEConfig.uniform("test_resnet", extent=1)


def test_every_squeeze_and_extent_is_timed():
    space = SearchSpace("test_resnet", space_of(extents=("global", 2), squeezes=("avg", "max")))
    singles = configurations_to_measure(space, 0)
    known = {term for one in singles for term in count_terms(one)}
    names = {name for _, name in known}
    assert names == {
        f"{term}{scope}"
        for term in ("block", "width")
        for scope in ("", " max squeeze", " 2×2 windows", " max squeeze 2×2 windows")
    }
    assert all(count_terms(space.draw(random.Random(seed))).keys() <= known for seed in range(20))


def test_drawings_and_descriptions_name_squeeze_and_extent():
    config = SEConfig.uniform("test_resnet", 16, stages=[2], squeeze="max", extent=4)
    assert config.placed[0].description.startswith("r=16, max squeeze, 4×4 windows, gate sigmoid")
    assert "r=16, max squeeze, 4×4 windows" in describe_stages(config.to_json(), find_sites("test_resnet"))


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_a_slice_of_the_supernet_is_the_plain_network(backbone):
    space = SearchSpace(backbone, space_of(extents=("global", 2, 1), squeezes=("avg", "max")))
    data = load_data("digits")
    network = Supernet(backbone, space.widest_blocks(), data, TrainingRecipe(1, 64, 0.003), recalibration_images=64)
    with_random_gates(network.model)
    images, outputs = data.validation.tensors[0][:16], []
    for squeeze, extent in (("avg", 2), ("max", 1)):
        config = SEConfig.uniform(backbone, 8, squeeze=squeeze, extent=extent)
        plain = network.network(config)
        with torch.no_grad():
            outputs.append(plain(images))
            torch.testing.assert_close(outputs[-1], network.model(images), rtol=0, atol=1e-5)
    assert not torch.allclose(*outputs)


def mixed(backbone):
    """A configuration with all squeezes and extents."""
    scopes = [("avg", "global"), ("avg", 2), ("max", "global"), ("max", 4), ("avg", 1)]
    sites = find_sites(backbone, position="standard")
    placed = [PlacedSE(site, 4, squeeze=one, extent=two) for site, (one, two) in zip(sites, scopes * 9, strict=False)]
    return SEConfig(backbone, tuple(placed))


LOADS = """
import sys, runpy, torch
images, expected = torch.load("expected.pt")
alone = runpy.run_path("exported/model.py")["load"]("exported")
assert "se_search" not in sys.modules
import timm, se_search
loaded = timm.create_model("local-dir:exported", pretrained=True).eval()
with torch.no_grad():
    assert torch.equal(alone(images), expected)
    assert torch.equal(loaded(images), expected)
    if "pt2" in sys.argv:
        assert torch.allclose(torch.export.load("exported/model.pt2").module()(images), expected, atol=1e-5)
print("equal")
"""


@pytest.mark.parametrize(
    ("backbone", "formats"),
    [pytest.param(name, ("onnx", "pt2"), marks=pytest.mark.slow) for name in BACKBONES],
)
def test_exports_give_equal_outputs_in_a_new_process(backbone, formats, tmp_path):
    torch.manual_seed(0)
    model = with_random_gates(create_model(mixed(backbone), num_classes=5)).eval()
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        torch.save((images, model(images)), tmp_path / "expected.pt")
    export_timm(model, tmp_path / "exported", standalone=True, formats=formats)  # compares with each runtime
    command = [sys.executable, "-c", LOADS, *formats]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout == "equal\n", run.stderr


@pytest.mark.parametrize("backbone", ["test_resnet", pytest.param("test_vit", marks=pytest.mark.slow)])
def test_compiling_and_optimizing_change_no_output(backbone):
    torch.manual_seed(0)
    model = with_random_gates(create_model(mixed(backbone))).eval()
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        expected = model(images)
        compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images), expected)
        optimized = optimize_for_inference(model)(images)
    assert float((optimized - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_gates_of_windows_are_analysed_as_their_mean():
    data, recipe = load_data("digits"), TrainingRecipe(0, 64, 0.0)
    model = with_random_gates(create_model(SEConfig.uniform("test_resnet", 4, extent=2), num_classes=10)).eval()
    blocks, skipped = find_blocks(model, data, recipe, "cpu")
    sites = find_sites("test_resnet", position="standard")
    assert [one.channels for one in blocks] == [site.channels for site in sites]
    assert not skipped
    gates, seen = find_gates(model), []
    first = blocks[0].module
    handle = gates[first].register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    values, _ = read_gates(model, gates, data.validation, recipe, "cpu")
    handle.remove()
    windows = torch.cat(seen).double().flatten(2)
    assert windows.shape[2] > 1
    torch.testing.assert_close(torch.from_numpy(values[first]).double(), windows.sum(2) / windows.shape[2])
    means = mean_gates(model, gates, data.validation, recipe, "cpu")
    assert means[first] == pytest.approx(windows.mean((0, 2)).numpy())
    with replaced_gates({first: gates[first]}, means):
        x = torch.randn(2, blocks[0].channels, 4, 6)
        expected = x * torch.from_numpy(means[first]).float()[:, None, None]
        torch.testing.assert_close(model.get_submodule(first)(x), expected)
