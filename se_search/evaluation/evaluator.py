"""What the study loop asks of an evaluator, and how a network is judged on the validation images."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..errors import EvaluationError
from ..network.config import SEConfig
from ..network.sites import Site
from .statistics import Estimate, accuracy_estimate, mean_estimate

ProgressBar = Callable[[str, int, int], AbstractContextManager[Callable[..., None]]]
"""As :func:`se_search.progress.progress_bar`."""


@dataclass(frozen=True)
class Evaluation:
    """What a configuration is worth on the validation images.

    Attributes:
        accuracy: Top-1 accuracy with its Wilson interval.
        log_loss: Mean cross-entropy in nats with its bootstrap interval.
        correct: Whether each validation image was classified correctly, for paired comparisons.
    """

    accuracy: Estimate
    log_loss: Estimate
    correct: npt.NDArray[np.bool_]


class Space(Protocol):
    """What an evaluator may ask of the space that is searched."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site at which a configuration of the space may have an SE block."""

    def draw(self, rng: random.Random) -> SEConfig:
        """Draw a configuration."""

    def largest(self) -> SEConfig:
        """Return a configuration with the widest SE block at every site of one position."""


class Evaluator(Protocol):
    """Tells what configurations are worth. The study loop prepares it once and then evaluates one by one."""

    def prepare(self, folder: Path, space: Space, progress_bar: ProgressBar) -> None:
        """Train what all configurations share, go on with it, or load what is trained already.

        Args:
            folder: The run folder, where it is kept. A killed process must find the last whole version.
            space: The space that is searched.
            progress_bar: As :func:`se_search.progress.progress_bar`.
        """

    def load(self, folder: Path) -> None:
        """Load what :meth:`prepare` has left in a run folder, so that :meth:`network` works; nothing is trained.

        Raises:
            RunFolderError: If it is missing or damaged.
        """

    def evaluate(self, config: SEConfig) -> Evaluation:
        """Evaluate a configuration on the validation images.

        An error fails the trial, not the search.
        """

    def network(self, config: SEConfig) -> nn.Module:
        """Return the network of ``config`` whose outputs :meth:`evaluate` judges, in evaluation mode on the CPU."""


def evaluate_network(
    model: nn.Module, images: Dataset[Any], batch: int = 64, device: torch.device | str = "cpu", seed: int = 0
) -> Evaluation:
    """Evaluate a network in the mode that it is in.

    Args:
        model: A classifier on ``device``.
        images: What to evaluate on, pairs of image and class index.
        batch: Images in one forward pass.
        device: A torch device.
        seed: Fixes the bootstrap of the log-loss.

    Raises:
        EvaluationError: If the network's outputs are not finite.
    """
    losses, correct = [], []
    with torch.inference_mode():
        for inputs, labels in DataLoader(images, batch):
            logits = model(inputs.to(device)).float().cpu()
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
            correct.append(logits.argmax(1) == labels)
    loss = torch.cat(losses).numpy()
    if not np.isfinite(loss).all():
        raise EvaluationError("the network's outputs on the validation images are not finite")
    right = torch.cat(correct).numpy()
    return Evaluation(accuracy_estimate(right), mean_estimate(loss, seed), right)
