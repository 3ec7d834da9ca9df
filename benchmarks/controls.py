"""Effect of squeeze-and-excitation on the embedded tasks, by stand-alone training from scratch.

    python benchmarks/controls.py                                # all tasks, three seeds
    python benchmarks/controls.py --task digits-context --seeds 5
    python benchmarks/controls.py --task digits-context --backbone test_resnet --position post

For each seed, uniform SE and no SE start from the same backbone weights and see the same batches. Their log-losses
are compared image by image on validation and test images. The squared standard error of a difference is the sum of a
part from the images and a part from the seeds.
"""

import argparse
import time

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import ConcatDataset

from se_search import SEConfig
from se_search.data.image_data import ImageData
from se_search.data.load import EMBEDDED, load_data
from se_search.training.evaluator import evaluate_network
from se_search.training.recipe import TrainingRecipe
from se_search.training.stand_alone import Scratch

DEFAULTS = {
    "digits": ("resnet10t", "standard", 8, 0.002),
    "digits-hard": ("resnet10t", "standard", 8, 0.002),
    "digits-context": ("test_efficientnet", "existing", 6, 0.006),
    "digits-distant": ("resnet18", "post", 4, 0.004),
}
"""Backbone, position, epochs and learning rate."""
RATIOS = (16, 4)


def train_seeds(
    config: SEConfig, data: ImageData, recipe: TrainingRecipe, seeds: int
) -> tuple[npt.NDArray[np.float64], float]:
    """Return log-losses of shape (seeds, images) and the mean accuracy."""
    scratch = Scratch(config.backbone, data, recipe)
    unseen = ConcatDataset([data.validation, data.test])
    losses, accuracies = [], []
    for seed in range(seeds):
        evaluation = evaluate_network(scratch.training(config, seed).finish(), unseen, recipe.batch)
        losses.append(evaluation.losses[0].astype(float))
        accuracies.append(evaluation.accuracy.value)
    return np.stack(losses), float(np.mean(accuracies))


def standard_error(differences: npt.NDArray[np.float64]) -> float:
    """Return the standard error of the mean of ``differences``, of shape (seeds, images)."""
    seeds, images = differences.shape
    between_seeds = differences.mean(1).var(ddof=1) / seeds if seeds > 1 else 0.0
    return float(np.sqrt(differences.mean(0).var(ddof=1) / images + between_seeds))


def compare(task: str, options: argparse.Namespace) -> None:
    """Print the effect of uniform SE on one task."""
    backbone, position, epochs, learning_rate = DEFAULTS[task]
    backbone, position = options.backbone or backbone, options.position or position
    data = load_data(task, backbone)
    recipe = TrainingRecipe(options.epochs or epochs, options.batch, options.learning_rate or learning_rate)
    none = SEConfig.without_attention(backbone)
    configs = {"no SE": none}
    for ratio in RATIOS:
        configs[f"r={ratio}"] = SEConfig.uniform(backbone, ratio, position=position, rounding=1)
    print(f"{task}: {backbone}, position {position}, {recipe.epochs} epochs, {options.seeds} seeds")
    print(f"{'':>10} {'log-loss':>9} {'accuracy':>9} {'to no SE':>9} {'s.e.':>7} {'in s.e.':>8} {'seconds':>8}")
    reference: npt.NDArray[np.float64] | None = None
    for name, config in configs.items():
        start = time.perf_counter()
        losses, accuracy = train_seeds(config, data, recipe, options.seeds)
        seconds = (time.perf_counter() - start) / options.seeds
        row = f"{name:>10} {losses.mean():9.4f} {accuracy:9.3f}"
        if reference is None:
            reference = losses
            row += " " * 27
        else:
            difference, error = (losses - reference).mean(), standard_error(losses - reference)
            row += f" {difference:+9.4f} {error:7.4f} {difference / error:+8.1f}"
        print(f"{row} {seconds:8.1f}", flush=True)


def main() -> None:
    """Run the selected tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", action="append", choices=tuple(EMBEDDED), help="repeatable; all by default")
    parser.add_argument("--backbone", help="timm architecture; the task's own by default")
    parser.add_argument("--position", help="position of SE in a block; the task's own by default")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per network")
    parser.add_argument("--epochs", type=int, help="the task's own by default")
    parser.add_argument("--learning-rate", type=float, help="the task's own by default")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    for task in options.task or EMBEDDED:
        compare(task, options)


if __name__ == "__main__":
    main()
