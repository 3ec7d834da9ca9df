"""Parameters and FLOPs against the SENet paper's formula and tables, and a count by hand."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from se_search import PlacedSE, SEConfig, create_model, find_sites, parameter_overhead
from se_search.errors import ConfigurationError
from se_search.network.attention.se_layers import create_se_block
from se_search.network.attention.windows import Scope
from se_search.network.backbones import network_options
from se_search.network.insertion import count_parameters, create_model_on_meta
from se_search.network.overhead import (
    added_flops,
    added_parameters,
    backbone_costs,
    count_flops,
    flops_overhead,
    formula_by_stage,
    parameter_share,
)
from se_search.network.sites import find_places

BACKBONE = 25_557_032


def formula(ratio, stages=(2, 3, 4, 5)):
    """(2/r) Σ N_s C_s² of resnet50."""
    blocks = {2: (3, 256), 3: (4, 512), 4: (6, 1024), 5: (3, 2048)}
    return 2 * sum(blocks[stage][0] * blocks[stage][1] ** 2 for stage in stages) / ratio


@pytest.mark.parametrize(
    ("ratio", "added", "with_biases", "papers_total"),
    [
        (2, 20_119_552, 20_142_208, 45.7),
        (4, 10_059_776, 10_078_656, 35.7),
        (8, 5_029_888, 5_046_880, 30.7),
        (16, 2_514_944, 2_530_992, 28.1),
        (32, 1_257_472, 1_273_048, 26.9),
    ],
)
def test_uniform_ratios_cost_what_the_paper_says(ratio, added, with_biases, papers_total):
    exact = parameter_overhead(SEConfig.uniform("resnet50", ratio, bias=False, rounding=1))
    assert exact.formula == exact.counted == added == formula(ratio)
    assert exact.backbone == BACKBONE
    assert exact.ratio == parameter_share(SEConfig.uniform("resnet50", ratio, bias=False, rounding=1))
    assert exact.ratio == added / BACKBONE
    # The paper's table gives millions with one digit after the point and rounds up in places.
    assert round((exact.backbone + added) / 1e6, 1) == pytest.approx(papers_total, abs=0.1001)
    timms = parameter_overhead(SEConfig.uniform("resnet50", ratio))
    assert (timms.formula, timms.counted) == (added, with_biases)


@pytest.mark.parametrize(("stage", "added"), [(2, 24_576), (3, 131_072), (4, 786_432), (5, 1_572_864)])
def test_single_stages_cost_what_the_paper_says(stage, added):
    overhead = parameter_overhead(SEConfig.uniform("resnet50", 16, stages=[stage], bias=False, rounding=1))
    assert overhead.formula == overhead.counted == added == formula(16, [stage])
    assert overhead.by_stage == {stage: added}


def test_without_the_last_stage_the_cost_is_less_than_half():
    overhead = parameter_overhead(SEConfig.uniform("resnet50", 16, bias=False, rounding=1).without_stage(5))
    assert overhead.formula == overhead.counted == 942_080
    assert round(100 * overhead.ratio, 2) == 3.69
    assert overhead.by_stage == {2: 24_576, 3: 131_072, 4: 786_432}


def test_parts_of_a_parameter_add_up_without_an_error():
    # Three blocks at r=3, of 2·256²/3 parameters each.
    assert formula_by_stage(SEConfig.uniform("resnet50", 3, stages=[2])) == {2: 2 * 256**2}


def test_ratios_may_differ_within_a_stage():
    sites = find_sites("test_resnet", position="standard")
    config = SEConfig(
        "test_resnet", tuple(PlacedSE(site, ratio) for site, ratio in zip(sites, (1, 2, 4, 8), strict=True))
    )
    by_stage: dict[int, float] = {}
    for site, ratio in zip(sites, (1, 2, 4, 8), strict=True):
        by_stage[site.stage] = by_stage.get(site.stage, 0) + 2 * site.channels**2 / ratio
    assert formula_by_stage(config) == by_stage


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("ratio", "rounding"), [(3, 1), (3, 8), (16, 8), (48, 8)])
def test_counts_without_a_network_equal_those_on_the_network(ratio, rounding, bias):
    config = SEConfig.uniform("resnet18", ratio, bias=bias, rounding=rounding)
    on_the_network = count_parameters(create_model(config)) - count_parameters(create_model(SEConfig("resnet18")))
    assert sum(placed.parameters for placed in config.placed) == on_the_network == parameter_overhead(config).counted


def test_resnet50_has_the_published_flops():
    assert count_flops(create_model(SEConfig("resnet50"))) == pytest.approx(4.1e9, rel=0.01)


def test_se_resnet50_adds_the_papers_share_of_flops():
    # The paper says 0.26 % (3.86 and 3.87 G, two digits after the point); here pooling and scaling count as well.
    assert 0.002 < flops_overhead(SEConfig.uniform("resnet50", 16), (3, 224, 224)) < 0.004


def test_flops_of_a_small_network_by_hand():
    convolution = nn.Conv2d(3, 5, 3, padding=1, bias=False)  # 5 outputs of 3·9 products at each of 8·8 places
    network = nn.Sequential(convolution, nn.Flatten(), nn.Linear(5 * 64, 7, bias=False))
    assert count_flops(network, (3, 8, 8)) == 5 * 27 * 64 + 5 * 64 * 7


def test_flops_of_an_se_block_by_hand():
    plain, searched = (create_model(config) for config in (SEConfig("resnet10t"), SEConfig.uniform("resnet10t", 16)))
    se = 0
    for channels, side in ((64, 8), (128, 4), (256, 2), (512, 1)):  # at 32×32
        hidden = max(8, channels // 16)
        se += 2 * channels * hidden + 2 * channels * side**2  # two layers; pooling and scaling
    assert count_flops(searched, (3, 32, 32)) - count_flops(plain, (3, 32, 32)) == se


def test_attention_that_does_not_run_costs_nothing():
    network = create_model_on_meta(SEConfig.uniform("test_resnet", 4, squeeze="max"))
    counted = count_flops(network)
    network.unused = create_se_block(8, 2, scope=Scope("max"))
    assert count_flops(network) == counted


def mixed(name, ratio, start="paper"):
    """Replace every second attention block of a backbone and remove the others."""
    own = find_sites(name, position="existing")
    return SEConfig(name, tuple(PlacedSE(site, ratio, start=start) for site in own[1::2]), own[::2])


@pytest.mark.parametrize("size", [None, (3, 96, 64)])
@pytest.mark.parametrize(
    "config",
    [
        SEConfig("test_resnet"),
        SEConfig.uniform("test_resnet", 4),
        SEConfig("test_resnet", tuple(PlacedSE(site, 3, rounding=1) for site in find_sites("test_resnet"))),
        SEConfig.uniform("test_resnet", 16, position="pre", gate="tanh", bias=False).starting_at_identity(),
        SEConfig.without_attention("test_efficientnet"),
        SEConfig.uniform("test_efficientnet", 2, position="existing"),
        mixed("test_efficientnet", 2, "identity"),
        SEConfig("mobilenetv3_small_050", tuple(PlacedSE(site, 8) for site in find_sites("mobilenetv3_small_050")[:3])),
        SEConfig.uniform("vit_tiny_patch16_224", 4, stages=[2]),
    ],
    ids=["none", "uniform", "every position", "identity", "removed", "replaced", "mixed", "with others", "tokens"],
)
def test_flops_without_a_network_equal_those_on_the_network(config, size):
    options = network_options(config.backbone, size) if size else {}
    bare, searched = (
        count_flops(create_model_on_meta(one, **options), size) for one in (SEConfig(config.backbone), config)
    )
    assert added_flops(config, size) == searched - bare
    costs = backbone_costs(config.backbone, size)
    assert costs.flops == bare
    assert type(added_flops(config, size)) is type(costs.flops) is type(bare) is int
    assert flops_overhead(config, size) == pytest.approx((searched - bare) / bare, rel=1e-12)


def test_the_usual_input_is_that_of_the_network():
    model = create_model_on_meta(SEConfig("test_resnet"))
    assert count_flops(model) == count_flops(model, (3, 160, 160)) > count_flops(model, (3, 32, 32))


def test_sites_that_a_backbone_lacks_have_no_cost():
    here = find_sites("test_efficientnet", position="existing")[0]
    removed = SEConfig("test_efficientnet", removed=(replace(here, channels=here.channels + 1),))
    elsewhere = SEConfig("test_resnet", SEConfig.uniform("resnet18").placed)
    for cost, config in (
        (formula_by_stage, removed),
        (added_parameters, removed),
        (added_flops, removed),
        (added_flops, elsewhere),
    ):
        with pytest.raises(ConfigurationError, match=f"is not a site of {config.backbone}"):
            cost(config)


def test_counting_leaves_the_mode_as_it_was():
    model = create_model(SEConfig("resnet10t")).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_flops(model, (3, 32, 32))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_thinning_to_no_se_saves_exactly_the_parameters_of_se():
    model = timm.create_model("regnety_016")
    se = sum(parameter.numel() for name, parameter in model.named_parameters() if ".se." in name)
    overhead = parameter_overhead(SEConfig.without_attention("regnety_016"))
    assert overhead.counted == added_parameters(SEConfig.without_attention("regnety_016")) == -se
    thinned = create_model(SEConfig.without_attention("regnety_016"))
    assert count_parameters(thinned) == count_parameters(model) - se
    assert not any(".se." in name for name, _ in thinned.named_parameters())


def test_keeping_all_attention_is_timms_network_to_the_bit():
    torch.manual_seed(0)
    timms = timm.create_model("regnety_016").eval()
    ours = create_model(SEConfig("regnety_016")).eval()
    ours.load_state_dict(timms.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), timms(images))
    assert parameter_overhead(SEConfig("regnety_016")).counted == 0


def test_the_equivalent_ratio_of_existing_attention_is_that_of_its_widths():
    """EfficientNet-B0's block 1.0 squeezes 96 expanded channels to 4, a quarter of its 16 input channels."""
    places = {site.block: place for site, place in find_places("efficientnet_b0").items() if place.side == "existing"}
    assert places["blocks.1.0"].weights == 2 * 96 * (16 // 4)
    assert places["blocks.1.0"].parameters == 2 * 96 * 4 + 96 + 4


def test_replacing_attention_counts_the_difference():
    config = SEConfig.uniform("efficientnet_b0", 8, position="existing", bias=False, rounding=1)
    places = {site: place for site, place in find_places("efficientnet_b0").items() if place.side == "existing"}
    new = sum(2 * site.channels**2 / 8 for site in places)
    overhead = parameter_overhead(config)
    assert overhead.formula == new - sum(place.weights for place in places.values())
    assert overhead.counted == new - sum(place.parameters for place in places.values())
    assert overhead.counted == count_parameters(create_model(config)) - overhead.backbone


def test_stages_stand_in_order_whether_attention_is_replaced_or_removed():
    config = mixed("regnety_002", 4)
    places = find_places("regnety_002")
    by_stage = dict.fromkeys((2, 3, 4, 5), 0.0)
    for site in config.sites:
        by_stage[site.stage] -= places[site].weights
    for placed in config.placed:
        by_stage[placed.site.stage] += 2 * placed.site.channels**2 / 4
    assert list(formula_by_stage(config).items()) == list(by_stage.items())
    assert added_parameters(config) == parameter_overhead(config).counted


@pytest.mark.parametrize("position", ["standard", "pre", "post", "identity", "3x3"])
def test_formula_and_count_agree_at_every_position(position):
    config = SEConfig.uniform("resnet50", 16, position=position, bias=False, rounding=1)
    overhead = parameter_overhead(config)
    assert overhead.formula == overhead.counted == sum(2 * one.site.channels**2 / 16 for one in config.placed)


def test_counting_takes_any_precision_and_leaves_what_is_frozen_and_what_fails_as_it_was():
    model = create_model(SEConfig("resnet10t")).train()
    model.bn1.eval()
    counted = count_flops(model, (3, 32, 32))
    assert model.training
    assert not model.bn1.training
    assert count_flops(copy.deepcopy(model).half(), (3, 32, 32)) == counted
    with pytest.raises(RuntimeError):
        count_flops(model, (5, 32, 32))
    assert model.training
