"""Published gains: the figures of their sources, and the family of a backbone."""

import pytest

from se_search.evidence.published import family_of, published_gains, published_pairs

PAPER = "SENet paper (journal version), table 2"


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
    for pair in published_pairs():
        gains = published_gains(pair.without)
        assert gains.low <= gains.high
        assert 0 < gains.typical <= gains.high
