"""Latency of SE in resnet50 with equal folding and runtime: timm's blocks, optimized ones, and the lower bound.

python benchmarks/se_latency.py --json se_latency.json
python benchmarks/se_latency.py --runtimes compile --batch 1 --threads 2 --formats contiguous --rounds 6
"""

import argparse
import copy
import gc
import itertools
import json
import math
import operator
import random
import time

import numpy as np
import timm
import torch
from torch import nn

from se_search import SEConfig, create_model, optimize_for_inference
from se_search.deployment.deployment import MEMORY_FORMATS, Deployment
from se_search.deployment.layers import PooledLinear
from se_search.deployment.prepare import prepare
from se_search.deployment.runtimes.base import Prepared, using_threads
from se_search.statistics import Estimate, two_stage_mean

PAIRS = {
    "A/A": ("bare copy", "bare"),
    "timm's SE": ("SE", "bare"),
    "optimized": ("SE optimized", "bare optimized"),
    "scaling alone": ("scaled optimized", "bare optimized"),
    "optimizing itself": ("bare optimized", "bare"),
}
FEWEST_ROUNDS = 4


def main() -> None:
    """Print one row per cell; each cell is one interleaved run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--ratio", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--runtimes", nargs="+", default=["eager", "compile"])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--formats", nargs="+", default=list(MEMORY_FORMATS), choices=list(MEMORY_FORMATS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=12, help="rounds with fresh copies of every network")
    parser.add_argument("--passes", type=int, default=5, help="passes per network and round, after warm-up")
    parser.add_argument("--seconds", type=float, default=50, help="start no round of a cell after this time")
    parser.add_argument("--training-batch", type=int, default=8, help="batch size of the training step; 0 skips it")
    parser.add_argument("--json", help="JSON file for all estimates")
    arguments = parser.parse_args()
    size = (3, arguments.size, arguments.size)
    networks = make_networks(arguments.backbone, arguments.ratio, size)
    cells = []
    print("more time than without SE, with the 95 % interval; bound: scaling alone + reading the excitations' weights")
    print(f"{'':46s}" + "".join(f"{name:>26s}" for name in PAIRS) + f"{'weights':>9s}{'bound':>9s}")
    for runtime, threads, batch, layout in itertools.product(
        arguments.runtimes, arguments.threads, arguments.batch, arguments.formats
    ):
        deployment = Deployment(runtime=runtime, memory_format=layout, batch=batch, size=size, threads=threads)
        cell = measure(networks, deployment, arguments.rounds, arguments.passes, arguments.seconds)
        cells.append(cell)
        name = f"{runtime}, batch {batch}, {layout}, threads {threads}"
        shown = "".join(f"{percent(Estimate(*one)):>26s}" for one in cell["ratios"].values())
        print(f"{name:46s}{shown}{cell['weights']:+9.1%}{cell['bound']:+9.1%}", flush=True)
    training = []
    for threads in arguments.threads if arguments.training_batch else ():
        step = train(arguments.backbone, arguments.ratio, size, arguments.training_batch, threads, arguments.rounds)
        training.append(step)
        print(
            f"training step, batch {arguments.training_batch}, {threads} threads: our block against timm's "
            f"{percent(Estimate(*step['ratio']))}; peak memory {step['peak'][0]:.1f} and {step['peak'][1]:.1f} MiB"
        )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"arguments": vars(arguments), "cells": cells, "training": training}, file, indent=1)


def make_networks(backbone: str, ratio: int, size: tuple[int, int, int]) -> dict[str, nn.Module]:
    """Create the networks to compare, with the initial weights of timm and the SE blocks."""
    torch.manual_seed(0)
    bare = create_model(SEConfig(backbone), zero_init_last=False).eval()
    attended = create_model(SEConfig.uniform(backbone, ratio), zero_init_last=False).eval()
    optimized = optimize_for_inference(attended, size)
    return {
        "bare": bare,
        "bare copy": bare,
        "SE": attended,
        "bare optimized": optimize_for_inference(bare, size),
        "SE optimized": optimized,
        "scaled optimized": scaled_by_constants(optimized),
    }


def scaled_by_constants(optimized: nn.Module) -> nn.Module:
    """Remove squeeze and excitation but keep the scaling by gates, which no implementation can avoid.

    The constants depend on the image by a factor of zero, so that a compiler cannot fold them into the weights.
    """
    network = copy.deepcopy(optimized)
    graph = network.graph
    (images,) = graph.find_nodes(op="placeholder")
    with graph.inserting_after(images):
        pixel = graph.call_function(operator.getitem, (images, (slice(None), 0, 0, slice(0, 1))))
    with graph.inserting_after(pixel):
        nothing = graph.call_function(operator.mul, (pixel, 0.0))
    excitations = [
        node
        for node in graph.find_nodes(op="call_module", sort=True)
        if isinstance(network.get_submodule(node.target), PooledLinear)
    ]
    for second in excitations[1::2]:
        bias = f"{second.target}.bias"
        with graph.inserting_before(second):
            constant = graph.call_function(operator.add, (nothing, graph.get_attr(bias)))
        second.replace_all_uses_with(constant)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    network.recompile()
    return network


def excitation_bytes(optimized: nn.Module) -> int:
    """Return the bytes of SE weights."""
    layers = [module for module in optimized.modules() if isinstance(module, PooledLinear)]
    return sum(weight.numel() * weight.element_size() for layer in layers for weight in layer.parameters())


def seconds_to_read(size: int) -> float:
    """Return the time to read ``size`` bytes at memory bandwidth, from summing data far larger than the caches."""
    values = torch.ones(1 << 27)
    runs = []
    for _ in range(5):
        start = time.perf_counter()
        values.sum()
        runs.append(time.perf_counter() - start)
    return float(np.median(runs[1:])) * size / (values.numel() * values.element_size())


def measure(
    networks: dict[str, nn.Module], deployment: Deployment, rounds: int, passes: int, limit: float
) -> dict[str, object]:
    """Time all networks in turn, in a new random order per pass.

    The value of a round is the median of its log ratios; the interval is Student's over rounds.
    """
    with using_threads(deployment.threads):
        reading = seconds_to_read(excitation_bytes(networks["SE optimized"]))
        ready = {name: prepare(network, deployment) for name, network in networks.items()}
        seconds = interleave(ready, rounds, passes, limit)
    estimates = {name: estimate(seconds, *pair) for name, pair in PAIRS.items()}
    weights = reading / float(np.median(seconds["bare optimized"]))
    return {
        "runtime": deployment.runtime,
        "threads": deployment.threads,
        "batch": deployment.batch,
        "format": deployment.memory_format,
        "rounds": len(seconds["bare"]),
        "milliseconds": {name: 1000 * float(np.median(values)) for name, values in seconds.items()},
        "ratios": {name: (one.value, one.low, one.high) for name, one in estimates.items()},
        "weights": weights,
        "bound": estimates["scaling alone"].value - 1 + weights,
    }


def interleave(ready: dict[str, Prepared], rounds: int, passes: int, limit: float) -> dict[str, np.ndarray]:
    """Return the seconds of each pass, one row per round."""
    order = random.Random(0)
    names = list(ready)
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        while len(seconds[names[0]]) < rounds:
            if len(seconds[names[0]]) >= FEWEST_ROUNDS and time.perf_counter() - began > limit:
                break
            # The copies of the last round still exist, so that the new ones get other memory.
            ready = {name: ready[name].fresh() for name in order.sample(names, len(names))}
            for name in names:
                ready[name].run()
                ready[name].run()
                seconds[name].append([])
            for _ in range(passes):
                for name in order.sample(names, len(names)):
                    start = time.perf_counter()
                    ready[name].run()
                    seconds[name][-1].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return {name: np.array(values) for name, values in seconds.items()}


def estimate(seconds: dict[str, np.ndarray], network: str, baseline: str) -> Estimate:
    """Return the ratio of two networks' times with its interval."""
    logarithms = np.median(np.log(seconds[network] / seconds[baseline]), axis=1)
    mean = two_stage_mean(logarithms, len(logarithms))
    return Estimate(math.exp(mean.value), math.exp(mean.low), math.exp(mean.high))


def percent(ratio: Estimate) -> str:
    """Format a ratio as a difference in per cent."""
    return f"{ratio.value - 1:+.1%} [{ratio.low - 1:+.1%}, {ratio.high - 1:+.1%}]"


def train(
    backbone: str, ratio: int, size: tuple[int, int, int], batch: int, threads: int, rounds: int
) -> dict[str, object]:
    """Compare time and peak memory of a training step (forward, backward) with our blocks and with timm's."""
    ours = create_model(SEConfig.uniform(backbone, ratio)).train()
    timms = (
        timm.create_model(f"se{backbone}", rd_ratio=1 / ratio) if ratio != 16 else timm.create_model(f"se{backbone}")
    )
    images = torch.randn(batch, *size)
    order = random.Random(0)
    networks = {"ours": ours, "timm's": timms.train()}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with using_threads(threads):
        peaks = [peak_of_step(network, images) for network in networks.values()]
        for _ in range(rounds):
            for name in order.sample(list(networks), 2):
                start = time.perf_counter()
                step(networks[name], images)
                seconds[name].append(time.perf_counter() - start)
    mean = two_stage_mean(np.log(np.array(seconds["ours"]) / np.array(seconds["timm's"])), rounds)
    return {
        "threads": threads,
        "batch": batch,
        "ratio": [math.exp(one) for one in (mean.value, mean.low, mean.high)],
        "peak": peaks,
    }


def step(network: nn.Module, images: torch.Tensor) -> None:
    """Compute gradients."""
    network.zero_grad(set_to_none=True)
    network(images).logsumexp(1).mean().backward()


def peak_of_step(network: nn.Module, images: torch.Tensor) -> float:
    """Return the peak memory of a step in MiB, from PyTorch's profiler."""
    step(network, images)
    network.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step(network, images)
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in changes)) / 2**20


if __name__ == "__main__":
    main()
