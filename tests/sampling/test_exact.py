"""Exact objectives computed from a trial's parameters equal those of its configuration."""

import random

import pytest

from se_search import SEConfig
from se_search.network.backbones import network_options
from se_search.network.insertion import create_model_on_meta
from se_search.network.overhead import count_flops, parameter_overhead, parameter_share
from se_search.sampling.exact import exact_objectives
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition

SIZE = (3, 64, 64)
THINNING = SpaceDefinition(placement="block", ratios=(4, 16), gates=("sigmoid", "tanh"), positions=("existing",))


@pytest.mark.parametrize(
    ("backbone", "definition"),
    [
        ("resnet18", load_space("blocks")),
        ("test_resnet", load_space("positions")),
        pytest.param("mobilenetv3_small_050", THINNING, marks=pytest.mark.slow),
        ("test_vit", load_space("stages")),
    ],
)
def test_costs_are_those_of_the_network(backbone, definition):
    space = SearchSpace(backbone, definition)
    objectives = ["flops_overhead", "accuracy", "parameter_overhead"]
    size = (3, 160, 160) if backbone == "test_vit" else SIZE
    exact = exact_objectives(space, objectives, size)
    assert sorted(exact) == [0, 2]
    options = network_options(backbone, size)
    bare = count_flops(create_model_on_meta(SEConfig(backbone), **options), size)
    drawing = random.Random(1)
    for _ in range(3):
        parameters = {name: drawing.choice(one.choices) for name, one in space.distributions.items()}
        config = space.to_config(parameters)
        assert exact[2](parameters) == pytest.approx(parameter_overhead(config).ratio, abs=1e-12)
        counted = count_flops(create_model_on_meta(config, **options), size)
        assert exact[0](parameters) == pytest.approx(counted / bare - 1, abs=1e-12)


def test_the_costs_of_a_stage_are_computed_once_for_its_parameters(monkeypatch):
    space = SearchSpace("test_resnet", load_space("blocks"))
    asked, chosen = [], space.chosen
    monkeypatch.setattr(space, "chosen", lambda *given: asked.append(given) or chosen(*given))
    exact = exact_objectives(space, ["parameter_overhead", "accuracy"], SIZE)[0]
    drawing, different = random.Random(0), set()
    for _ in range(100):
        parameters = {name: drawing.choice(one.choices) for name, one in space.distributions.items()}
        assert exact(parameters) == pytest.approx(parameter_share(space.to_config(parameters)), abs=1e-12)
        different |= {(stage, *(parameters[name] for name in space.names_of(stage))) for stage in space.stages}
    costs = [given for given in asked if len(given) == 2]
    assert len(costs) == len(different) < 100 * len(space.stages)
