"""The stated power is that of the tool's own intervals; ``benchmarks/power.py`` has the whole grid."""

import math

import numpy as np
import pytest
from scipy import stats

from se_search.paired_power import (
    Comparison,
    Variances,
    _lower_ends,
    _paired_outcomes,
    accuracy_power,
    images_needed,
    log_loss_power,
    seeds_needed,
    smallest_accuracy_difference,
    smallest_log_loss_difference,
    typical_variances,
    variances_of,
)
from se_search.statistics import confidence_of_each, crossed_difference


def told(first, second, comparisons):
    return crossed_difference(first, second, confidence_of_each(comparisons)).low > 0


def pair(better, worse, images):
    """Outcomes of two networks, of which each alone is right on so many images."""
    first, second = np.zeros((2, 1, images), bool)
    first[0, :better] = True
    second[0, better : better + worse] = True
    return first, second


@pytest.mark.parametrize("comparisons", [1, 20])
@pytest.mark.parametrize(("images", "discordance", "difference"), [(12, 0.5, 0.4), (20, 0.3, 0.3), (15, 0.25, 0.25)])
def test_the_power_of_two_trained_networks_is_the_sum_over_all_tables(images, discordance, difference, comparisons):
    # In the last case no image is right with the worse network alone.
    shares = (discordance + difference) / 2, (discordance - difference) / 2
    tables = stats.multinomial(images, [*shares, 1 - sum(shares)])
    expected = sum(
        tables.pmf([better, worse, images - better - worse])
        for better in range(images + 1)
        for worse in range(images + 1 - better)
        if told(*pair(better, worse, images), comparisons)
    )
    stated = accuracy_power(difference, Comparison(images, 1, comparisons), Variances(discordance - difference**2))
    assert stated == pytest.approx(expected, abs=1e-9)


def test_with_many_images_it_is_the_textbooks_sample_size():
    # Connor 1987: n = (z_0.975 √d + z_0.8 √(d - δ²))² / δ².
    discordance, difference = 0.2, 0.01
    quantiles = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    expected = (quantiles[0] * math.sqrt(discordance) + quantiles[1] * math.sqrt(discordance - difference**2)) ** 2
    found = images_needed(difference, Comparison(1), Variances(discordance - difference**2))
    assert found == pytest.approx(expected / difference**2, rel=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_simulated_intervals_are_the_tools(seeds):
    comparison = Comparison(60, seeds, 1)
    outcomes = _paired_outcomes(np.random.default_rng(3), 50, 0.05, comparison, Variances(0.08, 0.0004, 0.1))
    outcomes[0] = 0
    expected = [crossed_difference(study > 0, study < 0, 0.99).low for study in outcomes]
    assert _lower_ends(outcomes, 0.99) == pytest.approx(expected, abs=1e-12)


def test_simulated_outcomes_have_the_variances_and_the_difference():
    noise = Variances(0.05, 0.0009, 0.12)
    outcomes = _paired_outcomes(np.random.default_rng(4), 40, 0.03, Comparison(20_000, 5), noise).astype(float)
    found = [variances_of(study) for study in outcomes]
    assert np.mean(outcomes) == pytest.approx(0.03, abs=0.006)
    assert np.mean([one.of_images for one in found]) == pytest.approx(0.05, abs=0.002)
    assert np.mean([one.of_seeds for one in found]) == pytest.approx(0.0009, rel=0.3)
    assert np.mean([one.of_both for one in found]) == pytest.approx(0.12, abs=0.004)


class Networks:
    """Two networks whose correctness follows normal variables: of the image, shared and their own; of the seed; the
    rest. The first one is better by ``difference``."""

    IMAGES = 40_000

    def __init__(self, accuracy, own, seed_part, difference, seeds):
        self.own, self.seed_part, self.seeds = own, seed_part, seeds
        self.left = math.sqrt(1 - 0.6**2 - own**2 - seed_part**2)
        self.bounds = stats.norm.ppf([accuracy + difference, accuracy])
        random = np.random.default_rng(2)
        shared = 0.6 * random.standard_normal(self.IMAGES)
        images = shared + own * random.standard_normal((2, self.IMAGES))
        without_rest = self.bounds[:, None] - images
        shares = stats.norm.cdf(without_rest / math.hypot(self.left, seed_part))
        by_seed = [
            np.subtract(*stats.norm.cdf((without_rest[:, :4000] - shift) / self.left).mean(axis=1))
            for shift in seed_part * random.standard_normal((300, 2, 1))
        ]
        common = float(np.var(shares[0] - shares[1]))
        total = float(np.mean(shares[0] * (1 - shares[1]) + shares[1] * (1 - shares[0])))
        of_seeds = float(np.var(by_seed))
        self.noise = Variances(common, of_seeds, total - difference**2 - common - of_seeds)

    def study(self, random, images):
        of_images = 0.6 * random.standard_normal(images) + self.own * random.standard_normal((2, 1, images))
        of_seeds = self.seed_part * random.standard_normal((2, self.seeds, 1))
        latent = of_images + of_seeds + self.left * random.standard_normal((2, self.seeds, images))
        return latent < self.bounds[:, None, None]


@pytest.mark.parametrize(
    ("images", "seeds", "accuracy", "own", "seed_part", "comparisons"),
    [
        (100, 1, 0.7, 0.5, 0.0, 1),
        (400, 1, 0.95, 0.3, 0.0, 20),
        (400, 3, 0.9, 0.4, 0.05, 1),
        (400, 3, 0.97, 0.3, 0.0, 5),
        (400, 5, 0.7, 0.4, 0.1, 5),
        (1000, 2, 0.7, 0.5, 0.02, 1),
    ],
)
def test_the_stated_power_is_that_of_simulated_studies(images, seeds, accuracy, own, seed_part, comparisons):
    comparison = Comparison(images, seeds, comparisons)
    noise = Networks(accuracy, own, seed_part, 0.0, seeds).noise
    difference = min(smallest_accuracy_difference(comparison, noise), 1 - accuracy)
    networks = Networks(accuracy, own, seed_part, difference, seeds)
    random = np.random.default_rng(5)
    studies = [told(*networks.study(random, images), comparisons) for _ in range(1200)]
    # With two seeds only differences much larger than the noise are told, which change the noise too.
    within = 0.05 if seeds == 2 else 0.03
    assert accuracy_power(difference, comparison, networks.noise) == pytest.approx(np.mean(studies), abs=within)


@pytest.mark.parametrize("images", [50, 400])
def test_the_power_for_normal_log_losses_is_students(images):
    for difference in (0.02, 0.05, 0.1):
        shift = difference / 0.4 * math.sqrt(images)
        expected = stats.nct.sf(stats.t.ppf(0.975, images - 1), images - 1, shift)
        assert log_loss_power(difference, Comparison(images), Variances(0.4**2)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_power_for_log_losses_of_several_seeds(seeds):
    noise, comparison = Variances(0.09, 0.0004, 0.2), Comparison(300, seeds, 2)
    difference = smallest_log_loss_difference(comparison, noise)
    random = np.random.default_rng(6)
    parts = [np.sqrt(part) for part in (noise.of_images, noise.of_seeds, noise.of_both)]
    studies = []
    for _ in range(1500):
        drawn = random.standard_normal(300), random.standard_normal((seeds, 1)), random.standard_normal((seeds, 300))
        first = difference + sum(part * one for part, one in zip(parts, drawn, strict=True))
        studies.append(told(first, np.zeros((seeds, 300)), 2))
    assert np.mean(studies) == pytest.approx(0.8, abs=0.03)


def test_heavy_tails_need_larger_differences_of_log_losses():
    normal, heavy = (smallest_log_loss_difference(Comparison(400), Variances(0.1, kurtosis=k)) for k in (3.0, 60.0))
    freedom = 2 / (57 / 400 + 2 / 399)
    quantiles = stats.norm.ppf(0.8) + stats.t.ppf(0.975, freedom)
    assert heavy == pytest.approx(quantiles * math.sqrt(0.1 / 400), rel=1e-3)
    assert heavy > normal


def test_more_of_everything_tells_smaller_differences():
    noise = Variances(0.05, 0.0001, 0.1)

    def smallest(*numbers):
        return smallest_accuracy_difference(Comparison(*numbers), noise)

    assert smallest(4000, 3, 5) < smallest(2000, 3, 5) < smallest(2000, 3, 20)
    assert smallest(2000, 5, 5) < smallest(2000, 3, 5)


def test_numbers_needed_reach_the_power_and_fewer_do_not():
    noise = Variances(0.06, 0.0, 0.1)
    comparison = Comparison(2000, 3, 5)
    images, seeds = images_needed(0.02, comparison, noise), seeds_needed(0.02, comparison, noise)
    assert accuracy_power(0.02, Comparison(images, 3, 5), noise) >= 0.8
    assert accuracy_power(0.02, Comparison(round(0.97 * images), 3, 5), noise) < 0.8
    assert accuracy_power(0.02, Comparison(2000, seeds, 5), noise) >= 0.8
    assert accuracy_power(0.02, Comparison(2000, seeds - 1, 5), noise) < 0.8


def test_what_seeds_vary_no_number_of_images_tells_and_what_images_vary_no_number_of_seeds():
    assert images_needed(0.01, Comparison(1, 3), Variances(0.05, 0.03**2, 0.05)) is None
    assert seeds_needed(0.01, Comparison(100, 3), Variances(0.1, 0.0, 0.05)) is None


def test_without_noise_any_difference_is_told():
    assert smallest_log_loss_difference(Comparison(100), Variances(0.0)) < 1e-6
    assert smallest_accuracy_difference(Comparison(100), Variances(0.0)) < 0.1


def test_three_images_tell_nothing():
    assert smallest_accuracy_difference(Comparison(3, 1, 20), Variances(0.1)) == math.inf


def test_variances_by_analysis_of_variance():
    # Two seeds, three images: mean squares of images 14, of seeds 6, of the residuals 2.
    found = variances_of(np.array([[0.0, 2.0, 4.0], [2.0, 2.0, 8.0]]))
    assert (found.of_images, found.of_seeds, found.of_both) == pytest.approx(((14 - 2) / 2, (6 - 2) / 3, 2))


def test_variances_of_one_seed_are_the_images():
    values = np.array([[1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    assert variances_of(values) == Variances(0.25, kurtosis=pytest.approx(stats.kurtosis(values[0], fisher=False)))


def test_variances_of_means_over_blocks_are_those_of_the_images():
    values = np.random.default_rng(7).normal(0, 0.5, (1, 40_000))
    blocks = values.reshape(1, -1, 20).mean(axis=2)
    assert variances_of(blocks, 20).of_images == pytest.approx(0.25, rel=0.05)


def test_the_typical_variances_are_medians():
    found = typical_variances([Variances(0.1, 0.0, 0.3, 3.0), Variances(0.3, 0.2, 0.1, 9.0), Variances(0.2, 0.1, 0, 4)])
    assert found == Variances(0.2, 0.1, 0.1, 4.0)
