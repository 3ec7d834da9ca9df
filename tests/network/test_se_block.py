"""SE blocks against the paper's equations and timm's own module."""

import pytest
import torch
from timm.layers import SEModule

from se_search.errors import ConfigurationError
from se_search.network.se_block import GATES, ElasticSE, create_se_block, hidden_channels

GATE_FUNCTIONS = {
    "sigmoid": lambda z: 1 / (1 + torch.exp(-z)),
    "hard_sigmoid": lambda z: torch.clamp(z + 3, 0, 6) / 6,  # MobileNetV3, section 5.2
    "tanh": lambda z: (torch.exp(2 * z) - 1) / (torch.exp(2 * z) + 1),
    "relu": lambda z: torch.where(z > 0, z, torch.zeros(())),
}


def by_the_equations(block, x, gate):
    """Equations 2 to 4 of the SENet paper, written with matrices."""
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


def test_every_gate_has_an_independent_function():
    assert set(GATES) == set(GATE_FUNCTIONS)


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


@pytest.mark.parametrize("width", [0, 9])
def test_an_elastic_block_has_no_other_widths(width):
    with pytest.raises(ConfigurationError, match="8 hidden units"):
        ElasticSE(16, 8).select(width)


@pytest.mark.parametrize(("width", "gate"), [(9, "relu"), (2, "softmax")])
def test_a_refused_selection_leaves_the_elastic_block_as_it_was(width, gate):
    elastic = ElasticSE(16, 8)
    elastic.select(4, "tanh")
    x = torch.randn(1, 16, 2, 2)
    before = elastic(x)
    with pytest.raises(ConfigurationError):
        elastic.select(width, gate)
    assert torch.equal(elastic(x), before)
