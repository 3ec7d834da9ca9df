"""Spaces in which the backbone's own attention may become constant."""

import random

import pytest

from se_search import SEConfig, create_model
from se_search.errors import BackboneError
from se_search.export.card import draw_configuration as card_drawing
from se_search.network.backbones import backbone_input_size
from se_search.network.insertion import count_parameters
from se_search.network.overhead import count_flops
from se_search.network.sites import find_sites
from se_search.report.configuration import draw_configuration
from se_search.results.record import SiteRecord
from se_search.sampling.exact import EXACT, exact_objectives
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition

BACKBONE = "test_byobnet"
CHOICES = {"positions": ["existing"], "ratios": [4], "gates": ["sigmoid"], "constant": True}
OWN = find_sites(BACKBONE, position="existing")


def space_of(placement, backbone=BACKBONE, **given):
    return SearchSpace(backbone, SpaceDefinition.model_validate({"placement": placement, **CHOICES, **given}))


def test_each_block_can_be_kept_removed_replaced_or_constant():
    space = space_of("block")
    assert space.distributions[OWN[0].block].choices == (False, True, "constant")
    stages = {f"stage{stage}.ratio": "keep" for stage in space.stages}
    first, second, *others = [site.block for site in OWN]
    parameters = stages | {"gate": "sigmoid", first: "constant", second: False} | dict.fromkeys(others, True)
    config = space.to_config(parameters)
    assert config == SEConfig(BACKBONE, removed=(OWN[1],), constant=(OWN[0],))
    assert space.to_parameters(config) == parameters


def test_a_stage_can_be_constant_as_a_whole():
    space = space_of("stage")
    assert {one.choices[:3] for name, one in space.distributions.items() if name.endswith("ratio")} == {
        ("none", "keep", "constant")
    }
    parameters = {f"stage{stage}.ratio": "keep" for stage in space.stages} | {"gate": "sigmoid"}
    parameters["stage3.ratio"] = "constant"
    config = space.to_config(parameters)
    assert config == SEConfig(BACKBONE, constant=tuple(site for site in OWN if site.stage == 3))
    assert space.to_parameters(config) == parameters


@pytest.mark.parametrize("placement", ["stage", "block"])
def test_every_configuration_keeps_its_parameters(placement):
    space, rng = space_of(placement), random.Random(0)
    drawn = [space.draw(rng) for _ in range(40)]
    assert any(config.constant for config in drawn)
    for config in drawn:
        assert space.to_config(space.to_parameters(config)) == config
        assert not space.widen(config).constant


def test_exact_costs_are_those_of_the_network_without_the_block():
    space, size = space_of("block"), backbone_input_size(BACKBONE)
    costs = exact_objectives(space, ["parameter_overhead", "flops_overhead"], size)
    whole = create_model(SEConfig(BACKBONE))
    for config in (SEConfig(BACKBONE, constant=OWN), SEConfig(BACKBONE, removed=OWN[:1], constant=OWN[2:])):
        without = create_model(config)
        parameters = space.to_parameters(config)
        assert costs[0](parameters) == pytest.approx(count_parameters(without) / count_parameters(whole) - 1)
        assert costs[1](parameters) == pytest.approx(count_flops(without) / count_flops(whole) - 1)
        exact = [compute(config, size) for compute in EXACT.values()]
        assert [costs[place](parameters) for place in range(2)] == pytest.approx(exact)


def test_constant_attention_is_among_the_known_answers():
    assert space_of("block").known_answers()["constant attention"] == SEConfig(BACKBONE, constant=OWN)
    assert "constant attention" not in space_of("block", constant=False).known_answers()
    assert SearchSpace(BACKBONE, load_space("thin")).known_answers()["constant attention"].constant == OWN


def test_a_backbone_whose_attention_cannot_become_constant_is_refused():
    with pytest.raises(BackboneError, match=r"no attention of gcresnet33ts can become constant .*adds to its input"):
        space_of("block", "gcresnet33ts")
    with pytest.raises(BackboneError, match="it has none there"):
        space_of("block", "test_resnet", positions=["standard"])


def test_drawings_and_model_cards_name_constant_attention():
    config = SEConfig(BACKBONE, removed=OWN[1:2], constant=OWN[:1])
    records = [SiteRecord(site.block, site.stage, site.position, site.channels) for site in OWN]
    labels = [cell.label for stage in draw_configuration(config.to_json(), records) for cell in stage.cells]
    assert labels == ["constant", "", "kept", "kept"]
    assert card_drawing(config).splitlines()[:4] == ["stage 2  =", "stage 3  x", "stage 4  o", "stage 5  o"]
