"""SE blocks at every position against hand-written forwards of timm 1.0.31's blocks."""

import contextlib
import copy
import functools
import re

import pytest
import torch
from networks import bare_network

from se_search import PlacedSE, SEConfig, find_sites, insert

NCHW, NHWC, NLC = 1, 3, 2
"""Channel dimension of each layout."""

SMALL = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 3},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "depths": (2, 2)},
    "mixer_s32_224": {"img_size": 64},
    "cait_xxs24_224": {"img_size": 32, "depth": 3},
}


def scale(x, weights, axis):
    """The SENet paper's block: each channel times sigmoid(W2 ReLU(W1 mean))."""
    last = x.movedim(axis, -1)
    mean = last.flatten(1, -2).mean(1)
    hidden = torch.relu(mean @ weights["fc1.weight"].flatten(1).T + weights["fc1.bias"])
    gate = torch.sigmoid(hidden @ weights["fc2.weight"].flatten(1).T + weights["fc2.bias"])
    assert gate.std(1).min() > 0.01, "the gates should tell channels apart"
    return (last * gate.reshape(len(x), *[1] * (x.dim() - 2), -1)).movedim(-1, axis)


# Forwards by hand. `se(place, x, axis)` is where an SE block stands at `place`.


def resnet_basic(b, x, se):
    y = b.act1(b.bn1(b.conv1(se("pre", x, NCHW))))
    y = se("standard", b.bn2(se("3x3", b.conv2(y), NCHW)), NCHW)
    shortcut = se("identity", x if b.downsample is None else b.downsample(x), NCHW)
    return se("post", torch.relu(y + shortcut), NCHW)


def resnet_bottleneck(b, x, se):
    y = b.act1(b.bn1(b.conv1(se("pre", x, NCHW))))
    y = b.act2(b.bn2(se("3x3", b.conv2(y), NCHW)))
    y = se("standard", b.bn3(b.conv3(y)), NCHW)
    shortcut = se("identity", x if b.downsample is None else b.downsample(x), NCHW)
    return se("post", torch.relu(y + shortcut), NCHW)


def preact_shortcut(b, x):
    """A projection reads the normalised input, an identity shortcut the raw one."""
    return x if b.downsample is None else b.downsample(b.norm1(x))


def preact_basic(b, x, se):
    y = b.conv1(b.norm1(se("pre", x, NCHW)))
    y = se("standard", se("3x3", b.conv2(b.norm2(y)), NCHW), NCHW)
    return se("post", y + se("identity", preact_shortcut(b, x), NCHW), NCHW)


def preact_bottleneck(b, x, se):
    y = b.conv1(b.norm1(se("pre", x, NCHW)))
    y = b.conv3(b.norm3(se("3x3", b.conv2(b.norm2(y)), NCHW)))
    return se("post", se("standard", y, NCHW) + se("identity", preact_shortcut(b, x), NCHW), NCHW)


def convnext(b, x, se):
    y = se("3x3", b.conv_dw(se("pre", x, NCHW)), NCHW)
    y = b.mlp(b.norm(y))
    # Where gamma scales each channel SE stands before it, as on every branch with a layer scale.
    y = se("standard", y, NCHW)
    if b.gamma is not None:
        y = y * b.gamma[:, None, None]
    return se("post", y + se("identity", x, NCHW), NCHW)


def vit(b, x, se):
    x = x + b.ls1(se("standard.attn", b.attn(b.norm1(se("pre.attn", x, NLC))), NLC))
    x = x + b.ls2(se("standard.mlp", b.mlp(b.norm2(se("pre.mlp", x, NLC))), NLC))
    return se("post", x, NLC)


def swin(b, x, se):
    n, h, w, c = x.shape
    x = x + se("standard.attn", b._attn(b.norm1(se("pre.attn", x, NHWC))), NHWC)
    x = x.reshape(n, h * w, c)
    x = x + se("standard.mlp", b.mlp(b.norm2(se("pre.mlp", x, NLC))), NLC)
    return se("post", x.reshape(n, h, w, c), NHWC)


def inverted_residual(b, x, se):
    y = b.bn1(b.conv_pw(se("pre", x, NCHW)))
    y = b.bn2(se("3x3", b.conv_dw(y), NCHW))
    y = se("standard", b.bn3(b.conv_pwl(se("existing", y, NCHW, b.se))), NCHW)
    return se("post", y + x if b.has_skip else y, NCHW)


def depthwise_separable(b, x, se):
    y = b.bn1(b.conv_dw(x))
    y = b.bn2(b.conv_pw(se("existing", y, NCHW, b.se)))
    return y + x if b.has_skip else y


def efficientnet(b, x, se):
    return (inverted_residual if hasattr(b, "conv_pwl") else depthwise_separable)(b, x, se)


def regnet(b, x, se):
    y = b.conv1(se("pre", x, NCHW))
    y = b.conv2.bn(se("3x3", b.conv2.conv(y), NCHW))
    y = se("standard", b.conv3(b.se(y)), NCHW)
    return se("post", torch.relu(y + se("identity", b.downsample(x), NCHW)), NCHW)


def mixer(b, x, se):
    y = b.mlp_tokens(b.norm1(se("pre.mlp_tokens", x, NLC)).transpose(1, 2)).transpose(1, 2)
    x = x + se("standard.mlp_tokens", y, NLC)
    x = x + se("standard.mlp_channels", b.mlp_channels(b.norm2(se("pre.mlp_channels", x, NLC))), NLC)
    return se("post", x, NLC)


def cait(b, x, se):
    x = x + b.gamma_1 * se("standard.attn", b.attn(b.norm1(se("pre.attn", x, NLC))), NLC)
    x = x + b.gamma_2 * se("standard.mlp", b.mlp(b.norm2(se("pre.mlp", x, NLC))), NLC)
    return se("post", x, NLC)


def norm_free(b, x, se):
    shortcut = x if b.downsample is None else b.downsample(b.act1(x) * b.beta)
    y = b.conv1(b.act1(se("pre", x, NCHW)) * b.beta)
    y = se("3x3", b.conv2(b.act2(y)), NCHW)
    y = se("standard", b.conv3(b.act3(y)), NCHW)
    if b.skipinit_gain is not None:
        y = y * b.skipinit_gain
    return se("post", y * b.alpha + se("identity", shortcut, NCHW), NCHW)


def rexnet(b, x, se):
    """The branch is wider than the shortcut: its extra channels pass through, scaled too."""
    y = x if b.conv_exp is None else b.conv_exp(se("pre", x, NCHW))
    y = b.conv_dw.bn(se("3x3", b.conv_dw.conv(y), NCHW))
    y = b.conv_pwl(b.act_dw(y if b.se is None else b.se(y)))
    y = se("standard", y, NCHW)
    y = torch.cat([y[:, : x.shape[1]] + x, y[:, x.shape[1] :]], 1)
    return se("post", y, NCHW)


def dual_path(b, x, se):
    """One layer returns branch and shortcut channels: only the branch's are scaled."""
    shortcut = (b.c1x1_w_s1 or b.c1x1_w_s2 or torch.nn.Identity())(x)
    width = b.num_1x1_c
    y = b.c1x1_a(se("pre", x, NCHW))
    y = b.c1x1_c(se("3x3", b.c3x3_b.conv(b.c3x3_b.bn(y)), NCHW))
    if b.c1x1_c1 is None:
        y = se("standard", y, NCHW)
        added, dense = y[:, :width], y[:, width:]
    else:
        added, dense = se("standard", b.c1x1_c1(y), NCHW), b.c1x1_c2(y)
    return se("post", torch.cat([shortcut[:, :width] + added, shortcut[:, width:], dense], 1), NCHW)


ALL_FIVE = ("standard", "pre", "post", "identity", "3x3")
ATTN_MLP = ("standard.attn", "standard.mlp", "pre.attn", "pre.mlp", "post")

# Network: forward by hand, names of the blocks, places: a position and, where a block has several branches, one's end.
CASES = {
    "resnet18": (resnet_basic, r"layer\d\.\d", ALL_FIVE),
    "resnet26": (resnet_bottleneck, r"layer\d\.\d", ALL_FIVE),
    "resnetv2_18": (preact_basic, r"stages\.\d\.blocks\.\d", ALL_FIVE),
    "resnetv2_50": (preact_bottleneck, r"stages\.\d\.blocks\.\d", ALL_FIVE),
    "convnext_atto": (convnext, r"stages\.\d\.blocks\.\d", ALL_FIVE),
    "vit_tiny_patch16_224": (vit, r"blocks\.\d+", ATTN_MLP),
    "swin_tiny_patch4_window7_224": (swin, r"layers\.\d\.blocks\.\d", ATTN_MLP),
    "mobilenetv2_100": (inverted_residual, r"blocks\.[1-6]\.\d", ("standard", "pre", "post", "3x3")),
    "regnetx_002": (regnet, r"s\d\.b\d+", ALL_FIVE),
    "mixer_s32_224": (
        mixer,
        r"blocks\.\d+",
        ("standard.mlp_tokens", "standard.mlp_channels", "pre.mlp_tokens", "pre.mlp_channels", "post"),
    ),
    "cait_xxs24_224": (cait, r"blocks\.\d+", ATTN_MLP),
    "nf_resnet26": (norm_free, r"stages\.\d\.\d", ALL_FIVE),
    "rexnet_100": (rexnet, r"features\.([1-9]|1[0-5])", ("standard", "pre", "3x3")),
    "dpn48b": (dual_path, r"features\.conv[2-5]_\d", ("standard", "pre", "3x3")),
    "dpn68": (dual_path, r"features\.conv[2-5]_\d+", ("standard",)),
    "efficientnet_b0": (efficientnet, r"blocks\.\d\.\d", ("existing", "pre", "post", "3x3")),
}
PLACES = [(name, place) for name, (_, _, places) in CASES.items() for place in places]


@functools.cache
def small_network(name):
    return bare_network(name, **SMALL.get(name, {}))


@functools.cache
def sites_of(name):
    """Sites by block and place."""
    return {split(name, site): site for site in find_sites(small_network(name))}


def split(name, site):
    """Block and place of a site: ``blocks.0.attn`` at ``standard`` is ``standard.attn`` of ``blocks.0``."""
    block = re.match(CASES[name][1] + r"(?![\d_])", site.block)
    return (block[0], site.position + site.block[block.end() :]) if block else (None, None)


def images_for(name):
    side = SMALL.get(name, {}).get("img_size", 64)
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def run_watched(model, images, names):
    """Run ``model`` once and return the inputs and outputs of the named modules."""
    given, returned, handles = {}, {}, []

    def watch(name):
        def enter(module, args):
            given[name] = args[0].clone()

        def leave(module, args, output):
            returned[name] = output.clone()  # timm adds to it in place

        # The first hook before those that scale what is given, the second after those that scale what is returned.
        module = model.get_submodule(name)
        handles.extend((module.register_forward_pre_hook(enter, prepend=True), module.register_forward_hook(leave)))

    for name in names:
        watch(name)
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return given, returned


def searched(name, place, remove=False):
    """Return a bare network, its copy with SE blocks at ``place``, and the new weights of each block."""
    bare = small_network(name)
    sites = {block: site for (block, here), site in sites_of(name).items() if here == place}
    if remove:
        config = SEConfig(name, removed=tuple(sites.values()))
    else:
        config = SEConfig(name, tuple(PlacedSE(site, 4) for site in sites.values()))
    model = insert(copy.deepcopy(bare), config).eval()
    old = dict(bare.named_parameters())
    new = {key: value for key, value in model.named_parameters() if key not in old}
    torch.manual_seed(0)
    for value in new.values():
        torch.nn.init.normal_(value, std=0.3)
    weights = {
        block: {
            ".".join(key.split(".")[-2:]): value.detach() for key, value in new.items() if key.startswith(f"{block}.")
        }
        for block in sites
    }
    assert weights
    assert all(len(one) == 4 * (not remove) for one in weights.values())
    assert len(new) == sum(map(len, weights.values()))
    return bare, model, weights


def se_at(place, weights):
    """Return a function that applies SE with ``weights`` at ``place``, and the backbone's own layer elsewhere."""

    def se(here, x, axis, kept=None):
        if here == place:
            return scale(x, weights, axis) if weights else x
        return x if kept is None else kept(x)

    return se


def near(one, other):
    return one.shape == other.shape and float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_blocks_compute_what_the_forward_by_hand_does(name, place):
    by_hand, _, places = CASES[name]
    bare, model, weights = searched(name, place)
    given, returned = run_watched(model, images_for(name), weights)

    def is_as_at(other, block):
        expected = by_hand(bare.get_submodule(block), given[block].clone(), se_at(other, weights[block]))
        return near(returned[block], expected)

    with torch.no_grad():
        assert [block for block in weights if not is_as_at(place, block)] == []
        # The comparison tells a block without SE apart, and one with SE of that width elsewhere.
        block = max(weights)
        assert not is_as_at("nowhere", block)
        ends = {"standard", "3x3"} if name == "resnetv2_18" else set()  # its branch ends in a spatial convolution
        for other in set(places) - (ends if place in ends else {place}):
            with contextlib.suppress(RuntimeError):  # another width
                assert not is_as_at(other, block), other


def test_attention_taken_out_is_gone():
    bare, model, _ = searched("efficientnet_b0", "existing", remove=True)
    blocks = expected_blocks("efficientnet_b0", "existing")
    given, returned = run_watched(model, images_for("efficientnet_b0"), blocks)
    with torch.no_grad():
        for block in blocks:
            expected = efficientnet(bare.get_submodule(block), given[block].clone(), se_at("existing", {}))
            assert near(returned[block], expected), block


def expected_blocks(name, place):
    """Residual blocks that have ``place``, read off timm's source."""
    blocks = {key: module for key, module in small_network(name).named_modules() if re.fullmatch(CASES[name][1], key)}
    if place == "existing":
        return set(blocks)
    preact = name.startswith(("resnetv2", "nf_"))
    return {
        key
        for key, b in blocks.items()
        if getattr(b, "has_skip", True) and getattr(b, "use_shortcut", True)
        # A shortcut layer would read the normalised input.
        if not (preact and place == "identity" and b.downsample is None)
        # The projection reads what the branch does: nothing stands on the branch alone.
        if not (preact and place == "pre" and b.downsample is not None)
        if not (name == "rexnet_100" and place == "standard" and b.se is not None)
    }


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_no_block_is_left_out(name, place):
    assert expected_blocks(name, place) <= {block for block, here in sites_of(name) if here == place}


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_18", "resnetv2_50", "regnetx_002", "nf_resnet26"])
def test_the_shortcut_does_not_see_an_se_block_at_pre(name):
    bare, model, weights = searched(name, "pre")
    projected = {block: f"{block}.downsample" for block in weights if bare.get_submodule(block).downsample is not None}
    given, _ = run_watched(model, images_for(name), projected)
    _, projections = run_watched(model, images_for(name), projected.values())

    def shortcut(block, x):
        if name.startswith("resnetv2"):
            x = block.norm1(x)
        if name.startswith("nf_"):
            x = block.act1(x) * block.beta
        return block.downsample(x)

    with torch.no_grad():
        assert [
            block
            for block, key in projected.items()
            if not near(projections[key], shortcut(bare.get_submodule(block), given[block]))
        ] == []
