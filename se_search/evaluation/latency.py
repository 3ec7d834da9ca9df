"""Latency of a searched network as a ratio to its backbone's, measured in pairs."""

import copy
import gc
import platform
import random
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .statistics import median_estimate


@dataclass(frozen=True)
class LatencyConditions:
    """Under which conditions a latency was measured."""

    device: str
    processor: str
    threads: int
    dtype: str
    runtime: str
    batch: int
    size: tuple[int, int, int]
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"size": list(self.size)}


@dataclass(frozen=True)
class Ratio:
    """Median of paired latency ratios with its 95 % bootstrap interval; 1.05 is 5 % slower than the baseline."""

    median: float
    low: float
    high: float
    pairs: int
    conditions: LatencyConditions


def measure_latency(
    model: nn.Module,
    baseline: nn.Module,
    input_size: tuple[int, int, int] = (3, 224, 224),
    batch: int = 1,
    pairs: int = 100,
    device: str = "cpu",
    seed: int = 0,
) -> Ratio:
    """Measure how much slower ``model`` is than ``baseline``, both in evaluation mode and float32.

    In each pair both networks run once, one after the other in random order, so that what slows the machine down
    slows both. Both are copied first and in the same way: neither has the better place in memory, and neither is
    changed.

    Args:
        model: The searched network.
        baseline: What to compare with, usually the bare backbone.
        input_size: ``(channels, height, width)``.
        batch: Images in one forward pass.
        pairs: Pairs after five that only warm up.
        device: A torch device.
        seed: Fixes the order within pairs and the bootstrap.
    """
    networks = [copy.deepcopy(network).to(device).eval() for network in (baseline, model)]
    images = torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(seed)).to(device)
    order = random.Random(seed)
    warm_up = 5
    seconds = np.empty((warm_up + pairs, 2))

    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.inference_mode():
            for pair in seconds:
                for which in order.sample((0, 1), 2):
                    pair[which] = _seconds(networks[which], images)
    finally:
        if collecting:
            gc.enable()

    measured = seconds[warm_up:]
    estimate = median_estimate(measured[:, 1] / measured[:, 0], seed)
    conditions = LatencyConditions(
        device=device,
        processor=_processor(device),
        threads=torch.get_num_threads(),
        dtype="float32",
        runtime=f"PyTorch {torch.__version__} eager",
        batch=batch,
        size=input_size,
        pairs=pairs,
    )
    return Ratio(estimate.value, estimate.low, estimate.high, pairs, conditions)


def _seconds(network: nn.Module, images: torch.Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    start = time.perf_counter()
    network(images)
    if images.is_cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - start


def _processor(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()
