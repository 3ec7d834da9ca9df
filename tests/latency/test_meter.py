"""Latency ratios: the estimator on a simulated clock, where the truth is known, and what can be said of real ones."""

import copy
import random

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from se_search import measure_latency
from se_search.deployment.deployment import Deployment
from se_search.latency import meter as latency
from se_search.latency.meter import PILOT, LatencyConditions, LatencyMeter, remarks


class SimulatedNetwork:
    """Calls that take simulated time: slower in the first two, and by how this copy happens to lie in memory."""

    copies = True

    def __init__(self, clock, seconds):
        self.clock = clock
        self.seconds = seconds
        self.copy_effect = clock.random.gauss(0, clock.copies)
        self.calls = 0

    def fresh(self):
        return SimulatedNetwork(self.clock, self.seconds)

    def run(self):
        slowness = 1 + {0: 0.8, 1: 0.3}.get(self.calls, 0.0)
        self.calls += 1
        noise = self.clock.random.gauss(self.copy_effect, self.clock.noise)
        interrupted = self.clock.random.random() < self.clock.interruptions
        self.clock.now += self.seconds * slowness * np.exp(noise) + (0.01 if interrupted else 0.0)


class Clock:
    """A clock that only simulated networks move."""

    def __init__(self, noise=0.03, copies=0.005, interruptions=0.02):
        self.now = 0.0
        self.random = random.Random(0)
        self.noise, self.copies, self.interruptions = noise, copies, interruptions

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    simulated = Clock()
    monkeypatch.setattr(latency, "time", simulated)
    monkeypatch.setattr(latency, "prepare", lambda seconds, deployment: SimulatedNetwork(simulated, seconds))
    return simulated


@pytest.mark.parametrize(
    ("noise", "copies", "interruptions", "seconds"),
    [
        (0.03, 0.005, 0.02, 0.002),
        (0.02, 0.0, 0.0, 0.03),
        (0.05, 0.01, 0.1, 0.005),
        (0.2, 0.01, 0.4, 0.01),
        (0.1, 0.01, 0.5, 0.002),
    ],
    ids=["a small network", "a quiet machine", "a busy machine", "one core loaded", "a small network, one core loaded"],
)
def test_intervals_of_a_network_and_its_copy_exclude_one_in_three_to_seven_per_cent_of_cases(
    clock, noise, copies, interruptions, seconds
):
    clock.noise, clock.copies, clock.interruptions = noise, copies, interruptions
    ratios = [LatencyMeter(seconds, Deployment(), seed=seed).measure(seconds) for seed in range(1000)]
    excluding = np.mean([not ratio.low <= 1 <= ratio.high for ratio in ratios])
    assert 0.03 <= excluding <= 0.07
    logarithms = np.log([ratio.median for ratio in ratios])
    assert abs(logarithms.mean()) < 4 * logarithms.std() / np.sqrt(len(ratios))


def test_the_interval_covers_the_true_ratio(clock):
    ratios = [LatencyMeter(0.004, Deployment(), seed=seed).measure(0.0043) for seed in range(600)]
    assert 0.93 <= np.mean([ratio.low <= 1.075 <= ratio.high for ratio in ratios]) <= 0.98


def test_a_measurement_stops_at_the_target_and_says_so(clock):
    ratio = LatencyMeter(0.002, Deployment(), target=0.01, limit=60).measure(0.002)
    assert ratio.stopped == "target"
    assert (ratio.high - ratio.low) / 2 <= 0.0101
    assert ratio.rounds >= PILOT
    assert clock.now < 60


def test_a_measurement_stops_at_its_limit_and_says_so(clock):
    clock.noise = 0.3
    ratio = LatencyMeter(0.02, Deployment(), target=0.001, limit=3).measure(0.02)
    assert ratio.stopped == "limit"
    assert (ratio.high - ratio.low) / 2 > 0.001
    assert 2 < clock.now < 3.2


def test_networks_too_slow_for_the_limit_are_measured_in_four_rounds(clock):
    ratio = LatencyMeter(30.0, Deployment(), limit=5).measure(30.0)
    assert (ratio.rounds, ratio.pairs, ratio.stopped) == (4, 4, "limit")


def test_noise_widens_the_interval(clock):
    quiet = LatencyMeter(0.01, Deployment()).measure(0.01)
    clock.noise, clock.interruptions = 0.2, 0.3
    noisy = LatencyMeter(0.01, Deployment()).measure(0.01)
    assert noisy.high - noisy.low > 2 * (quiet.high - quiet.low)


def test_calls_that_warm_up_do_not_count(clock):
    clock.noise = clock.copies = clock.interruptions = 0.0
    ratio = LatencyMeter(0.01, Deployment()).measure(0.012)
    assert (ratio.low, ratio.median, ratio.high) == pytest.approx((1.2, 1.2, 1.2), rel=1e-9)


def test_the_same_seed_takes_the_same_order(clock):
    def measured(seed):
        clock.random = random.Random(1)
        return LatencyMeter(0.01, Deployment(), seed=seed).measure(0.011).median

    assert measured(1) == pytest.approx(measured(1), rel=1e-9)  # the clock's own rounding is another each time
    assert measured(1) != pytest.approx(measured(2), rel=1e-9)


def convolutions(number):
    return nn.Sequential(*[nn.Conv2d(16, 16, 3, padding=1) for _ in range(number)])


def test_a_network_that_does_far_more_has_a_ratio_above_one_and_the_inverse_below():
    little, much = convolutions(2), convolutions(16)
    slower = measure_latency(much, little, Deployment(size=(16, 48, 48)), limit=1)
    faster = measure_latency(little, much, Deployment(size=(16, 48, 48)), limit=1)
    assert 1 < slower.low <= slower.median <= slower.high
    assert faster.low <= faster.median <= faster.high < 1


def test_conditions_are_those_of_the_measurement():
    ratio = measure_latency(
        convolutions(1),
        convolutions(1),
        Deployment(size=(16, 8, 12), batch=3, dtype="bfloat16", memory_format="channels_last", threads=1),
        target=0.5,
        limit=2,
    )
    conditions = ratio.conditions.to_dict()
    assert (conditions["batch"], conditions["size"]) == (3, [16, 8, 12])
    assert (conditions["device"], conditions["dtype"], conditions["threads"]) == ("cpu", "bfloat16", 1)
    assert (conditions["memory_format"], conditions["optimized"]) == ("channels_last", False)
    assert (conditions["target"], conditions["limit"]) == (0.5, 2)
    assert torch.__version__ in conditions["runtime"]
    assert conditions["processor"]
    assert conditions["affinity"]
    assert conditions["clock_mhz"] is None
    assert conditions["copies"]
    assert ratio.pairs >= ratio.rounds >= 4


def test_conditions_are_said_in_words():
    conditions = LatencyConditions(
        device="cuda:0",
        processor="A GPU",
        threads=4,
        affinity=(0, 1, 2, 6),
        dtype="float16",
        memory_format="channels_last",
        runtime="PyTorch eager",
        optimized=True,
        cuda_graph=True,
        copies=False,
        clock_mhz=1980,
        batch=8,
        size=(3, 96, 64),
        target=0.01,
        limit=2,
    )
    assert conditions.description == (
        "batch 8, 3×96×64, float16, channels last, PyTorch eager, optimized for inference, CUDA graph, "
        "one copy of each network, cuda:0 (A GPU), 1980 MHz, 4 threads, on CPU 0–2, 6"
    )


def test_remarks_count_wide_intervals_and_busy_measurements():
    def measured(*rows):
        columns = ["latency_low", "latency_high", "latency_interruptions"]
        return pd.DataFrame(rows, columns=columns, dtype=float)

    assert remarks(measured(), 0.005, 5) == []
    assert remarks(measured((1.0, 1.01, 3.0), (1.195, 1.205, np.nan)), 0.005, 5) == []
    wide, busy = remarks(measured((1.0, 1.02, 3.0), (1.0, 1.01, 100.4), (1.0, 1.001, 400.0)), 0.005, 5)
    assert wide == "2 of 3 latencies reached the ±0.5 % target within the time limit of 5 s."
    (none,) = remarks(measured((1.0, 1.02, 3.0), (1.0, 1.03, 3.0)), 0.005, 5)
    assert none == "No latency reached the ±0.5 % target within the time limit of 5 s."
    assert busy.startswith(
        "Other processes slowed down 2 of 3 latency measurements, with up to 400 interruptions per second"
    )


def test_every_call_runs_in_evaluation_mode_at_the_given_size_and_with_the_given_threads():
    class Recording(nn.Module):
        calls: list[tuple[tuple[int, ...], int]] = []  # noqa: RUF012 - shared by the copies that are measured

        def forward(self, x):
            assert not self.training
            type(self).calls.append((tuple(x.shape), torch.get_num_threads()))
            return x

    threads = torch.get_num_threads()
    deployment = Deployment(size=(3, 5, 7), batch=2, threads=threads + 1)
    measure_latency(Recording(), Recording(), deployment, limit=0.1)
    assert set(Recording.calls) == {((2, 3, 5, 7), threads + 1)}
    assert torch.get_num_threads() == threads


def test_the_networks_stay_as_they_are():
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)).train()
    before = copy.deepcopy(model.state_dict())
    measure_latency(model, model, Deployment(size=(16, 8, 8)), limit=0.1)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
