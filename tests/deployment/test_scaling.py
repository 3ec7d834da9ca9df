"""Scaling within the sum that follows, or in place, and what stands in its way."""

import pytest
import torch
from networks import Tail, bare_network
from torch import nn

from se_search import SEConfig, insert, optimize_for_inference
from se_search.deployment.layers import ScaledSum

SIZE = (4, 6, 6)


def sums(model):
    """Whether each scaled sum overwrites its operand."""
    return [module.overwrites for module in model.modules() if isinstance(module, ScaledSum)]


def products(model):
    """How many products are computed in a new tensor, and how many in place."""
    targets = [str(node.target) for node in model.graph.nodes]
    return targets.count("aten.mul.Tensor"), targets.count("aten.mul_.Tensor")


def assert_equal_outputs(optimized, model, size=SIZE):
    images = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    with torch.no_grad():
        expected = model(images.clone())
        for _ in range(2):  # the second pass would find what the first one wrote to
            assert (optimized(images) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(images, before)


def searched(backbone, **options):
    torch.manual_seed(0)
    model = insert(bare_network(backbone, **options), SEConfig.uniform(backbone, 4)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("fc2.weight"):
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("backbone", ["resnet10t", "resnet14t"])
def test_a_gate_before_a_residual_sum_is_merged_with_it_over_the_convolution(backbone):
    model = searched(backbone)
    optimized = optimize_for_inference(model, (3, 64, 64))
    assert sums(optimized) == [True] * 4  # blocks
    assert products(optimized) == (0, 0)
    assert_equal_outputs(optimized, model, (3, 64, 64))


def test_a_gate_before_a_convolution_scales_in_place():
    model = bare_network("mobilenetv3_small_050").eval()
    gates = sum(type(module).__name__ == "SqueezeExcite" for module in model.modules())
    optimized = optimize_for_inference(model, (3, 64, 64))
    assert products(optimized) == (0, gates) != (0, 0)
    assert_equal_outputs(optimized, model, (3, 64, 64))


def test_gradients_reach_the_images_as_before():
    model = searched("resnet10t")
    gradients = []
    for network in (model, optimize_for_inference(model, (3, 64, 64))):
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        network(images).logsumexp(1).sum().backward()
        gradients.append(images.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


class AddsInPlace(Tail):
    def combine(self, x, other, gate):
        x = gate * x
        x += other
        return x


class AddsTheProductToTheShortcut(Tail):
    def combine(self, x, other, gate):
        return other + x * gate


class AddsItself(Tail):
    def combine(self, x, other, gate):
        return x * gate + x


@pytest.mark.parametrize("kind", [AddsInPlace, AddsTheProductToTheShortcut])
def test_the_order_of_the_operands_does_not_matter(kind):
    model = kind().eval()
    optimized = optimize_for_inference(model, SIZE)
    assert (sums(optimized), products(optimized)) == ([True], (0, 0))
    assert_equal_outputs(optimized, model)


class IsReadLater(Tail):
    def combine(self, x, other, gate):
        return (x * gate + other) * x.sigmoid()


class ViewIsReadLater(Tail):
    def combine(self, x, other, gate):
        view = x.flatten(2)
        return (x * gate + other).flatten(2).softmax(-1) + view


class CopyThatIsNoneIsReadLater(Tail):
    def combine(self, x, other, gate):
        same = x.type_as(other)  # returns x
        return (x * gate + other).exp() + same.mean()


class AddsItsTranspose(Tail):
    def combine(self, x, other, gate):
        return x * gate + x.transpose(2, 3)


class ScalesTheImages(Tail):
    def forward(self, images):
        return images * images.mean((2, 3), keepdim=True) + self.conv(images).mean()


@pytest.mark.parametrize(
    "kind", [IsReadLater, ViewIsReadLater, CopyThatIsNoneIsReadLater, AddsItsTranspose, AddsItself]
)
def test_what_is_read_later_is_not_overwritten(kind):
    model = kind().eval()
    optimized = optimize_for_inference(model, SIZE)
    assert sums(optimized) == [False]
    assert_equal_outputs(optimized, model)


def test_the_images_are_not_overwritten():
    model = ScalesTheImages().eval()
    optimized = optimize_for_inference(model, SIZE)
    assert products(optimized) == (1, 0)
    assert_equal_outputs(optimized, model)


class WritesToTheShortcut(Tail):
    def combine(self, x, other, gate):
        scaled = x * gate
        other.neg_()
        return scaled + other


class AddsHalf(Tail):
    def combine(self, x, other, gate):
        return torch.add(x * gate, other, alpha=0.5)


class AddsAVector(Tail):
    def combine(self, x, other, gate):
        return x * gate + other.mean((2, 3), keepdim=True)


class AddsToTheShortcut(Tail):
    def combine(self, x, other, gate):
        other += x * gate
        return other


@pytest.mark.parametrize("kind", [WritesToTheShortcut, AddsHalf, AddsAVector, AddsToTheShortcut])
def test_other_sums_stay_and_the_product_is_computed_in_place(kind):
    model = kind().eval()
    optimized = optimize_for_inference(model, SIZE)
    assert (sums(optimized), products(optimized)) == ([], (0, 1))
    assert_equal_outputs(optimized, model)
