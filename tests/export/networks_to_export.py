"""Networks for export tests."""

import random

import torch
from torch import nn

from se_search import PlacedSE, SEConfig, create_model, find_sites
from se_search.network.attention.gates import GATES
from se_search.network.backbones import default_input_size


def drawn_configuration(backbone: str, seed: int, most: int = 5) -> SEConfig:
    """Up to ``most`` SE blocks at random sites of all positions, each with its own ratio and gate.

    Every second site of own attention that is drawn is removed instead.
    """
    draw = random.Random(seed)
    every = find_sites(backbone)
    sites = draw.sample(every, min(most, len(every)))
    removed = tuple(site for site in sites if site.position == "existing")[::2]
    placed = tuple(
        PlacedSE(site, draw.choice((2, 4, 8, 16)), draw.choice(tuple(GATES)), draw.random() < 0.7, draw.choice((1, 8)))
        for site in sites
        if site not in removed
    )
    return SEConfig(backbone, placed, removed)


def network(config: SEConfig, **options) -> nn.Module:
    """Create a network whose branches and SE blocks all affect the output; timm initialises many of them to zero."""
    torch.manual_seed(0)
    model = create_model(config, **options).eval()
    for parameter in model.parameters():
        if parameter.dim() <= 1:
            nn.init.uniform_(parameter, 0.2, 0.6)
        elif not parameter.any() or parameter.abs().max() < 1e-10:
            nn.init.normal_(parameter, std=0.02)
    return model


def images_for(model: nn.Module) -> torch.Tensor:
    return torch.randn(2, *default_input_size(model), generator=torch.Generator().manual_seed(1))
