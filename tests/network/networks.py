"""Networks for tests."""

import timm
import torch
from torch import nn


def bare_network(name, **options):
    """Create a network all of whose branches count: many of timm's start at zero or next to it."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    for parameter in model.parameters():
        if parameter.dim() <= 1:
            nn.init.uniform_(parameter, 0.2, 0.6)
        elif not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model
