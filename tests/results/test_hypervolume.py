"""Hypervolumes: by hand, and as Optuna computes them."""

import numpy as np
import optuna
import pytest

from se_search.results.hypervolume import areas_of_the_best, hypervolume_history

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
