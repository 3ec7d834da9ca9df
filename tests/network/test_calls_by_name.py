"""Tracing of networks that pass keyword arguments to operations and modules."""

import pytest
import torch
from torch import nn

from se_search import SEConfig, find_sites, insert
from se_search.network.config import PlacedSE

SIZE = (8, 16, 16)


class Branch(nn.Module):
    """A residual block whose branch is ``step``."""

    def __init__(self, step):
        super().__init__()
        self.step = step
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return x + self.step(self, x)


def network(step):
    model = nn.Sequential(*(Branch(step) for _ in range(2)))
    model.pretrained_cfg = model.default_cfg = {"input_size": SIZE}
    return model


@pytest.mark.parametrize(
    ("by_place", "by_name"),
    [
        (
            lambda block, x: block.conv(x).permute(0, 1, 3, 2),
            lambda block, x: block.conv(x).permute(dims=(0, 1, 3, 2)),
        ),
        (
            lambda block, x: block.conv(x).transpose(2, 3),
            lambda block, x: block.conv(x).transpose(dim0=2, dim1=3),
        ),
        (
            lambda block, x: block.conv(x).transpose(2, 3),
            lambda block, x: torch.transpose(block.conv(x), 2, dim1=3),
        ),
    ],
)
def test_named_dimensions_are_those_of_their_places(by_place, by_name):
    sites = find_sites(network(by_place), SIZE)
    assert {site.position for site in sites} >= {"standard", "pre", "post"}
    assert find_sites(network(by_name), SIZE) == sites


def test_a_block_whose_input_is_named_offers_no_place_on_it_and_all_others_work():
    model = network(lambda block, x: block.conv(input=block.norm(input=x)))
    sites = find_sites(model, SIZE)
    assert {site.position for site in sites} >= {"standard", "post"}
    assert "pre" not in {site.position for site in sites}
    images = torch.randn(2, *SIZE)
    for site in sites:
        bare = network(lambda block, x: block.conv(input=block.norm(input=x))).eval()
        config = SEConfig("resnet18", (PlacedSE(site, 2),))
        searched = insert(bare, config, input_size=SIZE)
        assert not torch.equal(searched(images), model.eval()(images))
