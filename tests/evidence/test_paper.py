"""The SENet paper's tables: published values, costs beside counted costs, and the commands that repeat ablations."""

import shlex

import pytest
import typer

from se_search.cli import app
from se_search.evidence.paper import ABLATIONS, command_for, count_figure, paper_pairs, published_figures
from se_search.network.config import SEConfig
from se_search.network.insertion import count_parameters, create_model_on_meta
from se_search.network.overhead import count_flops
from se_search.study.files import load_space

TABLE_2 = {
    "resnet50": (24.80, 7.48, 3.86, 23.29, 6.62, 3.87),
    "resnet101": (23.17, 6.52, 7.58, 22.38, 6.07, 7.60),
    "resnet152": (22.42, 6.34, 11.30, 21.57, 5.73, 11.32),
    "resnext50_32x4d": (22.11, 5.90, 4.24, 21.10, 5.49, 4.25),
    "resnext101_32x4d": (21.18, 5.57, 7.99, 20.70, 5.01, 8.00),
    "vgg16_bn": (27.02, 8.81, 15.47, 25.22, 7.70, 15.48),
    "BN-Inception": (25.38, 7.89, 2.03, 24.23, 7.14, 2.04),
    "inception_resnet_v2": (20.37, 5.21, 11.75, 19.80, 4.79, 11.76),
}
TOP_1_ERRORS = {
    "ratio": {"r=2": 22.29, "r=4": 22.25, "r=8": 22.26, "r=16": 22.28, "r=32": 22.72},
    "squeeze": {"max": 22.57, "avg": 22.28},
    "gate": {"relu": 23.47, "tanh": 23.00, "sigmoid": 22.28},
    "stage": {"stage 2": 23.03, "stage 3": 23.04, "stage 4": 22.68, "all stages": 22.28},
    "position": {"standard": 22.28, "pre": 22.23, "post": 22.78, "identity": 22.20, "3x3": 22.48},
    "extent": {"extent 1": 22.93},
}


@pytest.fixture(scope="module")
def counted():
    return [count_figure(figure) for figure in published_figures()]


def test_table_2_has_the_papers_errors_and_flops():
    found = {
        pair.without: (
            100 - pair.top1_without,
            100 - pair.top5_without,
            pair.gflops_without,
            100 - pair.top1_with,
            100 - pair.top5_with,
            pair.gflops_with,
        )
        for pair in paper_pairs()
        if pair.source.endswith("table 2")
    }
    assert found.keys() == TABLE_2.keys()
    for name, values in found.items():
        assert values == pytest.approx(TABLE_2[name]), name


def test_the_ablations_have_the_papers_errors_and_configurations():
    found = {}
    for figure in published_figures():
        if figure.varies != "backbone" and figure.pair:
            assert figure.pair.top1_without == 76.70
            found.setdefault(figure.varies, {})[figure.name.removeprefix("SE, ")] = 100 - figure.pair.top1_with
    assert found == {varies: pytest.approx(errors) for varies, errors in TOP_1_ERRORS.items()}
    assert [len({figure.config.id for figure in published_figures() if figure.varies == one}) for one in ABLATIONS] == [
        6, 3, 4, 5, 6, 2,
    ]  # fmt: skip


def test_the_papers_parameters_are_met_but_for_its_rounding(counted):
    told = [one for one in counted if one.figure.millions is not None]
    assert len(told) == 6 * 1 + 5 + 4 + 1 + 1 + 2  # no SE in six ablations; ratios, stages, 3x3, extent; MobileNet
    for one in told:
        assert round(one.formula, 1) == pytest.approx(one.figure.millions, abs=0.1001), one.figure.name
        assert round(one.counted, 1) == pytest.approx(one.figure.millions, abs=0.1001), one.figure.name


def test_the_papers_flops_are_met_where_the_networks_are_the_same(counted):
    """Without the ResNets, whose strides differ from timm's, and Inception-ResNet-v2."""
    same = {"resnext50_32x4d", "resnext101_32x4d"}
    same |= {"seresnext50_32x4d", "seresnext101_32x4d", "vgg16_bn", "mobilenetv1_100"}
    found = [one for one in counted if one.figure.name in same]
    assert len(found) == 6
    for one in found:
        assert one.giga_flops == pytest.approx(one.figure.giga_flops, rel=0.003), one.figure.name


def test_costs_are_those_of_the_networks(counted):
    for one in counted:
        if (one.figure.varies, one.figure.name) in {
            ("ratio", "SE, r=16"),
            ("extent", "SE, extent 1"),
            ("position", "SE, 3x3"),
        }:
            network = create_model_on_meta(one.figure.config)
            assert one.counted == count_parameters(network) / 1e6
            assert one.giga_flops == pytest.approx(count_flops(network) / 1e9, rel=1e-12)
    bare = next(one for one in counted if one.figure.config == SEConfig("resnet50"))
    assert (bare.formula, bare.counted) == (25.557032, 25.557032)


@pytest.mark.parametrize("varies", ABLATIONS)
def test_the_command_searches_what_the_ablation_varies(varies):
    words = shlex.split(command_for(varies))
    assert words[:2] == ["se-search", "run"]
    options = {name for one in typer.main.get_command(app).commands["run"].params for name in one.opts}
    assert {word for word in words if word.startswith("--")} <= options
    space = load_space(words[words.index("--space") + 1])
    varied = {
        name
        for name, values in {"position": space.positions, **{key[:-1]: own for key, own in space.kinds["se"]}}.items()
        if isinstance(values, tuple) and len(values) > 1
    }
    assert varied == ({varies} if varies != "stage" else set())  # that has no choice but the stages
