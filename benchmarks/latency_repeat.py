"""Repeatability of latency: whether two processes agree on the order of configurations with disjoint intervals.

python benchmarks/latency_repeat.py --backbone resnet18 --size 96
"""

import argparse
import itertools
import json
import random
import subprocess
import sys

from scipy import stats

from se_search import SEConfig, create_model
from se_search.deployment.deployment import Deployment
from se_search.latency.meter import LatencyMeter
from se_search.network.backbones import network_options
from se_search.study.files import load_space
from se_search.study.space import SearchSpace


def main() -> None:
    """Measure ten random configurations in two consecutive processes, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--space", default="blocks")
    parser.add_argument("--configurations", type=int, default=10)
    parser.add_argument("--limit", type=float, default=5.0)
    parser.add_argument("--once", action="store_true", help="measure in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments)))
        return
    command = [sys.executable, __file__, "--once", *sys.argv[1:]]
    first, second = (
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        print("   ".join(f"×{value:.4f} [{low:.4f}, {high:.4f}]" for value, low, high in (one, other)))
    disjoint = agreeing = swapped = 0
    for i, j in itertools.combinations(range(len(first)), 2):
        orders = [1 if run[i][1] > run[j][2] else -1 if run[j][1] > run[i][2] else 0 for run in (first, second)]
        if any(orders):
            disjoint += 1
            agreeing += (first[i][0] - first[j][0]) * (second[i][0] - second[j][0]) > 0
        swapped += orders[0] * orders[1] < 0
    tau = (2 * agreeing - disjoint) / disjoint if disjoint else float("nan")
    over_all = stats.kendalltau([ratio[0] for ratio in first], [ratio[0] for ratio in second]).statistic
    pairs = len(first) * (len(first) - 1) // 2
    print(
        f"{disjoint} of {pairs} pairs have disjoint intervals in either process: Kendall's tau over these "
        f"{tau:.2f}, over all {over_all:.2f}; {swapped} pairs with disjoint intervals in both swap"
    )
    apart = sum(one[1] > other[2] or other[1] > one[2] for one, other in zip(first, second, strict=True))
    print(f"{apart} of {len(first)} configurations have disjoint intervals in the two processes")


def measure(arguments: argparse.Namespace) -> list[tuple[float, float, float]]:
    """Return each configuration's latency ratio with the ends of its interval."""
    size = (3, arguments.size, arguments.size)
    options = network_options(arguments.backbone, size)
    space = SearchSpace(arguments.backbone, load_space(arguments.space))
    rng = random.Random(0)
    meter = LatencyMeter(
        create_model(SEConfig(arguments.backbone), **options), Deployment(size=size), limit=arguments.limit
    )
    ratios = [meter.measure(create_model(space.draw(rng), **options)) for _ in range(arguments.configurations)]
    return [(ratio.median, ratio.low, ratio.high) for ratio in ratios]


if __name__ == "__main__":
    main()
