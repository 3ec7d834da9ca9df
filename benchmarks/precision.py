"""Speed of training steps with bfloat16 and channels_last, in pairs against float32.

python benchmarks/precision.py --backbones resnet50 resnet10t --sizes 32 96
"""

import argparse
import random
import time
from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from torch.utils.data import TensorDataset

from se_search import SEConfig, create_model
from se_search.data.image_data import ImageData
from se_search.network.backbones import network_options
from se_search.statistics import Estimate
from se_search.training.recipe import Training, TrainingRecipe, classification_losses

BATCH = 64
SETTINGS = {
    "bfloat16": {"precision": "bfloat16"},
    "channels_last": {"channels_last": True},
    "bfloat16, channels_last": {"precision": "bfloat16", "channels_last": True},
    "float32 again": {},
}


def main() -> None:
    """Print the step time relative to float32, with its 95 % interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet50", "resnet10t"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32])
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{torch.get_num_threads()} threads, batch {BATCH}; step time as a ratio to float32 [95 %]")
    for backbone in arguments.backbones:
        for size in arguments.sizes:
            for name, settings in SETTINGS.items():
                ratio = compare(backbone, size, settings, arguments.pairs)
                print(
                    f"{backbone:12s} {size:4d}  {name:24s} {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
                    flush=True,
                )


def compare(backbone: str, size: int, settings: dict, pairs: int):
    """Measure one epoch of one step in both settings, in pairs of random order, after two warm-up pairs."""
    images = TensorDataset(torch.randn(BATCH, 3, size, size), torch.randint(10, (BATCH,)))
    data = ImageData("noise", 10, (3, size, size), (0.0,) * 3, (1.0,) * 3, "bilinear", images, images, images, images)
    trainings = []
    for chosen in ({}, settings):
        recipe = replace(TrainingRecipe(epochs=pairs + 2, batch=BATCH, learning_rate=1e-4), **chosen)
        model = create_model(SEConfig(backbone), num_classes=10, **network_options(backbone, data.input_size))
        training = Training(model, recipe, data, "cpu")
        trainings.append(training.epochs(classification_losses(training.model, recipe)))
    seconds = np.empty((pairs + 2, 2))
    order = random.Random(0)
    for pair in seconds:
        for which in order.sample((0, 1), 2):
            start = time.perf_counter()
            next(trainings[which])
            pair[which] = time.perf_counter() - start
    ratios, rng = seconds[2:, 1] / seconds[2:, 0], np.random.default_rng(0)
    interval = stats.bootstrap((ratios,), np.median, n_resamples=2000, method="percentile", rng=rng).confidence_interval
    return Estimate(float(np.median(ratios)), interval.low, interval.high)


if __name__ == "__main__":
    main()
