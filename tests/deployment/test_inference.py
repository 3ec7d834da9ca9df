"""Optimized networks against the plain ones, and the rewrites that make them."""

import copy
import pickle

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from networks import SMALLEST, bare_network
from torch import nn

from se_search import PlacedSE, SEConfig, find_sites, insert, optimize_for_inference
from se_search.deployment.graph import export_graph
from se_search.deployment.layers import PooledLinear
from se_search.errors import ExportError
from se_search.network.attention.gates import GATES
from se_search.network.attention.se_layers import create_se_block
from se_search.network.backbones import default_input_size

TOLERANCE = 1e-5
SIDES = {
    "mobilenetv3_small_050": 64,
    "resnet10t": 64,
    "resnet14t": 96,
    "test_convnext": 64,
    "test_efficientnet": 64,
    "test_resnet": 64,
    "test_vit": 64,
}


def trained(model, seed=0):
    """Give a network statistics, affine maps and excitations as training leaves them: none at its initial value."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.3, generator=random)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=random)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=random)
            nn.init.normal_(module.bias, std=0.3, generator=random)
    for name, parameter in model.named_parameters():
        if name.endswith("fc2.weight"):
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=random)
    return model.eval()


def searched(config, seed=0):
    options = {"img_size": SIDES[config.backbone]} if "vit" in config.backbone else {}
    return trained(insert(bare_network(config.backbone, **options), config), seed)


def every_gate(backbone, position, ratio=4):
    """Blocks at all sites of a position, with each gate, with and without biases and identity starts."""
    placed = [
        PlacedSE(site, ratio, tuple(GATES)[i % 4], bias=i % 3 > 0, start=("paper", "identity")[i // 4 % 2])
        for i, site in enumerate(find_sites(backbone, position=position))
    ]
    return SEConfig(backbone, tuple(placed))


def size_of(backbone):
    return (3, SIDES[backbone], SIDES[backbone])


def images_of(size, batch, seed=0):
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(seed))


def relative_difference(one, other):
    """Largest difference, relative to the largest of the other's values."""
    return float((one.double() - other.double()).abs().max() / other.double().abs().max())


def assert_equal_outputs(optimized, model, size, tolerance=TOLERANCE):
    with torch.no_grad():
        for batch in (1, 5):
            images = images_of(size, batch, batch).to(next(model.parameters()).dtype)
            outputs = optimized(images)
            assert outputs.shape[0] == batch
            assert relative_difference(outputs, model(images)) <= tolerance


def operations(optimized):
    return [str(node.target) for node in optimized.graph.nodes]


def layers(optimized, kind):
    return [module for module in optimized.modules() if isinstance(module, kind)]


POSITIONS = [
    *[("resnet14t", position) for position in ("standard", "pre", "post", "identity", "3x3")],
    ("test_convnext", "standard"),
    ("test_vit", "pre"),
    ("mobilenetv3_small_050", "existing"),
]


@pytest.mark.parametrize(("backbone", "position"), POSITIONS)
def test_outputs_are_those_of_the_network_for_every_position_and_gate(backbone, position):
    model = searched(every_gate(backbone, position))
    assert_equal_outputs(optimize_for_inference(model, size_of(backbone)), model, size_of(backbone))


@st.composite
def configurations(draw):
    backbone = draw(st.sampled_from(sorted(SIDES)))
    sites = draw(st.lists(st.sampled_from(find_sites(backbone)), min_size=1, max_size=6, unique=True))
    removed = [site for site in sites if site.position == "existing" and draw(st.booleans())]
    placed = [
        PlacedSE(
            site,
            draw(st.sampled_from((1, 2, 4, 16))),
            draw(st.sampled_from(tuple(GATES))),
            bias=draw(st.booleans()),
            rounding=draw(st.sampled_from((1, 8))),
            start=draw(st.sampled_from(("paper", "identity"))),
        )
        for site in sites
        if site not in removed
    ]
    return SEConfig(backbone, tuple(placed), removed=tuple(removed))


def check_configuration(config, seed):
    """In double precision: several ReLU gates in a row amplify rounding in single precision beyond any fixed bound."""
    model, size = searched(config, seed).double(), size_of(config.backbone)
    optimized = optimize_for_inference(model, size)
    assert_equal_outputs(optimized, model, size, 1e-9)
    assert len(layers(optimized, PooledLinear)) >= 2 * len(config.placed)


@settings(max_examples=3, deadline=None, derandomize=True, database=None)
@given(configurations(), st.integers(0, 1000))
def test_outputs_are_those_of_the_network_for_random_configurations_and_weights(config, seed):
    check_configuration(config, seed)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(configurations(), st.integers(1001, 2000))
def test_outputs_are_those_of_the_network_for_many_random_configurations_and_weights(config, seed):
    check_configuration(config, seed)


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALLEST)
def test_a_member_of_each_family_keeps_its_outputs(family):
    """Some with dozens of blocks are chaotic: rounding alone takes them as far as they are from double precision."""
    name = SMALLEST[family]
    sites = [site for site in find_sites(name) if site.position != "existing"] or find_sites(name)
    bounded = [gate for gate in GATES if gate != "relu"]  # dozens of ReLU gates in a row overflow
    placed = (PlacedSE(site, 4, bounded[i % 3]) for i, site in enumerate(sites))
    model = trained(insert(bare_network(name), SEConfig(name, tuple(placed))))
    exact = copy.deepcopy(model).double()
    optimized, optimized_exact = optimize_for_inference(model), optimize_for_inference(exact)
    with torch.no_grad():
        for batch in (1, 3):
            images = images_of(default_input_size(model), batch)
            outputs, expected = model(images), exact(images.double())
            rounding = relative_difference(outputs, expected)
            assert relative_difference(optimized(images), outputs) <= max(TOLERANCE, 3 * rounding)
            assert relative_difference(optimized_exact(images.double()), expected) <= 1e-9


@pytest.fixture(scope="module")
def bottlenecks():
    """resnet14t with r=4 everywhere, and the same optimized."""
    model = searched(SEConfig.uniform("resnet14t", 4))
    return model, optimize_for_inference(model, size_of("resnet14t"))


def test_no_norm_is_left_in_a_network_of_convolutions_and_norms(bottlenecks):
    model, optimized = bottlenecks
    assert not [one for one in operations(optimized) if "batch_norm" in one]
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert operations(optimized).count("aten.conv2d.default") == len(convolutions) - 2 * 4  # four SE blocks of two each


def test_the_squeeze_reads_the_narrow_tensor_where_a_1x1_convolution_widens_it(bottlenecks):
    model, optimized = bottlenecks
    narrow = [64, 128, 256, 512]  # before the last convolutions
    assert [module.conv3.in_channels for module in model.modules() if hasattr(module, "conv3")] == narrow
    assert [layer.weight.shape[1] for layer in layers(optimized, PooledLinear)][::2] == narrow
    means = {}

    class Watched(torch.fx.Interpreter):
        def call_function(self, target, args, kwargs):
            if target is torch.ops.aten.mean.dim:
                means[len(means)] = args[0].shape[1]
            return super().call_function(target, args, kwargs)

    Watched(optimized).run(images_of(size_of("resnet14t"), 2))
    assert list(means.values()) == narrow


def test_the_squeeze_stays_on_the_output_where_that_is_no_wider():
    optimized = optimize_for_inference(searched(SEConfig.uniform("resnet10t", 4)), size_of("resnet10t"))
    assert [layer.weight.shape[1] for layer in layers(optimized, PooledLinear)][::2] == [64, 128, 256, 512]


def test_a_composed_layer_is_the_product_of_both():
    torch.manual_seed(0)
    block = create_se_block(32, 4)
    model = nn.Sequential(nn.Conv2d(8, 32, 1), block).eval()
    first, _ = layers(optimize_for_inference(model, (8, 3, 3)), PooledLinear)
    conv, fc1 = model[0], block.fc1
    weight = fc1.weight.flatten(1) @ conv.weight.flatten(1)
    torch.testing.assert_close(first.weight, weight)
    torch.testing.assert_close(first.bias, fc1.weight.flatten(1) @ conv.bias + fc1.bias)


def test_tokens_that_a_linear_layer_widens_are_averaged_before_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(2), nn.Linear(16, 64), create_se_block(64, 4, layout="NLC")).eval()
    optimized = optimize_for_inference(model, (9, 4, 4))
    assert [layer.weight.shape[1] for layer in layers(optimized, PooledLinear)] == [16, 16]
    assert_equal_outputs(optimized, model, (9, 4, 4))


def test_what_follows_from_the_weights_alone_is_computed_once():
    model = searched(SEConfig.uniform("test_vit", 4))
    assert any("upsample" in one for one in operations(torch.export.export(model, (images_of((3, 64, 64), 1),))))
    optimized = optimize_for_inference(model, (3, 64, 64))
    assert not [one for one in operations(optimized) if "upsample" in one or "dropout" in one]


def test_the_network_is_left_as_it_was(bottlenecks):
    model = searched(SEConfig.uniform("resnet10t", 4)).train()
    before = copy.deepcopy(model.state_dict())
    optimized = optimize_for_inference(model, size_of("resnet10t"))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {parameter.data_ptr() for parameter in optimized.parameters()}
    assert not any(parameter.requires_grad for parameter in optimized.parameters())
    assert not optimized.training
    assert_equal_outputs(optimized, model.eval(), size_of("resnet10t"))


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_copies_in_any_format_keep_the_outputs(format, bottlenecks):
    model, optimized = bottlenecks
    for copied in (copy.deepcopy(optimized), pickle.loads(pickle.dumps(optimized)), optimize_for_inference(optimized)):
        copied.to(memory_format=format)
        copied.register_forward_pre_hook(lambda _, args: args[0].to(memory_format=format))
        assert_equal_outputs(copied, model, size_of("resnet14t"))


@pytest.mark.parametrize(
    "backbone",
    ["resnet14t", *(pytest.param(one, marks=pytest.mark.slow) for one in ("test_vit", "mobilenetv3_small_050"))],
)
def test_in_bfloat16_the_rounding_errors_stay_those_of_the_network(backbone):
    """Root mean square errors against single precision, over 8 images."""
    position = "existing" if backbone.startswith("mobilenet") else "standard"
    size, model = size_of(backbone), searched(every_gate(backbone, position))
    plain = copy.deepcopy(model).bfloat16()
    before, after = optimize_for_inference(plain, size), optimize_for_inference(model, size).bfloat16()
    errors = {}
    with torch.no_grad():
        for name, network in {"plain": plain, "before": before, "after": after}.items():
            differences = [network(one.bfloat16()).float() - model(one) for one in images_of(size, 8).split([1, 7])]
            errors[name] = float(torch.cat(differences).square().mean().sqrt())
    assert max(errors["before"], errors["after"]) <= 1.5 * errors["plain"]


@pytest.mark.slow
def test_a_compiled_network_is_one_graph_with_the_same_outputs():
    model = searched(SEConfig.uniform("test_resnet", 4))
    size = size_of("test_resnet")
    compiled = torch.compile(optimize_for_inference(model, size), fullgraph=True)
    with torch.no_grad():
        images = images_of(size, 1)
        assert relative_difference(compiled(images), model(images)) <= TOLERANCE


def test_exports_of_an_optimized_network_fit_every_batch_size(bottlenecks, tmp_path):
    model, optimized = bottlenecks
    export_graph(optimized, tmp_path / "model.onnx", size_of("resnet14t"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])

    def run(images):
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    assert_equal_outputs(run, model, size_of("resnet14t"))


class Branched(nn.Module):
    """An SE block on a 1×1 convolution whose surroundings are up to a subclass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 16, 1)
        self.norm = trained(nn.BatchNorm2d(16))
        self.fc = nn.Conv2d(16, 16, 1)

    def gate(self, x):
        return torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))


class WritesToTheInput(Branched):
    def forward(self, images):
        narrow = images.relu()
        wide = self.conv(narrow)
        gate = self.gate(wide)
        narrow.add_(1)
        return wide * gate + narrow.mean()


class WritesToAView(Branched):
    def forward(self, images):
        wide = self.conv(images)
        wide[:, :8].zero_()
        return wide * self.gate(wide)


class WritesToACopy(Branched):
    def forward(self, images):
        wide = self.conv(images)
        wide.to(wide.dtype, copy=True).zero_()
        return wide * self.gate(wide)


class AveragesInDoublePrecision(Branched):
    def forward(self, images):
        wide = self.conv(images)
        squeezed = wide.mean((2, 3), keepdim=True, dtype=torch.float64)
        return wide * torch.sigmoid(F.conv2d(squeezed, self.fc.weight.double(), self.fc.bias.double()))


class ReadsTheConvolutionTwice(Branched):
    def forward(self, images):
        wide = self.conv(images)
        return self.norm(wide) * self.gate(wide) + wide


class SharesTheConvolution(Branched):
    def forward(self, images):
        wide = self.norm(self.conv(images)) + self.conv(images.relu())
        return wide * self.gate(self.norm(self.conv(images.neg())))


class SqueezesTwice(Branched):
    def forward(self, images):
        wide = self.conv(images)
        squeezed = wide.mean((2, 3), keepdim=True)
        return wide * torch.sigmoid(self.fc(squeezed)) + squeezed


class SqueezesRows(Branched):
    def forward(self, images):
        wide = self.conv(images)
        return wide * torch.sigmoid(self.fc(wide.mean(3, keepdim=True)))


class NormalizesByTheBatch(Branched):
    def forward(self, images):
        wide = F.batch_norm(self.conv(images), None, None, training=True)
        return wide * self.gate(wide)


class HasANormWithoutAnAffineMap(Branched):
    def forward(self, images):
        wide = F.batch_norm(self.conv(images), self.norm.running_mean, self.norm.running_var)
        return wide * self.gate(wide)


class StridesAndPads(Branched):
    def forward(self, images):
        wide = F.conv2d(images, self.conv.weight, self.conv.bias, stride=2, padding=1)
        return wide * self.gate(wide)


class WritesToWhatFollowsFromWeights(Branched):
    def forward(self, images):
        total = torch.zeros(16, 1, 1)
        total += self.fc.bias[:, None, None]
        scale = self.fc.weight.mean((1, 2)) * 2
        scale.mul_(images.mean())
        return self.conv(images) * scale[:, None] + total


class GatesWithAConstant(Branched):
    def forward(self, images):
        return self.conv(images) * self.fc.bias[None, :, None, None]


class PoolsAdaptively(Branched):
    def forward(self, images):
        wide = self.norm(self.conv(images))
        return wide * torch.sigmoid(self.fc(F.adaptive_avg_pool2d(wide, 1)))


BRANCHED = (
    WritesToTheInput,
    WritesToAView,
    WritesToACopy,
    AveragesInDoublePrecision,
    ReadsTheConvolutionTwice,
    SharesTheConvolution,
    SqueezesTwice,
    SqueezesRows,
    NormalizesByTheBatch,
    HasANormWithoutAnAffineMap,
    StridesAndPads,
    WritesToWhatFollowsFromWeights,
    GatesWithAConstant,
    PoolsAdaptively,
)


@pytest.mark.parametrize("kind", BRANCHED)
def test_what_stands_in_the_way_of_a_rewrite_is_respected(kind):
    model = kind().eval()
    optimized = optimize_for_inference(model, (4, 6, 6))
    for _ in range(2):  # the second pass would find what the first one wrote to
        assert_equal_outputs(optimized, model, (4, 6, 6))


def test_random_numbers_are_drawn_anew():
    class Noise(Branched):
        def forward(self, images):
            return self.conv(images) + torch.randn(16, 1, 1)

    optimized = optimize_for_inference(Noise(), (4, 6, 6))
    images = images_of((4, 6, 6), 1)
    assert not torch.equal(optimized(images), optimized(images))


def test_images_of_another_size_are_refused(bottlenecks):
    _, optimized = bottlenecks
    sentence = "images of 3×64×64 cannot be taken: this network was optimized for 3×96×96$"
    with pytest.raises(ExportError, match=sentence):
        optimized(images_of((3, 64, 64), 1))


class BranchesOnValues(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


class ReturnsTwo(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)), images


@pytest.mark.parametrize(("kind", "reason"), [(BranchesOnValues, "data-dependent"), (ReturnsTwo, "returns a tuple")])
def test_a_network_that_cannot_be_traced_is_refused_in_one_sentence(kind, reason, capfd):
    with pytest.raises(ExportError, match=f"this {kind.__name__} cannot be optimized for inference: .*{reason}") as one:
        optimize_for_inference(kind(), (3, 8, 8))
    assert "\n" not in str(one.value)
    assert capfd.readouterr() == ("", "")
