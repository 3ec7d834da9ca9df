"""Rows and columns of the positions at sites, and what cannot have them."""

import pytest
import timm
import torch
from torch import nn

from se_search.errors import ConfigurationError
from se_search.network.attention.grid import Grid, grid_of
from se_search.network.attention.layers import from_map, to_map
from se_search.network.sites import find_places, find_sites


def grids_of(network, size=None):
    return {(site.grid and (site.grid.prefix, site.grid.rows, site.grid.columns)) for site in find_sites(network, size)}


@pytest.mark.parametrize(
    ("backbone", "size", "grids"),
    [
        # A class token and patches of 16 pixels.
        ("test_vit", None, {(1, 10, 10)}),
        ("test_vit", (3, 160, 80), {(1, 10, 5)}),
        # Class and distillation token.
        ("deit_tiny_distilled_patch16_224", None, {(2, 14, 14)}),
        # Stages of stride 4 to 32, in NHWC and, for the MLPs, as tokens.
        ("swin_tiny_patch4_window7_224", None, {(0, side, side) for side in (56, 28, 14, 7)}),
        ("test_resnet", (3, 64, 96), {(0, side * 2, side * 3) for side in (8, 4, 2, 1)}),
        ("test_convnext", None, {(0, side, side) for side in (40, 20, 10, 5)}),
    ],
)
def test_the_grid_is_the_input_divided_by_the_stride_after_timms_prefix_tokens(backbone, size, grids):
    assert grids_of(backbone, size) == grids


def test_tokens_are_in_row_major_order_after_the_prefix():
    """Changing one patch changes the input of the first block in the token of that row and column only."""
    model = timm.create_model("test_vit").eval()
    (grid,) = {site.grid for site in find_sites("test_vit", (3, 160, 80))}
    entered = []
    model.blocks[0].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    images = torch.zeros(2, 3, 160, 80)
    row, column = 7, 3
    images[1, :, row * 16 : (row + 1) * 16, column * 16 : (column + 1) * 16] = 1
    with torch.no_grad():
        model(images)
    changed = (entered[0][0] != entered[0][1]).any(1).nonzero().flatten().tolist()
    assert changed == [grid.prefix + row * grid.columns + column]
    assert grid.prefix == model.num_prefix_tokens


class Tokens(nn.Module):
    """Patches as tokens, changed by a function, in two residual blocks."""

    def __init__(self, change):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.change = change

    def forward(self, images):
        x = self.change(self.patches(images))
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.layer(x)


def in_windows(x):
    return x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 2, 4, 3, 5, 1).flatten(1, 4)


KNOWN = {
    "tokens": (lambda x: x.flatten(2).transpose(1, 2), (0, 8, 4)),
    "NHWC": (lambda x: x.permute(0, 2, 3, 1), (0, 8, 4)),
    "by way of tokens": (lambda x: x.flatten(2).transpose(1, 2).reshape(2, 8, 4, 8), (0, 8, 4)),
    "cropped": (lambda x: x[:, :, 1:-1].flatten(2).transpose(1, 2), (0, 6, 4)),
}
"""Changes of a map of 8 rows and 4 columns."""


@pytest.mark.parametrize("name", KNOWN)
def test_the_grid_is_followed_through_reshapes(name):
    change, grid = KNOWN[name]
    assert grids_of(Tokens(change), (3, 32, 16)) == {grid}


def test_prefix_tokens_are_counted_and_dropped():
    def extended(x):
        tokens = x.flatten(2).transpose(1, 2)
        return torch.cat([torch.zeros(2, 3, 8, device=x.device), tokens], 1)

    assert grids_of(Tokens(extended), (3, 32, 16)) == {(3, 8, 4)}
    assert grids_of(Tokens(lambda x: extended(x)[:, 2:]), (3, 32, 16)) == {(1, 8, 4)}


@pytest.mark.parametrize(
    ("change", "operation"),
    [
        (in_windows, "flatten"),
        (lambda x: x.flatten(2).transpose(1, 2).flip(1), "flip"),
        (lambda x: x.flatten(2).transpose(1, 2)[:, ::2], "__getitem__"),
        (lambda x: x.flatten(2).transpose(1, 2)[:, torch.tensor([3, 1, 2])], "__getitem__"),
        (lambda x: x.flatten(2).transpose(1, 2)[:, :-1], "__getitem__"),
        (lambda x: torch.cat([x.flatten(2), x.flatten(2)], 2).transpose(1, 2), "cat"),
        (lambda x: nn.functional.linear(x.flatten(2), torch.eye(32, device=x.device)).transpose(1, 2), "linear"),
    ],
    ids=["windows", "reversed", "every second", "picked", "without the last", "twice", "mixed"],
)
def test_tokens_that_are_reordered_dropped_or_mixed_have_no_grid_and_a_reason(change, operation):
    network = Tokens(change)
    assert grids_of(network, (3, 32, 16)) == {None}
    reasons = {place.grid for place in find_places(network, (3, 32, 16)).values()}
    assert reasons == {f"the rows and columns of the image are unknown after {operation} in the network"}


def test_the_grid_is_not_part_of_a_sites_identity():
    network = Tokens(KNOWN["tokens"][0])
    small, large = (find_sites(network, size) for size in ((3, 32, 16), (3, 64, 64)))
    assert small == large
    assert small[0].grid != large[0].grid
    assert "grid" not in repr(small[0])


@pytest.mark.parametrize(
    ("traced", "tokens", "grid"),
    [
        (Grid(1, 14, 14), 197, Grid(1, 14, 14)),
        (Grid(1, 14, 14), 5, Grid(1, 2, 2)),
        (Grid(0, 6, 4), 96, Grid(0, 12, 8)),
        (Grid(0, 6, 4), 6, Grid(0, 3, 2)),
    ],
)
def test_another_image_size_scales_the_grid(traced, tokens, grid):
    assert traced.scaled_to(tokens) == grid
    assert grid_of((2, tokens, 8), "NLC", traced) == grid_of((2, 8, tokens), "NCL", traced) == grid


@pytest.mark.parametrize(("traced", "tokens"), [(Grid(1, 14, 14), 196), (Grid(0, 6, 4), 25), (Grid(3, 2, 2), 3)])
def test_a_number_of_tokens_that_no_image_of_that_shape_has_is_refused(traced, tokens):
    with pytest.raises(ConfigurationError, match=f"{tokens} tokens have no rows and columns"):
        traced.scaled_to(tokens)


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NLC", "NCL"])
def test_positions_become_a_map_and_come_back(layout, prefix):
    positions = torch.randn(2, 5, 3, 4)
    before = torch.randn(2, 5, prefix)
    tokens = torch.cat([before, positions.flatten(2)], 2)
    x = {"NCHW": positions, "NHWC": positions.permute(0, 2, 3, 1), "NCL": tokens, "NLC": tokens.transpose(1, 2)}[layout]
    grid = Grid(prefix if layout in ("NLC", "NCL") else 0, 3, 4)
    assert torch.equal(to_map(x, layout, grid), positions)
    doubled = from_map(2 * positions, x, layout, grid)
    assert doubled.shape == x.shape
    assert torch.equal(to_map(doubled, layout, grid), 2 * positions)
    kept = {"NLC": doubled[:, :prefix].transpose(1, 2), "NCL": doubled[:, :, :prefix]}.get(layout, before)
    assert torch.equal(kept, before)
