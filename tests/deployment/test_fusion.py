"""Kernels for a GPU: where they come in, what stands in their way, and what they compute.

Without a GPU the modules compute with PyTorch's operations, and Triton's interpreter runs the kernels.
"""

import os
import subprocess
import sys

import pytest
import torch
from networks import Tail, bare_network
from torch import nn

from se_search import SEConfig, insert, optimize_for_inference
from se_search.deployment import fusion
from se_search.deployment.layers import ScaleAddReLU, SqueezeExcite

TOLERANCE = 1e-5


@pytest.fixture
def with_kernels(monkeypatch):
    monkeypatch.setattr(fusion, "_has_kernels", lambda device: True)


def fused(model, kind=ScaleAddReLU):
    return sum(isinstance(module, kind) for module in model.modules())


def assert_equal_outputs(optimized, model, size):
    images = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(2):  # the second pass would find what the first one wrote to
            expected = model(images.clone())
            assert (optimized(images.clone()) - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.fixture(scope="module")
def searched():
    """``resnet10t`` has four blocks; each ends with the sum of its branches and ReLU."""
    torch.manual_seed(0)
    model = insert(bare_network("resnet10t"), SEConfig.uniform("resnet10t", 4)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("fc2.weight"):
            nn.init.normal_(parameter, std=0.3)
    return model


def operations(model):
    return [str(node.target) for node in model.graph.nodes if node.op == "call_function"]


def test_each_block_is_one_module_with_its_sum_and_activation(searched, with_kernels):
    optimized = optimize_for_inference(searched, (3, 64, 64), cuda_graph=True)
    assert (fused(optimized, SqueezeExcite), fused(optimized)) == (4, 0)
    assert not {"aten.mean.dim", "aten.mul.Tensor", "aten.add.Tensor"} & set(operations(optimized))
    assert_equal_outputs(optimized, searched, (3, 64, 64))
    again = optimize_for_inference(optimized)
    assert_equal_outputs(again, searched, (3, 64, 64))


def test_the_bare_network_is_fused_in_the_same_way(with_kernels):
    bare = bare_network("resnet10t").eval()
    optimized = optimize_for_inference(bare, (3, 64, 64), cuda_graph=True)
    assert fused(optimized) == 4
    assert_equal_outputs(optimized, bare, (3, 64, 64))


def test_on_a_cpu_and_without_a_graph_nothing_is_fused(searched, monkeypatch):
    optimized = optimize_for_inference(searched, (3, 64, 64), cuda_graph=True)
    assert (fused(optimized), fused(optimized, SqueezeExcite)) == (0, 0)
    monkeypatch.setattr(fusion, "_has_kernels", lambda device: True)
    optimized = optimize_for_inference(searched, (3, 64, 64))
    assert (fused(optimized), fused(optimized, SqueezeExcite)) == (0, 0)


def test_blocks_with_the_channels_last_are_one_module_too(with_kernels):
    config = SEConfig.uniform("test_convnext", 4)
    model = insert(bare_network("test_convnext"), config).eval()
    optimized = optimize_for_inference(model, (3, 64, 64), cuda_graph=True)
    assert fused(optimized, SqueezeExcite) == len(config.sites) > 0
    assert "aten.mul.Tensor" not in operations(optimized)
    assert_equal_outputs(optimized, model, (3, 64, 64))


class AddsInPlace(Tail):
    def combine(self, x, other, gate):
        x = x * gate
        x += other
        return x.relu_()


class AddsTheProductToTheShortcut(Tail):
    def combine(self, x, other, gate):
        return (other + gate * x).relu()


@pytest.mark.parametrize("kind", [AddsInPlace, AddsTheProductToTheShortcut])
def test_the_order_of_the_operands_does_not_matter(kind, with_kernels):
    model = kind().eval()
    optimized = optimize_for_inference(model, (4, 6, 6), cuda_graph=True)
    assert fused(optimized) == 1
    assert "mul" not in " ".join(str(node.target) for node in optimized.graph.nodes)
    assert_equal_outputs(optimized, model, (4, 6, 6))


class ReadsTheSum(Tail):
    def combine(self, x, other, gate):
        x = x * gate + other
        return x.relu() + x


class AddsHalf(Tail):
    def combine(self, x, other, gate):
        return torch.add(x * gate, other, alpha=0.5).relu()


class AddsAVector(Tail):
    def combine(self, x, other, gate):
        return (x * gate + other.mean((2, 3), keepdim=True)).relu()


class ReadsTheShortcutThatWasWrittenTo(Tail):
    def combine(self, x, other, gate):
        return other.add_(x).relu() + other


class AddsToAView(Tail):
    def combine(self, x, other, gate):
        view = x.view(x.shape)
        return view.add_(other).relu() * x


class WritesToTheShortcutBeforeTheActivation(Tail):
    def combine(self, x, other, gate):
        total = x * gate + other
        other.zero_()
        return total.relu() + other


class WritesToTheGateBeforeTheSum(Tail):
    def combine(self, x, other, gate):
        scaled = x * gate
        gate.zero_()
        return (scaled + other).relu() + gate


@pytest.mark.parametrize(
    "kind",
    [
        ReadsTheSum,
        AddsHalf,
        AddsAVector,
        ReadsTheShortcutThatWasWrittenTo,
        AddsToAView,
        WritesToTheShortcutBeforeTheActivation,
        WritesToTheGateBeforeTheSum,
    ],
)
def test_what_stands_in_the_way_is_respected(kind, with_kernels):
    model = kind().eval()
    optimized = optimize_for_inference(model, (4, 6, 6), cuda_graph=True)
    assert fused(optimized) == 0
    assert_equal_outputs(optimized, model, (4, 6, 6))


class Block(Tail):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def gate(self, x):
        return self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()

    def combine(self, x, other, gate):
        return (other + x * self.gate(other)).relu()


class WithoutActivation(Block):
    def combine(self, x, other, gate):
        return x * self.gate(x) + other


class ScalesAlone(Block):
    def combine(self, x, other, gate):
        return x * self.gate(x)


class ReadsItsGate(Block):
    def combine(self, x, other, gate):
        gate = self.gate(x)
        return (x * gate + other).relu() + gate


class WritesToWhatItSqueezed(Block):
    def combine(self, x, other, gate):
        scaled = other * self.gate(x)
        x.zero_()
        return (scaled + other).relu() + x


class WritesToItsShortcutBeforeTheActivation(Block):
    def combine(self, x, other, gate):
        total = x * self.gate(x) + other
        other.zero_()
        return total.relu() + other


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [
        (Block, 1),
        (WithoutActivation, 1),
        (ScalesAlone, 1),
        (ReadsItsGate, 0),
        (WritesToWhatItSqueezed, 0),
        (WritesToItsShortcutBeforeTheActivation, 0),
    ],
)
def test_a_block_is_fused_if_nothing_reads_or_writes_in_between(kind, blocks, with_kernels):
    model = kind().eval()
    optimized = optimize_for_inference(model, (4, 6, 6), cuda_graph=True)
    assert fused(optimized, SqueezeExcite) == blocks
    assert_equal_outputs(optimized, model, (4, 6, 6))


FORMULAS = """
import torch
from se_search.deployment import kernels, layers
from se_search.deployment.kernels import scale_add_relu
from se_search.deployment.layers import PooledLinear, SqueezeExcite

torch.manual_seed(0)
for memory_format in (torch.contiguous_format, torch.channels_last):
    x, other = (torch.randn(3, 5, 7, 11).to(memory_format=memory_format) for _ in range(2))
    for gate in (torch.rand(3, 5, 1, 1), None):
        out = scale_add_relu(x, gate, other)
        assert torch.allclose(out, torch.relu(x * (1 if gate is None else gate) + other), rtol=1e-6, atol=1e-6)
        assert out.stride() == x.stride()

def check(images, inputs, hidden, outputs, size, axis, memory_format, biased, added, activated):
    x, other = (torch.randn(images, outputs, *size).to(memory_format=memory_format) for _ in range(2))
    source = torch.randn(images, inputs, *size).to(memory_format=memory_format)
    if axis != 1:
        source, x, other = (one.to(memory_format=torch.channels_last).permute(0, 2, 3, 1) for one in (source, x, other))
    first, second = (
        PooledLinear(torch.randn(*shape), torch.randn(shape[0]) if biased else None)
        for shape in ((hidden, inputs), (outputs, hidden))
    )
    block, other = SqueezeExcite(first, second, axis, activated), other if added else None
    expected = block(source, x, other)
    layers._uses_kernels, before = lambda x: True, layers._uses_kernels
    try:
        out = block(source, x, other)
    finally:
        layers._uses_kernels = before
    assert torch.allclose(out, expected, rtol=1e-4, atol=1e-5), (out - expected).abs().max()
    assert out.stride() == x.stride()

last, contiguous = torch.channels_last, torch.contiguous_format
check(1, 64, 4, 64, (7, 11), 1, contiguous, True, True, True)
check(3, 70, 5, 130, (9, 7), 1, last, True, True, True)
check(2, 48, 9, 24, (33, 32), 1, contiguous, False, True, False)
check(2, 40, 5, 48, (3, 5), 3, contiguous, True, False, False)
kernels._PROGRAMS = 8
check(20, 40, 5, 8, (2, 2), 1, contiguous, True, True, True)
"""


def test_the_kernels_compute_their_formulas():
    """In a process of its own: Triton interprets only what is imported after the variable is set."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FORMULAS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
