"""Means of gates over images: what a gate is if it becomes constant."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..data.image_data import ImageSet, batches
from ..network.gates import by_channel, watched_gates
from .recipe import TrainingRecipe, autocast, to_device

CALIBRATION_IMAGES = 1024
"""Training images over which gates are averaged; all if there are fewer."""


@dataclass(frozen=True)
class GateMoments:
    """Mean and standard deviation of a gate over images, one value per channel."""

    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]

    @property
    def spread(self) -> float:
        """How much the gate depends on the image: its deviation over its mean, both as root mean squares."""
        size = float(np.mean(self.mean**2))
        return float(np.sqrt(np.mean(self.deviation**2) / size)) if size else 0.0


def gate_moments(
    model: nn.Module, gates: Mapping[str, nn.Module], images: ImageSet, recipe: TrainingRecipe, device: str
) -> dict[str, GateMoments]:
    """Return the moments of each gate over images, in one pass."""
    sums: dict[str, npt.NDArray[np.float64]] = {}
    first: dict[str, torch.Tensor] = {}

    def add(name: str, output: torch.Tensor) -> None:
        values = by_channel(model, name, output).double()
        # Squares of differences from the first image, so that a constant gate has no deviation by rounding.
        values = values - first.setdefault(name, values[:1].clone())
        sums[name] = sums.get(name, 0.0) + torch.stack([values.sum(0), (values**2).sum(0)]).cpu().numpy()

    count = 0
    with watched_gates(gates, add):
        for inputs, _ in batches(images, recipe.batch, workers=recipe.workers):
            forward_images(model, inputs, recipe, device)
            count += len(inputs)
    moments = {}
    for name, (total, squares) in sums.items():
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        moments[name] = GateMoments(first[name][0].cpu().numpy() + mean, deviation)
    return moments


def mean_gates(
    model: nn.Module, gates: Mapping[str, nn.Module], images: ImageSet, recipe: TrainingRecipe, device: str
) -> dict[str, npt.NDArray[np.float64]]:
    """Return the mean of each gate over images, one value per channel."""
    return {name: one.mean for name, one in gate_moments(model, gates, images, recipe, device).items()}


def forward_images(model: nn.Module, images: torch.Tensor, recipe: TrainingRecipe, device: str) -> Any:
    """Return the network's output for a batch."""
    target = torch.device(device)
    with torch.inference_mode(), autocast(recipe, target):
        return model(to_device(images, recipe, target))
