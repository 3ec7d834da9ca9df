import itertools
from functools import cache

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from scipy import integrate, stats

from se_search.sampling.ehvi import EHVISampler, log_expected_improvement


def improvement_by_integration(mean, deviation, cost, losses, costs, worst):
    """Integrate the newly dominated area numerically over a grid of costs and losses; one cost."""

    @cache
    def expected_gain(best):
        return integrate.quad(
            lambda value: (best - value) * stats.norm.pdf(value, mean, deviation), mean - 8 * deviation, best
        )[0]

    grid = np.linspace(cost, worst[1], 4001)
    middle = (grid[:-1] + grid[1:]) / 2
    lowest = [min([worst[0], *losses[costs <= place]]) for place in middle]
    return sum(expected_gain(best) for best in lowest) * (grid[1] - grid[0])


def test_the_expectation_is_the_integral_of_what_is_newly_dominated():
    losses, costs, worst = np.array([0.9, 0.5, 0.3, 0.6]), np.array([0.0, 0.2, 0.7, 0.8]), np.array([1.0, 1.0])
    for mean, deviation, cost in [(0.4, 0.1, 0.1), (0.2, 0.05, 0.6), (0.8, 0.3, 0.95), (0.45, 0.02, 0.3)]:
        found = np.exp(
            log_expected_improvement(
                np.array([mean]), np.array([deviation]), np.array([[cost]]), losses, costs[:, None], worst
            )
        )
        expected = improvement_by_integration(mean, deviation, cost, losses, costs, worst)
        assert found[0] == pytest.approx(expected, rel=2e-3), (mean, deviation, cost)


def test_with_three_objectives_and_no_doubt_it_is_what_the_hypervolume_grows_by():
    rng = np.random.default_rng(3)
    points, worst = rng.random((12, 3)), np.full(3, 1.1)

    def volume(members):  # of the union of boxes, over the grid that their corners span
        lines = [np.unique(np.append(members[:, axis], 1.1)) for axis in range(3)]
        total = 0.0
        for cell in itertools.product(*(itertools.pairwise(line) for line in lines)):
            lower = np.array([low for low, _ in cell])
            if (members <= lower + 1e-12).all(1).any():
                total += float(np.prod([high - low for low, high in cell]))
        return total

    candidates = rng.random((6, 3))
    found = np.exp(
        log_expected_improvement(
            candidates[:, 0], np.full(6, 1e-9), candidates[:, 1:], points[:, 0], points[:, 1:], worst
        )
    )
    for gain, candidate in zip(found, candidates, strict=True):
        assert gain == pytest.approx(volume(np.vstack([points, candidate])) - volume(points), abs=1e-9)
    assert (found > 0).any()
    assert (found < 1e-9).any()


def test_with_three_objectives_its_logarithm_is_that_of_a_monte_carlo_estimate():
    rng = np.random.default_rng(5)
    points, worst = rng.random((15, 3)), np.full(3, 1.1)
    mean, deviation, costs = 0.2, 0.15, np.array([0.3, 0.4])
    found = log_expected_improvement(
        np.array([mean]), np.array([deviation]), costs[None], points[:, 0], points[:, 1:], worst
    )
    losses = rng.normal(mean, deviation, 200_000)
    places = rng.uniform(costs, 1.1, (200_000, 2))
    best = np.where((points[:, None, 1:] <= places).all(2), points[:, [0]], 1.1).min(0)
    gains = np.maximum(best - losses, 0) * np.prod(1.1 - costs)
    assert np.exp(found[0]) == pytest.approx(gains.mean(), abs=4 * stats.sem(gains))
    assert stats.sem(gains) < 0.005 * gains.mean()


def test_the_logarithm_ranks_candidates_whose_improvement_underflows():
    """Mills' ratio: far below, φ(z) + z Φ(z) is φ(z) / z² (1 - 3 / z² + ...)."""
    gaps = np.array([-0.5, -5.0, -39.0, -100.0, -2e4, -1e6])
    found = log_expected_improvement(
        -gaps, np.ones(6), np.zeros((6, 1)), np.array([0.0]), np.array([[-1.0]]), np.array([0.0, 1.0])
    )
    near = np.log([stats.norm.pdf(gap) + gap * stats.norm.cdf(gap) for gap in gaps[:2]])
    far = -(gaps[2:] ** 2) / 2 - np.log(2 * np.pi) / 2 - 2 * np.log(-gaps[2:]) + np.log1p(-3 / gaps[2:] ** 2)
    assert found[:2] == pytest.approx(near, rel=1e-9)
    assert found[2:] == pytest.approx(far, rel=1e-12, abs=2e-5)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("startup", [1, 3])
def test_parameters_with_one_meaning_are_proposed_once(startup):
    """The width has no effect without a block: of six points four differ."""
    space = {"block": CategoricalDistribution(("off", "on")), "width": CategoricalDistribution((1, 2, 3))}
    meant = EHVISampler(
        {1: lambda parameters: parameters["width"] * (parameters["block"] == "on")},
        seed=0,
        n_startup_trials=startup,
        canonical=lambda parameters: parameters | ({"width": 1} if parameters["block"] == "off" else {}),
    )
    study = optuna.create_study(sampler=meant, directions=["minimize", "minimize"])
    study.enqueue_trial({"block": "off", "width": 3})
    for number in range(4):
        trial = study.ask(space)
        study.tell(trial, [float(number), trial.params["width"] * (trial.params["block"] == "on")])
    proposed = [tuple(trial.params.values()) for trial in study.trials]
    assert proposed[0] == ("off", 3)
    assert sorted(proposed[1:]) == [("on", 1), ("on", 2), ("on", 3)]


SPACE = {f"p{place}": CategoricalDistribution(("none", 4, 8, 16)) for place in range(4)}
WORTH = {"none": 0.0, 4: 1.0, 8: 0.9, 16: 0.5}


def loss(parameters):
    return -sum(WORTH[parameters[name]] * (place + 1) for place, name in enumerate(SPACE))


def cost(parameters):
    return sum(0 if parameters[name] == "none" else 4**place / parameters[name] for place, name in enumerate(SPACE))


def search(sampler, trials, evaluated=None):
    study = optuna.create_study(sampler=sampler, directions=["minimize", "minimize"])
    for _ in range(trials):
        trial = study.ask(SPACE)
        if evaluated is not None:
            evaluated.append(dict(trial.params))
        study.tell(trial, (loss(trial.params), cost(trial.params)))
    return study


def test_it_finds_far_more_of_a_front_than_drawing_at_random():
    points = [dict(zip(SPACE, values, strict=True)) for values in itertools.product(("none", 4, 8, 16), repeat=4)]
    values = np.array([(loss(one), cost(one)) for one in points])
    front = {tuple(one) for one in values if not ((values <= one).all(1) & (values < one).any(1)).any()}
    found = {tuple(trial.values) for trial in search(EHVISampler({1: cost}, seed=0), 40).best_trials}
    at_random = {tuple(trial.values) for trial in search(optuna.samplers.RandomSampler(seed=0), 40).best_trials}
    assert len(front & found) > 2 * len(front & at_random)


def test_nothing_is_proposed_twice_and_the_seed_fixes_all():
    first, second, other = [], [], []
    search(EHVISampler({1: cost}, seed=1), 30, first)
    search(EHVISampler({1: cost}, seed=1), 30, second)
    search(EHVISampler({1: cost}, seed=2), 30, other)
    assert first == second != other
    assert len({tuple(one.values()) for one in first[1:]}) == 29  # Optuna draws the first one before the space is known


def test_a_search_that_goes_on_in_another_process_proposes_what_it_would_have_proposed():
    whole = []
    search(EHVISampler({1: cost}, seed=1), 16, whole)
    study = optuna.create_study(sampler=EHVISampler({1: cost}, seed=1), directions=["minimize", "minimize"])
    for parameters in whole[:12]:
        distributions = {name: SPACE[name] for name in parameters}
        values = (loss(parameters), cost(parameters))
        study.add_trial(optuna.create_trial(params=parameters, distributions=distributions, values=values))
    for expected in whole[12:]:
        trial = study.ask(SPACE)
        assert trial.params == expected
        study.tell(trial, (loss(trial.params), cost(trial.params)))


def test_exact_objectives_are_computed_and_never_learned():
    """Wrong reported costs would mislead a sampler that learned them; all configurations have the same loss."""
    study = search(EHVISampler({1: cost}, seed=0), 12)
    proposals = []
    for told in (cost, lambda parameters: -cost(parameters)):
        copy = optuna.create_study(sampler=EHVISampler({1: told}, seed=0), directions=["minimize", "minimize"])
        for trial in study.trials:
            values = (trial.values[0], told(trial.params))
            copy.add_trial(optuna.create_trial(params=trial.params, distributions=trial.distributions, values=values))
        proposals.append(copy.ask(SPACE).params)
    assert told(proposals[1]) <= told(proposals[0])
    assert cost(proposals[1]) > cost(proposals[0])


def test_trials_under_way_in_other_processes_are_not_proposed_again():
    study = search(EHVISampler({1: cost}, seed=0), 12)
    asked = [tuple(study.ask(SPACE).params[name] for name in SPACE) for _ in range(8)]
    assert len(set(asked)) == 8


def test_what_lies_beyond_a_limit_is_not_searched():
    sampler = EHVISampler({1: cost}, limits={1: 4.0}, seed=0)
    modelled = [trial for trial in search(sampler, 40).trials if trial.number >= 8]
    assert all(cost(trial.params) < 4.0 for trial in modelled)
    without = [trial for trial in search(EHVISampler({1: cost}, seed=0), 40).trials if trial.number >= 8]
    assert not all(cost(trial.params) < 4.0 for trial in without)


def test_values_of_known_boundless_noise_do_not_change_the_proposal():
    """The losses of the best and the worst trial are exchanged, which leaves mean and spread of all values."""
    trials = search(EHVISampler({1: cost}, seed=0), 20).trials
    best, worst = (choose(trials, key=lambda trial: trial.values[0]) for choose in (min, max))
    exchanged = {best.number: worst.values[0], worst.number: best.values[0]}

    def proposal(noise, losses):
        study = optuna.create_study(sampler=EHVISampler({1: cost}, seed=0, noise=noise), directions=["minimize"] * 2)
        for trial in trials:
            values = losses.get(trial.number, trial.values[0]), trial.values[1]
            study.add_trial(
                optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, values=values)
            )
        return study.ask(SPACE).params

    def told(trial):
        return {0: np.inf if trial.params in (best.params, worst.params) else 0.0}

    assert proposal(told, exchanged) == proposal(told, {})
    assert proposal(lambda trial: {}, exchanged) != proposal(lambda trial: {}, {})


def test_directions_are_heeded():
    worst_first = optuna.create_study(sampler=EHVISampler({1: cost}, seed=0), directions=["maximize", "minimize"])
    for _ in range(40):
        trial = worst_first.ask(SPACE)
        worst_first.tell(trial, (-loss(trial.params), cost(trial.params)))
    mirrored = search(EHVISampler({1: cost}, seed=0), 40)
    assert [trial.params for trial in worst_first.trials] == [trial.params for trial in mirrored.trials]


def test_a_space_too_large_to_enumerate_is_searched_among_neighbours():
    space = {f"x{place}": IntDistribution(0, 9) for place in range(6)}

    def price(parameters):
        return float(sum(parameters.values()))

    study = optuna.create_study(sampler=EHVISampler({1: price}, seed=0), directions=["maximize", "minimize"])
    for _ in range(45):
        trial = study.ask(space)
        study.tell(
            trial, (float(sum((place + 1) * trial.params[f"x{place}"] for place in range(6))), price(trial.params))
        )
    best = max(trial.values[0] for trial in study.best_trials)
    assert best >= 0.85 * 9 * 21  # of the maximum; uniform draws reach half of it on average


def test_without_an_objective_to_learn_it_refuses():
    study = optuna.create_study(sampler=EHVISampler({0: cost, 1: cost}), directions=["minimize", "minimize"])
    study.add_trial(optuna.create_trial(params=dict.fromkeys(SPACE, 4), distributions=SPACE, values=(1.0, 1.0)))
    with pytest.raises(ValueError, match="at least one must not be exact"):
        study.ask(SPACE)
