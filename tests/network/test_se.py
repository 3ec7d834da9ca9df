"""SE blocks against the paper's equations and timm's own module."""

import copy
import math

import pytest
import torch
from timm.layers import SEModule

from se_search.errors import ConfigurationError
from se_search.network.attention.gates import GATES
from se_search.network.attention.kind import LAYOUTS
from se_search.network.attention.se import hidden_channels
from se_search.network.attention.se_layers import ElasticSE, create_se_block

GATE_FUNCTIONS = {
    "sigmoid": lambda z: 1 / (1 + torch.exp(-z)),
    "hard_sigmoid": lambda z: torch.clamp(z + 3, 0, 6) / 6,  # MobileNetV3, section 5.2
    "tanh": lambda z: (torch.exp(2 * z) - 1) / (torch.exp(2 * z) + 1),
    "relu": lambda z: torch.where(z > 0, z, torch.zeros(())),
}


def by_the_equations(block, x, gate):
    """Equations 2 to 4 of the SENet paper in matrix form."""
    squeezed = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    w1, w2 = (layer.weight.flatten(1) for layer in (block.fc1, block.fc2))
    hidden = squeezed @ w1.T + (0 if block.fc1.bias is None else block.fc1.bias)
    hidden = torch.where(hidden > 0, hidden, torch.zeros(()))
    z = hidden @ w2.T + (0 if block.fc2.bias is None else block.fc2.bias)
    return x * GATE_FUNCTIONS[gate](z)[:, :, None, None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gate", GATES)
def test_the_block_computes_the_papers_equations(gate, bias):
    torch.manual_seed(0)
    block = create_se_block(48, 4, gate, bias)
    x = torch.randn(3, 48, 5, 7)
    torch.testing.assert_close(block(x), by_the_equations(block, x, gate))
    assert (block.fc1.bias is not None) == bias


def test_a_block_of_usual_layout_is_timms_own_with_biases_and_a_sigmoid():
    block = create_se_block(64, 16)
    assert type(block) is SEModule
    ours, timms = (
        {name: value.shape for name, value in one.state_dict().items()}
        for one in (block, SEModule(64, rd_ratio=1 / 16))
    )
    assert ours == timms
    x = torch.randn(2, 64, 3, 3)
    torch.testing.assert_close(block(x), by_the_equations(block, x, "sigmoid"))


def laid_out(x, layout):
    """Convert a tensor ``(N, C, H, W)`` to another layout, tokens in row-major order."""
    return {
        "NCHW": x,
        "NHWC": x.permute(0, 2, 3, 1),
        "NCL": x.flatten(2),
        "NLC": x.flatten(2).transpose(1, 2),
    }[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_of_dimensions_does_not_change_what_a_block_computes(layout):
    torch.manual_seed(0)
    block = create_se_block(8, 2, rounding=1, layout=layout)
    elastic = ElasticSE(8, 4, layout=layout)
    elastic.load_state_dict(block.state_dict())
    elastic.select(4)
    x = torch.randn(3, 8, 5, 7)
    expected = laid_out(by_the_equations(block, x, "sigmoid"), layout)
    torch.testing.assert_close(block(laid_out(x, layout)), expected)
    torch.testing.assert_close(elastic(laid_out(x, layout)), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gate", GATES)
def test_a_block_that_starts_at_identity_returns_its_input_however_large_and_learns(gate, bias):
    torch.manual_seed(0)
    block = create_se_block(16, 4, gate, bias, start="identity")
    for size in (1.0, 1e6):
        x = size * torch.randn(2, 16, 3, 3)
        torch.testing.assert_close(block(x), x, rtol=1e-6, atol=0)
    block(x).square().sum().backward()
    assert block.fc1.weight.grad.abs().sum() > 0
    assert block.fc2.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("create", [lambda: create_se_block(1024, 16), lambda: ElasticSE(1024, 64)])
def test_layers_start_as_he_et_al_derived_for_relu_from_the_width_behind_them(create):
    torch.manual_seed(0)
    block = create()
    # He et al. 2015, equation 14: a variance of 2 over the fan out; of 65,536 draws the deviation is known to 0.3 %.
    assert float(block.fc1.weight.detach().std()) == pytest.approx(math.sqrt(2 / 64), rel=0.02)
    assert float(block.fc2.weight.detach().std()) == pytest.approx(math.sqrt(2 / 1024), rel=0.02)


@pytest.mark.parametrize(("option", "known"), [("layout", "NCHW, NHWC, NLC, NCL"), ("start", "paper, identity")])
def test_an_unknown_layout_or_start_is_refused_with_the_known_ones(option, known):
    with pytest.raises(ConfigurationError, match=f"{option} 'else' is unknown: choose one of {known}"):
        create_se_block(64, 16, **{option: "else"})


@pytest.mark.parametrize("channels", [8, 64, 96, 256, 320, 2048])
@pytest.mark.parametrize("ratio", [1, 2, 4, 8, 16, 32, 64])
def test_rounding_8_gives_the_width_of_timms_module(channels, ratio):
    assert hidden_channels(channels, ratio) == SEModule(channels, rd_ratio=1 / ratio).fc1.out_channels


@pytest.mark.parametrize(("channels", "ratio", "width"), [(64, 16, 4), (64, 3, 21), (10, 4, 3), (8, 64, 1), (7, 1, 7)])
def test_rounding_1_gives_the_nearest_integer_and_at_least_1(channels, ratio, width):
    assert hidden_channels(channels, ratio, rounding=1) == width


@pytest.mark.parametrize("channels", [7, 20, 64, 96, 100, 2048])
@pytest.mark.parametrize("ratio", [1, 2, 3, 8, 16, 40])
def test_rounding_1_rounds_halves_up(channels, ratio):
    assert hidden_channels(channels, ratio, rounding=1) == max(1, (2 * channels + ratio) // (2 * ratio))


def test_a_ratio_of_one_leaves_the_width():
    assert create_se_block(24, 1, rounding=1).fc1.weight.shape == (24, 24, 1, 1)


@pytest.mark.parametrize("ratio", [0, -1, 1.5, 16.0, True, "16", None])
def test_an_impossible_ratio_is_refused(ratio):
    with pytest.raises(ConfigurationError, match="integer of at least 1"):
        create_se_block(64, ratio)


@pytest.mark.parametrize("gate", ["sigmoyd", "", None, 3])
def test_an_unknown_gate_is_refused_with_the_known_ones(gate):
    with pytest.raises(ConfigurationError, match="sigmoid, hard_sigmoid, tanh, relu"):
        create_se_block(64, 16, gate)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("ratio", "gate"), [(2, "sigmoid"), (4, "tanh"), (8, "relu"), (16, "hard_sigmoid")])
def test_leading_units_of_an_elastic_block_are_a_plain_block(ratio, gate, bias):
    torch.manual_seed(0)
    elastic = ElasticSE(64, hidden_channels(64, 2, 1), bias)
    plain = create_se_block(64, ratio, gate, bias, rounding=1)
    width = hidden_channels(64, ratio, 1)
    plain.load_state_dict(elastic.slice_state(width))
    elastic.select(width, gate)
    x = torch.randn(2, 64, 6, 6)
    torch.testing.assert_close(elastic(x), plain(x), rtol=0, atol=1e-6)

    elastic(x).square().sum().backward()
    assert elastic.fc1.weight.grad[:width].abs().sum() > 0
    assert elastic.fc1.weight.grad[width:].abs().sum() == 0
    assert elastic.fc2.weight.grad[:, width:].abs().sum() == 0
    if bias:
        assert elastic.fc1.bias.grad[:width].abs().sum() > 0
        assert elastic.fc1.bias.grad[width:].abs().sum() == 0


def test_an_elastic_block_that_is_off_returns_its_input():
    elastic = ElasticSE(16, 8)
    x = torch.randn(1, 16, 2, 2)
    elastic.select(4)
    assert not torch.equal(elastic(x), x)
    elastic.select(None)
    assert elastic(x) is x


def test_an_elastic_block_begins_switched_off_and_with_biases():
    elastic = ElasticSE(16, 8)
    x = torch.randn(1, 16, 2, 2)
    assert elastic(x) is x
    assert elastic.state_dict().keys() == create_se_block(16, 2).state_dict().keys()


def test_an_elastic_block_uses_the_backbones_own_attention_until_another_width_is_selected():
    torch.manual_seed(0)
    own = SEModule(16)
    elastic = ElasticSE(16, 8, kept=own)
    x = torch.randn(1, 16, 2, 2)
    assert elastic(x) is x
    elastic.select(4)
    alone = copy.deepcopy(elastic)
    alone.kept = None
    for _ in range(2):
        elastic.keep()
        assert torch.equal(elastic(x), own(x))
        elastic.select(4)
        assert torch.equal(elastic(x), alone(x))


def test_an_elastic_block_keeps_no_attention_where_there_is_none():
    elastic = ElasticSE(16, 8)
    with pytest.raises(ConfigurationError, match="none to keep"):
        elastic.keep()
    x = torch.randn(1, 16, 2, 2)
    assert elastic(x) is x


def test_the_state_of_a_slice_is_a_copy():
    elastic = ElasticSE(16, 8)
    state = elastic.slice_state(8)
    for value in state.values():
        value.zero_()
    assert all(elastic.state_dict()[name].any() for name in ("fc1.weight", "fc2.weight"))
    assert not any(value.requires_grad for value in state.values())


@pytest.mark.parametrize("width", [1, 8])
def test_an_elastic_block_has_every_width_up_to_its_widest(width):
    elastic = ElasticSE(16, 8)
    elastic.select(width, "relu")
    assert elastic.active_hidden == width


@pytest.mark.parametrize("width", [0, 9])
def test_an_elastic_block_has_no_other_widths(width):
    with pytest.raises(ConfigurationError, match="8 hidden units"):
        ElasticSE(16, 8).select(width)


@pytest.mark.parametrize("selection", [(9, "relu"), (2, "softmax"), (2, "relu", "mean")])
def test_a_refused_selection_leaves_the_elastic_block_as_it_was(selection):
    elastic = ElasticSE(16, 8)
    elastic.select(4, "tanh")
    x = torch.randn(1, 16, 2, 2)
    before = elastic(x)
    with pytest.raises(ConfigurationError):
        elastic.select(*selection)
    assert torch.equal(elastic(x), before)
