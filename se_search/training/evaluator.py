"""Interface of evaluators, and the evaluation of a network on images."""

import itertools
import time
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
from ..errors import DivergenceError, EvaluationError
from ..memory import memory_told
from ..network.config import SEConfig
from ..progress import Phase
from ..statistics import Estimate, accuracy_estimate, crossed_mean, mean_estimate
from .protocols import ConfigurationSource, ProgressBar
from .recipe import TrainingRecipe, autocast, to_device

_TIMED_BATCHES = 3


@dataclass(frozen=True)
class Evaluation:
    """Accuracy and log-loss of a configuration on one set of images.

    Attributes:
        accuracy: Top-1 accuracy with its 95 % interval.
        log_loss: Mean cross-entropy in nats with its 95 % interval.
        correct: Whether each image was classified correctly, of shape (seeds, images).
        losses: Cross-entropy of each image, of the same shape.
        training_losses: Mean training loss of each epoch for each seed; empty if nothing was trained for it.
    """

    accuracy: Estimate
    log_loss: Estimate
    correct: npt.NDArray[np.bool_]
    losses: npt.NDArray[np.float32]
    training_losses: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.correct.ndim != 2 or self.correct.shape != self.losses.shape:
            raise EvaluationError("correct and losses need one row for each seed and one column for each image")


class Evaluator(Protocol):
    """Evaluates configurations. The study loop prepares it once, then evaluates one configuration at a time.

    Another process prepares its own evaluator in a folder with the files that the optional attribute
    ``shared_files`` names: those that :meth:`prepare` writes and resumes from. Files that :meth:`evaluate` writes into
    subfolders are copied back to the run folder.
    """

    def prepare(self, folder: Path, space: ConfigurationSource, progress_bar: ProgressBar) -> None:
        """Train what all configurations share, resume that training, or load its result.

        Args:
            folder: The run folder, which keeps the result. Files must be whole even if the process is killed.
            space: The search space.
            progress_bar: As :func:`se_search.progress.progress_bar`.
        """

    def load(self, folder: Path) -> None:
        """Load the result of :meth:`prepare` from a run folder without training, so that :meth:`network` works.

        Raises:
            RunFolderError: If it is missing or damaged.
        """

    def evaluate(self, config: SEConfig) -> Evaluation:
        """Evaluate a configuration on the validation images. An error fails the trial, not the search."""

    def network(self, config: SEConfig) -> nn.Module:
        """Return the network that :meth:`evaluate` evaluates, in evaluation mode on the CPU."""


@runtime_checkable
class RungEvaluator(Protocol):
    """An evaluator whose training can be stopped early, as successive halving requires."""

    def rungs(self, config: SEConfig) -> Iterator[tuple[int, Evaluation]]:
        """Yield the epochs trained so far and the evaluation at each rung; the last one is the result."""


@dataclass(frozen=True)
class Effort:
    """What an evaluator takes.

    Attributes:
        phases: Phases of :meth:`Evaluator.prepare`, with the titles of its progress bars.
        trial: Duration of an evaluation (s).
        shared_bytes: Size of the files that :meth:`Evaluator.prepare` writes.
        trial_bytes: Size of the files that an evaluation writes.
    """

    phases: tuple[Phase, ...]
    trial: float
    shared_bytes: int = 0
    trial_bytes: int = 0


@runtime_checkable
class EstimatingEvaluator(Protocol):
    """An evaluator that estimates what it takes, for the plan of a search."""

    def estimate(self, folder: Path, space: ConfigurationSource) -> Effort:
        """Estimate from a few timed steps, before :meth:`Evaluator.prepare`.

        Nothing is written, and weights and random states stay as they are. What ``folder`` has already takes no time.
        """


@memory_told()
def time_images(model: nn.Module, images: ImageSet, recipe: TrainingRecipe, device: torch.device | str) -> float:
    """Return the duration of the evaluation of one image (s), from a few batches."""
    device, seen = torch.device(device), []
    model.eval()
    with torch.inference_mode():
        drawn = batches(images, recipe.batch, workers=recipe.workers, pinned=device.type == "cuda")
        begun = time.perf_counter()
        for inputs, _ in itertools.islice(drawn, _TIMED_BATCHES):
            with autocast(recipe, device):
                model(to_device(inputs, recipe, device)).float().cpu()
            ended = time.perf_counter()
            seen.append((ended - begun) / len(inputs))
            begun = ended
    return min(seen)


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
        images: Images to evaluate on.
        batch: Images in one forward pass.
        device: A torch device.
        recipe: Precision, memory format and data loader processes; float32 and the defaults without it.

    Raises:
        DivergenceError: If the network's outputs are not finite.
    """
    recipe = recipe or TrainingRecipe(epochs=0, batch=batch, learning_rate=0.0)
    device = torch.device(device)
    losses, correct = [], []
    with torch.inference_mode():
        for inputs, labels in batches(images, batch, workers=recipe.workers, pinned=device.type == "cuda"):
            with autocast(recipe, device):
                logits = model(to_device(inputs, recipe, device))
            logits = logits.float().cpu()
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
            correct.append(logits.argmax(1) == labels)
    loss = torch.cat(losses).numpy()
    if not np.isfinite(loss).all():
        raise DivergenceError("the network's outputs are not finite")
    right = torch.cat(correct).numpy()
    return Evaluation(accuracy_estimate(right), mean_estimate(loss), right[None], loss[None])


def pool_seeds(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the mean over training seeds, all evaluated on the same images; its intervals cover images and seeds."""
    if len(evaluations) == 1:
        return evaluations[0]
    correct = np.concatenate([one.correct for one in evaluations])
    losses = np.concatenate([one.losses for one in evaluations])
    trained = tuple(curve for one in evaluations for curve in one.training_losses)
    return Evaluation(crossed_mean(correct), crossed_mean(losses), correct, losses, trained)
