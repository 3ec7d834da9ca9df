"""Hypervolumes: by hand, and as Optuna computes them."""

import numpy as np
import optuna
import pytest

from se_search.results.front import Judged, TrialValues
from se_search.results.hypervolume import (
    areas_of_the_best,
    hypervolume_bounds,
    hypervolume_history,
    hypervolume_intervals,
)

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def test_the_hypervolume_of_a_plane_by_hand():
    study = optuna.create_study(directions=["maximize", "minimize"])
    for accuracy, overhead in ((0.5, 0.5), (0.8, 0.8), (0.4, 0.9)):
        study.add_trial(optuna.trial.create_trial(values=[accuracy, overhead]))
    # Against (0, 1): 0.5·0.5; then 0.3·0.2 more; then nothing, for the third is dominated.
    assert hypervolume_history(study, [0.0, 1.0]) == pytest.approx([0.25, 0.31, 0.31])


def test_two_costs_of_a_front_by_hand():
    # The worse trial is the best one where less than 0.3 of room is left, the better one where there is less than 0.1.
    assert areas_of_the_best(np.array([[0.3], [0.1]]), np.array([0.5, 0.8])) == pytest.approx([0.2, 0.1])
    # A dominated trial is nowhere the best, nor is one without room or gain; of two equal ones one counts.
    room = np.array([[0.3, 0.2], [0.2, 0.1], [-0.1, 0.5], [0.5, 0.5], [0.3, 0.2]])
    areas = areas_of_the_best(room, np.array([0.5, 0.4, 0.9, -0.1, 0.5]))
    assert sorted(areas) == pytest.approx([0, 0, 0, 0, 0.06])
    assert areas_of_the_best(np.empty((0, 2)), np.empty(0)).size == 0


def test_intervals_carry_over_trials_beyond_the_limits():
    study = optuna.create_study(directions=["maximize", "minimize"])
    for accuracy, limit in ((0.5, -1.0), (0.9, 1.0), (0.8, -1.0)):
        parameters = {"counted_parameters": 1}
        trial = optuna.trial.create_trial(values=[accuracy, 0.5], constraints={"limit": limit}, user_attrs=parameters)
        study.add_trial(trial)
    intervals = hypervolume_intervals(study, [0.0, 1.0])
    assert intervals == [pytest.approx((value, value)) for value in (0.25, 0.25, 0.4)]
    assert hypervolume_history(study, [0.0, 1.0]) == pytest.approx([0.25, 0.25, 0.4])


@pytest.mark.parametrize("directions", [("maximize", "minimize"), ("minimize", "minimize", "maximize")])
@pytest.mark.parametrize("seed", range(4))
def test_the_history_is_the_one_that_optuna_draws(directions, seed):
    random = np.random.default_rng(seed)
    study = optuna.create_study(directions=directions)
    for _ in range(80):
        # Values on a grid are often equal; some trials are beyond the reference, and some break a limit.
        values = (random.integers(0, 13, len(directions)) / 10).tolist()
        limits = {"limit": float(random.choice([-1.0, 0.0, 0.5]))}
        study.add_trial(optuna.trial.create_trial(values=values, constraints=limits))
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    reference = [0.1 if one == "maximize" else 1.1 for one in directions]
    drawn = optuna.visualization.plot_hypervolume_history(study, reference).data[0].y
    history = hypervolume_history(study, reference)
    assert history == pytest.approx(list(drawn), rel=1e-9, abs=1e-9)
    assert history[-1] > history[0]


def test_without_noise_the_interval_is_the_hypervolume():
    values = np.array([[-0.5, 0.5], [-0.8, 0.8], [-0.4, 0.9]])
    bounds = hypervolume_bounds(TrialValues(values, {}, np.zeros(3)), np.array([0.0, 1.0]))
    assert bounds == pytest.approx(np.array([[0.25, 0.25], [0.31, 0.31], [0.31, 0.31]]))


def test_the_interval_of_one_trial_is_that_of_its_mean():
    """Against 1.96 standard errors of the mean of 500 images, times the room of 0.5 in cost."""
    correct = np.random.default_rng(0).random((1, 500)) < 0.8
    values = np.array([[-correct.mean(), 0.5]])
    trials = TrialValues(values, {0: Judged([correct], 1)}, np.zeros(1))
    ((low, high),) = hypervolume_bounds(trials, np.array([0.0, 1.0]))
    margin = 1.96 * correct.std() / np.sqrt(500) * 0.5
    assert [low, high] == pytest.approx([correct.mean() / 2 - margin, correct.mean() / 2 + margin], abs=0.15 * margin)


def test_the_interval_allows_for_the_best_of_many_being_lucky():
    """Forty equally good trials: the best one's estimate is too high, and the interval reaches down to the truth."""
    random = np.random.default_rng(0)
    outcomes = [random.random((1, 500)) < 0.8 for _ in range(40)]
    values = np.column_stack([[-one.mean() for one in outcomes], np.full(40, 0.5)])
    bounds = hypervolume_bounds(TrialValues(values, {0: Judged(outcomes, 1)}, np.zeros(40)), np.array([0.0, 1.0]))
    assert -values[:, 0].min() > 0.82
    low, high = bounds[-1]
    assert low < 0.4 < high
    assert (low + high) / 2 < -values[:, 0].min() / 2
