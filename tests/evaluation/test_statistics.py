"""Intervals against worked values and simulated coverage."""

import math

import numpy as np
import pytest

from se_search.evaluation.statistics import (
    accuracy_estimate,
    mean_estimate,
    median_estimate,
    paired_accuracy_difference,
)


def outcomes(right, wrong):
    return np.array([True] * right + [False] * wrong)


def wilson(right, images, z=1.959963984540054):
    """The interval as Wilson gave it in 1927."""
    share = right / images
    centre = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    margin = z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    return centre - margin, centre + margin


@pytest.mark.parametrize(("right", "images"), [(10, 10), (0, 10), (81, 263), (394, 400)])
def test_accuracy_has_its_wilson_interval(right, images):
    estimate = accuracy_estimate(outcomes(right, images - right))
    assert estimate.value == right / images
    low, high = wilson(right, images)
    assert estimate.low == pytest.approx(low, abs=1e-9)
    assert estimate.high == pytest.approx(high, abs=1e-9)


def test_newcombes_example():
    # Newcombe 1998, table I: 81 of 263 has the score interval 0.2553 to 0.3662.
    estimate = accuracy_estimate(outcomes(81, 263 - 81))
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (0.2553, 0.3662)


def test_the_interval_of_a_mean_is_near_the_normal_one():
    values = np.random.default_rng(0).exponential(size=2000)
    estimate = mean_estimate(values)
    margin = 1.96 * values.std(ddof=1) / math.sqrt(values.size)
    assert estimate.value == values.mean()
    assert estimate.low == pytest.approx(values.mean() - margin, abs=0.15 * margin)
    assert estimate.high == pytest.approx(values.mean() + margin, abs=0.15 * margin)


def test_the_interval_of_a_median_covers_it_nineteen_times_in_twenty():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        estimate = median_estimate(random.lognormal(size=60))
        covered += estimate.low <= 1.0 <= estimate.high  # the median of the standard log-normal distribution
    assert 180 <= covered <= 200


def test_intervals_are_the_same_for_the_same_seed():
    values = np.random.default_rng(2).normal(size=50)
    assert median_estimate(values, 3) == median_estimate(values, 3) != median_estimate(values, 4)


def test_a_paired_difference_by_hand():
    # 20 images: 5 only by the first, 1 only by the second. With half an image in each cell: 5.5, 1.5 of 22.
    first = np.array([True] * 5 + [False] + [True] * 10 + [False] * 4)
    second = np.array([False] * 5 + [True] + [True] * 10 + [False] * 4)
    estimate = paired_accuracy_difference(first, second)
    assert estimate.value == pytest.approx(4 / 20)
    centre = 4 / 22
    margin = 1.959964 * math.sqrt(7 - 16 / 22) / 22
    assert (estimate.low, estimate.high) == (
        pytest.approx(centre - margin, abs=1e-6),
        pytest.approx(centre + margin, abs=1e-6),
    )

    mirrored = paired_accuracy_difference(second, first)
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx(
        (-estimate.value, -estimate.high, -estimate.low)
    )


def test_equal_outcomes_cannot_be_told_apart():
    same = outcomes(390, 10)
    estimate = paired_accuracy_difference(same, same)
    assert estimate.value == 0
    assert estimate.low < 0 < estimate.high


def test_a_paired_difference_covers_the_truth_nineteen_times_in_twenty():
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        drawn = random.choice(4, size=400, p=[0.95, 0.03, 0.01, 0.01])  # both, only first, only second, none
        estimate = paired_accuracy_difference(drawn <= 1, (drawn == 0) | (drawn == 2))
        covered += estimate.low <= 0.02 <= estimate.high
    assert 0.92 <= covered / 400 <= 0.99
