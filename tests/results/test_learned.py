"""Which trainings have learned: named cases, and how often noise looks like a failure."""

import numpy as np
import pytest

from se_search.results.learned import which_learned

IMAGES = 400


def correct(*accuracies, images=IMAGES):
    """Outcomes of one network: a row for each accuracy."""
    return np.stack([np.arange(images) < round(accuracy * images) for accuracy in accuracies])


NETWORKS = [correct(0.55, 0.56, 0.54), correct(0.97, 0.96, 0.965)]


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ((0.967, 0.966, 0.565), [True, True, False]),  # the demo's trial 46
        ((0.967, 0.10, 0.12), [True, False, False]),
        ((0.11, 0.10, 0.12), [False, False, False]),  # at chance
        ((0.967, 0.90, 0.93), [True, True, True]),  # worse, but learned
        ((0.967,), [True]),
        ((0.12,), [False]),
    ],
)
def test_trainings_far_below_the_best_or_at_chance_have_not_learned(accuracies, expected):
    *others, found = which_learned([*NETWORKS, correct(*accuracies)], 0.1)
    assert found.tolist() == expected
    # A network of lower accuracy is no failure: its own best training is the measure.
    assert all(one.all() for one in others)


def test_chance_is_the_lower_end_of_the_intervals_against_it():
    # Wilson's interval of 53 of 400 starts at 0.1026, that of 52 of 400 at 0.1004, that of 51 of 400 at 0.0981.
    found = [which_learned([correct(count / IMAGES)], 0.1)[0].item() for count in (51, 52, 53)]
    assert found == [False, True, True]


def test_one_failed_training_in_every_network_is_found():
    networks = [correct(0.95 + 0.004 * number, 0.94, 0.5) for number in range(3)]
    assert [one.tolist() for one in which_learned(networks, 0.1)] == [[True, True, False]] * 3


@pytest.mark.parametrize(("accuracy", "noise", "images"), [(0.95, 0.005, 400), (0.9, 0.02, 400), (0.6, 0.03, 800)])
def test_noise_between_seeds_rarely_looks_like_a_failure(accuracy, noise, images):
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(200):
        reached = np.clip(accuracy + noise * rng.standard_normal((8, 3)), 0, 1)
        networks = [rng.random((3, images)) < one[:, None] for one in reached]
        false += not all(one.all() for one in which_learned(networks, 0.1))
    assert false <= 10  # of 200 verifications with 24 trainings each: 5 %
