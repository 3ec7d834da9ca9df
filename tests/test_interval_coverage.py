"""The share of simulated studies whose interval holds the truth: 95 % is claimed, 93 to 97 % is asked for.

More is allowed where it is said why; less nowhere. `benchmarks/interval_coverage.py` compares the methods not taken.
"""

import math

import numpy as np
import pytest
from scipy import stats

from se_search.statistics import (
    accuracy_estimate,
    crossed_difference,
    crossed_mean,
    mean_estimate,
    rank_agreement,
)

STUDIES = 2000

# How far the right class's logit stands above the others, for each network; spread of logits that the networks share;
# of each network's own; factor on the second network's logits. Accuracies are 99, 99, 97, 69, 44 and 69 %.
TASKS = {
    "digits": ((10.0, 9.7), 2.1, 0.8, 1.0),
    "equal": ((10.0, 10.0), 2.1, 0.8, 1.0),
    "easy": ((9.0, 8.5), 2.2, 0.8, 1.0),
    "middling": ((5.0, 4.6), 2.2, 1.0, 1.0),
    "hard": ((1.8, 1.7), 1.2, 0.7, 1.0),
    "overconfident": ((5.0, 5.0), 2.2, 1.0, 2.5),
}


def simulate_losses(task, images=200_000, classes=10):
    """Log-losses of two networks on a whole population of images, whose means are the truth: 2 x images."""
    levels, spread, noise, sharpness = TASKS[task]
    random = np.random.default_rng(11)
    shared = spread * random.standard_normal((images, classes))
    losses = []
    for level, factor in zip(levels, (1.0, sharpness), strict=True):
        logits = shared + noise * random.standard_normal((images, classes))
        logits[:, 0] += level
        logits *= factor
        losses.append(np.logaddexp.reduce(logits, axis=1) - logits[:, 0])
    return np.array(losses)


@pytest.fixture(scope="module")
def populations():
    return {task: simulate_losses(task) for task in TASKS}


def upper_limit(task, images):
    """Intervals are wider than they need be where a handful of images decides."""
    if task == "equal":
        return 0.99
    few_misclassified = (task, images) in {("digits", 100), ("digits", 400), ("easy", 100)}
    return 0.98 if few_misclassified else 0.97


def coverage(truth, estimates):
    estimates = list(estimates)
    return sum(estimate.low <= truth <= estimate.high for estimate in estimates) / len(estimates)


@pytest.mark.parametrize(
    ("accuracy", "images"), [(0.5, 100), (0.9, 100), (0.48, 400), (0.9, 400), (0.99, 400), (0.8, 2000), (0.995, 2000)]
)
def test_accuracy(accuracy, images):
    random = np.random.default_rng(1)
    covered = coverage(accuracy, (accuracy_estimate(random.random(images) < accuracy) for _ in range(STUDIES)))
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("images", [100, 400, 2000])
@pytest.mark.parametrize("task", TASKS)
def test_log_loss(task, images, populations):
    random = np.random.default_rng(2)
    losses = populations[task][1]
    covered = coverage(losses.mean(), (mean_estimate(random.choice(losses, images)) for _ in range(STUDIES)))
    assert 0.93 <= covered <= upper_limit(task, images)


@pytest.mark.parametrize(("confidence", "least", "most"), [(0.95, 0.93, 0.97), (0.99, 0.98, 1.0)])
@pytest.mark.parametrize("images", [100, 400, 2000])
@pytest.mark.parametrize("alone", [(0.2, 0.1), (0.1, 0.1), (0.05, 0.03), (0.03, 0.01)])
def test_paired_accuracy_differences(alone, images, confidence, least, most):
    random = np.random.default_rng(3)

    def study():
        drawn = random.random(images)
        first, second = drawn < alone[0], (drawn >= alone[0]) & (drawn < sum(alone))
        return crossed_difference(first[None], second[None], confidence)

    covered = coverage(alone[0] - alone[1], (study() for _ in range(STUDIES)))
    assert least <= covered <= most


@pytest.mark.parametrize("images", [100, 400, 2000])
@pytest.mark.parametrize("task", TASKS)
def test_paired_log_loss_differences(task, images, populations):
    random = np.random.default_rng(4)
    first, second = populations[task]

    def study():
        drawn = random.integers(first.size, size=images)
        return crossed_difference(first[None, drawn], second[None, drawn])

    covered = coverage(np.mean(first - second), (study() for _ in range(STUDIES)))
    assert 0.93 <= covered <= upper_limit(task, images)


def scaled(values):
    return (values - values.mean()) / values.std()


@pytest.mark.parametrize("task", ["digits", "easy", "overconfident"])
def test_paired_log_loss_differences_of_many_comparisons(task, populations):
    random = np.random.default_rng(9)
    first, second = populations[task]

    def study():
        drawn = random.integers(first.size, size=400)
        return crossed_difference(first[None, drawn], second[None, drawn], confidence=0.99)

    assert coverage(np.mean(first - second), (study() for _ in range(STUDIES))) >= 0.98


@pytest.mark.parametrize("residual", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed_part", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(
    ("seeds", "limit"), [(2, 0.995), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((3, 0.985), (5, 0.98)))]
)
def test_crossed_log_loss_differences(seeds, limit, seed_part, residual, populations):
    """The truth is 0. Differences are a seed's own part, whose mean has ``seed_part`` times the standard error of the
    images', plus an image's own, plus what seed and image have together, ``residual`` times as large."""
    random = np.random.default_rng(5)
    images = 400
    effects = scaled(np.subtract(*populations["overconfident"]))
    nothing = np.zeros((seeds, images))

    def study():
        of_seeds = seed_part * math.sqrt(seeds / images) * random.standard_normal((seeds, 1))
        differences = of_seeds + random.choice(effects, images) + residual * random.choice(effects, (seeds, images))
        return crossed_difference(differences, nothing)

    covered = coverage(0.0, (study() for _ in range(STUDIES)))
    assert 0.93 <= covered <= limit


@pytest.mark.parametrize(("seeds", "seed_part"), [(1, 0.0), (3, 0.0), (3, 0.05), (3, 0.2)])
def test_crossed_accuracies_and_their_differences(seeds, seed_part):
    """An image is classified correctly where a normal variable is below a bound; parts of it are the image's, shared by
    both networks, the seed's, and what is left. The one seed that stands alone has no part."""
    random = np.random.default_rng(6)
    images = 400
    truths = (0.9, 0.86)
    bounds = stats.norm.ppf(truths)
    left = math.sqrt(1 - 0.8**2 - seed_part**2)
    studies = []
    for _ in range(STUDIES):
        of_images = 0.8 * random.standard_normal(images)
        of_seeds = seed_part * random.standard_normal((2, seeds, 1))
        latent = of_images + of_seeds + left * random.standard_normal((2, seeds, images))
        studies.append(latent < bounds[:, None, None])
    assert 0.93 <= coverage(truths[0], (crossed_mean(first) for first, _ in studies)) <= 0.98
    assert 0.93 <= coverage(truths[0] - truths[1], (crossed_difference(*study) for study in studies)) <= 0.98


@pytest.mark.parametrize("seed_part", [0.0, 1.0, 5.0])
def test_crossed_log_losses(seed_part, populations):
    random = np.random.default_rng(7)
    seeds, images = 3, 400
    effects = scaled(populations["easy"][0])

    def study():
        of_seeds = seed_part * math.sqrt(seeds / images) * random.standard_normal((seeds, 1))
        return crossed_mean(of_seeds + random.choice(effects, images) + random.choice(effects, (seeds, images)) / 2)

    assert 0.93 <= coverage(0.0, (study() for _ in range(STUDIES))) <= 0.985


@pytest.mark.parametrize("correlation", [0.0, 0.8, 0.99])
@pytest.mark.parametrize("configurations", [5, 8, 16, 32])
def test_rank_agreement(configurations, correlation):
    random = np.random.default_rng(8)
    mix = np.linalg.cholesky([[1.0, correlation], [correlation, 1.0]])
    drawn = (mix @ random.standard_normal((2, configurations)) for _ in range(500))
    covered = coverage(2 / math.pi * math.asin(correlation), (rank_agreement(*pair) for pair in drawn))
    assert 0.92 <= covered <= 0.99
