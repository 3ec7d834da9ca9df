"""Copies of networks."""

import copy

import pytest
import torch
from torch import nn

from se_search.network.backbones import copy_network, copy_on_meta


class Biases(nn.Module):
    """Keeps what it computes in evaluation mode, as the attention of EfficientFormer keeps its biases."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(3.0))
        self.kept = {}

    def forward(self, images):
        return images + self.kept.setdefault("cpu", 2 * self.weight)


def test_a_network_that_has_kept_computed_tensors_can_be_copied():
    model, images = nn.Sequential(Biases()).eval(), torch.ones(1, 3)
    model(images)
    with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
        copy.deepcopy(model)
    copied = copy_network(model)
    assert copied(images).tolist() == [[1, 3, 5]]
    assert copied[0].kept["cpu"].data_ptr() != model[0].kept["cpu"].data_ptr()
    assert copy_on_meta(model)[0].kept["cpu"].is_meta
