"""Pooled latencies: coverage of their intervals in simulated runs, and a check against long measurements.

python benchmarks/pooled_latency.py
python benchmarks/pooled_latency.py --real --threads 2
"""

import argparse
import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import numpy.typing as npt
import torch

from se_search import SEConfig, create_model
from se_search.deployment.deployment import Deployment
from se_search.latency.additive import MeasuredLatency, count_terms
from se_search.latency.meter import LatencyConditions, LatencyMeter, Ratio
from se_search.latency.pooled import pool_latencies
from se_search.latency.stopping import LIMIT, LOOK, TARGET
from se_search.network.backbones import network_options
from se_search.progress import progress_bar
from se_search.statistics import Estimate, accuracy_estimate, two_stage_mean
from se_search.study.files import load_space
from se_search.study.space import SearchSpace

NOISE = 0.02  # standard deviation of a round on an idle machine
LOADS = {
    "idle": lambda rng, rounds: NOISE * rng.normal(size=rounds),
    # The scale differs between measurements, one in ten is made under load, and rounds have heavy tails.
    "heavy-tailed": lambda rng, rounds: (
        NOISE * math.exp(rng.normal()) * (20 if rng.random() < 0.1 else 1) * rng.standard_t(3, size=rounds)
    ),
}
DEVIATIONS = {"additive": 0.0, "interactions 0.4 %": 0.004, "interactions 0.8 %": 0.008, "pairs of stages": 0.02}

Rng = np.random.Generator


def main() -> None:
    """Simulate, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="simulated runs of each case")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="measure configurations on this machine instead")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--configurations", type=int, default=30)
    parser.add_argument("--long", type=float, default=8.0, help="seconds of a long measurement")
    arguments = parser.parse_args()
    (check if arguments.real else simulate)(arguments)


def simulate(arguments: argparse.Namespace) -> None:
    """Print how often the intervals of simulated runs cover the true ratios."""
    space = SearchSpace("resnet50", load_space("stages"))
    print(f"{'truth':20s} {'load':14s} {'covered':>24s} {'covered alone':>14s} {'half-width':>12s} {'alone':>8s}")
    for (truth, deviation), (load, noise) in itertools.product(DEVIATIONS.items(), LOADS.items()):
        rng = np.random.default_rng(arguments.seed)
        covered, alone, widths, widths_alone = [], [], [], []
        for _ in range(arguments.runs):
            configs = draw(space, arguments.trials, random.Random(int(rng.integers(2**31))))
            ratios = true_ratios(configs, deviation, truth.startswith("pairs"), rng)
            measured = [
                MeasuredLatency(config, of_rounds(math.log(ratio) + noise(rng, arguments.rounds)))
                for config, ratio in zip(configs, ratios, strict=True)
            ]
            pooled = pool_latencies(measured)
            for place, (one, ratio) in enumerate(zip(measured, ratios, strict=True)):
                estimate = pooled.estimate(place)
                covered.append(estimate.low <= ratio <= estimate.high)
                alone.append(one.ratio.low <= ratio <= one.ratio.high)
                widths.append((estimate.high - estimate.low) / 2)
                widths_alone.append((one.ratio.high - one.ratio.low) / 2)
        print(
            f"{truth:20s} {load:14s} {share(covered):>24s} {100 * np.mean(alone):12.1f} % "
            f"{100 * np.median(widths):10.2f} % {100 * np.median(widths_alone):6.2f} %",
            flush=True,
        )


def share(covered: list[bool]) -> str:
    """Return a share in per cent with its interval."""
    value, low, high = (100 * one for one in astuple(accuracy_estimate(np.array(covered))))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def draw(space: SearchSpace, number: int, rng: random.Random) -> list[SEConfig]:
    """Draw distinct configurations with SE from a space."""
    drawn: dict[tuple[object, ...] | object, SEConfig] = {}
    while len(drawn) < number:
        config = space.draw(rng)
        if config.placed:
            drawn.setdefault(config.structure, config)
    return list(drawn.values())


def true_ratios(configs: list[SEConfig], deviation: float, by_pairs: bool, rng: Rng) -> npt.NDArray[np.float64]:
    """Return ratios of random costs: additive, with a deviation of each configuration or pair of stages."""
    costs: dict[object, float] = {}
    pairs: dict[object, float] = {}
    ratios = []
    for config in configs:
        terms = count_terms(config)
        for term in sorted(terms):
            costs.setdefault(term, float(rng.uniform(0.002, 0.015)))
        ratio = 1 + sum(costs[term] * amount for term, amount in terms.items())
        if by_pairs:
            stages = sorted({one.site.stage for one in config.placed})
            ratio += sum(
                pairs.setdefault(pair, float(deviation / 4 * rng.normal()))
                for pair in itertools.combinations(stages, 2)
            )
        else:
            ratio += float(deviation * rng.normal())
        ratios.append(ratio)
    return np.array(ratios)


def of_rounds(logarithms: npt.NDArray[np.float64]) -> Ratio:
    """Return the ratio that the meter gives for the logarithms of its rounds."""
    value, low, high = (math.exp(one) for one in astuple(two_stage_mean(logarithms, len(logarithms))))
    return Ratio(value, low, high, len(logarithms), len(logarithms), "limit", None, NOWHERE)


NOWHERE = LatencyConditions(
    processor="simulated", affinity=(), copies=True, clock_mhz=None, target=TARGET, limit=LOOK, threads=1
)


def check(arguments: argparse.Namespace) -> None:
    """Compare pooled short looks at configurations with long measurements of the same."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    space = SearchSpace(arguments.backbone, load_space("stages"))
    deployment = Deployment(size=(3, arguments.size, arguments.size), threads=torch.get_num_threads())
    options = network_options(arguments.backbone, deployment.size)
    bare = create_model(SEConfig(arguments.backbone), **options)
    configs = draw(space, arguments.configurations, random.Random(arguments.seed))

    def measure_all(what: str, measure: Callable[[torch.nn.Module], Ratio]) -> tuple[list[Ratio], float]:
        ratios, seconds = [], 0.0
        with progress_bar(what, len(configs)) as advance:
            for config in configs:
                network = create_model(config, **options)
                start = time.perf_counter()
                ratios.append(measure(network))
                seconds += time.perf_counter() - start
                advance()
        return ratios, seconds

    meter = LatencyMeter(bare, deployment, TARGET, LIMIT, arguments.seed)
    looks, looking = measure_all("Looking at each", lambda network: meter.measure(network, LOOK))
    precise = LatencyMeter(bare, deployment, TARGET / 2, arguments.long, arguments.seed + 1)
    truths, measuring = measure_all("Measuring each for long", precise.measure)
    pooled = pool_latencies([MeasuredLatency(*pair) for pair in zip(configs, looks, strict=True)])
    estimates = [pooled.estimate(place) for place in range(len(configs))]
    print(f"{'configuration':14s} {'pooled':26s} {'look':26s} long")
    for config, *ratios in zip(configs, estimates, map(as_estimate, looks), map(as_estimate, truths), strict=True):
        print(
            f"{config.id:14s} "
            + " ".join(f"{f'×{one.value:.4f} [{one.low:.4f}, {one.high:.4f}]':26s}" for one in ratios)
        )
    today = len(configs) * LIMIT
    print(
        f"\n{sum(map(agree, estimates, map(as_estimate, truths)))} of {len(configs)} pooled ratios agree with the long "
        f"measurement within both intervals combined, "
        f"{sum(one.low <= truth.median <= one.high for one, truth in zip(estimates, truths, strict=True))} contain its "
        f"value; half-widths {half_width(estimates):.2f} % pooled, {half_width(map(as_estimate, looks)):.2f} % alone, "
        f"{half_width(map(as_estimate, truths)):.2f} % long\n"
        f"{looking:.0f} s for the looks, {looking / today:.0%} of {len(configs)} measurements of {LIMIT:g} s; "
        f"{measuring:.0f} s for the long ones"
    )


def as_estimate(ratio: Ratio) -> Estimate:
    """Return a ratio's value and interval."""
    return Estimate(ratio.median, ratio.low, ratio.high)


def agree(one: Estimate, other: Estimate) -> bool:
    """Whether the difference lies within both intervals combined: the root of the sum of their squared half-widths."""
    return abs(one.value - other.value) <= math.hypot((one.high - one.low) / 2, (other.high - other.low) / 2)


def half_width(estimates: "map[Estimate] | list[Estimate]") -> float:
    """Return the median half-width in per cent."""
    return 100 * float(np.median([(one.high - one.low) / 2 for one in estimates]))


if __name__ == "__main__":
    main()
