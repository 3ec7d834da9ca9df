"""A/A test of latency: how often the 95 % interval of a network against its own copy excludes 1 (nominally 5 %).

python benchmarks/latency_aa.py --backbone resnet10t --size 32
python benchmarks/latency_aa.py --backbone resnet10t --size 32 --load 1
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from scipy import stats

from se_search import SEConfig, create_model
from se_search.deployment.deployment import Deployment
from se_search.deployment.prepare import prepare
from se_search.deployment.runtimes.base import using_threads
from se_search.latency.meter import LatencyMeter
from se_search.network.backbones import network_options

BUSY = "import numpy as np\na = np.ones((500, 500))\nwhile True:\n    a @ a"


def main() -> None:
    """Print the share of intervals that exclude 1, for the estimator and for a bootstrap over pairs of one copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--runtime", default="eager")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--target", type=float, default=0.005)
    parser.add_argument("--limit", type=float, default=5.0, help="seconds per measurement")
    parser.add_argument("--load", type=int, default=0, help="background processes that each occupy a core")
    parser.add_argument("--json", help="JSON file for all measurements")
    arguments = parser.parse_args()
    size = (3, arguments.size, arguments.size)
    network = create_model(SEConfig(arguments.backbone), **network_options(arguments.backbone, size))
    deployment = Deployment(runtime=arguments.runtime, size=size, threads=arguments.threads)
    rows = []
    start = time.perf_counter()
    with busy(arguments.load):
        for seed in range(arguments.times):
            ratio = LatencyMeter(network, deployment, arguments.target, arguments.limit, seed).measure(network)
            row = {
                name: getattr(ratio, name)
                for name in ("median", "low", "high", "pairs", "rounds", "stopped", "interruptions")
            }
            if arguments.runtime == "eager":
                row["one_copy"] = one_copy(network, deployment, seed)
            rows.append(row)
    print(
        f"{arguments.backbone} at {arguments.size}, {arguments.runtime}, {arguments.threads} threads, "
        f"{arguments.load} busy processes: {arguments.times} measurements in {time.perf_counter() - start:.0f} s"
    )
    tell("rounds of fresh copies, Student", [(row["low"], row["high"]) for row in rows])
    if arguments.runtime == "eager":
        tell("100 pairs of one copy, bootstrap", [row["one_copy"] for row in rows])
    table = pd.DataFrame(rows)
    widths = (table["high"] - table["low"]) / 2
    print(
        f"half-width: median {widths.median():.2%}, 5 to 95 % of cases {widths.quantile(0.05):.2%} to "
        f"{widths.quantile(0.95):.2%}; stopped by the target in {(table['stopped'] == 'target').mean():.0%}"
    )
    print(
        f"medians: {table['pairs'].median():.0f} pairs, {table['interruptions'].median():.1f} interruptions a second; "
        f"mean ratio {table['median'].mean():.5f}"
    )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"arguments": vars(arguments), "measurements": rows}, file)


def tell(what: str, intervals: list[tuple[float, float]]) -> None:
    """Print the number of intervals that exclude 1, with Clopper and Pearson's interval of the share."""
    excluding = sum(not low <= 1 <= high for low, high in intervals)
    low, high = stats.binomtest(excluding, len(intervals)).proportion_ci()
    share = excluding / len(intervals)
    print(f"{what:34s} {excluding:3d} of {len(intervals)} exclude 1: {share:.1%} [{low:.1%}, {high:.1%}]")


def one_copy(network: torch.nn.Module, deployment: Deployment, seed: int) -> tuple[float, float]:
    """The common method: both networks keep their memory, and pairs are treated as independent."""
    order = random.Random(seed)
    both = [prepare(network, deployment), prepare(network, deployment)]
    seconds = np.empty((105, 2))
    with using_threads(deployment.threads):
        for pair in seconds:
            for which in order.sample((0, 1), 2):
                start = time.perf_counter()
                both[which].run()
                pair[which] = time.perf_counter() - start
    ratios, rng = seconds[5:, 1] / seconds[5:, 0], np.random.default_rng(seed)
    return tuple(
        stats.bootstrap((ratios,), np.median, n_resamples=2000, method="percentile", rng=rng).confidence_interval
    )


@contextmanager
def busy(processes: int):
    """Keep cores busy with other processes."""
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = [subprocess.Popen([sys.executable, "-c", BUSY], env=one_thread) for _ in range(processes)]
    try:
        yield
    finally:
        for one in started:
            one.kill()


if __name__ == "__main__":
    main()
