"""Every shipped space, searched to its end on a tiny backbone."""

import random
from dataclasses import replace

import pytest
from torch.utils.data import Subset

from se_search.driver.loop import run_search
from se_search.results.record import read_results
from se_search.study.files import load_space, load_study, shipped_names
from se_search.study.space import SearchSpace
from se_search.training.recipe import TrainingRecipe
from se_search.training.supernet import Supernet

SPACES = shipped_names("search_spaces")
BACKBONES = {"thin": "mobilenetv3_small_050", "depth": "test_vit"}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("backbone", ["resnet18", "vit_tiny_patch16_224"])
def test_a_shipped_space_has_configurations_that_come_back(name, backbone):
    if "existing" in load_space(name).positions:
        backbone = "regnety_002"
    elif "identity" in load_space(name).positions and "vit" in backbone:
        pytest.skip("a ViT has no module on its shortcut")
    space = SearchSpace(backbone, load_space(name))
    rng = random.Random(0)
    drawn = [space.draw(rng) for _ in range(20)]
    assert len(set(drawn)) > 5
    assert len(space.stages) >= 3
    for config in drawn:
        assert space.to_config(space.to_parameters(config)) == config


def with_few_images(study, space, data):
    """The study's supernet, trained on 64 images."""
    few = Subset(data.train, range(64))
    return Supernet(
        study.backbone, space.widest_blocks(), replace(data, train=few, calibration=few), TrainingRecipe(1, 32, 0.001)
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("depth", "extent", "kinds") else pytest.mark.slow) for name in SPACES],
)
def test_a_shipped_space_is_searched(name, tmp_path):
    definition = load_study(
        "digits",
        {"latency.limit": 0.01, "latency.size": "data"},
        evaluator="python:with_few_images",
        backbone=BACKBONES.get(name, "test_resnet"),
        space=name,
        budget=3,
    )
    run_search(definition, tmp_path / "run", with_few_images)
    table, record = read_results(tmp_path / "run")
    assert list(table["state"]) == ["complete"] * 3
    assert len({site.stage for site in record.sites}) > 1
