"""What the study loop asks of an evaluator, and how a network is judged on the validation images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from ..data.image_data import ImageSet, batches
from ..errors import EvaluationError
from ..memory import memory_told
from ..network.config import SEConfig
from ..statistics import Estimate, accuracy_estimate, crossed_mean, mean_estimate
from .protocols import ConfigurationSource, ProgressBar
from .recipe import TrainingRecipe, autocast, to_device


@dataclass(frozen=True)
class Evaluation:
    """What a configuration is worth on one set of images.

    Attributes:
        accuracy: Top-1 accuracy with its 95 % interval.
        log_loss: Mean cross-entropy in nats with its 95 % interval.
        correct: Whether each image was classified correctly, for paired comparisons: one row for each training seed,
            one column for each image.
        losses: Cross-entropy of each image, in the same shape.
    """

    accuracy: Estimate
    log_loss: Estimate
    correct: npt.NDArray[np.bool_]
    losses: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.correct.ndim != 2 or self.correct.shape != self.losses.shape:
            raise EvaluationError("correct and losses need one row for each seed and one column for each image")


class Evaluator(Protocol):
    """Tells what configurations are worth. The study loop prepares it once and then evaluates one by one.

    Where workers on other machines take part, each prepares one of its own, in a folder that holds the files which the
    attribute ``shared_files`` names, if there is one: those that :meth:`prepare` leaves and takes up again. What
    :meth:`evaluate` leaves in folders below comes back to the run folder.
    """

    def prepare(self, folder: Path, space: ConfigurationSource, progress_bar: ProgressBar) -> None:
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


@runtime_checkable
class RungEvaluator(Protocol):
    """An evaluator that can be stopped on the way: what successive halving asks for besides."""

    def rungs(self, config: SEConfig) -> Iterator[tuple[int, Evaluation]]:
        """Give the epochs trained so far and what the network is worth then, at each rung; the last is the result."""


@memory_told()
def evaluate_network(
    model: nn.Module,
    images: ImageSet,
    batch: int = 64,
    device: torch.device | str = "cpu",
    recipe: TrainingRecipe | None = None,
) -> Evaluation:
    """Evaluate a network in the mode that it is in.

    Args:
        model: A classifier on ``device``.
        images: What to evaluate on.
        batch: Images in one forward pass.
        device: A torch device.
        recipe: Gives precision, memory format and loading processes; float32 and the default ones without it.

    Raises:
        EvaluationError: If the network's outputs are not finite.
    """
    recipe = recipe or TrainingRecipe(epochs=0, batch=batch, learning_rate=0.0)
    device = torch.device(device)
    losses, correct = [], []
    with torch.inference_mode():
        for inputs, labels in batches(images, batch, workers=recipe.workers):
            with autocast(recipe, device):
                logits = model(to_device(inputs, recipe, device))
            logits = logits.float().cpu()
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
            correct.append(logits.argmax(1) == labels)
    loss = torch.cat(losses).numpy()
    if not np.isfinite(loss).all():
        raise EvaluationError("the network's outputs are not finite")
    right = torch.cat(correct).numpy()
    return Evaluation(accuracy_estimate(right), mean_estimate(loss), right[None], loss[None])


def pool_seeds(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return what a configuration is worth on average over training seeds, all evaluated on the same images.

    The intervals then cover both the images and the seeds.
    """
    if len(evaluations) == 1:
        return evaluations[0]
    correct = np.concatenate([one.correct for one in evaluations])
    losses = np.concatenate([one.losses for one in evaluations])
    return Evaluation(crossed_mean(correct), crossed_mean(losses), correct, losses)
