"""``SEConfig``: identity, order, JSON."""

import contextlib
import json
import math
from dataclasses import replace

import pytest
from timm.layers import SEModule

from se_search import PlacedECA, PlacedSE, SEConfig, Site, find_sites
from se_search.errors import ConfigurationError

SITES = find_sites("resnet18", position="standard")
UNIFORM = SEConfig.uniform("resnet18", 16)


def test_what_is_not_said_is_as_in_the_paper_and_in_timm():
    """The paper has ratio 16 and a sigmoid (section 4), timm's ``SEModule`` biases and widths rounded to 8."""
    usual = (16, "sigmoid", True, 8)
    assert PlacedSE(SITES[0]) == PlacedSE(SITES[0], *usual, "paper")
    assert SEConfig.uniform("resnet18") == SEConfig("resnet18", tuple(PlacedSE(site, *usual) for site in SITES))
    assert SEConfig("resnet18").with_site(SITES[0]).placed == (PlacedSE(SITES[0], *usual),)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ratio", [4, 16])
def test_a_block_has_the_parameters_of_timms_module(ratio, bias):
    timms = SEModule(64, rd_ratio=1 / ratio, bias=bias)
    assert PlacedSE(SITES[0], ratio, bias=bias).hidden == timms.fc1.out_channels
    assert PlacedSE(SITES[0], ratio, bias=bias).parameters == sum(one.numel() for one in timms.parameters())


def test_json_brings_back_an_equal_configuration():
    config = SEConfig("resnet18", (PlacedSE(SITES[1], 4, "tanh", False, 1), PlacedSE(SITES[6], 32)))
    again = SEConfig.from_json(config.to_json())
    assert again == config
    assert hash(again) == hash(config)
    assert again.id == config.id


def test_the_id_is_the_digest_of_the_canonical_json():
    # echo -n '{"backbone":"resnet18","removed":[],"sites":[]}' | sha256sum
    assert SEConfig("resnet18").id == "26afc973f1a7"
    # ... '[{"bias":true,"block":"layer1.0","channels":64,"gate":"sigmoid","layout":"NCHW","position":"standard",
    # "ratio":4,"rounding":8,"stage":2,"start":"paper"}]' in the place of the second [], on one line
    assert SEConfig("resnet18", (PlacedSE(SITES[0], 4),)).id == "935c1e0b5016"


def test_different_configurations_have_different_ids():
    variants = [
        UNIFORM,
        SEConfig("resnet18"),
        SEConfig("resnet34"),
        SEConfig.uniform("resnet18", 8),
        SEConfig.uniform("resnet18", 16, gate="tanh"),
        SEConfig.uniform("resnet18", 16, bias=False),
        SEConfig.uniform("resnet18", 16, rounding=1),
        SEConfig.uniform("resnet18", 16, stages=[2, 5]),
    ]
    assert len({config.id for config in variants}) == len(set(variants)) == len(variants)


def test_sites_keep_forward_order_however_they_are_added():
    config = SEConfig("resnet18")
    for site in reversed(SITES):
        config = config.with_site(site, 16)
    assert config == UNIFORM


def test_equal_networks_are_equal_in_whatever_order_their_blocks_are_given():
    backwards = SEConfig("resnet18", UNIFORM.placed[::-1])
    assert backwards == UNIFORM
    assert backwards.id == UNIFORM.id


def test_numbers_in_names_of_blocks_are_compared_as_numbers():
    ninth, tenth = (Site(f"blocks.{number}", 2, "existing", 64, "NCHW") for number in (9, 10))
    earlier = Site("blocks.11", 1, "existing", 64, "NCHW")
    assert SEConfig("net", removed=(tenth, ninth, earlier)).removed == (earlier, ninth, tenth)
    placed = SEConfig("net", tuple(PlacedSE(site) for site in (tenth, ninth, earlier))).placed
    assert [one.site for one in placed] == [earlier, ninth, tenth]


def test_blocks_that_start_at_identity_are_the_same_blocks_otherwise():
    config = SEConfig("resnet18", (PlacedSE(SITES[1], 4, "tanh", False, 1), PlacedSE(SITES[6], 32)))
    started = config.starting_at_identity()
    assert started.placed == (
        PlacedSE(SITES[1], 4, "tanh", False, 1, "identity"),
        PlacedSE(SITES[6], 32, start="identity"),
    )
    assert started.starting_at_identity() == started != config


def test_with_site_replaces_what_stands_there():
    changed = UNIFORM.with_site(SITES[3], 4, "relu")
    assert len(changed.placed) == len(UNIFORM.placed)
    assert changed.placed[3] == PlacedSE(SITES[3], 4, "relu")
    assert changed.placed[:3] + changed.placed[4:] == UNIFORM.placed[:3] + UNIFORM.placed[4:]


def test_a_constant_takes_the_place_of_what_stands_there():
    replaced, removed, constant, *_ = find_sites("regnety_002", position="existing")
    config = SEConfig("regnety_002", (PlacedSE(replaced),), (removed,), (constant,))
    for site, placed, gone in (
        (replaced, (), (removed,)),
        (removed, config.placed, ()),
        (constant, config.placed, (removed,)),
    ):
        constants = tuple(one for one in (replaced, removed, constant) if one in (site, constant))
        assert config.with_constant(site) == SEConfig("regnety_002", placed, gone, constants)
    assert UNIFORM.with_constant(SITES[0]) == UNIFORM.without_sites(SITES[:1])


def test_a_kind_other_than_se_is_named():
    eca = PlacedECA(SITES[0])
    config = SEConfig("resnet18", (eca, PlacedSE(SITES[1])))
    first, second = json.loads(config.to_json())["sites"]
    assert first["kind"] == "eca"
    assert "kind" not in second
    assert SEConfig.from_json(config.to_json()) == config
    words = [one.attention for one in (config, UNIFORM, SEConfig("resnet18"), SEConfig("resnet18", (eca,)))]
    assert words == ["attention", "SE", "SE", "ECA"]


def test_without_stage_leaves_the_others():
    assert UNIFORM.without_stage(5) == SEConfig.uniform("resnet18", 16, stages=[2, 3, 4])


def test_structure_is_equal_where_rounded_widths_are():
    # timm's rounding gives 64 channels 8 hidden units at r=8 and at r=32, but 16 at r=4.
    first, second, third = (SEConfig("resnet18", (PlacedSE(SITES[0], ratio),)) for ratio in (8, 32, 4))
    assert first.structure == second.structure != third.structure
    assert first != second


def test_the_structure_at_some_sites_does_not_depend_on_the_others():
    early, late = SITES[:4], SITES[4:]
    other = UNIFORM.without_sites(late[:2]).with_site(late[3], 4)
    assert (
        other.structure_at(early)
        == UNIFORM.structure_at(early)
        != UNIFORM.without_sites(early[1:2]).structure_at(early)
    )
    assert other.structure_at(late) != UNIFORM.structure_at(late)
    assert other.structure_at(SITES) == other.structure
    own = find_sites("mobilenetv3_small_050", position="existing")
    changed = SEConfig("mobilenetv3_small_050", removed=own[:2], constant=own[2:4])
    assert changed.structure_at(own[1:3]) == SEConfig("mobilenetv3_small_050", (), own[1:2], own[2:3]).structure


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ratio": 0}, "at least 1"),
        ({"gate": "softmax"}, "sigmoid"),
        ({"bias": 1}, "true or false"),
        ({"rounding": 0}, "at least 1"),
        ({"stages": [6]}, "its stages are 2, 3, 4, 5"),
        ({"position": "existing"}, "it offers standard"),
        ({"position": "before"}, "'before'"),
    ],
)
def test_impossible_values_are_refused(options, reason):
    with pytest.raises(ConfigurationError, match=reason):
        SEConfig.uniform("resnet18", **options)


def test_a_site_holds_one_block():
    with pytest.raises(ConfigurationError, match=r"layer1\.0"):
        SEConfig("resnet18", (PlacedSE(SITES[0], 4), PlacedSE(SITES[0], 8)))


def test_a_site_of_another_backbone_is_refused():
    with pytest.raises(ConfigurationError, match="not a site of resnet18"):
        UNIFORM.with_site(Site("layer1.0", 2, "standard", 256, "NCHW"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"backbone":"resnet18"}',
        '{"backbone":"resnet18","sites":[]}',
        '{"backbone":"resnet18","removed":[],"sites":3}',
        '{"backbone":"resnet18","removed":[],"sites":[{}]}',
        '{"backbone":"resnet18","removed":[{}],"sites":[]}',
        SEConfig.without_attention("regnety_002").to_json().replace('"stage":2', '"stage":2,"stag":2', 1),
        '{"backbone":"resnet18","removed":[],"sites":[],"weights":"elsewhere"}',
        UNIFORM.to_json().replace('"ratio":16', '"ratio":16,"rate":16', 1),
        UNIFORM.to_json().replace('"ratio":16', '"ratio":0', 1),
        UNIFORM.to_json().replace('"sigmoid"', '"__import__"', 1),
        UNIFORM.to_json() + "}",
        pytest.param("[" * 100_000, id="nested too deeply for the parser"),
        pytest.param("1" * 5_000, id="too many digits for the parser"),
    ],
)
def test_anything_else_than_a_configuration_is_refused(text):
    with pytest.raises(ConfigurationError):
        SEConfig.from_json(text)


def test_a_text_of_a_mebibyte_is_read_and_a_longer_one_refused():
    text = UNIFORM.to_json().ljust(1_048_576)
    assert SEConfig.from_json(text) == UNIFORM
    with pytest.raises(ConfigurationError, match="more than 1,048,576 characters"):
        SEConfig.from_json(text + " ")


def test_widths_are_rounded_to_a_multiple_of_1024_at_most():
    assert PlacedSE(SITES[0], rounding=1024).hidden == 1024
    with pytest.raises(ConfigurationError, match="at most 1024"):
        PlacedSE(SITES[0], rounding=1025)


@pytest.mark.parametrize(
    "change",
    [
        {"channels": "64"},
        {"channels": 64.0},
        {"channels": None},
        {"channels": 0},
        {"channels": -64},
        {"stage": "2"},
        {"block": ["layer1.0"]},
        {"block": None},
        {"position": None},
        {"layout": 4},
        {"ratio": "16"},
        {"gate": ["sigmoid"]},
        {"bias": None},
        {"rounding": 8.0},
        {"start": "warm"},
    ],
    ids=str,
)
def test_a_site_with_a_value_of_another_kind_is_refused(change):
    data = UNIFORM.to_dict()
    data["sites"][0] |= change
    with pytest.raises(ConfigurationError):
        SEConfig.from_dict(data)


@pytest.mark.parametrize("value", [None, [], {}, "", 1.5, -1, math.nan, 10**400, [[]], {"a": 1}], ids=str)
@pytest.mark.parametrize("where", ["sites", "removed"])
def test_no_value_of_a_site_is_anything_but_read_or_refused(where, value):
    data = SEConfig.without_attention("regnety_002").with_site(find_sites("regnety_002")[0], 4).to_dict()
    for key in data[where][0]:
        with contextlib.suppress(ConfigurationError):
            SEConfig.from_dict(data | {where: [data[where][0] | {key: value}]})


@pytest.mark.parametrize("backbone", [None, 18, ["resnet18"]])
def test_a_backbone_is_a_name(backbone):
    with pytest.raises(ConfigurationError):
        SEConfig.from_dict({"backbone": backbone, "sites": [], "removed": []})


def test_json_is_plain():
    written = json.loads(SEConfig("resnet18", (PlacedSE(SITES[0], 4),)).to_json())
    assert written == {
        "backbone": "resnet18",
        "sites": [
            {
                "block": "layer1.0",
                "stage": 2,
                "position": "standard",
                "channels": 64,
                "layout": "NCHW",
                "ratio": 4,
                "gate": "sigmoid",
                "bias": True,
                "rounding": 8,
                "start": "paper",
            }
        ],
        "removed": [],
    }


def test_what_is_removed_is_kept_in_order_and_told_in_the_json():
    own = find_sites("regnety_002", position="existing")
    config = SEConfig("regnety_002", removed=own[::-1])
    assert config.removed == own
    assert config == SEConfig.without_attention("regnety_002")
    assert SEConfig.from_json(config.to_json()) == config
    assert config.id != SEConfig("regnety_002").id


def test_only_attention_can_be_removed():
    with pytest.raises(ConfigurationError, match="no attention"):
        SEConfig("resnet18", removed=SITES[:1])


def test_a_block_takes_the_place_of_removed_attention_and_leaves_none_behind():
    own = find_sites("regnety_002", position="existing")
    config = SEConfig.without_attention("regnety_002").with_site(own[0], 4)
    assert config.removed == own[1:]
    assert config.without_stage(own[0].stage).removed == own


def test_the_default_position_is_that_of_the_backbone():
    for name, position in (("resnet18", "standard"), ("regnety_002", "existing"), ("vgg11", "post")):
        assert SEConfig.uniform(name, position="default") == SEConfig.uniform(name, position=position)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "an SE configuration must be an object with the keys backbone, constant, removed, sites, not []"),
        (None, "an SE configuration must be an object"),
        ({"backbone": "resnet18", "sites": []}, "key 'removed' of an SE configuration is missing"),
        ({"backbone": "resnet18", "sites": 5, "removed": []}, "'sites' of an SE configuration must be a list, not 5"),
        ({"backbone": "resnet18", "sites": [5], "removed": []}, "a site of an SE configuration must be an object"),
        ({"backbone": "resnet18", "sites": [{}], "removed": []}, "of a site of an SE configuration is missing"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said_by_name(data, told):
    with pytest.raises(ConfigurationError) as error:
        SEConfig.from_dict(data)
    assert told in str(error.value)


def test_attention_that_is_kept_counts_as_blocks():
    published = find_sites("regnety_002", position="existing")
    whole = SEConfig("regnety_002")
    assert whole.block_count == len(published) > 2
    assert replace(whole, removed=published[:1]).block_count == len(published) - 1
    assert whole.with_site(published[0], 8).block_count == len(published)
    post = find_sites("regnety_002", position="post")[0]
    assert whole.with_site(post, 8).block_count == len(published) + 1


def test_a_misspelt_position_is_refused():
    with pytest.raises(
        ConfigurationError, match=r"position 'standart' is unknown: choose one of .*; near names: standard"
    ):
        find_sites("test_resnet", position="standart")
    assert find_sites("test_resnet", position="existing") == ()
