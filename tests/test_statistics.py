"""Intervals against worked values, closed forms and SciPy; their coverage is test_interval_coverage.py's."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy import stats

from se_search.statistics import (
    Estimate,
    accuracy_estimate,
    crossed_difference,
    crossed_mean,
    difference_in_words,
    mean_estimate,
    noise_ceiling,
    rank_agreement,
    rounds_needed,
    two_stage_mean,
)


def outcomes(right, wrong):
    return np.array([True] * right + [False] * wrong)


def close_to(estimate):
    return pytest.approx(astuple(estimate), rel=1e-9, abs=1e-12)


def negative(estimate):
    return Estimate(-estimate.value, -estimate.high, -estimate.low)


def reduced_freedom(values):
    """Satterthwaite's degrees of freedom of a variance: 2 Var² / Var(s²), with the sample's excess kurtosis."""
    excess = max(stats.kurtosis(values), 0)
    return 2 / (excess / values.size + 2 / (values.size - 1))


def paired_difference(first, second, confidence=0.95):
    """The difference of two networks trained with one seed."""
    return crossed_difference(first[None], second[None], confidence)


def student(differences):
    """Student's interval of a mean with these degrees of freedom."""
    freedom, error = reduced_freedom(differences), stats.sem(differences)
    return Estimate(differences.mean(), *stats.t.interval(0.95, freedom, differences.mean(), error))


def agresti_min(first, second):
    """Wald's interval of paired proportions with half an image added to each of the four cells."""
    images, gained, lost = first.size + 2, np.sum(first & ~second) + 0.5, np.sum(second & ~first) + 0.5
    error = math.sqrt(gained + lost - (gained - lost) ** 2 / images) / images
    return Estimate(first.mean() - second.mean(), *stats.norm.interval(0.95, (gained - lost) / images, error))


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


@pytest.mark.parametrize("images", [5, 10, 14, 16, 20, 40])
def test_the_interval_of_an_accuracy_never_leaves_zero_and_one_by_rounding(images):
    assert accuracy_estimate(outcomes(0, images)).low >= 0
    assert accuracy_estimate(outcomes(images, 0)).high <= 1


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


@pytest.mark.parametrize("seed", range(5))
def test_the_ends_of_a_means_interval_are_those_that_halls_transformation_sends_to_the_quantiles(seed):
    # Hall 1992: T + a T²/3 + a² T³/27 + a/6 with a the skewness over √n is free of skewness.
    losses = np.random.default_rng(seed).lognormal(-2, 1.5, size=300)
    estimate = mean_estimate(losses)
    skewness = stats.skew(losses) / math.sqrt(300)
    quantile = stats.t.ppf(0.975, reduced_freedom(losses))
    for end, expected in ((estimate.low, quantile), (estimate.high, -quantile)):
        t = (losses.mean() - end) / stats.sem(losses)
        assert t + skewness * t**2 / 3 + skewness**2 * t**3 / 27 + skewness / 6 == pytest.approx(expected)
    assert estimate.high - estimate.value > estimate.value - estimate.low


def test_the_interval_of_symmetric_values_with_light_tails_is_students():
    values = np.linspace(-1, 3, 30)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert astuple(mean_estimate(values)) == pytest.approx((1.0, *expected))


def test_losses_of_single_precision_give_the_interval_of_double():
    losses = np.random.default_rng(0).exponential(size=500).astype(np.float32)
    assert mean_estimate(losses) == mean_estimate(losses.astype(float))
    others = np.random.default_rng(1).exponential(size=500).astype(np.float32)
    doubled = losses.astype(float), others.astype(float)
    assert paired_difference(losses, others) == paired_difference(*doubled)
    seeds = [values.reshape(5, 100) for values in (losses, others)]
    assert crossed_mean(seeds[0]) == crossed_mean(seeds[0].astype(float))
    assert crossed_difference(*seeds) == crossed_difference(*(values.astype(float) for values in seeds))


def test_equal_losses_have_no_width_and_one_alone_no_bounds():
    assert mean_estimate(np.full(7, 0.25)) == Estimate(0.25, 0.25, 0.25)
    assert mean_estimate(np.array([0.25])) == Estimate(0.25, -math.inf, math.inf)
    assert paired_difference(np.full(7, 0.5), np.full(7, 0.25)) == Estimate(0.25, 0.25, 0.25)
    assert paired_difference(np.array([0.5]), np.array([0.25])) == Estimate(0.25, -math.inf, math.inf)


def test_the_size_of_losses_does_not_matter():
    losses = np.random.default_rng(0).lognormal(0, 2, size=50)
    expected = np.array(astuple(mean_estimate(losses)))
    for factor in (1e-150, 1e150):
        assert np.array(astuple(mean_estimate(losses * factor))) / factor == pytest.approx(expected)


def test_a_pilot_tells_how_many_values_are_needed():
    # Stein 1945: (t s / h)² with the pilot's variance, here 5/3, and its degrees of freedom.
    pilot = np.array([1.0, 2.0, 3.0, 4.0])
    assert rounds_needed(pilot, 0.5) == math.ceil(3.182446**2 * 5 / 3 / 0.25) == 68
    assert rounds_needed(pilot, 0.5, 0.99) == math.ceil(5.840909**2 * 5 / 3 / 0.25) == 228
    assert rounds_needed(pilot, 100.0) == pilot.size


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_the_mean_of_a_number_of_values_fixed_beforehand_has_students_interval(confidence):
    values = np.random.default_rng(3).normal(2, 5, size=12)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert astuple(two_stage_mean(values, 12, confidence)) == pytest.approx((values.mean(), *expected))
    assert two_stage_mean(values, 12) == two_stage_mean(values, 12, 0.95)


@pytest.mark.parametrize(
    ("values", "variance"),
    [([0, 2, 0, 2, 1, 1, 1, 1, 1], 4 / 3), ([1, 1, 1, 1, 0, 2, 0, 2, 1], 4 / 8)],
    ids=["the pilot's spread", "a spread that came later"],
)
def test_after_a_pilot_the_larger_spread_counts_with_the_pilots_degrees_of_freedom(values, variance):
    margin = 3.182446 * math.sqrt(variance / 9)
    assert astuple(two_stage_mean(np.array(values), 4)) == pytest.approx((1, 1 - margin, 1 + margin), abs=1e-6)


def test_a_paired_difference_by_hand():
    # 20 images: 5 only by the first, 1 only by the second. With half an image in each cell: 5.5, 1.5 of 22.
    first = np.array([True] * 5 + [False] + [True] * 10 + [False] * 4)
    second = np.array([False] * 5 + [True] + [True] * 10 + [False] * 4)
    estimate = paired_difference(first, second)
    assert estimate.value == pytest.approx(4 / 20)
    centre = 4 / 22
    margin = 1.959964 * math.sqrt(7 - 16 / 22) / 22
    assert (estimate.low, estimate.high) == (
        pytest.approx(centre - margin, abs=1e-6),
        pytest.approx(centre + margin, abs=1e-6),
    )

    mirrored = paired_difference(second, first)
    assert (mirrored.value, mirrored.low, mirrored.high) == pytest.approx(
        (-estimate.value, -estimate.high, -estimate.low)
    )


def test_equal_outcomes_cannot_be_told_apart():
    same = outcomes(390, 10)
    estimate = paired_difference(same, same)
    assert estimate.value == 0
    assert estimate.low < 0 < estimate.high


def test_one_image_is_little_to_tell_two_networks_apart():
    estimate = paired_difference(np.array([True]), np.array([False]))
    assert estimate.value == 1
    assert estimate.low < 0


def test_a_higher_confidence_is_that_of_its_normal_quantile():
    first, second = outcomes(350, 50), outcomes(330, 70)
    usual = paired_difference(first, second)
    adjusted = paired_difference(first, second, confidence=1 - 0.05 / 7)
    assert adjusted.value == usual.value
    ratio = (adjusted.high - adjusted.low) / (usual.high - usual.low)
    assert ratio == pytest.approx(stats.norm.ppf(1 - 0.025 / 7) / stats.norm.ppf(0.975))


def test_a_paired_difference_of_losses_with_light_tails_is_students():
    random = np.random.default_rng(4)
    first = random.uniform(size=60)
    second = random.uniform(size=60)
    assert stats.kurtosis(first - second) < 0
    for confidence in (0.95, 0.99):
        expected = stats.ttest_rel(first, second).confidence_interval(confidence)
        estimate = paired_difference(first, second, confidence)
        assert astuple(estimate) == pytest.approx((np.mean(first - second), *expected))


def test_a_paired_difference_that_few_images_decide_has_few_degrees_of_freedom():
    first = np.zeros(100)
    first[:2] = 5.0
    # Kurtosis of a yes-or-no value with part p = 0.02: excess (1 - 6 p (1 - p)) / (p (1 - p)) = 45.02.
    freedom = 2 / ((1 - 6 * 0.02 * 0.98) / (0.02 * 0.98) / 100 + 2 / 99)
    assert freedom == pytest.approx(4.2517, abs=1e-4)
    error = 5 * math.sqrt(0.02 * 0.98 / 99)
    estimate = paired_difference(first, np.zeros(100))
    assert estimate.high - estimate.value == pytest.approx(stats.t.ppf(0.975, freedom) * error)
    assert estimate.low < 0 < estimate.value


def test_networks_that_agree_on_most_images_have_few_degrees_of_freedom():
    first = np.zeros(50)
    first[:2] = -3.0, 3.0
    # Two of 50 values differ from the mean of 0, by as much: kurtosis 25.
    freedom = 2 / ((25 - 3) / 50 + 2 / 49)
    error = math.sqrt(2 * 3**2 / 49 / 50)
    estimate = paired_difference(first, np.zeros(50))
    assert astuple(estimate) == pytest.approx((0, *stats.t.interval(0.95, freedom, scale=error)))


def test_paired_differences_of_losses_change_their_sign_with_the_order():
    first, second = np.random.default_rng(5).exponential(size=(2, 80))
    assert astuple(paired_difference(second, first)) == close_to(negative(paired_difference(first, second)))


def test_with_one_seed_only_the_images_count():
    random = np.random.default_rng(6)
    first, second = random.exponential(size=(2, 1, 90))
    assert astuple(crossed_difference(first, second)) == close_to(student(first[0] - second[0]))
    assert astuple(crossed_mean(first)) == close_to(mean_estimate(first[0]))
    right, wrong = first < 1, second < 1
    assert astuple(crossed_difference(right, wrong)) == close_to(agresti_min(right[0], wrong[0]))
    assert astuple(crossed_mean(right)) == close_to(accuracy_estimate(right[0]))


def test_seeds_that_do_not_matter_leave_the_interval_of_the_images():
    random = np.random.default_rng(7)
    first, second = np.repeat(random.exponential(size=(2, 1, 90)), 4, axis=1)
    assert astuple(crossed_difference(first, second)) == close_to(student(first[0] - second[0]))
    assert astuple(crossed_mean(first)) == close_to(mean_estimate(first[0]))


def test_where_only_seeds_matter_the_interval_is_students_of_their_means():
    of_seeds = np.array([[0.1], [0.4], [0.25]])
    expected = stats.ttest_1samp(of_seeds[:, 0], 0).confidence_interval()
    zeros = np.zeros((3, 50))
    assert astuple(crossed_difference(zeros + of_seeds, zeros)) == pytest.approx((0.25, *expected))
    # The same of one network's log-loss, but that no log-loss is negative.
    assert expected.low < 0
    assert astuple(crossed_mean(zeros + of_seeds)) == pytest.approx((0.25, 0.0, expected.high))


def test_a_crossed_difference_by_analysis_of_variance():
    # Two seeds, three images. Means of images 1, 2, 6, of seeds 2 and 4; residuals ±0, ±1, ±1 on the two seeds.
    differences = np.array([[0.0, 2.0, 4.0], [2.0, 2.0, 8.0]])
    assert differences.mean(axis=0).tolist() == [1, 2, 6]
    mean_square_images = 2 * ((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2
    mean_square_residual = (0 + 1 + 1 + 0 + 1 + 1) / 2
    between_images = (mean_square_images - mean_square_residual) / 2
    of_images = stats.t.ppf(0.975, 2) * math.sqrt(between_images / 3)  # three values: excess kurtosis below 0
    of_seeds = stats.t.ppf(0.975, 1) * math.sqrt(((2 - 3) ** 2 + (4 - 3) ** 2) / 2)
    margin = math.hypot(of_images, of_seeds)
    estimate = crossed_difference(differences, np.zeros((2, 3)))
    assert astuple(estimate) == pytest.approx((3.0, 3 - margin, 3 + margin))


@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_a_crossed_difference_of_three_seeds_by_analysis_of_variance(confidence):
    random = np.random.default_rng(15)
    values = np.linspace(-1, 3, 8) + random.normal(0, 0.5, size=(3, 8)) + np.array([[0.0], [0.3], [-0.4]])
    of_images, of_seeds = values.mean(axis=0), values.mean(axis=1)
    assert stats.kurtosis(of_images) < 0
    residuals = values - of_images - of_seeds[:, None] + values.mean()
    between = (3 * of_images.var(ddof=1) - np.sum(residuals**2) / (7 * 2)) / 3
    quantile = 0.5 + confidence / 2
    margin = math.hypot(
        stats.t.ppf(quantile, 7) * math.sqrt(between / 8), stats.t.ppf(quantile, 2) * stats.sem(of_seeds)
    )
    expected = pytest.approx((values.mean(), values.mean() - margin, values.mean() + margin))
    assert astuple(crossed_difference(values, np.zeros((3, 8)), confidence)) == expected


def test_a_crossed_accuracy_by_hand():
    # Ten images: six right with both seeds, two with neither, one with each alone. Seeds' means are equal.
    right = np.array([[1] * 6 + [0] * 2 + [1, 0], [1] * 6 + [0] * 2 + [0, 1]], dtype=bool)
    between_images = 6 * 0.3**2 + 2 * 0.7**2 + 2 * 0.2**2
    images = 10 * 0.7 * 0.3 / (between_images / 10)  # yes-or-no values of that variance
    low, high = wilson(0.7 * images, images)
    chance = 4 * 0.5**2 / (2 - 1) / 2
    common = math.sqrt(1 - chance / between_images)
    expected = (0.7, 0.7 - common * (0.7 - low), 0.7 + common * (high - 0.7))
    assert astuple(crossed_mean(right)) == pytest.approx(expected)


def test_chance_that_only_looks_like_images_is_not_counted_twice():
    # Each seed misses by one on another image: means of images differ by no more than chance explains.
    chance = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0], [0.5, 0.5, -0.5, -0.5]])
    differences = chance + np.array([[1], [2], [3]])
    expected = stats.ttest_1samp([1, 2, 3], 0).confidence_interval()
    estimate = crossed_difference(differences, np.zeros((3, 4)))
    assert astuple(estimate) == pytest.approx((2.0, *expected))


def test_crossed_differences_change_their_sign_with_the_order_and_forget_the_order_of_seeds_and_images():
    random = np.random.default_rng(8)
    first, second = random.exponential(size=(2, 3, 40))
    for one, other in ((first, second), (first < 1, second < 1)):
        expected = crossed_difference(one, other)
        assert astuple(crossed_difference(other, one)) == close_to(negative(expected))
        assert astuple(crossed_difference(one[::-1, ::-1], other[::-1, ::-1])) == close_to(expected)


def test_crossed_accuracies_stay_between_none_and_all_and_keep_a_width():
    right = np.ones((3, 50), bool)
    assert astuple(crossed_mean(right)) == close_to(accuracy_estimate(right[0]))
    assert crossed_difference(right, right).low < 0 < crossed_difference(right, right).high
    right[0, :3] = False
    estimate = crossed_mean(right)
    assert 0.9 > estimate.low > 0
    assert estimate.value == pytest.approx(147 / 150)
    assert estimate.high == 1
    assert astuple(crossed_mean(~right)) == close_to(Estimate(1 - estimate.value, 0, 1 - estimate.low))


def test_one_image_says_nothing_about_others_however_many_seeds():
    estimate = crossed_difference(np.array([[0.5], [0.7]]), np.zeros((2, 1)))
    assert astuple(estimate) == pytest.approx((0.6, -math.inf, math.inf))


def kendall_variance(tau, count):
    """Esscher's variance of Kendall's τ for a bivariate normal distribution, as in Kendall's book (1970, chapter 9)."""
    arcs = math.asin(math.sin(math.pi * tau / 2)) ** 2, math.asin(math.sin(math.pi * tau / 2) / 2) ** 2
    constant = 1 - (2 / math.pi) ** 2 * arcs[0] + 2 * (count - 2) * (1 / 9 - (2 / math.pi) ** 2 * arcs[1])
    return 2 / (count * (count - 1)) * constant


def test_rank_agreement_by_hand():
    estimate = rank_agreement(np.array([1, 2, 3, 4]), np.array([10, 30, 20, 40]))
    assert estimate.value == pytest.approx(4 / 6)  # of six pairs one is the other way round
    for end in (estimate.low, estimate.high):
        assert abs(end - 4 / 6) == pytest.approx(1.959964 * math.sqrt(kendall_variance(end, 4)), abs=1e-6)
    assert -1 < estimate.low < 4 / 6 < estimate.high < 1


def test_rank_agreement_reaches_zero_where_kendalls_test_of_independence_does():
    # Without ties and association the variance of τ is 2 (2 m + 5) / (9 m (m - 1)).
    first, second = np.random.default_rng(9).normal(size=(2, 20)) + np.linspace(0, 2, 20)
    tau = stats.kendalltau(first, second).statistic
    confidence = 2 * stats.norm.cdf(tau / math.sqrt(2 * (2 * 20 + 5) / (9 * 20 * 19))) - 1
    estimate = rank_agreement(first, second, confidence)
    assert estimate.value == tau > 0
    assert estimate.low == pytest.approx(0, abs=1e-9)


def test_scores_the_other_way_round_agree_as_much_the_other_way_round():
    first, second = np.random.default_rng(16).normal(size=(2, 12))
    for other in (second, first + 2 * second, first + second / 2):
        expected = rank_agreement(first, other, 0.9)
        assert -1 < expected.low < expected.value < expected.high < 1
        assert astuple(rank_agreement(first, -other, 0.9)) == close_to(negative(expected))


@pytest.mark.parametrize("count", [2, 3, 5, 16, 32])
def test_the_same_order_agrees_wholly_and_the_opposite_not_at_all(count):
    scores = np.arange(count) ** 2
    same = rank_agreement(scores, np.arange(count))
    assert (same.value, same.high) == (pytest.approx(1), 1)
    assert same.low < 1
    assert 1 - same.low == pytest.approx(1.959964 * math.sqrt(kendall_variance(same.low, count)), abs=1e-6)
    assert astuple(rank_agreement(scores, -scores)) == close_to(negative(same))


def test_more_configurations_tell_more_about_their_order():
    widths = [1 - rank_agreement(np.arange(count), np.arange(count)).low for count in (3, 5, 16, 32, 100)]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_rank_agreement_is_scipys(seed):
    first, second = np.random.default_rng(seed).integers(6, size=(2, 12))
    assert rank_agreement(first, second).value == pytest.approx(stats.kendalltau(first, second).statistic)


def test_ties_are_taken_out_of_both_scores():
    first, second = np.array([1, 1, 2, 3, 4]), np.array([1, 2, 2, 4, 3])
    # Ten pairs: one tied in each, seven of the rest agree, one does not.
    assert rank_agreement(first, second).value == pytest.approx((7 - 1) / 9)


def test_scores_that_are_all_equal_order_nothing():
    assert rank_agreement(np.ones(6), np.arange(6)) == Estimate(0, -1, 1)
    assert rank_agreement(np.ones(6), np.ones(6)) == Estimate(0, -1, 1)
    assert rank_agreement(np.ones(1), np.ones(1)) == Estimate(0, -1, 1)


def test_scores_that_are_not_finite_have_no_rank():
    with pytest.raises(ValueError, match="not finite"):
        rank_agreement(np.array([1.0, math.nan, 2.0]), np.arange(3))
    with pytest.raises(ValueError, match="not finite"):
        rank_agreement(np.arange(3), np.array([1.0, 2.0, math.nan]))
    with pytest.raises(ValueError, match="not finite"):
        noise_ceiling(np.array([[1.0, math.inf, 2.0], [1.0, 2.0, 3.0]]))


def test_scores_of_different_configurations_are_not_compared():
    with pytest.raises(ValueError, match="5 scores cannot be compared with 1"):
        rank_agreement(np.arange(5), np.ones(1))


def noisy_scores(random, truth, noise, seeds):
    of_seeds = 3 * random.standard_normal((seeds, 1))
    return truth + of_seeds + noise * random.standard_normal((seeds, truth.size))


def test_without_noise_a_perfect_evaluator_agrees_wholly():
    scores = np.arange(16) + np.array([[0], [5], [-2]])
    assert noise_ceiling(scores) == Estimate(1, 1, 1)


def test_of_nothing_but_noise_no_order_can_be_found():
    scores = np.random.default_rng(10).standard_normal((100, 3, 16))
    estimates = [noise_ceiling(of_study, draws=60) for of_study in scores]
    assert np.mean([estimate.value for estimate in estimates]) < 0.25
    assert np.mean([estimate.low < 0 < estimate.high for estimate in estimates]) > 0.7
    with np.errstate(all="raise"):
        assert noise_ceiling(np.ones((3, 16))) == Estimate(0, 0, 0)


def test_the_ceiling_of_two_configurations_is_that_of_students_test():
    """They are ordered alike with the probability of Student's distribution below the statistic of their difference."""
    differences = np.array([1.0, 2.0, 4.5])
    scores = np.array([[0.0, 1.0], [3.0, 5.0], [-2.0, 2.5]])
    assert (scores[:, 1] - scores[:, 0]).tolist() == differences.tolist()
    estimate = noise_ceiling(scores, draws=6000)
    assert estimate.value == pytest.approx(1 - stats.ttest_1samp(differences, 0).pvalue, abs=0.02)
    assert (estimate.low, estimate.high) == (-1, 1)


def test_the_ceiling_of_five_configurations_by_integration():
    """Each pair is ordered alike with a normal probability; the noise's variance has an inverse χ² distribution."""
    scores = noisy_scores(np.random.default_rng(22), np.linspace(-1, 1, 5), 1.5, 3)
    means = scores.mean(axis=0)
    residuals = scores - means - scores.mean(axis=1, keepdims=True) + scores.mean()
    levels = (np.arange(2000) + 0.5) / 2000
    noise = np.sum(residuals**2) / stats.chi2.ppf(levels, 2 * 4) / 3
    # Morris 1983: with m - 3 degrees of freedom the shrinkage by noise over variance has no bias.
    kept = np.sqrt(np.maximum(1 - (5 - 3) / (5 - 1) * noise / means.var(ddof=1), 0))
    apart = np.abs(np.subtract.outer(means, means))[np.triu_indices(5, 1)]
    alike = stats.norm.cdf(kept[:, None] * apart / np.sqrt(2 * noise)[:, None])
    assert noise_ceiling(scores, draws=6000).value == pytest.approx(np.mean(2 * alike - 1), abs=0.015)


@pytest.mark.parametrize(("seeds", "noise"), [(2, 0.3), (3, 1.0), (5, 2.0)])
def test_the_ceiling_of_normal_scores_is_that_of_their_correlation(seeds, noise):
    random = np.random.default_rng(11)
    correlation = 1 / math.sqrt(1 + noise**2 / seeds)
    estimate = noise_ceiling(noisy_scores(random, random.standard_normal(400), noise, seeds), draws=50)
    assert estimate.value == pytest.approx(2 / math.pi * math.asin(correlation), abs=0.03)


@pytest.mark.parametrize(("seeds", "noise"), [(2, 0.3), (3, 0.5), (3, 1.0), (5, 1.0)])
def test_the_ceiling_of_sixteen_configurations_is_near_the_truth(seeds, noise):
    random = np.random.default_rng(12)
    reached, ceilings = [], []
    for _ in range(100):
        truth = random.standard_normal(16)
        scores = noisy_scores(random, truth, noise, seeds)
        reached.append(stats.kendalltau(truth, scores.mean(axis=0)).statistic)
        ceilings.append(noise_ceiling(scores, draws=60))
    assert np.mean([ceiling.value for ceiling in ceilings]) == pytest.approx(np.mean(reached), abs=0.05)
    held = [ceiling.low <= tau <= ceiling.high for ceiling, tau in zip(ceilings, reached, strict=True)]
    assert np.mean(held) >= 0.85


def test_what_a_seed_adds_to_all_configurations_does_not_lower_the_ceiling():
    scores = noisy_scores(np.random.default_rng(13), np.linspace(-1, 1, 8), 0.3, 3)
    shifted = scores + np.array([[0.0], [10.0], [-20.0]])
    assert astuple(noise_ceiling(shifted)) == pytest.approx(astuple(noise_ceiling(scores)), abs=0.01)


def test_the_ceiling_is_the_same_for_the_same_seed():
    scores = noisy_scores(np.random.default_rng(14), np.linspace(-1, 1, 8), 0.5, 3)
    assert noise_ceiling(scores, seed=1) == noise_ceiling(scores, seed=1) != noise_ceiling(scores, seed=2)
    assert noise_ceiling(scores) == noise_ceiling(scores, 1000, 0)


@pytest.mark.parametrize("shape", [(1, 8), (3, 1)])
def test_one_seed_or_one_configuration_does_not_tell_noise(shape):
    with pytest.raises(ValueError, match=f"{shape[0]} seeds of {shape[1]} configurations"):
        noise_ceiling(np.ones(shape))


def test_a_difference_is_written_in_the_unit_of_its_quality():
    difference = Estimate(0.02, -0.0039, 0.0437)
    assert difference_in_words("accuracy", difference) == "+2.00 points [-0.39, +4.37]"
    assert difference_in_words("log_loss", difference) == "+0.0200 [-0.0039, +0.0437]"
