"""Published gains: the figures of their sources, and the family of a backbone."""

import csv
import math
from decimal import Decimal
from importlib import resources

import pytest
import timm
import torch

import se_search
from se_search.errors import SeSearchError
from se_search.evidence.published import family_of, published_gains, published_pairs, se_pairs

PAPER = "SENet paper (journal version), table 2"


def test_every_difference_is_that_of_its_accuracies():
    text = resources.files("se_search.evidence").joinpath("published.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    for row in rows:
        assert Decimal(row["top1_difference"]) == Decimal(row["top1_with"]) - Decimal(row["top1_without"]), row
        assert row["source"]
        assert row["recipe"]
    # 61 pairs of timm; 8 and 2 of tables 2 and 3, 3 of each of 4 and 5, 20 of 10 to 16; 3 and 1 of two repositories.
    assert len(rows) == 61 + 10 + 6 + 20 + 4


def test_an_interval_by_hand():
    pair = published_pairs()[0]
    assert (pair.without, pair.with_attention) == ("resnet50.a1_in1k", "seresnet50.a1_in1k")
    error = math.sqrt(0.80382 * 0.19618 / 50_000 + 0.80012 * 0.19988 / 50_000)
    assert pair.gain == pytest.approx(-0.0037)
    assert pair.interval == pytest.approx((-0.0037 - 1.959964 * error, -0.0037 + 1.959964 * error))


def counted_by_timm(names):
    with torch.device("meta"):
        return {name: sum(one.numel() for one in timm.create_model(name).parameters()) for name in names}


def published_by_timm():
    published = {}
    for pair in published_pairs():
        if pair.source.startswith("timm"):
            published[pair.without] = pair.params_m_without
            published[pair.with_attention] = pair.params_m_with
    return published


@pytest.mark.parametrize("name", ["regnetx_002.pycls_in1k", "tf_mobilenetv3_small_100.in1k", "mnasnet_100.rmsp_in1k"])
def test_parameters_are_those_that_timm_has(name):
    assert round(counted_by_timm([name])[name] / 1e6, 2) == published_by_timm()[name]


@pytest.mark.slow
def test_all_parameters_are_those_that_timm_has():
    published = published_by_timm()
    counted = counted_by_timm(published)
    assert {name: round(count / 1e6, 2) for name, count in counted.items()} == published


def test_the_table_as_data():
    found = se_search.published_results("regnety_032")
    assert found["own"].tolist() == [True] * 2 + [False] * 17
    assert found.loc[0, ["without", "gain_low", "gain", "gain_high"]].tolist()[0] == "regnetx_032.pycls_in1k"
    assert ((found["gain_low"] < found["gain"]) & (found["gain"] < found["gain_high"])).all()
    everything = se_search.published_results()
    assert len(everything) == len(published_pairs())
    with pytest.raises(SeSearchError, match="is not an architecture of timm"):
        se_search.published_results("resnet5O")


def test_the_papers_table_of_top_1_errors():
    gains = {pair.without: pair.gain for pair in published_pairs() if pair.source == PAPER}
    errors = {
        "resnet50": (24.80, 23.29),
        "resnet101": (23.17, 22.38),
        "resnet152": (22.42, 21.57),
        "resnext50_32x4d": (22.11, 21.10),
        "resnext101_32x4d": (21.18, 20.70),
        "vgg16_bn": (27.02, 25.22),
        "BN-Inception": (25.38, 24.23),
        "inception_resnet_v2": (20.37, 19.80),
    }
    assert gains == pytest.approx({name: (without - with_se) / 100 for name, (without, with_se) in errors.items()})


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet50", "resnet"),
        ("resnet33ts.ra2_in1k", "resnet"),
        ("test_resnet", "resnet"),
        ("legacy_seresnet50", "seresnet"),
        ("resnext50_32x4d", "resnext"),
        ("tf_efficientnet_lite0", "efficientnet"),
        ("mobilenetv2_100", "mobilenetv2"),
        ("regnetx_002", "regnetx"),
        ("cs3darknet_l", "cs3darknet"),
        ("vgg16_bn", "vgg"),
        ("ResNet-110", "resnet"),
        ("deit_tiny_patch16_224", "vit"),
    ],
)
def test_families(name, family):
    assert family_of(name) == family


def test_gains_of_a_family_prefer_pairs_that_differ_in_the_attention_only():
    resnets = published_gains("resnet50")
    # The a3 recipe at 224 loses most, the paper's ResNet-50 gains most; resnet50.tv differs in the recipe too.
    assert (resnets.low, resnets.high) == pytest.approx((-0.01016, 0.0151))
    assert not resnets.others_differ
    regnets = published_gains("regnetx_002")
    assert (regnets.low, regnets.high, regnets.others_differ) == (pytest.approx(0.00072), pytest.approx(0.0153), True)


def test_a_backbone_without_relatives_gets_the_range_of_all():
    assert published_gains("vit_tiny_patch16_224") == published_gains(None)
    assert published_gains(None).networks == "networks of all kinds"


def test_each_family_has_a_gain():
    for pair in se_pairs():
        gains = published_gains(pair.without)
        assert gains.low <= gains.high
        assert 0 < gains.typical <= gains.high
