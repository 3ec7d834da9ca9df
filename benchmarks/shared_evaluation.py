"""What sharing saves when a supernet evaluates the configurations of a search, and the error of recalibration.

    se-search run --backbone resnet50 --out runs/resnet50-digits
    python benchmarks/shared_evaluation.py runs/resnet50-digits
    python benchmarks/shared_evaluation.py runs/resnet50-digits --recalibration 128 256 512 --draws 3

The first command counts the passes of images through the stages of the network (all sites of the space at one
resolution are a stage) that the trials of a finished search need in their order, and times all evaluations, with and
without sharing: for each configuration one after the other, in alternating order, in this process. The second compares
values after recalibration on a few training images with those after recalibration on all of them.
"""

import argparse
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.optim.swa_utils import update_bn

from se_search import SEConfig, load_run
from se_search.statistics import rank_agreement
from se_search.study.space import SearchSpace
from se_search.training.evaluator import Evaluation, evaluate_network
from se_search.training.recipe import autocast
from se_search.training.supernet import Supernet
from se_search.trials.evaluators import create_shipped, study_data
from se_search.trials.folder import read_definition


class Unshared(Supernet):
    """A supernet that evaluates each configuration by itself."""

    def evaluate(self, config: SEConfig) -> Evaluation:
        """Evaluate without constant gates."""
        self.select(config)
        with autocast(self.recipe, self.device):
            update_bn(self._calibration_batches(), self.model, self.device)
        self.model.eval()
        return evaluate_network(self.model, self.data.validation, self.recipe.batch, self.device, self.recipe)


class Finished:
    """A finished search.

    Args:
        folder: Its run folder.
        most: Only the first trials.
    """

    def __init__(self, folder: Path, most: int) -> None:
        run = load_run(folder)
        self.folder = folder
        self.definition = read_definition(folder)
        self.data = study_data(self.definition)
        self.space = SearchSpace(self.definition.backbone, self.definition.space)
        trials = run.trials
        self.configs = [SEConfig.from_json(one) for one in trials[trials["state"] == "complete"]["config"][:most]]

    def supernet(self, images: int | None = None, seed: int | None = None) -> Supernet:
        """Return the trained supernet, with other images for recalibration."""
        supernet = create_shipped(self.definition, self.space, self.data)
        assert isinstance(supernet, Supernet)
        supernet.load(self.folder)
        supernet._recalibration_images = images or supernet._recalibration_images
        if seed is not None:
            supernet.recipe = replace(supernet.recipe, seed=seed)
        return supernet


def count_passes(search: Finished) -> None:
    """Print the share of passes through stages that sharing saves, if everything is kept."""
    stages = sorted({site.stage for site in search.space.sites})
    seen: set[object] = set()
    depths: Counter[int] = Counter()
    for config in search.configs:
        prefixes = [
            (last, config.structure_at([site for site in search.space.sites if site.stage <= last]))
            for last in stages[:-1]
        ]
        depths[max((place for place, one in enumerate(prefixes, 1) if one in seen), default=0)] += 1
        seen.update(prefixes)
    saved, all_passes = sum(depth * count for depth, count in depths.items()), len(stages) * len(search.configs)
    by_depth = ", ".join(f"{depths[depth]} of the first {depth}" for depth in range(len(stages)))
    images = search.supernet()._images_of_a_trial()
    print(
        f"{len(search.configs)} configurations, {len(stages)} stages, {images} images each: {saved} of {all_passes} "
        f"stage passes saved, {saved / all_passes:.1%}, {saved * images} of {all_passes * images} images x stages "
        f"({by_depth})"
    )


def time_evaluations(search: Finished) -> None:
    """Print the wall time of all evaluations with and without sharing."""
    shared, alone = search.supernet(), search.supernet()
    alone.__class__ = Unshared
    methods = {"shared": shared, "alone": alone}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for number, config in enumerate(search.configs):
        losses = {}
        for name in list(methods)[:: 1 if number % 2 else -1]:
            begun = time.perf_counter()
            losses[name] = methods[name].evaluate(config).losses
            seconds[name].append(time.perf_counter() - begun)
        worst = float(np.abs(losses["shared"] - losses["alone"]).max())
        print(f"{number}: {seconds['shared'][-1]:.2f} s, alone {seconds['alone'][-1]:.2f} s, {worst:.1e}", flush=True)
    totals = {name: sum(one) for name, one in seconds.items()}
    ratios = np.array(seconds["shared"]) / np.array(seconds["alone"])
    print(
        f"{len(search.configs)} evaluations: {totals['shared']:.1f} s, alone {totals['alone']:.1f} s, ratio "
        f"{totals['shared'] / totals['alone']:.2f} (median of the ratios {median(ratios):.2f}); "
        f"{torch.get_num_threads()} threads"
    )


def compare_recalibration(search: Finished, counts: list[int], draws: int) -> None:
    """Print the error of values after recalibration on some images, against all."""

    def values(supernet: Supernet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = [supernet.evaluate(config) for config in search.configs]
        losses = np.array([one.log_loss.value for one in found])
        accuracies = np.array([one.accuracy.value for one in found])
        widths = np.array([(one.log_loss.high - one.log_loss.low) / 2 for one in found])
        return losses, accuracies, widths

    every = len(search.data.calibration)
    losses, accuracies, widths = values(search.supernet(every))
    print(
        f"all {every} images: log-loss {losses.min():.4f} to {losses.max():.4f} (half an interval "
        f"{median(widths):.4f}), accuracy {accuracies.min():.4f} to {accuracies.max():.4f}"
    )
    for count in counts:
        for seed in range(draws):
            some, right, _ = values(search.supernet(count, seed))
            shift, rest = (some - losses).mean(), (some - losses).std()
            print(
                f"{count} images, draw {seed}: tau of log-loss {rank_agreement(some, losses).value:.3f}, of accuracy "
                f"{rank_agreement(right, accuracies).value:.3f}; log-loss {shift:+.4f} on average, deviation between "
                f"configurations {rest:.4f}; accuracy {100 * (right - accuracies).mean():+.2f} points on average, "
                f"{100 * np.abs(right - accuracies).max():.2f} at most",
                flush=True,
            )


def main() -> None:
    """Count and time, or compare recalibrations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished search with the supernet")
    parser.add_argument("--trials", type=int, default=50, help="only the first ones")
    parser.add_argument("--recalibration", type=int, nargs="+", help="numbers of training images")
    parser.add_argument("--draws", type=int, default=3, help="draws of each number of images")
    parser.add_argument("--count-only", action="store_true", help="count passes without running any")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    search = Finished(options.run, options.trials)
    if options.recalibration:
        compare_recalibration(search, options.recalibration, options.draws)
        return
    count_passes(search)
    if not options.count_only:
        time_evaluations(search)


if __name__ == "__main__":
    main()
