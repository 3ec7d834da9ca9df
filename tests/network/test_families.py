"""One small architecture of each timm family, from insertion to export."""

import copy
import functools

import pytest
import timm
import torch
from networks import SMALLEST, bare_network

from se_search import PlacedSE, SEConfig, export_timm, find_sites, insert
from se_search.network.attention import KINDS
from se_search.network.backbones import default_input_size

QUICK = {
    "byobnet",
    "convnext",
    "dla",
    "efficientnet",
    "mambaout",
    "mobilenetv3",
    "regnet",
    "resnet",
    "starnet",
    "vision_transformer",
}

# CSATv2 begins with a cosine transform, Hiera orders tokens by units, NesT groups them by windows, TNT has tokens in
# tokens.
WITHOUT_GRIDS = {"csatv2", "hiera", "nest", "tnt"}


def tensors(output):
    return [output] if isinstance(output, torch.Tensor) else [one for part in output for one in tensors(part)]


@pytest.mark.parametrize(
    "family", [pytest.param(family, marks=() if family in QUICK else pytest.mark.slow) for family in SMALLEST]
)
def test_a_member_of_each_family_goes_from_insertion_to_an_exported_folder(family, tmp_path):
    name = SMALLEST[family]
    bare = bare_network(name)
    free = [site for site in find_sites(name) if site.position != "existing"]
    sites = free or find_sites(name)
    config = SEConfig(name, tuple(PlacedSE(site, 4) for site in sites))
    model = insert(copy.deepcopy(bare), config, identity_start=True).eval()
    if not free:  # blocks take the place of the backbone's own attention
        bare = insert(bare, SEConfig.without_attention(name)).eval()
    images = torch.randn(2, *default_input_size(bare), generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        expected = tensors(bare(images))
    outputs = tensors(model(images))
    for one, other in zip(outputs, expected, strict=True):
        assert float((one.detach() - other).abs().max()) <= 1e-5 * float(other.abs().max())

    sum((one / other.abs().max()).square().mean() for one, other in zip(outputs, expected, strict=True)).backward()
    known = {key for key, _ in bare.named_parameters()}
    added = {key: parameter for key, parameter in model.named_parameters() if key not in known}
    assert len(added) == 4 * len(sites)
    assert not {key for key, parameter in added.items() if parameter.grad is None}
    # The bias, as all eight hidden units of a narrow block can be below zero by chance.
    assert not {key for key, parameter in added.items() if key.endswith("fc2.bias") and not parameter.grad.any()}

    with torch.no_grad():
        for key, parameter in added.items():
            if key.endswith("fc2.bias"):
                parameter.uniform_(-1, 1)
        moved = tensors(model(images))
    assert not all(torch.equal(one, other) for one, other in zip(moved, outputs, strict=True))
    export_timm(model, tmp_path / "exported")
    again = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True).eval()
    with torch.no_grad():
        for one, other in zip(tensors(again(images)), moved, strict=True):
            assert torch.equal(one, other)


BLOCKS = {
    **{
        f"{squeeze} {extent}": functools.partial(PlacedSE, ratio=4, squeeze=squeeze, extent=extent)
        for squeeze, extent in (("max", "global"), ("avg", 4), ("max", 2), ("avg", 1))
    },
    **{kind: KINDS[kind] for kind in KINDS if kind != "se"},
}


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("family", SMALLEST)
def test_each_kind_starts_without_an_effect_wherever_it_finds_its_grid(family, block):
    name = SMALLEST[family]
    bare = bare_network(name)
    free = [site for site in find_sites(name) if site.position != "existing"]
    placed = [BLOCKS[block](site) for site in free or find_sites(name)]
    placed = [one for one in placed if not one.needs_grid or one.site.grid is not None]
    assert placed or family in WITHOUT_GRIDS
    config = SEConfig(name, tuple(placed))
    model = insert(copy.deepcopy(bare), config, identity_start=True).eval()
    if not free:  # blocks take the place of the backbone's own attention
        bare = insert(bare, SEConfig.without_attention(name)).eval()
    images = torch.randn(2, *default_input_size(bare), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for one, other in zip(tensors(model(images)), tensors(bare(images)), strict=True):
            assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())
