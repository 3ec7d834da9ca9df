"""A space as Optuna sees it, against independent counts."""

import random

import pytest

from se_search import SEConfig, find_sites
from se_search.errors import BackboneError, ConfigurationError
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition


def test_the_stage_space_has_as_many_configurations_as_it_must():
    space = SearchSpace("resnet10t", load_space("stages"))
    points = [space.to_config(parameters) for parameters in space.enumerate()]
    assert len(points) == 6**4 * 2  # none or one of five ratios in each of four stages; two gates
    assert len(set(points)) == 6**4 * 2 - 1  # without SE the gate makes no difference
    assert points[0] == SEConfig("resnet10t")


def test_the_block_space_has_as_many_configurations_as_it_must():
    definition = SpaceDefinition(placement="block", ratios=(4, 16), gates=("sigmoid",))
    space = SearchSpace("resnet10t", definition)
    points = {space.to_config(parameters) for parameters in space.enumerate()}
    assert len(points) == 3**4  # each of four blocks, one to a stage: off or one of two ratios


@pytest.mark.parametrize("name", ["stages", "blocks"])
def test_configurations_go_to_parameters_and_back(name):
    space = SearchSpace("resnet18", load_space(name))
    rng = random.Random(0)
    drawn = [space.draw(rng) for _ in range(50)]
    assert len(set(drawn)) > 40
    for config in drawn:
        parameters = space.to_parameters(config)
        assert parameters.keys() == space.distributions.keys()
        assert space.to_config(parameters) == config


@pytest.mark.parametrize("name", ["stages", "blocks"])
def test_the_known_answers_are_the_papers(name):
    uniform = SEConfig.uniform("resnet50", 16)
    assert SearchSpace("resnet50", load_space(name)).known_answers() == {
        "no SE": SEConfig("resnet50"),
        "uniform r=16": uniform,
        "r=16 without the last stage": uniform.without_stage(5),
    }


@pytest.mark.parametrize("name", ["stages", "blocks"])
def test_the_papers_variants_are_its_ratios_and_single_stages(name):
    variants = SearchSpace("resnet50", load_space(name)).paper_variants()
    ratios = set(load_space(name).ratios) - {16}
    assert variants == {f"uniform r={ratio}": SEConfig.uniform("resnet50", ratio) for ratio in ratios} | {
        f"r=16 in stage {stage} alone": SEConfig.uniform("resnet50", 16, stages=[stage]) for stage in (2, 3, 4, 5)
    }


def test_known_answers_that_the_space_does_not_hold_are_left_out():
    space = SearchSpace("resnet50", SpaceDefinition(placement="stage", ratios=(4,), gates=("tanh",)))
    assert list(space.known_answers()) == ["no SE"]


def test_the_largest_has_the_smallest_ratio_everywhere():
    space = SearchSpace("resnet18", load_space("stages"))
    assert space.largest() == SEConfig.uniform("resnet18", 2)


def test_a_configuration_outside_the_space_is_refused():
    sites = find_sites("resnet18", position="standard")
    stages, blocks = (SearchSpace("resnet18", load_space(name)) for name in ("stages", "blocks"))
    one_block = SEConfig("resnet18").with_site(sites[0], 4)
    assert blocks.to_config(blocks.to_parameters(one_block)) == one_block
    for config in (one_block, SEConfig.uniform("resnet18", 3), SEConfig.uniform("resnet18", gate="tanh")):
        with pytest.raises(ConfigurationError, match="not in this space"):
            stages.to_parameters(config)
    with pytest.raises(ConfigurationError, match="not in this space"):
        blocks.to_parameters(one_block.with_site(sites[1], 8))  # two ratios in one stage


def positions_space(backbone, positions, per="network", placement="stage"):
    definition = SpaceDefinition(
        placement=placement, positions=positions, position_per=per, ratios=(4, 16), gates=("sigmoid",)
    )
    return SearchSpace(backbone, definition)


@pytest.mark.parametrize(("per", "number"), [("network", 2 * (3**4 - 1) + 1), ("stage", 5**4)])
def test_a_choice_of_positions_gives_as_many_configurations_as_it_must(per, number):
    """Four stages, each without SE or with one of two ratios, at one of two positions."""
    space = positions_space("resnet10t", ("standard", "post"), per)
    points = {space.to_config(parameters) for parameters in space.enumerate()}
    assert len(points) == number
    stages = [{one.site.position for one in config.placed} for config in points]
    assert max(len(positions) for positions in stages) == (1 if per == "network" else 2)


def test_thinning_keeps_replaces_or_removes_what_the_backbone_has():
    space = positions_space("regnety_002", ("default",))
    own = find_sites("regnety_002", position="existing")
    assert space.positions == ("existing",)
    points = {space.to_config(parameters) for parameters in space.enumerate()}
    assert len(points) == 4**4  # none, keep, r=4 or r=16 in each of four stages
    assert SEConfig("regnety_002") in points
    assert SEConfig.without_attention("regnety_002") in points
    assert SEConfig.uniform("regnety_002", 4, position="existing") in points
    for config in points:
        assert config.block_count + len(config.removed) == len(own)


def test_the_known_answers_of_a_backbone_with_attention_hold_it_as_it_is():
    known = positions_space("regnety_002", ("default",)).known_answers()
    assert known["as published"] == SEConfig("regnety_002")
    assert known["no SE"] == SEConfig.without_attention("regnety_002")
    assert known["uniform r=16"] == SEConfig.uniform("regnety_002", 16, position="existing")


@pytest.mark.parametrize("placement", ["stage", "block"])
@pytest.mark.parametrize(
    ("backbone", "positions", "per"),
    [
        ("resnet18", ("standard", "pre", "post", "identity", "3x3"), "stage"),
        ("resnet18", ("post", "3x3"), "network"),
        ("regnety_002", ("existing", "pre"), "stage"),
        ("efficientnet_b0", ("default",), "network"),
        ("vit_tiny_patch16_224", ("standard", "pre"), "stage"),
        ("vgg11", ("default",), "network"),
    ],
)
def test_positions_and_own_attention_go_to_parameters_and_back(backbone, positions, per, placement):
    space = positions_space(backbone, positions, per, placement)
    rng = random.Random(0)
    for _ in range(50):
        config = space.draw(rng)
        assert space.to_config(space.to_parameters(config)) == config


def test_a_position_that_the_backbone_lacks_is_refused():
    with pytest.raises(BackboneError, match="it offers post"):
        positions_space("vgg11", ("pre",))


@pytest.mark.parametrize("name", ["stages", "blocks", "positions"])
@pytest.mark.parametrize("seed", range(5))
def test_the_widest_relative_has_the_same_gate_and_positions_and_the_smallest_ratio_everywhere(name, seed):
    space = SearchSpace("resnet18", load_space(name))
    config = space.draw(random.Random(seed))
    widest = space.widen(config)
    assert {placed.ratio for placed in widest.placed} == {min(space.definition.ratios)}
    assert {placed.gate for placed in config.placed} <= {placed.gate for placed in widest.placed}
    positions = {placed.site.position for placed in config.placed}
    assert positions <= {placed.site.position for placed in widest.placed}
    assert {placed.site for placed in config.placed} <= {placed.site for placed in widest.placed}
    assert {placed.site.block for placed in widest.placed} >= {site.block for site in space.sites if site.stage > 2}
