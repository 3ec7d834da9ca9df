"""Excitation analysis on known gates, and coverage of its intervals."""

import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import GlobalContext, SEModule
from torch import nn
from torch.utils.data import TensorDataset

from se_search import SEConfig, create_model
from se_search.data.image_data import ImageData, sample
from se_search.data.load import load_data
from se_search.errors import ConfigurationError, DataError, DefinitionError
from se_search.excitation.analysis import analyze_gates, find_classes
from se_search.excitation.gate_statistics import gate_statistics
from se_search.excitation.gates import find_blocks, find_gates, mean_gates, read_gates, replaced_gates
from se_search.excitation.observations import GateChange
from se_search.network.sites import find_sites
from se_search.statistics import Estimate, crossed_difference
from se_search.training.recipe import TrainingRecipe
from se_search.training.supernet import Supernet

RECIPE = TrainingRecipe(epochs=0, batch=64, learning_rate=0.0)
CLASSES, CHANNELS, IMAGES = 5, 12, 24

# Gates of the class-specific block, one row per class, and of the block whose classes are scaled copies.
SPECIFIC = np.random.default_rng(0).uniform(0.1, 0.9, (CLASSES, CHANNELS))
PROFILE, FACTORS = np.linspace(0.2, 0.9, CHANNELS), np.array([0.2, 0.4, 0.6, 0.8, 1.0])
COPIES = FACTORS[:, None] * PROFILE


def image_data(parts, classes=CLASSES, **given):
    """Create data from ``(images, labels)`` for calibration, validation and test."""
    calibration, validation, test = (TensorDataset(*part) for part in parts)
    size = tuple(parts[0][0].shape[1:])
    return ImageData(
        **{
            "name": "made",
            "classes": classes,
            "input_size": size,
            "mean": (0.0,) * size[0],
            "std": (1.0,) * size[0],
            "interpolation": "bilinear",
            "train": calibration,
            "calibration": calibration,
            "validation": validation,
            "test": test,
            **given,
        }
    )


def block_of(gates: np.ndarray) -> SEModule:
    """An SE block whose gates for class k are row k: hidden unit k copies the image channel that marks class k."""
    block = SEModule(CHANNELS, rd_channels=CLASSES)
    with torch.no_grad():
        block.fc1.weight.zero_()
        block.fc1.weight[:, :CLASSES, 0, 0] = torch.eye(CLASSES)
        block.fc1.bias.zero_()
        block.fc2.weight[:, :, 0, 0] = torch.tensor(np.log(gates / (1 - gates)).T, dtype=torch.float32)
        block.fc2.bias.zero_()
    return block


class KnownGates(nn.Module):
    """Three SE blocks with known gates, and a classifier that uses only those of the second one.

    The first ``CLASSES`` channels of an image encode its class. The classifier sees the others, which differ between
    images by noise only.
    """

    def __init__(self):
        super().__init__()
        self.constant = SEModule(CHANNELS, rd_channels=8)
        nn.init.zeros_(self.constant.fc2.weight)
        nn.init.constant_(self.constant.fc2.bias, 30.0)
        self.specific = block_of(SPECIFIC)
        self.copies = block_of(COPIES)
        self.head = nn.Linear(2 * CHANNELS, CLASSES)
        seen = torch.tensor(SPECIFIC[:, CLASSES:], dtype=torch.float32)
        with torch.no_grad():  # the class whose gates are nearest
            self.head.weight.zero_()
            self.head.weight[:, CLASSES:CHANNELS] = 100 * seen
            self.head.bias.copy_(-50 * (seen**2).sum(1))

    def forward(self, x):
        x = self.constant(x)
        return self.head(torch.cat([self.specific(x), self.copies(x)], 1).mean((2, 3)))


def known_images(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat(IMAGES)
    images = torch.ones(len(labels), CHANNELS, 4, 4)
    images[:, :CLASSES] = F.one_hot(labels, CLASSES)[:, :, None, None]
    noise = torch.randn(len(labels), CHANNELS - CLASSES, 4, 4, generator=generator)
    images[:, CLASSES:] += 0.1 * (noise - noise.mean((2, 3), keepdim=True))
    images[:, CLASSES:] += 0.02 * torch.randn(len(labels), CHANNELS - CLASSES, 1, 1, generator=generator)
    return images, labels


@pytest.fixture(scope="module")
def known():
    return image_data([known_images(seed) for seed in range(3)], label_names=("ant", "bee", "cat", "dog", "eel"))


@pytest.fixture(scope="module")
def analysis(known):
    return analyze_gates(KnownGates(), known, "validation")


@pytest.fixture
def constant(analysis):
    return analysis["blocks"][0]


@pytest.fixture
def specific(analysis):
    return analysis["blocks"][1]


@pytest.fixture
def copies(analysis):
    return analysis["blocks"][2]


def test_blocks_come_in_forward_order(analysis):
    assert [(one["block"], one["depth"], one["channels"], one["gate"]) for one in analysis["blocks"]] == [
        (name, depth, CHANNELS, "sigmoid") for depth, name in enumerate(("constant", "specific", "copies"), 1)
    ]
    assert analysis["data"] == {"name": "made", "split": "validation", "images": CLASSES * IMAGES, "classes": CLASSES}


def test_a_gate_that_is_always_one_is_constant_near_one_and_idle(constant):
    assert constant["near_one"] == constant["constant"] == [1.0, 1.0, 1.0]
    assert constant["mean"] == 1.0
    assert constant["specificity"] == [0.0, 0.0, 0.0]
    assert constant["similarity"] == [1.0, 1.0, 1.0]
    assert constant["log_loss_change"] == [0.0, 0.0, 0.0]
    assert constant["verdict"] == "idle"


def test_a_gate_that_only_the_class_decides_has_all_its_variance_between_classes(specific):
    assert specific["specificity"] == pytest.approx([1, 1, 1], abs=1e-9)
    assert specific["near_one"] == specific["constant"] == [0.0, 0.0, 0.0]
    deviations = SPECIFIC - SPECIFIC.mean(0)
    profile = SPECIFIC.mean(0) / np.linalg.norm(SPECIFIC.mean(0))
    alike = np.sum((deviations @ profile) ** 2) / np.sum(deviations**2)
    assert alike < 0.5
    assert specific["similarity"] == pytest.approx([alike] * 3, abs=0.01)
    assert specific["verdict"] == "works"


def test_without_the_gate_that_tells_classes_the_network_guesses(analysis, specific):
    assert analysis["accuracy"][0] == 1
    assert specific["accuracy_change"][0] == pytest.approx(1 / CLASSES - 1)


def test_classes_that_are_scaled_copies_are_alike(copies):
    assert copies["similarity"] == pytest.approx([1, 1, 1], abs=1e-6)
    assert copies["specificity"] == pytest.approx([1, 1, 1], abs=1e-9)
    assert copies["log_loss_change"] == pytest.approx([0, 0, 0], abs=1e-6)
    assert copies["verdict"] == "idle"


def test_idle_blocks_are_listed(analysis):
    assert analysis["idle"] == ["constant", "copies"]


def test_what_is_shown_are_the_means_and_deviations_of_the_gates(analysis, specific):
    shown = specific["shown"]
    assert shown == list(range(CHANNELS))
    for index, name in enumerate(["ant", "bee", "cat", "dog", "eel"]):
        if {"index": index, "name": name} in analysis["classes"]:
            assert specific["activation"][str(index)] == pytest.approx(SPECIFIC[index], abs=1e-5)
    assert specific["activation"]["all"] == pytest.approx(SPECIFIC.mean(0), abs=1e-5)
    assert list(specific["pair"]) == [str(index) for index in analysis["pair"]]
    for index, one in specific["pair"].items():
        assert one["mean"] == pytest.approx(SPECIFIC[int(index)], abs=1e-5)
        assert one["std"] == pytest.approx([0] * CHANNELS, abs=1e-6)


def test_the_classes_that_differ_most_are_shown(analysis):
    distance = sum(((one[:, None] - one) ** 2).sum(2) for one in (SPECIFIC, COPIES))
    first, second = np.unravel_index(distance.argmax(), distance.shape)
    chosen = [first, second]
    while len(chosen) < 4:
        left = [one for one in range(CLASSES) if one not in chosen]
        chosen.append(max(left, key=lambda one: min(distance[one, other] for other in chosen)))
    assert [one["index"] for one in analysis["classes"]] == chosen
    assert analysis["pair"] == chosen[:2]


def test_the_papers_observations_are_judged_by_what_was_found(analysis):
    shallow, deep, saturated, alike, last = analysis["observations"]
    # A block that is always one, then two that only the class decides.
    assert (shallow["found"], deep["found"]) == ("seen", "seen")
    assert "0.0 % [0.0, 0.0]" in shallow["evidence"]
    assert "the difference is -100.00 points [-100.00, -100.00]" in shallow["evidence"]
    assert saturated["found"] == "not seen"
    assert alike["found"] == "seen"
    assert "copies: 100.0 % [100.0, 100.0]" in alike["evidence"]
    assert "specific" in analysis["last_stage"]["blocks"]  # without which the network guesses
    assert last["found"] == "not seen"


def test_the_same_seed_gives_the_same_analysis(known, analysis):
    again = analyze_gates(KnownGates(), known, "validation")
    assert {**again, "seconds": 0} == {**analysis, "seconds": 0}


def test_classes_may_be_chosen(known):
    found = analyze_gates(KnownGates(), known, classes=["dog", 1, "0"], channels=3)
    assert sorted(one["name"] for one in found["classes"]) == ["ant", "bee", "dog"]
    assert [len(one["shown"]) for one in found["blocks"]] == [3, 3, 3]
    assert found["data"]["split"] == "test"


def test_fewer_images_are_drawn_by_the_seed(known):
    found = analyze_gates(KnownGates(), known, images=60)
    assert found["data"]["images"] == 60


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"classes": ["ant", "cow"]}, DataError, ["'cow'", "5 classes"]),
        ({"classes": ["ant", "5"]}, DataError, ["'5'", "from 0 to 4"]),
        ({"classes": ["ant"]}, DataError, ["ant", "two"]),
        ({"classes": ["ant", 0]}, DataError, ["ant, 0", "two different"]),
        ({"classes": ["ant", "1" * 5000]}, DataError, ["'" + "1" * 59 + "…'"]),
        ({"classes": ["ant", "\u0661"]}, DataError, ["unknown", "from 0 to 4"]),
        ({"seed": -1}, ConfigurationError, ["seed is -1", "at least 0"]),
        ({"seed": 2**63}, ConfigurationError, ["seed is 9223372036854775808", "below 2^63"]),
        ({"channels": 0}, ConfigurationError, ["channels is 0", "at least 1"]),
        ({"images": 0}, ConfigurationError, ["images is 0", "at least 1"]),
        ({"images": 2}, DataError, ["3 images"]),
        ({"device": "cuda:99"}, DefinitionError, ["'cuda:99'"]),
        ({"device": "abacus"}, DefinitionError, ["'abacus'"]),
    ],
)
def test_a_mistake_is_told_in_one_sentence(known, given, error, words):
    with pytest.raises(error) as told:
        analyze_gates(KnownGates(), known, **given)
    for word in words:
        assert word in str(told.value)
    assert "\n" not in str(told.value)


def test_a_class_without_enough_images_cannot_be_shown():
    images, labels = known_images(0)
    few = (images[:12], labels[:12])  # two or three of each class
    data = image_data([(images, labels), few, few])
    model = KnownGates()
    passes = []
    model.register_forward_hook(lambda *given: passes.append(1))
    with pytest.raises(DataError, match=r"class '3' has 2 images: at least 3 are needed"):
        analyze_gates(model, data, classes=[0, 3])
    with pytest.raises(DataError, match=r"at least two need 3 images or more, 0 do"):
        analyze_gates(model, data, images=2)
    assert passes == []  # refused before the first pass


def test_a_network_of_other_classes_is_refused(known):
    data = image_data([known_images(seed) for seed in range(3)], classes=7)
    with pytest.raises(DataError, match=r"network has 5 classes and made has 7"):
        analyze_gates(KnownGates(), data)


def test_a_network_without_se_is_refused():
    with pytest.raises(ConfigurationError, match="this ResNet has no attention block"):
        analyze_gates(timm.create_model("test_resnet", num_classes=10), load_data("digits"))


def test_a_network_whose_attention_only_adds_is_refused():
    with pytest.raises(ConfigurationError, match=r"no attention block .*\(stages\.0\.0: its gate does not run\)"):
        analyze_gates(timm.create_model("gcresnext26ts", num_classes=10), load_data("digits"))


def test_images_that_the_network_cannot_take_are_refused():
    with pytest.raises(DataError, match=r"cannot take images of 12×4×4"):
        analyze_gates(
            create_model(SEConfig.uniform("test_resnet"), num_classes=CLASSES), image_data([known_images(0)] * 3)
        )


def test_an_image_size_that_timms_network_was_not_made_for_is_refused():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, in_chans=CHANNELS)
    model.extra = SEModule(CHANNELS)
    with pytest.raises(DataError, match=r"cannot take images of 12×4×4, the size of made: Input height"):
        analyze_gates(model, image_data([known_images(0)] * 3))


def test_a_network_that_is_no_classifier_is_refused():
    model = timm.create_model("seresnet18", features_only=True)
    with pytest.raises(ConfigurationError, match="does not return one row of logits for each image"):
        analyze_gates(model, load_data("digits"))


def test_of_a_network_that_guesses_no_block_is_called_idle(known):
    model = KnownGates()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    found = analyze_gates(model, known)
    assert {one["verdict"] for one in found["blocks"]} == {"cannot be told"}
    assert found["idle"] == []
    assert found["observations"][-1]["found"] == "cannot be told"
    (caution,) = found["cautions"]
    assert caution.startswith("The network performs at chance level: its accuracy of 20.0 % [")
    assert "not significantly above 20.0 %" in caution


def test_spaces_around_a_class_do_not_count(known):
    assert find_classes([" bee", "3 "], known) == [1, 3]


def test_a_given_name_comes_before_an_index(known):
    swapped = image_data([known_images(0)] * 3, label_names=("1", "0", "cat", "dog", "eel"))
    assert find_classes(["1", 1], swapped) == [0, 1]


# --- statistics ---


class NearlyConstant(KnownGates):
    """The gates of the second and third block follow the class at 1/100 of the amplitude, so that they are constant."""

    def __init__(self):
        super().__init__()
        self.specific = block_of(0.5 + 0.01 * (SPECIFIC - 0.5))
        self.copies = block_of(0.5 + 0.01 * (COPIES - 0.5))


def test_blocks_of_mostly_constant_gates_are_not_class_specific(known):
    found = analyze_gates(NearlyConstant(), known)
    assert [one["specificity"][1] > 0.99 for one in found["blocks"]] == [False, True, True]
    assert [one["constant"] for one in found["blocks"]] == [[1, 1, 1]] * 3
    shallow, deep = found["observations"][:2]
    assert deep["found"] == "not seen"
    assert "100.0 % [100.0, 100.0] of these gates are constant" in deep["evidence"]
    assert shallow["found"] == "cannot be told"  # there is no difference to the others


def made_gates(classes, images, channels, between, scale, deviation, correlation=0.0):
    """Return class means, deviations, and a function that draws gates and labels from a seed."""
    rng = np.random.default_rng(1)
    profile = rng.uniform(0.2, 0.8, channels)
    unit = profile / np.linalg.norm(profile)
    scaled = np.outer(rng.normal(0, 1, classes), profile)
    other = rng.normal(0, 1, (classes, channels))
    scaled, other = scaled - scaled.mean(0), other - other.mean(0)
    other -= np.outer(other @ unit, unit)
    scaled, other = (one / np.sqrt(np.mean(np.sum(one**2, 1))) for one in (scaled, other))
    means = profile + between * math.sqrt(channels) * (math.sqrt(scale) * scaled + math.sqrt(1 - scale) * other)
    deviations = deviation * np.exp(rng.normal(0, 0.5, channels))

    def draw(seed):
        rng = np.random.default_rng((2, seed))
        labels = np.repeat(np.arange(classes), images)
        own, common = rng.normal(0, 1, (len(labels), channels)), rng.normal(0, 1, (len(labels), 1))
        noise = math.sqrt(1 - correlation) * own + math.sqrt(correlation) * common
        return means[labels] + noise * deviations, labels

    return means, deviations, draw


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "images", "channels", "between", "scale", "correlation"),
    [
        (10, 20, 50, 0.0, 0.5, 0.0),
        (10, 20, 50, 0.0, 0.5, 0.9),
        (10, 20, 50, 0.01, 0.9, 0.0),
        (4, 10, 50, 0.02, 0.5, 0.5),
        (30, 5, 30, 0.01, 0.9, 0.0),
        (2, 20, 30, 0.0, 0.5, 0.9),
    ],
)
def test_intervals_hold_the_truth_and_the_share_between_classes_is_not_biased(
    classes, images, channels, between, scale, correlation
):
    means, deviations, draw = made_gates(classes, images, channels, between, scale, 0.02, correlation)
    spread = np.mean(np.sum((means - means.mean(0)) ** 2, 1))
    specificity = spread / (spread + np.sum(deviations**2))
    total = np.sqrt(means.var(0) + deviations**2)
    truths = {"specificity": specificity, "constant": np.mean(total < 0.02)}
    if between:
        unit = means.mean(0) / np.linalg.norm(means.mean(0))
        truths["similarity"] = np.mean(((means - means.mean(0)) @ unit) ** 2) / spread
    found = [gate_statistics(*draw(seed), seed) for seed in range(100)]
    for name, truth in truths.items():
        held = np.mean([getattr(one, name).low <= truth <= getattr(one, name).high for one in found])
        assert held >= 0.92, name  # 0.95 less three standard errors of 100 studies would be 0.88
    values = np.array([one.specificity.value for one in found])
    assert values.mean() == pytest.approx(specificity, abs=4 * values.std() / math.sqrt(len(values)) + 1e-4)


def test_the_plain_share_between_classes_would_be_biased():
    """η² counts the noise of class means as differences: it is far from 0 for a block that ignores classes."""
    _, _, draw = made_gates(10, 5, 50, 0.0, 0.5, 0.02)
    gates, labels = draw(0)
    means = np.stack([gates[labels == one].mean(0) for one in range(10)])
    eta = np.sum((means - gates.mean(0)) ** 2) * 5 / np.sum((gates - gates.mean(0)) ** 2)
    assert eta > 0.15  # (10 − 1) / (50 − 1) in expectation
    share = gate_statistics(gates, labels).specificity
    assert share.low < 0 < share.high


def test_the_share_between_classes_is_that_of_an_analysis_of_variance():
    gates, labels = made_gates(4, 25, 6, 0.05, 0.5, 0.05)[2](0)
    between = within = 0.0
    for channel in gates.T:
        groups = [channel[labels == one] for one in range(4)]
        mean_square = np.mean([group.var(ddof=1) for group in groups])
        # The variance component of a one-way layout, for the four classes themselves.
        component = np.var([group.mean() for group in groups]) - 3 / 4 * mean_square / 25
        between, within = between + component, within + mean_square
    assert gate_statistics(gates, labels).specificity.value == pytest.approx(between / (between + within))


def test_classes_of_few_images_do_not_count():
    gates, labels = made_gates(4, 25, 6, 0.05, 0.5, 0.05)[2](0)
    more = np.vstack([gates, np.full((2, 6), 5.0)])
    with_few = gate_statistics(more, np.append(labels, [7, 7]))
    assert with_few.specificity == gate_statistics(gates, labels).specificity
    with pytest.raises(DataError, match="at least two need 3 images or more, 1 do"):
        gate_statistics(more[-30:], np.repeat([0, 1, 2], [26, 2, 2]))


def test_where_no_difference_between_classes_is_measured_their_similarity_is_not_told():
    found = gate_statistics(*made_gates(10, 20, 50, 0.0, 0.5, 0.02)[2](0))
    assert (found.similarity.low, found.similarity.high) == (0, 1)


@pytest.mark.parametrize(
    ("level", "deviation", "constant", "near_one"),
    [(0.95, 0.005, 1, 1), (0.5, 0.005, 1, 0), (0.95, 0.05, 0, 0), (2.0, 0.03, 1, 0), (1.05, 0.005, 1, 1)],
)
def test_gates_are_constant_by_their_deviation_and_near_one_by_their_mean(level, deviation, constant, near_one):
    noise = np.random.default_rng(0).normal(0, 1, (500, 8))
    found = gate_statistics(level + deviation * noise, np.repeat([0, 1], 250))
    assert (found.constant.value, found.near_one.value) == (constant, near_one)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.001, 0.009, "idle"),
        (0.001, 0.009, "idle"),
        (-0.09, -0.05, "idle"),
        (0.001, 0.02, "works"),
        (0.05, 0.2, "works"),
        (-0.001, 0.02, "cannot be told"),
    ],
)
def test_a_verdict_follows_from_the_interval(low, high, verdict):
    assert GateChange(Estimate(0, 0, 0), Estimate((low + high) / 2, low, high)).verdict == verdict


# --- gates of real networks ---


@pytest.mark.parametrize(
    ("name", "blocks", "kind", "gate"),
    [
        ("seresnet18", 8, "SEModule", "sigmoid"),
        ("legacy_seresnet18", 8, "SEModule", "sigmoid"),
        ("test_efficientnet", 2, "SqueezeExcite", "sigmoid"),
        ("eca_resnext26ts", 8, "EcaModule", "sigmoid"),
        ("ese_vovnet19b_dw", 4, "EffectiveSEModule", "hard_sigmoid"),
        ("mobilenetv3_small_050", 9, "SqueezeExcite", "hard_sigmoid"),
    ],
)
def test_gates_are_what_timms_attention_multiplies_by(name, blocks, kind, gate):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10).eval()
    start_with_branches(model)
    assert_gates_are_ratios(model, blocks, kind, gate)


@pytest.mark.parametrize(
    ("config", "kind", "gate"),
    [
        (SEConfig.uniform("test_resnet", 4, gate="tanh"), "SEModule", "tanh"),
        (SEConfig.uniform("test_resnet", 4, position="pre"), "SEModule", "sigmoid"),
        (
            SEConfig.uniform("test_resnet", 4, position="standard").starting_at_identity(),
            "SEModule",
            "sigmoid from one",
        ),
        (SEConfig.uniform("test_convnext", 4, gate="relu"), "LaidOutSE", "relu"),
        (SEConfig.uniform("test_efficientnet", 4, position="existing"), "SEModule", "sigmoid"),
        (SEConfig.uniform("mobilenetv3_small_050", 4, position="post"), "SEModule", "sigmoid"),
    ],
)
def test_gates_are_what_inserted_blocks_multiply_by_and_are_named_by_their_sites(config, kind, gate):
    torch.manual_seed(0)
    model = create_model(config, num_classes=10).eval()
    for module in model.modules():
        if isinstance(module, SEModule):  # a start without an effect has gates of one
            nn.init.normal_(module.fc2.weight, std=0.5)
    start_with_branches(model)
    found = assert_gates_are_ratios(model, None, kind, gate)
    named = {(one.block, one.stage, one.position, one.channels) for one in found}
    placed = {(one.site.block, one.site.stage, one.site.position, one.site.channels) for one in config.placed}
    assert placed <= named
    kept = {site.block for site in find_sites(config.backbone, position="existing") if site not in config.sites}
    assert {block for block, *_ in named - placed} == kept


def start_with_branches(model):
    """Make timm's ResNet branches non-zero: they start at zero, where output over input is undefined."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


def assert_gates_are_ratios(model, blocks, kind, gate):
    """Compare the gates with output over input of each attention module, summed over all positions of a channel."""
    data = load_data("digits")
    found, skipped = find_blocks(model, data, RECIPE, "cpu")
    assert (skipped, blocks or len(found)) == ([], len(found))
    ratios, handles = {}, []

    def note(name, axis):
        def hook(module, args, output):
            axes = [one for one in range(1, output.dim()) if one != axis % output.dim()]
            given, returned = args[0].double(), output.double()
            ratios[name] = ((given * returned).sum(axes) / (given**2).sum(axes)).detach()

        return hook

    for one in found:
        module = model.get_submodule(one.module)
        if one.position != "existing" or len(found) == blocks:
            assert type(module).__name__ == kind
            assert one.gate == gate
        handles.append(module.register_forward_hook(note(one.module, getattr(module, "channel_axis", 1))))
    images = sample(data.validation, 64, 0)
    gates, labels = read_gates(
        model, {one.module: find_gates(model)[one.module] for one in found}, images, RECIPE, "cpu"
    )
    assert labels.tolist() == [int(label) for _, label in images]
    assert list(ratios) == [one.module for one in found]
    for name, ratio in ratios.items():
        there = torch.isfinite(ratio).numpy()  # a channel that is 0 everywhere tells nothing
        assert there.mean() > 0.5
        np.testing.assert_allclose(gates[name][there], ratio.numpy()[there], rtol=1e-4, atol=1e-5)
    for handle in handles:
        handle.remove()
    return found


def test_gates_of_elastic_blocks_are_those_of_the_plain_network():
    data = load_data("digits")
    config = SEConfig.uniform("test_efficientnet", 4, position="existing")
    kept = next(placed.site for placed in config.placed)
    config = SEConfig(config.backbone, tuple(placed for placed in config.placed if placed.site != kept))
    sites = find_sites("test_efficientnet", position="existing")
    supernet = Supernet(
        "test_efficientnet",
        SEConfig.uniform("test_efficientnet", 4, position="existing").placed,
        data,
        RECIPE,
        recalibration_images=64,
    )
    plain = supernet.network(config)
    images = sample(data.validation, 64, 0)
    values = []
    for model in (supernet.model, plain):
        blocks, _ = find_blocks(model, data, RECIPE, "cpu")
        assert [one.block for one in blocks] == [site.block for site in sites]
        gates = find_gates(model)
        read, _ = read_gates(model, {one.module: gates[one.module] for one in blocks}, images, RECIPE, "cpu")
        values.append(list(read.values()))
    for elastic, sliced in zip(*values, strict=True):
        np.testing.assert_allclose(elastic, sliced, atol=1e-6)


def test_replacing_a_gate_by_its_mean_is_scaling_by_constants():
    torch.manual_seed(0)
    data = load_data("digits")
    model = create_model(SEConfig.uniform("test_resnet", 2), num_classes=10).eval()
    for module in model.modules():
        if isinstance(module, SEModule):
            nn.init.normal_(module.fc2.weight, std=2.0)
    start_with_branches(model)
    analysis = analyze_gates(model, data, "validation", images=150)
    changed, judged = analysis["blocks"][1], sample(data.validation, 150, 0)

    images, labels = (torch.stack(part) for part in zip(*judged, strict=True))
    others, _ = (torch.stack(part) for part in zip(*sample(data.calibration, 150, 0), strict=True))
    block = model.get_submodule(find_blocks(model, data, RECIPE, "cpu")[0][1].module)
    inputs = []
    handle = block.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with torch.no_grad():
        before = model(images)
        inputs.clear()
        model(others)
        handle.remove()
        squeezed = inputs[0].mean((2, 3), keepdim=True)
        mean = torch.sigmoid(block.fc2(torch.relu(block.fc1(squeezed)))).mean(0, keepdim=True)
        block.forward = lambda x: x * mean
        after = model(images)
    assert not torch.allclose(before, after, atol=1e-3)
    losses = [F.cross_entropy(logits, labels, reduction="none").numpy()[None] for logits in (after, before)]
    correct = [(logits.argmax(1) == labels).numpy()[None] for logits in (after, before)]
    confidence = 1 - 0.05 / 4
    assert len(analysis["blocks"]) == 4
    for name, parts in (("log_loss_change", losses), ("accuracy_change", correct)):
        expected = crossed_difference(*parts, confidence)
        assert changed[name] == pytest.approx([expected.value, expected.low, expected.high], abs=1e-4)


def test_the_network_is_left_as_it_was():
    data = load_data("digits")
    model = create_model(SEConfig.uniform("test_resnet", 2), num_classes=10).train()
    model.layer1.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    analyze_gates(model, data, "validation", images=60)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for gate in find_gates(model).values() for module in gate.modules())


class Shared(nn.Module):
    """One SE block that runs twice, one additive and one scaling attention."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2)
        self.twice = SEModule(16)
        self.adds = GlobalContext(16, fuse_add=True, fuse_scale=False)
        self.scales = GlobalContext(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x)))
        return self.head(self.scales(self.adds(x)).mean((2, 3)))


def test_gates_that_cannot_be_analysed_are_left_out_with_a_reason():
    analysis = analyze_gates(Shared(), load_data("digits"), "validation", images=60)
    assert [one["block"] for one in analysis["blocks"]] == ["scales"]
    assert analysis["skipped"] == [
        {"block": "twice", "reason": "its gate runs 2 times per forward"},
        {"block": "adds", "reason": "its gate does not run"},
    ]
    shallow, deep = analysis["observations"][:2]
    assert (shallow["found"], deep["found"]) == ("cannot be told", "cannot be told")


def test_means_are_those_of_all_images():
    model, data = KnownGates().eval(), image_data([known_images(0)] * 3)
    gates = find_gates(model)
    means = mean_gates(model, gates, data.calibration, RECIPE, "cpu")
    np.testing.assert_allclose(means["specific"], SPECIFIC.mean(0), atol=1e-6)
    with replaced_gates({"specific": gates["specific"]}, means):
        read, _ = read_gates(model, gates, data.validation, RECIPE, "cpu")
    np.testing.assert_allclose(read["specific"], np.tile(SPECIFIC.mean(0), (CLASSES * IMAGES, 1)), atol=1e-6)


@pytest.mark.parametrize("device", ["meta", "cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused_and_the_network_stays(device):
    model = create_model(SEConfig.uniform("test_resnet", 4), num_classes=10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(DefinitionError, match="device"):
        analyze_gates(model, load_data("digits"), "validation", images=100, device=device)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
