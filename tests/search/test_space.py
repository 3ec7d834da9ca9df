"""A space as Optuna sees it, against independent counts."""

import random

import pytest

from se_search import SEConfig, find_sites
from se_search.errors import ConfigurationError
from se_search.search.definitions import SpaceDefinition, load_space
from se_search.search.space import SearchSpace


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
