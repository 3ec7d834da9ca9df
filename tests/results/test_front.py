"""The front that noise cannot move, by hand, as Optuna finds it without noise, and on known fronts."""

import numpy as np
import optuna
import pytest
from scipy import stats

from se_search.results.front import Judged, Measured, TrialValues, find_front, front_probabilities, undecided
from se_search.sampling.fronts import is_on_front

IMAGES = 400
Z = stats.norm.ppf(0.975)


def values_of(right, parameters, latencies=None, half_widths=0.01):
    """The front of trials whose first ``right`` of 400 images are correct, with 95 % half-widths of latencies."""
    outcomes = [np.arange(IMAGES)[None] < count for count in right]
    columns, uncertain = [-np.array(right) / IMAGES, np.array(parameters, float)], {0: Judged(outcomes, 1)}
    if latencies is not None:
        columns.append(np.array(latencies, float))
        errors = np.broadcast_to(half_widths, len(right)) / Z
        uncertain[2] = Measured(columns[2], np.diag(errors**2))
    return TrialValues(np.column_stack(columns), uncertain, columns[1])


def front_of(*arguments):
    """The front of :func:`values_of`."""
    return find_front(values_of(*arguments))


def test_a_noisy_latency_wins_no_place():
    """The case of the issue: as many blocks as the others, ×0.879 [0.518, 1.491] where they measure ×1.07 to ×1.20."""
    found = front_of([380] * 4, [0, 1, 2, 3], [1.0, 1.07, 1.2, 0.879], [0.01, 0.02, 0.02, 0.487])
    assert found.members.tolist() == [True, False, False, False]
    assert found.tied_with.tolist() == [-1, -1, -1, 0]
    precise = front_of([380] * 4, [0, 1, 2, 3], [1.0, 1.07, 1.2, 0.879], 0.01)
    assert precise.members.tolist() == [True, False, False, True]


def test_further_measurements_go_where_a_latency_can_decide():
    right, parameters = [380, 380, 380, 398, 380], [0, 1, 2, 3, 4]
    # As fast as the first within noise; surely slower than it; measurably more accurate; as slow as that one.
    latencies, half_widths = [1.0, 0.98, 1.2, 1.3, 1.3], [0.0, 0.05, 0.05, 0.05, 0.05]
    trials = values_of(right, parameters, latencies, half_widths)
    assert find_front(trials).members.tolist() == [True, False, False, True, False]
    assert undecided(trials).tolist() == [True, True, False, True, False]


def test_a_latency_may_decide_where_accuracy_decides_against_all_others():
    """The last is more accurate than the first, which is faster, and as fast as the second within noise."""
    trials = values_of([380, 398, 398], [0, 1, 2], [0.8, 1.3, 1.29], [0.01, 0.05, 0.05])
    assert find_front(trials).members.tolist() == [True, True, False]
    assert undecided(trials).all()


def two_costs(costs, latencies, right=(380, 380)):
    """Trials with two exact objectives, an accuracy and a latency with a standard error of 0.01."""
    outcomes = [np.arange(IMAGES)[None] < count for count in right]
    values = np.column_stack([-np.array(right) / IMAGES, latencies, costs]).astype(float)
    latency = Measured(values[:, 1], np.eye(len(values)) * 1e-4)
    return TrialValues(values, {0: Judged(outcomes, 1), 1: latency}, np.zeros(len(values)))


def test_rivals_cost_less_in_one_objective_and_no_more_in_the_others():
    """The second costs more in the second objective only, or less in the first."""
    for costs, expected in (([[0, 1], [0, 2]], [True, False]), ([[1, 0], [0, 1]], [True, True])):
        slower = two_costs(costs, [1.0, 1.2])
        assert undecided(slower).tolist() == expected
        assert find_front(two_costs(costs, [1.0, 1.0])).members.tolist() == expected


def test_of_equal_costs_the_one_with_the_only_measurable_advantage_stays():
    """The second has an image more than the third, which is measurably faster."""
    trials = two_costs([[0, 0], [1, 1], [1, 1]], [1.0, 0.9, 0.8], (380, 381, 380))
    found = find_front(trials)
    assert found.members.tolist() == [True, False, True]
    assert found.tied_with.tolist() == [-1, 2, -1]
    assert undecided(trials).all()  # none of equal costs is cheaper


def test_a_trial_is_tied_with_what_it_does_not_beat_though_that_is_not_on_the_front():
    """The last is measurably faster than the first, but not than the second, whose latency is noisy."""
    found = front_of([380] * 3, [0, 1, 2], [1.0, 0.98, 0.95], [0.01, 0.1, 0.01])
    assert found.members.tolist() == [True, False, False]
    assert found.tied_with.tolist() == [-1, 0, 1]


def test_a_lower_log_loss_is_better():
    """Losses of 400 images with a standard deviation of 0.1 and means that differ by 0.05: z is about 7."""
    random = np.random.default_rng(0)
    for gap, expected in ((0.05, True), (-0.05, False)):
        losses = [1 + 0.1 * random.standard_normal((1, IMAGES)) for _ in range(2)]
        losses[1] -= gap
        judged = Judged(losses, -1)
        assert (judged.is_better(0, 1, 0.95), judged.is_better(1, 0, 0.95)) == (not expected, expected)


def test_an_exact_latency_that_equals_a_cheaper_one_decides_nothing():
    assert undecided(values_of([380, 380], [0, 1], [1.0, 1.0], 0.0)).tolist() == [True, False]


def test_one_image_more_is_noise_and_eighteen_are_not():
    found = front_of([380, 381, 398], [0, 1, 2])
    assert found.members.tolist() == [True, False, True]
    assert found.tied_with.tolist() == [-1, 0, -1]


def test_the_number_of_images_that_is_measurable_is_that_of_agresti_and_min():
    """Two candidates, one comparison: the one-sided level is 5 %, and the interval that of Agresti and Min (2005)."""

    def lower_end(more):
        centre = more / (IMAGES + 2)
        return centre - stats.norm.ppf(0.95) * np.sqrt(((more + 1) / (IMAGES + 2) - centre**2) / (IMAGES + 2))

    enough = next(more for more in range(1, 50) if lower_end(more) > 0)
    assert not front_of([300, 300 + enough - 1], [0, 1]).members[1]
    assert front_of([300, 300 + enough], [0, 1]).members[1]


def test_two_uncertain_objectives_share_the_level():
    """A latency counts from z = 1.645 alone, and from z = 1.960 beside an accuracy that could show an advantage too."""
    difference = 1.8 * np.sqrt(2) * 0.01
    values = np.array([[0.0, 1.0], [1.0, 1.0 - difference]])
    latency = Measured(values[:, 1], np.eye(2) * 1e-4)
    assert find_front(TrialValues(values, {1: latency}, values[:, 0])).members.tolist() == [True, True]
    assert not front_of([380, 380], [0, 1], values[:, 1], Z * 0.01).members[1]
    assert front_of([380, 380], [0, 1], values[:, 1], Z * 0.009).members[1]


def test_errors_in_common_cancel():
    values = np.array([[0.0, 1.0], [1.0, 0.98]])
    covariance = 1e-2 * np.array([[1.0, 0.9999], [0.9999, 1.0]])
    for matrix, expected in ((covariance, True), (np.diag(covariance.diagonal()) * np.eye(2), False)):
        trials = TrialValues(values, {1: Measured(values[:, 1], matrix)}, values[:, 0])
        assert find_front(trials).members.tolist() == [True, expected]
        assert (front_probabilities(trials)[1] > 0.95) == expected


def test_more_candidates_have_to_show_more():
    """Benjamini and Hochberg: one clear candidate of ten needs a tenth of the level, ten clear ones need all of it."""
    for gap, expected in ((1.8, 0), (2.7, 1)):
        # Latencies are accurate to 0.01; each candidate but the last is tied with the first.
        latencies = 1 - np.array([*np.arange(10) * 1e-4, gap * np.sqrt(2) * 0.01 + 9e-4])
        values = np.column_stack([np.arange(11.0), latencies])
        latency = Measured(latencies, np.eye(11) * 1e-4)
        assert find_front(TrialValues(values, {1: latency}, values[:, 0])).members[1:].sum() == expected
    clear = np.column_stack([np.arange(11.0), 1 - 1.8 * np.sqrt(2) * 0.01 * np.arange(11)])
    latency = Measured(clear[:, 1], np.eye(11) * 1e-4)
    assert find_front(TrialValues(clear, {1: latency}, clear[:, 0])).members.all()


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_exact_objectives_have_the_front_that_optuna_finds(objectives, seed):
    values = np.random.default_rng(seed).integers(0, 8, (40, objectives)).astype(float)  # with ties and duplicates
    study = optuna.create_study(directions=["minimize"] * objectives)
    study.add_trials([optuna.trial.create_trial(values=row.tolist()) for row in values])
    trials = TrialValues(values, {}, np.zeros(40))
    found = find_front(trials)
    assert np.flatnonzero(found.members).tolist() == [trial.number for trial in study.best_trials]
    assert (found.tied_with == -1).all()
    assert front_probabilities(trials).tolist() == found.members.tolist()


def test_without_an_exact_objective_the_fewest_parameters_stay():
    """Accuracy and latency only: noise makes the second better in both, which does not drive the first away."""
    outcomes = [np.arange(IMAGES)[None] < count for count in (380, 381, 398)]
    values = np.array([[-0.95, 1.0], [-0.9525, 0.999], [-0.995, 1.2]])
    uncertain = {0: Judged(outcomes, 1), 1: Measured(values[:, 1], np.eye(3) * 1e-4)}
    found = find_front(TrialValues(values, uncertain, np.array([0.0, 5.0, 9.0])))
    assert found.members.tolist() == [True, False, True]
    assert found.tied_with.tolist() == [-1, 0, -1]
    better = values - np.array([[0, 0], [0, 0.2], [0, 0]])  # now measurably faster, and no less accurate
    found = find_front(TrialValues(better, uncertain | {1: Measured(better[:, 1], np.eye(3) * 1e-4)}, np.arange(3.0)))
    assert found.members.tolist() == [False, True, True]


def test_equal_estimates_without_an_exact_objective_leave_the_smaller_network():
    values = np.full((2, 2), 0.5)
    latency = Measured(values[:, 1], np.eye(2) * 1e-4)
    found = find_front(TrialValues(values, {0: Measured(values[:, 0], np.eye(2)), 1: latency}, np.array([2.0, 1.0])))
    assert found.members.tolist() == [False, True]
    assert found.tied_with.tolist() == [1, -1]


def test_equal_networks_leave_the_first():
    found = front_of([390, 390, 390], [0, 1, 1], [1.0, 1.0, 1.0])
    assert found.members.tolist() == [True, False, False]


def test_probabilities_are_those_of_the_normal_distribution():
    """Two latencies, of which the dearer is better by 0.01 ± 0.01: it is on the front with probability Φ(1)."""
    values = np.array([[0.0, 1.01], [1.0, 1.0]])
    latency = Measured(values[:, 1], np.eye(2) * 0.5e-4)
    probabilities = front_probabilities(TrialValues(values, {1: latency}, values[:, 0]))
    assert probabilities[0] == 1
    assert probabilities[1] == pytest.approx(stats.norm.cdf(1), abs=0.06)  # three standard errors of 400 draws


def test_a_latency_without_an_error_has_no_probability_but_0_and_1():
    trials = values_of([380] * 3, [0, 1, 2], [1.0, 1.0, 0.9], 0.0)
    assert front_probabilities(trials).tolist() == [1, 0, 1]


def test_draws_have_the_spread_of_images_and_seeds():
    """Against formulas: the variance of a mean over images, and of one over crossed images and seeds."""
    random = np.random.default_rng(0)
    losses = random.exponential(size=(1, 1, 500))
    drawn = Judged(list(losses), -1).deviations(random, 4000)[:, 0]
    assert drawn.std() == pytest.approx(losses.std() / np.sqrt(500), rel=0.05)
    assert drawn.mean() == pytest.approx(0, abs=0.005)  # its standard error is below 0.001
    several = random.exponential(size=(1, 1, 500)) + np.array([0.0, 0.3, 0.6, 0.9])[:, None]
    drawn = Judged(list(several), -1).deviations(random, 4000)[:, 0]
    expected = several.mean((0, 1)).var() / 500 + several.mean(2).var() / 4
    assert drawn.var() == pytest.approx(expected, rel=0.1)


def test_draws_of_all_trials_share_their_images():
    correct = np.random.default_rng(0).random((1, IMAGES)) < 0.9
    drawn = Judged([correct, correct], 1).deviations(np.random.default_rng(1), 50)
    assert (drawn[:, 0] == drawn[:, 1]).all()


def made_up(count, images, seed):
    random = np.random.default_rng(seed)
    difficulty = random.standard_normal(images)
    outcomes = [(difficulty + 0.5 * random.standard_normal(images) < 1.5)[None] for _ in range(count)]
    costs, latencies = random.uniform(0, 0.1, count), 1 + 0.05 * random.random(count)
    values = np.column_stack([[-one.mean() for one in outcomes], costs, latencies])
    uncertain = {0: Judged(outcomes, 1), 2: Measured(latencies, np.eye(count) * 1e-4)}
    return TrialValues(values, uncertain, costs)


def test_the_front_is_a_part_of_the_estimates_front_and_always_the_same():
    trials = made_up(60, 300, 0)
    first, again = find_front(trials), find_front(trials)
    estimated = is_on_front(trials.values)
    assert first.members.any()
    assert (estimated | ~first.members).all()
    assert ((first.tied_with >= 0) == (estimated & ~first.members)).all()
    for name in ("members", "tied_with"):
        assert (getattr(first, name) == getattr(again, name)).all()
    assert (front_probabilities(trials) == front_probabilities(trials)).all()


def test_no_trials_have_no_front():
    assert find_front(TrialValues(np.empty((0, 2)), {}, np.empty(0))).members.size == 0


def test_noise_puts_few_on_the_front_and_true_advantages_stay():
    """Twelve searches of 40 trials whose SE changes nothing but costs, and one trial that is 10 points better."""
    shown, wrong = 0, 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        difficulty = random.standard_normal(500)
        chances = np.where(np.arange(40) == 20, 1.5, 1.0)
        outcomes = [(difficulty + 0.5 * random.standard_normal(500) < chance)[None] for chance in chances]
        latencies = 1 + 0.002 * np.arange(40) + 0.01 * random.standard_normal(40)
        values = np.column_stack([[-one.mean() for one in outcomes], np.arange(40.0), latencies])
        uncertain = {0: Judged(outcomes, 1), 2: Measured(latencies, np.eye(40) * 1e-4)}
        members = np.flatnonzero(find_front(TrialValues(values, uncertain, values[:, 1])).members)
        assert {0, 20} <= set(members.tolist())
        shown, wrong = shown + len(members), wrong + len(members) - 2
    assert wrong / shown <= 0.05
