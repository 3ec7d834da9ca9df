"""Stated power against the power of the tool's intervals in simulated studies, and the noise that is assumed.

    python benchmarks/power.py                     # the grid: images, seeds, accuracy, discordance, comparisons
    python benchmarks/power.py --noise noise.npz   # noise of search and verification on the embedded tasks, by training

Correctness follows normal variables of images (shared by both networks, and each network's own), of seeds and of the
rest; log-losses follow simulated logits. At the smallest difference that is told with a stated power of 80 %, the
script prints the stated power and the share of simulated studies whose interval excludes zero.
The file of ``--noise`` stores finished trainings: the same command resumes.
"""

import argparse
import itertools
import math
import random as standard_random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from se_search.paired_power import (
    Comparison,
    Variances,
    accuracy_power,
    log_loss_power,
    smallest_accuracy_difference,
    smallest_log_loss_difference,
    typical_variances,
    variances_of,
)
from se_search.statistics import confidence_of_each, crossed_difference

Values = npt.NDArray[np.float64]

SHARED = 0.6
TASKS = {
    "digits": ("resnet10t", "standard", 8, 0.002),
    "digits-hard": ("resnet10t", "standard", 8, 0.002),
    "digits-context": ("test_resnet", "post", 8, 0.004),
}
"""Backbone, position, epochs and learning rate of each embedded task."""
LOGITS = {"99 %": ((10.0, 9.7), 2.1, 0.8), "97 %": ((9.0, 8.5), 2.2, 0.8), "69 %": ((5.0, 4.6), 2.2, 1.0)}
"""For each accuracy: mean logit of the correct class per network, spread of shared and of own logits."""


@dataclass(frozen=True)
class Networks:
    """Two networks; the first is more accurate by ``difference``.

    ``own`` and ``of_seeds`` are standard deviations of the latent variables of a network's images and seeds.
    """

    accuracy: float
    own: float
    of_seeds: float
    difference: float

    @property
    def bounds(self) -> Values:
        """Values below which an image is classified correctly."""
        return stats.norm.ppf([min(self.accuracy + self.difference, 1.0), self.accuracy])

    @property
    def left(self) -> float:
        """Standard deviation of the rest."""
        return math.sqrt(1 - SHARED**2 - self.own**2 - self.of_seeds**2)

    def noise(self) -> Variances:
        """Return the variances of differences over many images and seeds."""
        random = np.random.default_rng(2)
        images = SHARED * random.standard_normal(40_000) + self.own * random.standard_normal((2, 40_000))
        margins = self.bounds[:, None] - images
        first, second = stats.norm.cdf(margins / math.hypot(self.left, self.of_seeds))
        common = float(np.var(first - second))
        shifts = self.of_seeds * random.standard_normal((200, 2, 1))
        seeds = float(
            np.var([np.subtract(*stats.norm.cdf((margins[:, :4000] - one) / self.left).mean(1)) for one in shifts])
        )
        discordance = float(np.mean(first * (1 - second) + second * (1 - first)))
        return Variances(common, seeds, max(discordance - self.difference**2 - common - seeds, 0.0))

    def study(self, random: np.random.Generator, comparison: Comparison) -> npt.NDArray[np.bool_]:
        """Draw correctness of shape (2, seeds, images)."""
        images, seeds = comparison.images, comparison.seeds
        latent = SHARED * random.standard_normal(images) + self.own * random.standard_normal((2, 1, images))
        latent = latent + self.of_seeds * random.standard_normal((2, seeds, 1))
        latent = latent + self.left * random.standard_normal((2, seeds, images))
        return latent < self.bounds[:, None, None]


def told(first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], comparisons: int) -> bool:
    """Return whether the interval of the tool lies above zero."""
    return crossed_difference(first, second, confidence_of_each(comparisons)).low > 0


def compare(
    row: str, stated: float, studies: Iterable[Iterable[npt.NDArray[Any]]], comparisons: int, remark: str = ""
) -> float:
    """Print a row with the stated power and that of simulated studies; return the error of the stated power."""
    simulated = float(np.mean([told(first, second, comparisons) for first, second in studies]))
    print(f"{row} {stated:7.3f} {simulated:9.3f} {stated - simulated:+7.3f}{remark}", flush=True)
    return stated - simulated


def check_accuracy(studies: int) -> list[float]:
    """Print the grid of accuracies; return the errors of the stated power."""
    print("images seeds accuracy  own of_seeds comparisons | disagree difference  stated simulated   error")
    errors = []
    # Of one seed the networks' randomness is part of the images: they are these two trained networks.
    designs = [(1, 0.0), (2, 0.02), (3, 0.02), (3, 0.1), (5, 0.02)]
    grid = itertools.product((100, 400, 2000), designs, (0.7, 0.9, 0.97), (0.3, 0.5), (1, 20))
    for images, (seeds, of_seeds), accuracy, own, comparisons in grid:
        comparison = Comparison(images, seeds, comparisons)
        equal = Networks(accuracy, own, of_seeds, 0.0)
        difference = smallest_accuracy_difference(comparison, equal.noise())
        if difference > 1 - accuracy - 0.001:
            continue  # no network is so much more accurate
        networks = Networks(accuracy, own, of_seeds, difference)
        noise, random = networks.noise(), np.random.default_rng(1)
        stated = accuracy_power(difference, comparison, noise)
        row = f"{images:6d} {seeds:5d} {accuracy:8.2f} {own:4.1f} {of_seeds:8.2f} {comparisons:11d} | "
        drawn = (networks.study(random, comparison) for _ in range(studies))
        errors.append(compare(f"{row}{noise.of_an_image:8.3f} {difference:10.4f}", stated, drawn, comparisons))
    return errors


def check_log_loss(studies: int) -> list[float]:
    """Print the grid of log-losses of two trained networks; return the errors of the stated power."""
    print("\naccuracy images comparisons | kurtosis difference  stated simulated   error")
    errors = []
    for task, (levels, spread, own) in LOGITS.items():
        random = np.random.default_rng(11)
        shared = spread * random.standard_normal((200_000, 10))
        losses = []
        for level in levels:
            logits = shared + own * random.standard_normal(shared.shape)
            logits[:, 0] += level
            losses.append(np.logaddexp.reduce(logits, axis=1) - logits[:, 0])
        differences = losses[0] - losses[1]
        differences -= differences.mean()
        noise = variances_of(differences[None])
        for images, comparisons in itertools.product((100, 400, 2000), (1, 20)):
            comparison = Comparison(images, 1, comparisons)
            difference = smallest_log_loss_difference(comparison, noise)
            drawn = (
                (random.choice(differences, (1, images)) + difference, np.zeros((1, images))) for _ in range(studies)
            )
            few = images < 3 * noise.kurtosis
            row = f"{task:>8} {images:6d} {comparisons:11d} | {noise.kurtosis:8.0f} {difference:10.4f}"
            stated = log_loss_power(difference, comparison, noise)
            error = compare(row, stated, drawn, comparisons, " (few images)" if few else "")
            if not few:
                errors.append(error)
    return errors


def report(name: str, errors: list[float]) -> None:
    """Print how far the stated power is from the simulated one."""
    sizes = np.abs(errors)
    print(
        f"{name}: {np.sum(sizes <= 0.03)} of {len(errors)} rows within 3 points, {np.sum(sizes <= 0.05)} within 5; "
        f"largest error {100 * max(sizes):.1f} points, mean {100 * np.mean(errors):+.1f}"
    )


def measure_noise(file: Path, seeds: int) -> None:
    """Train the missing networks on the embedded tasks and print the noise of search and verification."""
    kept: dict[str, npt.NDArray[np.generic]] = dict(np.load(file)) if file.exists() else {}
    for task in TASKS:
        for seed in range(seeds):
            for ratio in (0, 16):
                train(kept, file, task, seed, ratio)
        share_weights(kept, file, task)
        alone = [
            [kept[f"{task} {ratio} {seed} {kind}"] for seed in range(seeds)] for kind in KINDS for ratio in (16, 0)
        ]
        correct, correct_none, losses, losses_none = (np.concatenate(one).astype(float) for one in alone)
        show(f"{task}, verification", variances_of(correct - correct_none), variances_of(losses - losses_none))
        of_all = [kept[f"{task} supernet {kind}"].astype(float) for kind in KINDS]
        search = [typical_variances([variances_of(one[None] - values[:1]) for one in values[1:]]) for values in of_all]
        show(f"{task}, search", *search)


KINDS = ("correct", "losses")


def show(name: str, accuracy: Variances, log_loss: Variances) -> None:
    """Print the noise of one comparison."""
    print(f"{name}: two networks differ on {accuracy.of_an_image:.2%} of the images; {accuracy}; log-loss {log_loss}")


def train(kept: dict[str, npt.NDArray[np.generic]], file: Path, task: str, seed: int, ratio: int) -> None:
    """Train a network with uniform SE (0: none) from scratch, and keep its outcomes on validation and test images."""
    if f"{task} {ratio} {seed} losses" in kept:
        return
    from torch.utils.data import ConcatDataset

    from se_search import SEConfig
    from se_search.data.load import load_data
    from se_search.training.evaluator import evaluate_network
    from se_search.training.recipe import TrainingRecipe
    from se_search.training.stand_alone import Scratch

    backbone, position, epochs, rate = TASKS[task]
    data = load_data(task, backbone)
    bare = SEConfig.without_attention(backbone)
    config = SEConfig.uniform(backbone, ratio, position=position, rounding=1) if ratio else bare
    training = Scratch(backbone, data, TrainingRecipe(epochs, 64, rate, seed=seed)).training(config, seed)
    evaluation = evaluate_network(training.finish(), ConcatDataset([data.validation, data.test]), 64)
    for kind in KINDS:
        kept[f"{task} {ratio} {seed} {kind}"] = getattr(evaluation, kind)
    np.savez(file, **kept)


def share_weights(kept: dict[str, npt.NDArray[np.generic]], file: Path, task: str) -> None:
    """Train a supernet, and keep the outcomes of no SE and eight random configurations on validation images."""
    if f"{task} supernet losses" in kept:
        return
    from se_search import SEConfig
    from se_search.data.load import load_data
    from se_search.study.space import SearchSpace
    from se_search.study.space_definition import SpaceDefinition
    from se_search.training.protocols import no_progress
    from se_search.training.recipe import TrainingRecipe
    from se_search.training.supernet import Supernet

    backbone, position, epochs, rate = TASKS[task]
    data = load_data(task, backbone)
    choices = SpaceDefinition(placement="stage", positions=(position,), ratios=(4, 16), gates=("sigmoid",), rounding=1)
    space = SearchSpace(backbone, choices)
    supernet = Supernet(backbone, space.widest_blocks(), data, TrainingRecipe(epochs, 64, rate))
    random = standard_random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        supernet.prepare(Path(folder), space, no_progress)
        configs = [SEConfig.without_attention(backbone), *(space.draw(random) for _ in range(8))]
        evaluated = [supernet.evaluate(config) for config in configs]
    for kind in KINDS:
        kept[f"{task} supernet {kind}"] = np.concatenate([getattr(one, kind) for one in evaluated])
    np.savez(file, **kept)


def main() -> None:
    """Run the grid, or measure noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies per row")
    parser.add_argument("--noise", type=Path, metavar="FILE", help="measure noise by training; keep outcomes in FILE")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each network for --noise")
    options = parser.parse_args()
    if options.noise:
        measure_noise(options.noise, options.seeds)
        return
    accuracy, log_loss = check_accuracy(options.studies), check_log_loss(options.studies)
    report("\naccuracy", accuracy)
    report("log-loss, at least three images per unit of kurtosis", log_loss)


if __name__ == "__main__":
    main()
