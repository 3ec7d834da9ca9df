"""Blocks of each kind at a site made up here: costs by hand, words, calls, and outputs of elastic modules."""

import itertools
from fractions import Fraction

import pytest
import torch
from torch import nn

from se_search.errors import ConfigurationError
from se_search.network.attention.eca import PUBLISHED, ECAChoices, PlacedECA
from se_search.network.attention.grid import Grid
from se_search.network.attention.local import LocalChoices, PlacedLocal
from se_search.network.attention.se import PlacedSE, SEChoices
from se_search.network.sites import Site


def site(layout="NCHW", channels=96, grid=None):
    """A site; the channels are the second, third or last dimension."""
    return Site("layer1.0", 2, "standard", channels, layout, grid or Grid(0, 9, 7))


HERE = site()
ELEMENTS = 96 * 9 * 7
TOKENS = site("NLC", 6, Grid(2, 5, 7))


def test_a_block_has_the_papers_values_by_default():
    assert PlacedSE(HERE) == PlacedSE(HERE, 16, "sigmoid", True, 8, "paper", "avg", "global")
    assert PlacedECA(HERE) == PlacedECA(HERE, "published", "sigmoid", "paper")
    assert PlacedLocal(HERE) == PlacedLocal(HERE, 3, True, "paper")


@pytest.mark.parametrize(
    ("block", "parameters", "formula", "flops"),
    [
        # 96 channels and a hidden layer of 8: 6 rounded as timm does.
        (PlacedSE(HERE), 2 * 96 * 8 + 8 + 96, 2 * 96**2 // 16, 2 * ELEMENTS + 2 * 96 * 8),
        (PlacedSE(HERE, rounding=1, bias=False), 2 * 96 * 6, 1152, 2 * ELEMENTS + 2 * 96 * 6),
        (PlacedSE(HERE, 5, rounding=1, bias=False), 2 * 96 * 19, Fraction(18432, 5), 2 * ELEMENTS + 2 * 96 * 19),
        (PlacedSE(HERE, start="identity"), 1640, 1152, 2 * ELEMENTS + 2 * 96 * 8 + 96),
        # Three by two windows; each has its own gate.
        (PlacedSE(HERE, extent=4), 1640, 1152, 2 * ELEMENTS + 6 * (2 * 96 * 8)),
        (PlacedSE(HERE, extent=4, start="identity"), 1640, 1152, 2 * ELEMENTS + 6 * (2 * 96 * 8 + 96)),
        # Windows of one position need no squeeze.
        (PlacedSE(HERE, extent=1), 1640, 1152, ELEMENTS + 63 * (2 * 96 * 8)),
        # log2(96) / 2 + 1 / 2 is 3.8; the nearest odd number is 3.
        (PlacedECA(HERE), 3, 3, 2 * ELEMENTS + 3 * 96),
        (PlacedECA(HERE, 7, start="identity"), 7, 7, 2 * ELEMENTS + 7 * 96 + 96),
        (PlacedLocal(HERE), 9 * 96 + 96, 9 * 96, 9 * ELEMENTS),
        (PlacedLocal(HERE, 5, bias=False), 25 * 96, 25 * 96, 25 * ELEMENTS),
    ],
)
def test_parameters_and_flops_are_those_by_hand(block, parameters, formula, flops):
    assert block.parameters == parameters == sum(one.numel() for one in block.create().parameters())
    assert block.formula_parameters == formula
    assert block.flops(ELEMENTS) == flops


def test_what_does_not_see_the_class_token_does_not_compute_with_it():
    elements = 6 * (2 + 35)
    assert PlacedLocal(TOKENS, 3).flops(elements) == 9 * 6 * 35
    assert PlacedSE(TOKENS, 1, rounding=1, extent=1).flops(elements) == 6 * 35 + 35 * (2 * 6 * 6)
    unknown = Site("layer1.0", 2, "standard", 6, "NLC")
    assert PlacedLocal(unknown, 3).flops(elements) == 9 * elements
    with pytest.raises(ConfigurationError, match=r"rows and columns at layer1.0 \(standard\) are unknown"):
        PlacedSE(unknown, extent=2).flops(elements)


@pytest.mark.parametrize(
    ("block", "terms"),
    [
        (PlacedSE(HERE), {"block": 1.0, "width": 8 / 96}),
        (PlacedSE(HERE, 2, "tanh", squeeze="max"), {"block max squeeze": 1.0, "width max squeeze": 0.5}),
        (PlacedSE(HERE, 4, extent=2), {"block 2×2 windows": 1.0, "width 2×2 windows": 0.25}),
        (PlacedECA(HERE, 9), {"eca": 1.0}),
        (PlacedLocal(HERE, 5), {"local": 1.0, "local taps": 25.0}),
    ],
)
def test_the_latency_has_a_term_for_the_block_and_one_for_its_size(block, terms):
    assert block.latency_terms() == terms


@pytest.mark.parametrize(
    ("block", "label", "description", "call"),
    [
        (
            PlacedSE(HERE),
            "r=16",
            "r=16, gate sigmoid, position standard",
            "SqueezeExcite(96, 8, 'sigmoid')",
        ),
        (
            PlacedSE(site("NHWC"), 4, "relu", False, 1, "identity", "max"),
            "r=4, max squeeze",
            "r=4, max squeeze, gate relu, position standard, no biases, hidden width a multiple of 1, identity start",
            "SqueezeExcite(96, 24, 'relu', bias=False, channel_axis=3, shift=1.0, factor=1.0, squeeze='max')",
        ),
        (
            PlacedSE(HERE, extent=4),
            "r=16, 4×4 windows",
            "r=16, 4×4 windows, gate sigmoid, position standard",
            "SqueezeExcite(96, 8, 'sigmoid', extent=4)",
        ),
        (
            PlacedSE(TOKENS, 1, rounding=2, extent=1),
            "r=1, 1×1 windows",
            "r=1, 1×1 windows, gate sigmoid, position standard, hidden width a multiple of 2",
            "SqueezeExcite(6, 6, 'sigmoid', channel_axis=2, extent=1, grid=(2, 5, 7))",
        ),
        (
            PlacedSE(TOKENS, 1, rounding=8),
            "r=1",
            "r=1, gate sigmoid, position standard",
            "SqueezeExcite(6, 8, 'sigmoid', channel_axis=2)",
        ),
        (
            PlacedECA(HERE),
            "ECA",
            "ECA k=3, gate sigmoid, position standard",
            "EfficientChannelAttention(3, 'sigmoid')",
        ),
        (
            PlacedECA(TOKENS, 5, "relu", "identity"),
            "ECA k=5",
            "ECA k=5, gate relu, position standard, identity start",
            "EfficientChannelAttention(5, 'relu', channel_axis=2, shift=1.0, factor=1.0)",
        ),
        (
            PlacedLocal(HERE),
            "local 3×3",
            "local 3×3, position standard",
            "LocalConvolution(96, 3)",
        ),
        (
            PlacedLocal(TOKENS, 5, False),
            "local 5×5",
            "local 5×5, position standard, no biases",
            "LocalConvolution(6, 5, bias=False, layout='NLC', prefix=2, grid=(5, 7))",
        ),
        (
            PlacedLocal(site("NHWC"), start="identity"),
            "local 3×3",
            "local 3×3, position standard",
            "LocalConvolution(96, 3, layout='NHWC')",
        ),
    ],
)
def test_words_and_calls_leave_out_what_is_usual(block, label, description, call):
    assert block.label == label
    assert block.description == description
    assert block.standalone_call() == call


@pytest.mark.parametrize(
    "blocks",
    [
        [PlacedSE(HERE, ratio) for ratio in (2, 4, 8, 16, 32)],
        [PlacedECA(HERE, kernel) for kernel in (9, 7, 5, 3)],
        [PlacedLocal(HERE, kernel) for kernel in (5, 3)],
    ],
)
def test_a_block_of_fewer_parameters_has_a_larger_rank(blocks):
    ranks = [block.rank for block in blocks]
    assert all(type(rank) is int and rank >= 1 for rank in ranks)
    assert ranks == sorted(set(ranks))
    assert [block.parameters for block in blocks] == sorted((block.parameters for block in blocks), reverse=True)


@pytest.mark.parametrize("kind", [PlacedSE, PlacedECA, PlacedLocal])
def test_blocks_are_ordered_by_site_and_options_and_can_be_keys(kind):
    sizes = (5, 3) if kind is not PlacedSE else (16, 4)
    other = Site("layer2.0", 3, "standard", 96, "NCHW")
    blocks = [kind(one, size) for one, size in itertools.product((other, HERE), sizes)]
    assert sorted(blocks) == blocks[::-1]
    assert len({*blocks, *(kind(one.site, size) for one in blocks for size in sizes)}) == 4


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PlacedSE, {"ratio": 0}),
        (PlacedSE, {"ratio": True}),
        (PlacedSE, {"gate": "softmax"}),
        (PlacedSE, {"bias": 1}),
        (PlacedSE, {"start": "zero"}),
        (PlacedSE, {"squeeze": "mean"}),
        *((PlacedSE, {"rounding": value}) for value in (0, 1025, True, 8.0, "8")),
        *((PlacedSE, {"extent": value}) for value in (0, 3, 5, 7, 9, "8")),
        *((PlacedECA, {"kernel": value}) for value in (1, 2, 4, 6, 8, 10)),
        (PlacedECA, {"gate": "softmax"}),
        (PlacedECA, {"start": "zero"}),
        *((PlacedLocal, {"kernel": value}) for value in (1, 2, 4, 6, 7)),
        (PlacedLocal, {"bias": None}),
        (PlacedLocal, {"start": "zero"}),
    ],
)
def test_an_invalid_option_is_refused_with_its_value(kind, options):
    ((name, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"{name}.* {value!r} is (invalid|unknown)"):
        kind(HERE, **options)


def test_every_valid_end_is_accepted():
    assert [PlacedSE(HERE, rounding=rounding).hidden for rounding in (1, 1024)] == [6, 1024]
    assert [PlacedSE(HERE, extent=extent).side for extent in ("global", 8, 4, 2, 1)] == [None, 8, 4, 2, 1]
    assert [PlacedECA(HERE, kernel).size for kernel in (PUBLISHED, 3, 5, 7, 9)] == [3, 3, 5, 7, 9]
    assert PlacedSE(HERE, 1).hidden == 96


@pytest.mark.parametrize(
    ("extent", "grids", "simplest"),
    [
        ("global", [Grid(1, 2, 2)], "global"),
        (8, [Grid(0, 8, 5)], "global"),
        (8, [Grid(0, 9, 5)], 8),
        (8, [Grid(0, 5, 9)], 8),
        (8, [Grid(0, 3, 3), Grid(0, 9, 9)], 8),
        (4, [Grid(0, 2, 2), Grid(0, 4, 4)], "global"),
        (1, [Grid(0, 1, 1)], "global"),
        # A class token is not scaled by a window but by a global block.
        (8, [Grid(1, 3, 3)], 4),
        (8, [Grid(1, 4, 2)], 4),
        (8, [Grid(1, 5, 4)], 8),
        (8, [Grid(0, 2, 2), Grid(1, 2, 2)], 2),
        (4, [Grid(2, 5, 5)], 4),
        (2, [], 2),
    ],
)
def test_a_window_that_holds_every_map_is_the_whole_map_or_the_smallest_such_window(extent, grids, simplest):
    assert PlacedSE(HERE, 4, "tanh", extent=extent).simplest_on(grids) == PlacedSE(HERE, 4, "tanh", extent=simplest)


def test_only_windows_and_convolutions_are_local_and_need_rows_and_columns():
    for block, local in (
        (PlacedSE(HERE), False),
        (PlacedSE(HERE, extent=1), True),
        (PlacedECA(HERE), False),
        (PlacedLocal(HERE), True),
    ):
        assert (block.is_local, block.needs_grid) == (local, local)


def test_blocks_that_create_the_same_module_have_one_structure_and_others_another():
    assert PlacedSE(HERE, 12).structure == PlacedSE(HERE, 16).structure  # both round to 8
    assert PlacedECA(HERE, 3).structure == PlacedECA(HERE).structure
    assert PlacedLocal(HERE, start="identity").structure == PlacedLocal(HERE).structure
    different = [
        PlacedSE(HERE),
        PlacedSE(HERE, 2),
        PlacedSE(HERE, gate="tanh"),
        PlacedSE(HERE, bias=False),
        PlacedSE(HERE, squeeze="max"),
        PlacedSE(HERE, extent=4),
        PlacedSE(HERE).at_identity(),
        PlacedECA(HERE),
        PlacedECA(HERE, 5),
        PlacedECA(HERE, gate="tanh"),
        PlacedECA(HERE).at_identity(),
        PlacedLocal(HERE),
        PlacedLocal(HERE, 5),
        PlacedLocal(HERE, bias=False),
    ]
    assert len({block.structure for block in different}) == len(different)


def randomised(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


@pytest.mark.parametrize("layout", ["NCHW", "NLC"])
@pytest.mark.parametrize(
    ("widest", "options"),
    [
        (lambda here: PlacedSE(here, 1, rounding=1), {"ratio": 3, "gate": "tanh", "squeeze": "max", "extent": 2}),
        (lambda here: PlacedSE(here, 2, rounding=1, bias=False), {"ratio": 2}),
        (lambda here: PlacedECA(here, 9), {"kernel": 5, "gate": "tanh"}),
        (lambda here: PlacedLocal(here, 5), {"kernel": 3}),
        (lambda here: PlacedLocal(here, 3, bias=False), {}),
    ],
)
def test_an_elastic_module_switches_between_narrower_blocks_and_the_kept_module(widest, options, layout):
    torch.manual_seed(0)
    here = site(layout, 12, Grid(0 if layout == "NCHW" else 1, 3, 4))
    x = torch.randn(2, 12, 3, 4) if layout == "NCHW" else torch.randn(2, 13, 12)
    block = widest(here)
    kept = nn.Tanh()
    elastic = randomised(block.create_elastic(kept))
    elastic.keep()
    assert torch.equal(elastic(x), x.tanh())
    for one in (block, type(block)(**{**vars(block), **options})):
        plain = one.create()
        plain.load_state_dict(one.slice_of(elastic))
        one.select_in(elastic)
        torch.testing.assert_close(elastic(x), plain(x))
        assert not torch.allclose(plain(x), x)


@pytest.mark.parametrize("block", [PlacedSE(TOKENS, 2, extent=2), PlacedECA(TOKENS, gate="tanh"), PlacedLocal(TOKENS)])
def test_a_block_at_identity_and_its_elastic_module_return_their_input(block):
    block, x = block.at_identity(), torch.randn(2, 37, 6)
    elastic = block.create_elastic()
    block.select_in(elastic)
    torch.testing.assert_close(block.create()(x), x)
    torch.testing.assert_close(elastic(x), x)
    assert elastic.kept is None


def test_an_elastic_eca_block_has_the_published_kernel_even_if_a_smaller_one_is_its_widest():
    large = site(channels=512)
    for widest in (PlacedECA(large, 3), PlacedECA(large)):
        assert widest.create_elastic().conv.weight.shape == (1, 1, 5)  # log2(512) / 2 + 1 / 2 is 5
    assert PlacedECA(large, 9).create_elastic().conv.weight.shape == (1, 1, 9)


def test_a_space_of_se_blocks_varies_what_has_several_values_and_fixes_the_rest():
    few = SEChoices(ratios=(8, 2, 32), gates=("tanh",))
    assert few.per_stage == {"ratio": (8, 2, 32)}
    assert few.per_network == {"gate": ("tanh",)}
    assert few.fixed == {"bias": True, "rounding": 8, "squeeze": "avg", "extent": "global"}
    assert few.timed == tuple({"ratio": ratio, "squeeze": "avg", "extent": "global"} for ratio in (2, 32))
    options = {"bias": False, "rounding": 1, "squeezes": ("avg", "max"), "extents": ("global", 4)}
    many = SEChoices(ratios=(4,), gates=("tanh", "relu"), **options)
    assert many.per_stage == {"ratio": (4,), "extent": ("global", 4)}
    assert many.per_network == {"gate": ("tanh", "relu"), "squeeze": ("avg", "max")}
    assert many.fixed == {"bias": False, "rounding": 1}
    assert {tuple(one.values()) for one in many.timed} == set(itertools.product((4,), ("avg", "max"), ("global", 4)))
    assert len(many.timed) == 4
    assert (few.widest, few.narrowest) == ({"ratio": 2}, {"ratio": 32})
    local = SEChoices(ratios=(4,), gates=("tanh",), squeezes=("max",), extents=(2,)).fixed
    assert local == {"bias": True, "rounding": 8, "squeeze": "max", "extent": 2}


def test_spaces_of_other_kinds_vary_the_kernel():
    eca = ECAChoices(kernels=(5, PUBLISHED, 9, 3), gates=("tanh", "relu"))
    assert (eca.per_stage, eca.per_network) == ({"kernel": (5, PUBLISHED, 9, 3)}, {"gate": ("tanh", "relu")})
    assert (eca.widest, eca.narrowest) == ({"kernel": 9}, {"kernel": 3})
    published = ECAChoices(kernels=(PUBLISHED,))
    assert published.widest == published.narrowest == {"kernel": PUBLISHED}
    assert published.per_network == {"gate": ("sigmoid",)}
    local = LocalChoices(kernels=(3, 5), bias=False)
    assert (local.per_stage, local.fixed) == ({"kernel": (3, 5)}, {"bias": False})
    assert (local.widest, local.narrowest) == ({"kernel": 5}, {"kernel": 3})
    assert LocalChoices() == LocalChoices(kernels=(3,), bias=True)


def test_the_published_networks_are_those_of_the_papers():
    """SE with r=16 for the whole map, ECA with its kernel from the channels, PEG and CPE with 3×3."""
    assert SEChoices.published == {"ratio": 16, "squeeze": "avg", "extent": "global"}
    assert ECAChoices.published == {"kernel": PUBLISHED}
    assert LocalChoices.published == {"kernel": 3}
