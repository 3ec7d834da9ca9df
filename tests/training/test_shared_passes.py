"""Evaluations that share what configurations share have the values of evaluations that share nothing."""

import random
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import Subset

from se_search import PlacedSE, SEConfig, find_sites
from se_search.data.load import load_data
from se_search.network.attention.se_layers import ElasticSE
from se_search.network.insertion import write_weights
from se_search.network.sites import Site
from se_search.training.evaluator import evaluate_network
from se_search.training.recipe import TrainingRecipe, autocast
from se_search.training.shared_passes import MOST_BYTES, SharedPasses
from se_search.training.supernet import WEIGHTS, Supernet

DIGITS = load_data("digits")
# The last batches have 16 images.
DATA = replace(DIGITS, validation=Subset(DIGITS.validation, range(80)))
RECIPE = TrainingRecipe(epochs=1, batch=32, learning_rate=0.003)


def supernet(name, position, **settings):
    """Return an untrained supernet and its sites."""
    sites = find_sites(name, position=position)
    widest = [PlacedSE(site, 2) for site in sites]
    return Supernet(name, widest, DATA, replace(RECIPE, **settings), recalibration_images=80), sites


def drawn(sites, count):
    """Return blocks, removed and constant sites of configurations that differ from a random site on."""
    rng = random.Random(0)
    ratios = [rng.choice((None, 2, 16)) for _ in sites]
    for _ in range(count):
        first = rng.randrange(len(sites))
        ratios[first:] = [rng.choice((None, 2, 16)) for _ in sites[first:]]
        placed = tuple(PlacedSE(site, ratio) for site, ratio in zip(sites, ratios, strict=True) if ratio)
        changed = {one.site for one in placed}
        free = [site for site in sites if site.position == "existing" and site not in changed]
        yield placed, tuple(free[::3]), tuple(free[1::3])


def alone(network, config):
    """Return the losses and the statistics of an evaluation that shares nothing."""
    recipe = network.recipe
    network.select(config)
    with autocast(recipe, network.device):
        update_bn(network._calibration_batches(), network.model)
    network.model.eval()
    losses = evaluate_network(network.model, network.data.validation, recipe.batch, network.device, recipe).losses
    return losses, statistics_of(network)


def statistics_of(network):
    return {name: buffer.clone() for name, buffer in network.model.named_buffers()}


def assert_same(found, expected):
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-4, atol=1e-5)


FAMILIES = [
    ("test_resnet", "standard", 3),
    ("test_vit", "standard", 5),  # a class token, and no statistics
    ("mobilenetv3_small_050", "existing", 3),
    ("tf_efficientnet_lite0", "standard", 4),
    ("regnety_002", "existing", 3),
    ("convnext_atto", "3x3", 3),
    ("densenet121", "post", 3),
    ("hrnet_w18_small", "standard", 1),  # its branches exchange features
    ("swin_tiny_patch4_window7_224", "standard", 3),  # drops paths in training mode
]
QUICK = ("test_resnet", "test_vit")


@pytest.mark.parametrize(
    ("name", "position", "boundaries"),
    [pytest.param(*one, marks=() if one[0] in QUICK else pytest.mark.slow) for one in FAMILIES],
)
def test_values_and_statistics_are_those_of_an_evaluation_alone(name, position, boundaries):
    network, sites = supernet(name, position)
    for placed, removed, _ in drawn(sites, 4):
        config = SEConfig(name, placed, removed)
        evaluation = network.evaluate(config)
        statistics = statistics_of(network)
        losses, expected = alone(network, config)
        assert_same(evaluation.losses, losses)
        for one, value in expected.items():
            assert_same(statistics[one], value)
    assert {len(found) for found in network._passes._boundaries.values()} == {boundaries}


def test_constant_gates_are_those_of_an_evaluation_alone():
    name = "test_byobnet"
    network, sites = supernet(name, "existing")
    other, _ = supernet(name, "existing")
    for placed, removed, constant in drawn(sites, 3):
        config = SEConfig(name, placed, removed, constant)
        other._forget()
        assert_same(network.evaluate(config).losses, other.evaluate(config).losses)
    assert all(network._passes._boundaries.values())


@pytest.mark.parametrize("settings", [{"precision": "bfloat16"}, {"channels_last": True}])
def test_values_are_the_same_in_other_precisions_and_memory_formats(settings):
    network, sites = supernet("test_resnet", "standard", **settings)
    for placed, *_ in drawn(sites, 3):
        config = SEConfig("test_resnet", placed)
        assert_same(network.evaluate(config).losses, alone(network, config)[0])


def test_other_weights_share_nothing_with_those_before(tmp_path):
    config = SEConfig.uniform("test_resnet", 2)
    other, _ = supernet("test_resnet", "standard", seed=1)
    write_weights(other.model, tmp_path / WEIGHTS)
    network, _ = supernet("test_resnet", "standard")
    network.evaluate(config)
    network.load(tmp_path)
    assert_same(network.evaluate(config).losses, alone(network, config)[0])


@contextmanager
def counted(model, names):
    """Count the calls of modules."""
    calls = Counter()
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update([name])) for name in names
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def test_stages_before_the_first_difference_do_not_run():
    network, sites = supernet("test_resnet", "standard")
    stages = sorted({site.stage for site in sites})
    names = [f"layer{stage - 1}" for stage in stages]

    def with_last(stage, ratio):
        return SEConfig("test_resnet", tuple(PlacedSE(site, 2 if site.stage < stage else ratio) for site in sites))

    network.evaluate(with_last(stages[-1], 4))
    network.evaluate(with_last(stages[-1], 8))  # the first that starts in the middle also finds shapes
    for stage, name in zip(stages[1:], names[1:], strict=True):
        with counted(network.model, names) as calls:
            network.evaluate(with_last(stage, 16))
        # Three batches for the statistics and three for the values.
        assert calls == dict.fromkeys(names[names.index(name) :], 6)


class Stage(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.se = ElasticSE(4, 4)
        self.factor = 2.0

    def forward(self, x):
        return self.se(self.bn(self.conv(x))).relu()


class Network(nn.Module):
    """Three stages, of which an attribute is read, with something between them and perhaps a path around them."""

    def __init__(self, between=None, around=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 1)
        self.stages = nn.ModuleList(Stage() for _ in range(3))
        self.head = nn.Linear(4, 5)
        self.between = between or nn.Identity()
        self.around = around

    def forward(self, x):
        x = stem = self.stem(x)
        for stage in self.stages:
            x = self.between(stage(x)) * stage.factor
        return self.head((x + stem if self.around else x).mean((2, 3)))


class AddOne(nn.Module):
    """Changes its input."""

    def forward(self, x):
        return x.add_(1)


SITES = [Site(f"stages.{place}", place + 2, "post", 4, "NCHW") for place in range(3)]
IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WIDTHS = [(4, 2, 1), (4, 2, None), (4, None, 1), (4, 2, 2), (1, 2, 1), (4, 2, 4)]


def passes_of(network, most_bytes=MOST_BYTES):
    return SharedPasses(network, dict(zip(SITES, (stage.se for stage in network.stages), strict=True)), most_bytes)


def outputs(run, network, parts=(4, 2)):
    """Return the outputs for all batches as in recalibration, and the buffers afterwards."""
    network.train()
    for stage in network.stages:
        stage.bn.reset_running_stats()
        stage.bn.momentum = None
    torch.manual_seed(0)
    return [*(run(part) for part in IMAGES.split(parts)), *(buffer.clone() for buffer in network.buffers())]


def modules_of(network):
    """Return all modules but gates, which each selection creates."""
    return {name: module for name, module in network.named_modules() if not name.endswith("gate")}


def shared(passes, widths, parts=(4, 2)):
    config = SEConfig("made-up", select(passes.model, widths))
    return outputs(passes.start("images", config), passes.model, parts)


def select(network, widths):
    """Switch to blocks of these hidden widths and return them."""
    for stage, width in zip(network.stages, widths, strict=True):
        stage.se.select(width)
    return tuple(PlacedSE(site, 4 // width, rounding=1) for site, width in zip(SITES, widths, strict=True) if width)


@pytest.mark.parametrize(
    ("settings", "boundaries"),
    [
        ({}, 2),
        ({"around": True}, 0),
        ({"between": AddOne()}, 0),
        ({"between": nn.Dropout()}, 0),
        ({"between": nn.ReLU(inplace=True)}, 2),
    ],
    ids=str,
)
def test_outputs_are_kept_where_everything_passes(settings, boundaries):
    passes, plain = passes_of(Network(**settings)), Network(**settings)
    shared(passes, WIDTHS[0])  # a first pass finds the boundaries, which also draws the random numbers of dropout
    for widths in WIDTHS:
        select(plain, widths)
        torch.testing.assert_close(shared(passes, widths), outputs(plain, plain))
        assert len(passes._boundaries[True]) == boundaries
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in passes.modules())


@pytest.mark.parametrize("most_bytes", [0, 5_000, 15_000, 50_000])
def test_what_is_kept_stays_within_its_bound(most_bytes):
    """The two boundaries keep four and then two images of 1 KiB each, and statistics of less than 100 bytes."""
    passes, plain = passes_of(Network(), most_bytes), Network()
    most = 0
    for widths in WIDTHS:
        select(plain, widths)
        torch.testing.assert_close(shared(passes, widths), outputs(plain, plain))
        every = [one for batches in passes._kept.values() for one in batches.values()]
        kept = sum(one.output.nbytes + sum(buffer.nbytes for buffer in one.buffers) for one in every)
        assert passes._bytes == kept
        most = max(most, kept)
    assert most <= most_bytes
    assert (most > 0) == (most_bytes > 0)


def test_what_was_used_longest_ago_is_forgotten_first():
    passes = passes_of(Network(), 15_000)  # the two boundaries of one configuration
    names = ("stages.0", "stages.1", "stages.2")
    for widths, expected in (
        ((4, 2, 1), None),
        ((4, 2, 2), None),
        ((4, 2, 4), (0, 0, 2)),
        ((2, 1, 1), (2, 2, 2)),
        ((4, 2, 1), (2, 2, 2)),
    ):
        with counted(passes.model, names) as calls:
            shared(passes, widths)
        assert expected is None or tuple(calls[name] for name in names) == expected


def test_a_batch_of_another_size_is_computed_again():
    passes, plain = passes_of(Network()), Network()
    shared(passes, (4, 2, 1))
    select(plain, (4, 2, 2))
    torch.testing.assert_close(shared(passes, (4, 2, 2), (3, 3)), outputs(plain, plain, (3, 3)))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_the_network_is_whole_and_nothing_is_kept(error):
    passes, plain = passes_of(Network()), Network()
    shared(passes, (4, 2, 1))
    shared(passes, (4, 2, 2))
    before = modules_of(passes)

    def fail(*_):
        raise error

    broken = passes.model.stages[2].register_forward_pre_hook(fail)
    with pytest.raises(error):
        shared(passes, (4, 2, 4))
    broken.remove()
    assert modules_of(passes) == before
    assert not passes._kept
    select(plain, (4, 2, 4))
    torch.testing.assert_close(shared(passes, (4, 2, 4)), outputs(plain, plain))
