"""Spaces with several kinds of attention, and spaces that split a backbone with one stage by depth."""

import itertools
import random

import pytest
import torch
from torch import nn

from se_search import PlacedSE, SEConfig, find_sites
from se_search.data.load import load_data
from se_search.errors import ConfigurationError, DefinitionError
from se_search.network.attention.eca import PlacedECA
from se_search.network.attention.eca_layers import ElasticECA
from se_search.network.overhead import flops_overhead, parameter_overhead
from se_search.sampling.exact import exact_objectives
from se_search.study.checking import check_definition
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.training.recipe import TrainingRecipe
from se_search.training.supernet import Supernet
from se_search.trials.latency import configurations_to_measure

BACKBONE = "test_resnet"
KINDS = {
    "attention": ["se", "eca"],
    "se": {"ratios": [4, 16], "gates": ["sigmoid", "tanh"]},
    "eca": {"kernels": [3, 7]},
}


def definition(**keys):
    return check_definition(SpaceDefinition, {"placement": "stage", **KINDS, **keys}, "space.yaml")


def space(backbone=BACKBONE, **keys):
    return SearchSpace(backbone, definition(**keys))


def kinds_of(config):
    return [placed.kind for placed in config.placed]


def test_a_network_of_one_kind_has_as_many_configurations_as_it_must():
    searched = space()
    stages = len(searched.stages)
    configs = {searched.to_config(parameters) for parameters in searched.enumerate()}
    # Each stage has no block or one of two options; SE blocks have one of two gates; no block is one configuration.
    assert len(configs) == (3**stages - 1) * 2 + (3**stages - 1) + 1
    assert all(len(set(kinds_of(config))) <= 1 for config in configs)


def test_a_kind_for_each_stage_has_as_many_configurations_as_it_must():
    searched = space(attention_per="stage")
    sites = {site.stage: site for site in searched.sites}
    expected = set()
    for choice in itertools.product([None, 4, 16, "k3", "k7"], repeat=len(searched.stages)):
        gates = ("sigmoid", "tanh") if {4, 16} & set(choice) else ("sigmoid",)
        expected |= {(*choice, gate) for gate in gates}
    points = list(searched.enumerate())
    assert len(points) == len({searched.to_config(one) for one in points}) == len(expected)
    assert len(sites) == len(searched.stages)
    assert any(len(set(kinds_of(searched.to_config(one)))) == 2 for one in points)


@pytest.mark.parametrize("placement", ["stage", "block"])
@pytest.mark.parametrize("per", ["network", "stage"])
@pytest.mark.parametrize("backbone", [BACKBONE, "regnety_002", "test_vit"])
def test_configurations_go_to_parameters_and_back(backbone, per, placement):
    searched = space(backbone, placement=placement, attention_per=per, depth_parts=3)
    rng = random.Random(0)
    for config in (searched.draw(rng) for _ in range(30)):
        parameters = searched.to_parameters(config)
        assert parameters.keys() == searched.distributions.keys()
        assert searched.to_config(parameters) == config
        assert searched.to_config(searched.canonical(parameters)) == config
        widest = searched.widen(config)
        assert set(config.sites) - set(config.removed) <= {placed.site for placed in widest.placed}
        same = {placed.site: placed.kind for placed in widest.placed}
        assert all(same[placed.site] == placed.kind for placed in config.placed)
        assert {getattr(placed, "ratio", 4) for placed in widest.placed} == {4}
        assert {getattr(placed, "kernel", 7) for placed in widest.placed} == {7}


def test_options_of_a_kind_that_is_not_selected_have_no_effect():
    searched = space()
    rng = random.Random(1)
    for _ in range(20):
        drawn = {name: rng.choice(one.choices) for name, one in searched.distributions.items()}
        canonical = searched.canonical(drawn)
        assert searched.to_config(canonical) == searched.to_config(drawn)
        assert searched.canonical(canonical) == canonical
        if not searched.to_config(drawn).placed:
            assert canonical == searched.to_parameters(SEConfig(BACKBONE))
    eca = {"attention": "eca"} | {f"stage{stage}.attention": "new" for stage in searched.stages}
    eca = {name: one.choices[-1] for name, one in searched.distributions.items()} | eca
    assert {searched.canonical(eca)[f"stage{stage}.se.ratio"] for stage in searched.stages} == {4}
    assert searched.canonical(eca)["se.gate"] == "sigmoid"
    assert {placed.kernel for placed in searched.to_config(eca).placed} == {7}


def test_a_single_kind_keeps_the_parameters_of_earlier_versions():
    searched = SearchSpace(BACKBONE, SpaceDefinition(placement="stage", ratios=(4, 16), gates=("sigmoid", "tanh")))
    assert {name: one.choices for name, one in searched.distributions.items()} == {
        **{f"stage{stage}.ratio": ("none", 4, 16) for stage in searched.stages},
        "gate": ("sigmoid", "tanh"),
    }


def test_the_known_answers_are_those_of_each_kind():
    known = space(eca={"kernels": ["published", 3]}).known_answers()
    assert list(known) == [
        "no attention",
        "uniform r=16",
        "r=16 without the last stage",
        "uniform ECA",
        "ECA without the last stage",
    ]
    assert set(kinds_of(known["uniform ECA"])) == {"eca"}
    variants = space().paper_variants()
    assert {"uniform r=4", "uniform ECA k=3", "uniform ECA k=7", "r=16 in stage 2 alone"} <= variants.keys()


def test_exact_objectives_and_measured_latencies_are_those_of_each_kind():
    searched, size = space(attention_per="stage"), (3, 64, 64)
    exact = exact_objectives(searched, ["parameter_overhead", "flops_overhead"], size)
    rng = random.Random(2)
    for config in (searched.draw(rng) for _ in range(5)):
        parameters = searched.to_parameters(config)
        assert exact[0](parameters) == pytest.approx(parameter_overhead(config).ratio)
        assert exact[1](parameters) == pytest.approx(flops_overhead(config, size))
    assert {kind for config in configurations_to_measure(searched, 0) for kind in kinds_of(config)} == {"se", "eca"}


@pytest.mark.parametrize("per", ["network", "stage"])
def test_a_slice_of_the_supernet_is_the_plain_network(per):
    searched, data = space(attention_per=per), load_data("digits")
    network = Supernet(BACKBONE, searched.widest_blocks(), data, TrainingRecipe(1, 64, 0.003))
    for module in network.model.modules():
        if isinstance(module, ElasticECA):
            nn.init.normal_(module.conv.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
    rng = random.Random(0)
    images = data.validation.tensors[0][:16]
    drawn = [one for one in (searched.draw(rng) for _ in range(60)) if len(one.placed) > 2]
    two = [one for one in drawn if len(set(kinds_of(one))) == 2]
    for config in two[:2] if per == "stage" else [drawn[0], next(one for one in drawn if "eca" in kinds_of(one))]:
        plain = network.network(config)
        with torch.no_grad():
            torch.testing.assert_close(plain(images), network.model(images), rtol=0, atol=1e-5)
    network.select(SEConfig(BACKBONE))
    bare = network.network(SEConfig(BACKBONE))
    with torch.no_grad():
        torch.testing.assert_close(bare(images), network.model(images), rtol=0, atol=1e-5)


def test_the_supernet_keeps_replaces_or_removes_own_attention_beside_several_kinds():
    backbone, data = "mobilenetv3_small_050", load_data("digits")
    searched = space(backbone, attention_per="stage")
    network = Supernet(backbone, searched.widest_blocks(), data, TrainingRecipe(1, 64, 0.003))
    first, second, third, *_ = find_sites(backbone, position="existing")
    config = SEConfig(backbone, (PlacedSE(first, 4), PlacedECA(second, 7)), (third,))
    images = data.validation.tensors[0][:8]
    plain = network.network(config)
    with torch.no_grad():
        torch.testing.assert_close(plain(images), network.model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention": ["se", "ecca"]}, r"attention is .*'ecca' is unknown.*se, eca"),
        ({"attention": ["se", "se"]}, "must not contain a value twice"),
        ({"attention": []}, "at least one kind"),
        ({"ratios": [4]}, "ratios is not a known key"),
        ({"se": {"ratios": [0], "gates": ["sigmoid"]}}, "se.ratios.0 is 0: reduction ratio 0 is invalid"),
        ({"se": {"ratio": [4], "gates": ["sigmoid"]}}, "se.ratios is missing"),
        (
            {"se": {"ratios": [4], "gates": ["sigmoid"], "kernels": [3]}},
            "se.kernels is not a known key.*known are ratios",
        ),
        ({"se": 3}, "se is 3"),
    ],
)
def test_a_mistake_in_a_space_of_several_kinds_is_named(change, message):
    with pytest.raises(DefinitionError, match=message):
        definition(**change)


def test_a_definition_with_kinds_is_written_and_read():
    before = definition(attention_per="stage")
    written = before.model_dump(mode="json")
    after = check_definition(SpaceDefinition, written, "study.yaml")
    assert after == before
    assert SearchSpace(BACKBONE, after).distributions == SearchSpace(BACKBONE, before).distributions
    assert written["se"]["ratios"] == [4, 16]


@pytest.mark.parametrize(("parts", "units"), [(1, [6]), (2, [3, 3]), (3, [2, 2, 2]), (4, [2, 1, 2, 1]), (12, [1] * 6)])
def test_a_backbone_with_one_stage_is_split_by_depth_between_its_blocks(parts, units):
    """test_vit has six blocks of two residual branches."""
    keys = {"ratios": (4, 16), "gates": ("sigmoid",), "depth_parts": parts}
    searched = SearchSpace("test_vit", SpaceDefinition(placement="stage", **keys))
    assert {site.stage for site in searched.sites} == {2}
    stages = [searched.stage_of(site) for site in searched.sites]
    assert stages == sorted(stages)
    assert [stages.count(stage) for stage in searched.stages] == [2 * count for count in units]
    assert len({searched.to_config(one) for one in searched.enumerate()}) == 3 ** len(units)
    assert [site.stage for site in searched.numbered_sites] == stages


def test_a_backbone_with_several_stages_is_not_split():
    keys = {"placement": "stage", "ratios": (4,), "gates": ("sigmoid",)}
    whole, split = (SearchSpace(BACKBONE, SpaceDefinition(**keys, depth_parts=parts)) for parts in (1, 3))
    assert whole.distributions == split.distributions


def test_no_network_has_two_names():
    for parts in (1, 3):
        keys = {"placement": "stage", "ratios": (4, 16), "gates": ("sigmoid",), "depth_parts": parts}
        searched = SearchSpace("test_vit", SpaceDefinition(**keys))
        known = searched.known_answers()
        assert known["no SE"] == SEConfig("test_vit")
        everything = [*known.values(), *searched.paper_variants().values()]
        assert len(set(everything)) == len(everything)
        assert ("r=16 without the last stage" in known) == (parts == 3)
        alone = searched.paper_variants().get("r=16 in stage 3 alone")
        assert (alone is not None) == (parts == 3)
        if alone is not None:
            assert {placed.site.block.split(".")[1] for placed in alone.placed} == {"2", "3"}


def test_a_configuration_of_another_kind_is_refused():
    site = find_sites(BACKBONE, position="standard")[0]
    searched = SearchSpace(BACKBONE, load_space("blocks"))
    with pytest.raises(ConfigurationError, match="not in this space"):
        searched.to_parameters(SEConfig(BACKBONE, (PlacedECA(site),)))


def test_sentences_name_the_kind_of_attention():
    searched = space()
    se = searched.known_answers()["uniform r=16"]
    assert searched.attention == "attention"
    assert se.attention == SEConfig("regnety_002").attention == SEConfig(BACKBONE, se.placed[:1]).attention == "SE"
    eca = PlacedECA(se.sites[0])
    assert SEConfig(BACKBONE, (eca,)).attention == "ECA"
    assert SEConfig(BACKBONE, (eca, *se.placed[1:])).attention == "attention"
    only = SearchSpace(BACKBONE, SpaceDefinition(placement="stage", attention="eca", kernels=(3,)))
    assert list(only.baselines()) == ["no ECA"]
    both = space(eca={"kernels": ["published", 3]})
    assert list(both.baselines()) == ["no attention", "uniform r=16", "uniform ECA"]
