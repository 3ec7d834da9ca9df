"""Latency of a searched network as a ratio to its backbone's, measured in pairs."""

import gc
import itertools
import math
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields, replace
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..deployment.deployment import Deployment
from ..deployment.prepare import check, describe, prepare
from ..deployment.runtimes.base import Prepared, using_threads
from ..errors import DefinitionError
from ..memory import memory_told
from ..statistics import rounds_needed, two_stage_mean
from ..words import by, counted
from .stopping import LIMIT, TARGET

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

BUSY = 60.0
"""Interruptions per second above which a machine is busy: an idle one has up to 35, one busy core causes 200."""

PILOT = 8
"""Rounds from which the number of rounds is computed."""

_FEWEST_ROUNDS = 4
_FEWEST_ROUNDS_OF_A_LOOK = 3
_MOST_PAIRS = 10  # of a round: more copies of the networks narrow the interval more than more pairs of one copy
_WARM = 0.95  # a network is still warming up while a call takes less than this share of the fastest one before
_WARM_UP = 3  # usual number of calls until then
_MOST_WARM_UP = 50

_TimeOfCall = Callable[[Prepared], float]


@dataclass(frozen=True, kw_only=True)
class LatencyConditions(Deployment):
    """A deployment as it was found when a latency was measured.

    ``runtime`` is the description of the runtime with its version, and ``threads`` is always a number.

    Attributes:
        processor: Name of the processor or GPU.
        affinity: Numbers of the CPUs that this process may use; empty where the platform does not tell.
        copies: Whether every round had new copies of both networks.
        clock_mhz: Clock of the GPU's multiprocessors when the measurement began, where it can be read.
        target: Half-width of the interval at which the measurement stopped.
        limit: Time limit of the measurement, in seconds.
    """

    processor: str
    affinity: tuple[int, ...]
    copies: bool
    clock_mhz: int | None
    target: float
    limit: float

    @property
    def description(self) -> str:
        """The same in words."""
        parts = [
            f"batch {self.batch}",
            by(self.size),
            self.dtype,
            *(["channels last"] if self.memory_format == "channels_last" else []),
            self.runtime,
            *(["optimized for inference"] if self.optimized else []),
            *(["CUDA graph"] if self.cuda_graph else []),
            *([] if self.copies else ["one copy of each network"]),
            f"{self.device} ({self.processor})",
            *([f"{self.clock_mhz} MHz"] if self.clock_mhz else []),
            counted(cast("int", self.threads), "thread"),
            *([f"on CPU {_ranges(self.affinity)}"] if self.affinity else []),
        ]
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"affinity": list(self.affinity), "size": list(self.size)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LatencyConditions":
        """Return the conditions that :meth:`to_dict` wrote."""
        for name in sorted(data.keys() ^ {one.name for one in fields(cls)}):
            raise KeyError(name)
        return cls(**{**data, "affinity": tuple(data["affinity"]), "size": tuple(data["size"])})


@dataclass(frozen=True)
class Ratio:
    """Latency of a network over that of its backbone with its 95 % interval; 1.05 is 5 % slower.

    Attributes:
        median: The geometric mean, over the rounds, of the median of each round's paired ratios.
        low: Lower end of the interval.
        high: Upper end.
        pairs: Paired calls of both networks.
        rounds: Rounds of pairs.
        stopped: Whether the measurement ended after the rounds computed from its pilot (``"target"``) or by its time
            limit (``"limit"``).
        interruptions: Preemptions of this process per second; ``None`` where the platform does not count them.
        conditions: How it was measured.
    """

    median: float
    low: float
    high: float
    pairs: int
    rounds: int
    stopped: Literal["target", "limit"]
    interruptions: float | None
    conditions: LatencyConditions

    def to_columns(self) -> dict[str, Any]:
        """Return the values by their names in tables, without the conditions."""
        return {
            "latency_ratio": self.median,
            "latency_low": self.low,
            "latency_high": self.high,
            "latency_pairs": self.pairs,
            "latency_stopped": self.stopped,
            "latency_interruptions": self.interruptions,
        }


class LatencyMeter:
    """Measures networks against one backbone, which it prepares once.

    A measurement is a sequence of rounds. In a round both networks are copied to a new place in memory where the
    runtime makes that cheap, called until calls no longer get faster, and then called in pairs, in random order within
    each pair, so that a slower machine slows both. A round's value is the median of the logarithms of its ratios. A
    network's place in memory changes its speed by up to one per cent: pairs of one copy agree on a ratio that those of
    another copy contradict. So the interval is Student's over rounds, not a bootstrap over pairs.

    The number of rounds for the target is computed from the first :data:`PILOT` rounds (Stein 1945). Stopping as soon
    as the interval is narrow would make it miss the true ratio too often.

    The arguments are those of :func:`measure_latency`. Four rounds are run in any case.

    Raises:
        SeSearchError: If the networks cannot be run in this way here.
    """

    @memory_told()
    def __init__(
        self,
        baseline: nn.Module,
        deployment: Deployment,
        target: float = TARGET,
        limit: float = LIMIT,
        seed: int = 0,
    ) -> None:
        for name, value in (("target", target), ("limit", limit)):
            if not 0 < value < math.inf:
                raise DefinitionError(f"a {name} of {value} is impossible: it must be a finite number above 0")
        check(deployment)
        self._deployment = replace(deployment, threads=deployment.threads or torch.get_num_threads())
        self._target, self._limit, self._seed = target, limit, seed
        self._own_stream: torch.cuda.Stream | None = None
        with using_threads(self._deployment.threads), self._stream():
            self._baseline = prepare(baseline, self._deployment)
            self.conditions = _conditions(self._deployment, self._baseline.copies, target, limit)

    @memory_told()
    def measure(self, model: nn.Module, look: float | None = None) -> Ratio:
        """Measure how much slower ``model`` is than the baseline; it is not changed.

        Args:
            model: The searched network.
            look: Time limit in seconds of a measurement that is pooled with others and makes do with three rounds.

        Raises:
            SeSearchError: If it cannot be run in this way here.
        """
        with using_threads(self._deployment.threads), self._stream():
            networks = [self._baseline, prepare(model, self._deployment)]
            with _undisturbed():
                if look is None:
                    return self._compare(networks, self._limit, _FEWEST_ROUNDS)
                return self._compare(networks, min(look, self._limit), _FEWEST_ROUNDS_OF_A_LOOK)

    @contextmanager
    def _stream(self) -> Iterator[None]:
        """Run the networks on a separate CUDA stream, for which nothing else waits."""
        if not self._deployment.device.startswith("cuda"):
            yield
            return
        with torch.cuda.device(self._deployment.device):
            if self._own_stream is None:
                self._own_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            with torch.cuda.stream(self._own_stream):
                yield

    def _compare(self, networks: list[Prepared], limit: float, fewest: int) -> Ratio:
        order = random.Random(self._seed)
        time_of_call = _call_on_gpu if self._deployment.device.startswith("cuda") else _call
        rounds: list[float] = []
        pairs = each = 0
        longest = 0.0
        needed = math.inf
        interrupted, begin = _interruptions(), time.perf_counter()
        while True:
            began = time.perf_counter()
            # The copies of the last round still exist, so the new ones get another place.
            copies = {which: networks[which].fresh() for which in order.sample((0, 1), 2)}
            networks = [copies[0], copies[1]]
            copied = time.perf_counter()
            warm = sum(_warm_up(network, time_of_call) for network in order.sample(networks, 2))
            each = each or max(1, min(_MOST_PAIRS, int(limit / (PILOT + 1) / warm) - _WARM_UP))
            longest = longest or 2 * (each + _WARM_UP) * warm
            ratios: list[float] = []
            # Where other processes slow calls down, rounds are short: few long ones would not show their spread.
            while len(ratios) < each and (not ratios or time.perf_counter() - copied < longest):
                seconds = {which: time_of_call(networks[which]) for which in order.sample((0, 1), 2)}
                ratios.append(math.log(seconds[1] / seconds[0]))
            rounds.append(float(np.median(ratios)))
            pairs += len(ratios)
            now = time.perf_counter()
            if len(rounds) == PILOT:
                needed = rounds_needed(np.array(rounds), self._target)
            if len(rounds) >= needed or (len(rounds) >= fewest and 2 * now - began > begin + limit):
                break
        interruptions = (_interruptions() - interrupted) / (now - begin) if resource else None
        reached = len(rounds) >= needed
        estimate = two_stage_mean(np.array(rounds), PILOT if reached else len(rounds))
        ratio, low, high = map(math.exp, astuple(estimate))
        stopped: Literal["target", "limit"] = "target" if reached else "limit"
        conditions = replace(self.conditions, limit=limit)
        return Ratio(ratio, low, high, pairs, len(rounds), stopped, interruptions, conditions)


def measure_latency(
    model: nn.Module,
    baseline: nn.Module,
    deployment: Deployment = Deployment(),
    target: float = TARGET,
    limit: float = LIMIT,
    seed: int = 0,
) -> Ratio:
    """Measure how much slower ``model`` is than ``baseline``, both in evaluation mode.

    In rounds both networks are copied to a new place in memory, called until calls no longer get faster, and called in
    pairs in random order. The ratio is the mean over rounds, with Student's interval.

    Args:
        model: The searched network.
        baseline: The network to compare with, usually the bare backbone.
        deployment: How both are run.
        target: Half-width of the interval at which the measurement stops, as a share of the ratio.
        limit: Time limit in seconds.
        seed: Fixes the order within pairs.

    Raises:
        SeSearchError: If the networks cannot be run in this way here.
    """
    return LatencyMeter(baseline, deployment, target, limit, seed).measure(model)


def _ranges(numbers: Sequence[int]) -> str:
    """Write sorted numbers as ranges: 0–3, 6."""
    groups = itertools.groupby(enumerate(numbers), lambda one: one[1] - one[0])
    runs = [[number for _, number in run] for _, run in groups]
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def remarks(measured: pd.DataFrame, target: float, limit: float | None) -> list[str]:
    """Return a sentence for each problem of measurements with a target half-width and a time limit in seconds.

    Without a time limit they are the pooled ones of a front. ``measured`` has a row for each, with ``latency_low``,
    ``latency_high`` and ``latency_interruptions``.
    """
    said = []
    wide = int((np.log(measured["latency_high"] / measured["latency_low"]) / 2 > target * (1 + 1e-6)).sum())
    if wide:
        said.append(
            f"{'No latency' if wide == len(measured) else f'{len(measured) - wide} of {len(measured)} latencies'} "
            f"reached the ±{100 * target:g} % target"
            + (f" within the time limit of {limit:g} s." if limit else " on the front.")
        )
    busy = measured["latency_interruptions"].astype(float) > BUSY
    if busy.any():
        said.append(
            f"Other processes slowed down {busy.sum()} of {len(measured)} latency measurements, with up to "
            f"{measured['latency_interruptions'].max():.0f} interruptions per second, which widens their intervals. "
            "Measure on an idle machine, with no more threads than CPUs."
        )
    return said


def _warm_up(network: Prepared, time_of_call: _TimeOfCall) -> float:
    """Call a network until calls no longer get clearly faster, and return the seconds of the fastest call."""
    fastest = time_of_call(network)
    for _ in range(_MOST_WARM_UP):
        seconds = time_of_call(network)
        if seconds > _WARM * fastest:
            return min(fastest, seconds)
        fastest = seconds
    return fastest


def _call(network: Prepared) -> float:
    start = time.perf_counter()
    network.run()
    return time.perf_counter() - start


def _call_on_gpu(network: Prepared) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    network.run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Disable Python's garbage collector."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _interruptions() -> int:
    """Return how often another process has preempted this one."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0


def _conditions(deployment: Deployment, copies: bool, target: float, limit: float) -> LatencyConditions:
    found = {"runtime": describe(deployment), "threads": torch.get_num_threads()}
    return LatencyConditions(
        **asdict(deployment) | found,
        processor=processor_name(deployment.device),
        affinity=tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
        copies=copies,
        clock_mhz=_clock_mhz(deployment.device),
        target=target,
        limit=limit,
    )


def _clock_mhz(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    try:
        return int(torch.cuda.clock_rate(device))
    except Exception:  # NVIDIA's management library may be missing, or not support a part of a GPU
        return None


def processor_name(device: str) -> str:
    """Return the name of a torch device's processor or GPU."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        models = []
    return models[0] if models else platform.processor() or platform.machine()
