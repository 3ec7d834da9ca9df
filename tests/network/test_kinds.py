"""Another kind of attention, made up here, goes through everything that SE does."""

import json
import random
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import pytest
import torch
from torch import nn

from se_search import PlacedSE, SEConfig, create_model, export_timm, find_sites, parameter_overhead
from se_search.data.load import load_data
from se_search.errors import ConfigurationError, DefinitionError
from se_search.excitation.gates import find_gates
from se_search.export.card import draw_configuration as draw_for_card
from se_search.latency.additive import count_terms, group_of
from se_search.network.attention import KINDS
from se_search.network.attention.kind import Choices, PlacedAttention
from se_search.network.attention.layers import Elastic
from se_search.network.insertion import create_model_on_meta
from se_search.network.overhead import added_flops, count_flops, formula_by_stage
from se_search.report.configuration import draw_configuration
from se_search.sampling.exact import exact_objectives
from se_search.study.checking import check_definition
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.training.recipe import TrainingRecipe
from se_search.training.supernet import Supernet
from se_search.trials.latency import configurations_to_measure

BACKBONE = "test_resnet"
SIZE = (3, 64, 64)
SOURCE = '''class SumScale(nn.Module):
    """Scales each channel by one plus the sum of {{ blocks | map(attribute="vectors") | max }} numbers at most."""

    def __init__(self, channels, vectors):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vectors, channels))

    def forward(self, x):
        return x * (1 + self.weight.sum(0))[:, None, None]
'''


class SumScale(nn.Module):
    def __init__(self, channels, vectors):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vectors, channels))

    def forward(self, x):
        return x * (1 + self.weight.sum(0))[:, None, None]


class ElasticSumScale(Elastic):
    def __init__(self, channels, vectors, kept):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vectors, channels))
        self.kept = kept
        self.vectors = None

    def select(self, vectors):
        self.vectors, self.keeps = vectors, False

    def attend(self, x):
        return x if self.vectors is None else x * (1 + self.weight[: self.vectors].sum(0))[:, None, None]


class SumChoices(Choices):
    vectors: tuple[int, ...]

    @property
    def per_stage(self):
        return {"vectors": self.vectors}

    @property
    def widest(self):
        return {"vectors": max(self.vectors)}

    @property
    def narrowest(self):
        return {"vectors": min(self.vectors)}


@dataclass(frozen=True, order=True)
class PlacedSum(PlacedAttention):
    vectors: int = 1

    kind: ClassVar[str] = "sum"
    word: ClassVar[str] = "sum"
    choices: ClassVar[type[Choices]] = SumChoices
    formula: ClassVar[str] = "nC"

    def __post_init__(self):
        if not isinstance(self.vectors, int) or self.vectors < 1:
            raise ConfigurationError("vectors must be an integer of at least 1")

    @property
    def parameters(self):
        return self.vectors * self.site.channels

    @property
    def formula_parameters(self):
        return Fraction(self.parameters)

    def flops(self, elements):
        return elements

    def latency_terms(self):
        return {"sum": 1.0, "sum vectors": float(self.vectors)}

    @property
    def label(self):
        return f"n={self.vectors}"

    @property
    def rank(self):
        return 64 // self.vectors

    @property
    def description(self):
        return f"{self.label}, position {self.site.position}"

    def at_identity(self):
        return self

    def create(self):
        return SumScale(self.site.channels, self.vectors)

    def create_elastic(self, kept=None):
        return ElasticSumScale(self.site.channels, self.vectors, kept)

    def select_in(self, elastic):
        elastic.select(self.vectors)

    def slice_of(self, elastic):
        return {"weight": elastic.weight[: self.vectors].detach().clone()}

    @classmethod
    def standalone_source(cls):
        return SOURCE

    def standalone_call(self):
        return f"SumScale({self.site.channels}, {self.vectors})"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(KINDS, "sum", PlacedSum)


def space() -> SearchSpace:
    return SearchSpace(BACKBONE, SpaceDefinition(placement="stage", attention="sum", vectors=(1, 2, 4)))


def drawn(seed: int) -> SEConfig:
    """A configuration with blocks of several sizes."""
    rng = random.Random(seed)
    while True:
        config = space().draw(rng)
        if len({one.vectors for one in config.placed}) > 1:
            return config


def mixed() -> SEConfig:
    first, second, *_ = find_sites(BACKBONE, position="standard")
    return SEConfig(BACKBONE, (PlacedSum(first, 2), PlacedSE(second, 4)))


def with_branches(model: nn.Module) -> nn.Module:
    """Let all residual branches count: timm starts their last normalisation at zero."""
    for parameter in model.parameters():
        if parameter.dim() <= 1:
            nn.init.uniform_(parameter, 0.2, 0.6, generator=torch.Generator().manual_seed(1))
    return model


def with_random_weights(model: nn.Module) -> nn.Module:
    with_branches(model)
    for module in model.modules():
        if isinstance(module, (SumScale, ElasticSumScale)):
            nn.init.normal_(module.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model


def test_its_json_names_the_kind_and_comes_back():
    config = mixed()
    written = json.loads(config.to_json())["sites"]
    names = ("block", "stage", "position", "channels", "layout")
    site = {name: getattr(config.placed[0].site, name) for name in names}
    assert written[0] == site | {"kind": "sum", "vectors": 2}
    assert "kind" not in written[1]
    assert SEConfig.from_json(config.to_json()) == config
    for change in ({"kind": "sums"}, {"kind": ["sum"]}, {"kind": "se"}, {"vectors": 0}, {"ratio": 4}):
        data = config.to_dict()
        data["sites"][0] |= change
        with pytest.raises(ConfigurationError):
            SEConfig.from_dict(data)


@pytest.mark.parametrize("config", [drawn, lambda seed: mixed()], ids=["alone", "beside SE"])
def test_parameters_and_flops_are_those_counted(config):
    config = config(3)
    overhead = parameter_overhead(config)
    assert overhead.counted == sum(placed.parameters for placed in config.placed)
    assert formula_by_stage(config) == overhead.by_stage
    bare, network = (create_model_on_meta(one) for one in (SEConfig(BACKBONE), config))
    assert added_flops(config, SIZE) == count_flops(network, SIZE) - count_flops(bare, SIZE)


def test_inserted_blocks_start_without_an_effect_and_then_have_one():
    torch.manual_seed(0)
    bare = with_branches(create_model(SEConfig(BACKBONE))).eval()
    model = create_model(mixed(), identity_start=True).eval()
    model.load_state_dict(bare.state_dict(), strict=False)
    images = torch.randn(2, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(model(images), bare(images))
        with_random_weights(model)
        assert not torch.allclose(model(images), bare(images))
    assert list(find_gates(model)) == [f"{mixed().placed[1].site.block}.se"]  # the other kind has no gate


def test_a_space_varies_what_the_kind_says():
    searched = space()
    assert searched.distributions["stage2.vectors"].choices == ("none", 1, 2, 4)
    assert not any("ratio" in name or "gate" in name for name in searched.distributions)
    points = {searched.to_config(parameters) for parameters in searched.enumerate()}
    assert len(points) == 4 ** len(searched.stages)
    for seed in range(5):
        config = drawn(seed)
        assert searched.to_config(searched.to_parameters(config)) == config
        assert {one.vectors for one in searched.widen(config).placed} == {4}
    assert list(searched.known_answers()) == ["no sum"]
    assert searched.paper_variants().keys() == {"uniform n=1", "uniform n=2", "uniform n=4"}
    with pytest.raises(ConfigurationError, match="not in this space"):
        searched.to_parameters(SEConfig.uniform(BACKBONE))


def test_a_space_file_has_the_keys_of_its_kind_only():
    data = {"placement": "stage", "attention": "sum", "vectors": (1, 2)}
    definition = check_definition(SpaceDefinition, data, "space.yaml")
    assert definition.vectors == (1, 2)
    assert definition.model_dump() == {**SpaceDefinition(**data).model_dump()}
    with pytest.raises(DefinitionError, match=r"space.yaml: ratios is not a known key.*attention, vectors"):
        check_definition(SpaceDefinition, data | {"ratios": (4,)}, "space.yaml")
    with pytest.raises(DefinitionError, match="vectors is missing"):
        check_definition(SpaceDefinition, {"placement": "stage", "attention": "sum"}, "space.yaml")
    with pytest.raises(DefinitionError, match="choose one of se, eca, local, sum"):
        check_definition(SpaceDefinition, data | {"attention": "else"}, "space.yaml")


def test_exact_objectives_and_latency_terms_are_the_kinds():
    searched, config = space(), drawn(1)
    exact = exact_objectives(searched, ["parameter_overhead", "flops_overhead"], SIZE)
    parameters = searched.to_parameters(config)
    assert exact[0](parameters) == pytest.approx(parameter_overhead(config).ratio)
    amounts = count_terms(config)
    group = group_of(config.placed[0].site)
    here = [one for one in config.placed if group_of(one.site) == group]
    assert amounts[group, "sum"] == len(here)
    assert amounts[group, "sum vectors"] == sum(one.vectors for one in here)
    known = {term for one in configurations_to_measure(searched, 0) for term in count_terms(one)}
    assert amounts.keys() <= known


@pytest.mark.parametrize("seed", range(3))
def test_a_slice_of_the_supernet_is_the_plain_network(seed):
    data = load_data("digits")
    network = Supernet(BACKBONE, space().widest_blocks(), data, TrainingRecipe(1, 64, 0.003), recalibration_images=64)
    with_random_weights(network.model)
    config = drawn(seed)
    plain = network.network(config)
    images = data.validation.tensors[0][:32]
    with torch.no_grad():
        torch.testing.assert_close(plain(images), network.model(images), rtol=0, atol=1e-5)
    assert sum(isinstance(module, SumScale) for module in plain.modules()) == len(config.placed)


def test_drawings_and_cards_call_it_by_its_label():
    config = mixed()
    sites = find_sites(BACKBONE, position="standard")
    cells = [cell for row in draw_configuration(config.to_json(), sites) for cell in row.cells]
    assert [cell.label for cell in cells][:2] == ["n=2", "r=4"]
    assert "n=2, standard" in cells[0].title
    assert "n=2, position standard" in draw_for_card(config)


def test_an_export_builds_it_without_the_package(tmp_path):
    torch.manual_seed(0)
    config = mixed()
    export_timm(with_random_weights(create_model(config).eval()), tmp_path / "exported", standalone=True)  # compares
    source = (tmp_path / "exported" / "model.py").read_text(encoding="utf-8")
    assert f"SumScale({config.placed[0].site.channels}, 2)" in source
    assert "of 2 numbers at most" in source
    assert "Σ nC + 2C²/r" in (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
