"""What each choice contributed, against known truths and against another way to compute it."""

import json
import random
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from se_search.results.contributions import describe_contributions, outcomes_by_image, steps_to
from se_search.results.record import read_results
from se_search.study.files import load_space
from se_search.study.objectives import OBJECTIVES
from se_search.study.space import SearchSpace
from se_search.trials.folder import load_trials

STAGES = {
    2: {"r=2": 0.01, "r=4": 0.008, "r=8": 0.005, "r=16": 0.002, "r=32": 0.0},
    3: dict.fromkeys(("r=2", "r=4", "r=8", "r=16", "r=32"), 0.0),
    4: {"r=2": 0.02, "r=4": 0.02, "r=8": 0.02, "r=16": 0.015, "r=32": 0.01},
    5: {"r=2": -0.01, "r=4": -0.01, "r=8": -0.005, "r=16": 0.0, "r=32": 0.0},
}
HARD = 0.003
ACCURACY = OBJECTIVES["accuracy"]
NOISE = 0.005


@pytest.fixture(scope="module")
def stages():
    return SearchSpace("resnet18", load_space("stages"))


def drawn(space, count, seed):
    """A table of distinct configurations drawn at random, without values."""
    rng = random.Random(seed)
    configs = list(dict.fromkeys(space.draw(rng) for _ in range(3 * count)))[:count]
    return configs, pd.DataFrame(
        {
            "number": range(len(configs)),
            "state": "complete",
            "accuracy": 0.9,
            "gate": [config.placed[0].gate if config.placed else "" for config in configs],
            "config": [config.to_json() for config in configs],
        }
    )


def truth(config):
    ratios = {placed.site.stage: f"r={placed.ratio}" for placed in config.placed}
    gate = config.placed[0].gate if config.placed else ""
    return 0.9 + sum(STAGES[stage][ratio] for stage, ratio in ratios.items()) + HARD * (gate == "hard_sigmoid")


def effects(contributions):
    return {(factor.name, one.level): one.effect for factor in contributions.factors for one in factor.levels}


def true_effect(key):
    name, level = key
    if name == "gate":
        return HARD if level == "hard_sigmoid" else -HARD
    return STAGES[int(name.split()[1])][level]


def indicators(configs, keys):
    """The columns that the effects stand for, by the configurations themselves."""
    columns = [np.ones(len(configs))]
    for name, level in keys:
        if name == "gate":
            columns.append([bool(config.placed) and config.placed[0].gate == level for config in configs])
        else:
            wanted = int(name.split()[1]), int(level[2:])
            columns.append([wanted in {(one.site.stage, one.ratio) for one in config.placed} for config in configs])
    return np.array(columns, float).T


def test_without_noise_the_effects_are_those_of_the_additive_truth(stages):
    configs, table = drawn(stages, 60, seed=1)
    table["accuracy"] = [truth(config) for config in configs]
    found = describe_contributions(table, stages.sites, ACCURACY, {})
    for key, effect in effects(found).items():
        np.testing.assert_allclose(effect, true_effect(key), atol=1e-9)
    assert found.explained == pytest.approx(1)
    assert found.trials == 60
    assert [factor.name for factor in found.factors] == ["stage 2", "stage 3", "stage 4", "stage 5", "gate"]
    assert [one.level for one in found.factors[0].levels] == ["r=32", "r=16", "r=8", "r=4", "r=2"]


def test_intervals_and_importance_follow_their_formulas(stages):
    """The normal equations and the double sums of Bell and McCaffrey (2002), written out."""
    configs, table = drawn(stages, 60, seed=2)
    rng = np.random.default_rng(2)
    values = np.array([truth(config) for config in configs]) + NOISE * rng.standard_normal(60)
    table["accuracy"] = values
    found = describe_contributions(table, stages.sites, ACCURACY, {})
    keys = list(effects(found))
    design = indicators(configs, keys)
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ values
    hat = design @ inverse @ design.T
    residuals = values - hat @ values
    spread = np.diag(residuals**2 / (1 - np.diag(hat)))
    variances = np.diag(inverse @ design.T @ spread @ design @ inverse)
    remaining = np.eye(60) - hat
    for place, (key, effect) in enumerate(effects(found).items(), start=1):
        weights = np.diag((inverse @ design.T)[place] ** 2 / (1 - np.diag(hat)))
        product = weights @ remaining
        freedom = np.trace(product) ** 2 / np.trace(product @ product)
        margin = stats.t.ppf(1 - 0.025 / len(keys), freedom) * variances[place] ** 0.5
        expected = [coefficients[place], coefficients[place] - margin, coefficients[place] + margin]
        np.testing.assert_allclose(effect, expected, rtol=1e-7, err_msg=str(key))
    freedom = 60 - design.shape[1]
    error = residuals @ residuals / freedom
    total = np.sum((values - values.mean()) ** 2)
    assert found.explained == pytest.approx(1 - error / (total / 59))
    kept = [0, *(place for place, (name, _) in enumerate(keys, start=1) if name != "stage 4")]
    rest = values - design[:, kept] @ np.linalg.lstsq(design[:, kept], values, rcond=None)[0]
    omega = (rest @ rest - residuals @ residuals - 5 * error) / (total + error)
    value, low, high = next(one.importance for one in found.factors if one.name == "stage 4")
    assert value == pytest.approx(omega)
    statistic = (rest @ rest - residuals @ residuals) / 5 / error
    other = 60 * (1 + (found.explained - omega) / (1 - found.explained))
    for end, probability in ((low, 0.975), (high, 0.025)):
        noncentrality = end * other / (1 - end)
        assert stats.ncf.cdf(statistic, 5, freedom, noncentrality) == pytest.approx(probability, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("of_images", [False, True])
def test_all_intervals_of_a_study_hold_together_in_about_95_per_cent(stages, of_images):
    """80 simulated studies: at 95 % fewer than 71 hold in less than 1 of 100 tests."""
    held, studies = 0, 80
    for seed in range(studies):
        configs, table = drawn(stages, 50, seed)
        rng = np.random.default_rng(seed)
        values = np.array([truth(config) for config in configs]) + NOISE * rng.standard_normal(50)
        images = {}
        if of_images:
            # Each image has an effect of its own for each stage and ratio: which images there are is chance too.
            keys = [(f"stage {stage}", ratio) for stage, ratios in STAGES.items() for ratio in ratios]
            own = indicators(configs, keys)[:, 1:] @ (0.2 * rng.standard_normal((len(keys), 200)))
            outcomes = values[:, None] + own + 0.1 * rng.standard_normal((50, 200))
            images, values = dict(enumerate(outcomes)), outcomes.mean(1)
        table["accuracy"] = values
        found = effects(describe_contributions(table, stages.sites, ACCURACY, images))
        known = {key: effect for key, effect in found.items() if effect is not None}
        held += all(low <= true_effect(key) <= high for key, (_, low, high) in known.items())
        assert len(known) >= 19
    assert held >= 71


def test_the_choice_of_images_widens_the_intervals(stages):
    _, table = drawn(stages, 60, seed=3)
    rng = np.random.default_rng(3)
    outcomes = (rng.random((60, 100)) < 0.8).astype(float)
    # One image in ten is right only without SE in stage 4.
    used = np.array([any(site["stage"] == 4 for site in json.loads(one)["sites"]) for one in table["config"]])
    outcomes[:, :10] = ~used[:, None]
    table["accuracy"] = outcomes.mean(1)
    alone = effects(describe_contributions(table, stages.sites, ACCURACY, {}))
    both = effects(describe_contributions(table, stages.sites, ACCURACY, dict(enumerate(outcomes))))
    width = {key: (both[key][2] - both[key][1]) / (alone[key][2] - alone[key][1]) for key in both}
    assert all(both[key][0] == pytest.approx(alone[key][0]) for key in both)
    assert width["stage 4", "r=2"] > 1.2
    assert width["stage 4", "r=2"] > 1.1 * width["stage 2", "r=2"]


def test_blocks_gates_and_positions_are_told():
    space = SearchSpace("resnet18", load_space("blocks"))
    configs, table = drawn(space, 120, seed=4)
    rng = np.random.default_rng(4)
    blocks = [sum(placed.site.stage == 3 for placed in config.placed) for config in configs]
    table["accuracy"] = 0.9 + 0.02 * np.array(blocks) + 0.001 * rng.standard_normal(120)
    found = describe_contributions(table, space.sites, ACCURACY, {})
    _, low, high = effects(found)["stage 3 blocks", "per block"]
    assert low <= 0.02 <= high
    assert high - low < 0.005
    space = SearchSpace("resnet18", load_space("positions"))
    configs, table = drawn(space, 120, seed=4)
    pre = [sum(one.site.stage == 2 and one.site.position == "pre" for one in config.placed) > 0 for config in configs]
    table["accuracy"] = 0.9 + 0.02 * np.array(pre) + 0.001 * rng.standard_normal(120)
    found = describe_contributions(table, space.sites, ACCURACY, {})
    factor = next(one for one in found.factors if one.name == "stage 2 position")
    counts = {
        position: sum(any(one.site.stage == 2 and one.site.position == position for one in c.placed) for c in configs)
        for position in ("standard", "pre", "post")
    }
    assert factor.reference == max(counts, key=counts.get)
    assert {one.level: one.trials for one in factor.levels} == {
        position: count for position, count in counts.items() if position != factor.reference
    }
    expected = 0.02 if factor.reference != "pre" else -0.02
    level = "pre" if factor.reference != "pre" else factor.levels[0].level
    _, low, high = effects(found)["stage 2 position", level]
    assert low <= expected <= high
    assert not any(one.name == "gate" for one in found.factors)


def test_attention_that_is_kept_is_a_level():
    space = SearchSpace("regnety_002", load_space("stages"))
    configs, table = drawn(space, 80, seed=5)
    table["accuracy"] = 0.9 + 0.001 * np.random.default_rng(5).standard_normal(80)
    found = describe_contributions(table, space.sites, ACCURACY, {})
    factor = next(one for one in found.factors if one.name == "stage 4")
    assert factor.levels[0].level == "kept"
    untouched = sum(
        not any(site.stage == 4 for site in (*(one.site for one in config.placed), *config.removed))
        for config in configs
    )
    assert untouched > 0
    assert factor.levels[0].trials == untouched


def test_what_cannot_be_told_is_said(stages):
    sites = stages.sites
    configs, table = drawn(stages, 60, seed=6)
    table["accuracy"] = [truth(config) for config in configs] + 0.001 * np.random.default_rng(6).standard_normal(60)

    nothing = describe_contributions(table.iloc[:0], sites, ACCURACY, {})
    assert nothing.sentence.endswith("cannot be estimated: no configuration has been evaluated.")
    assert nothing.explained is None
    one = describe_contributions(table.iloc[:1], sites, ACCURACY, {})
    assert one.sentence.endswith("only one trial is complete.") or "too few" in one.sentence
    few = describe_contributions(table.iloc[:20], sites, ACCURACY, {})
    assert "20 trials are too few for" in few.sentence
    assert all(not factor.told and factor.importance is None for factor in few.factors)
    failed = describe_contributions(table.assign(state="failed"), sites, ACCURACY, {})
    assert failed.trials == 0
    same = describe_contributions(table.assign(accuracy=0.9), sites, ACCURACY, {})
    assert same.sentence.endswith("all trials have the same accuracy.")
    missing = table.assign(accuracy=[np.nan, *table["accuracy"][1:]])
    assert describe_contributions(missing, sites, ACCURACY, {}).trials == 59

    without = [config.without_stage(5) for config in configs]
    constant = table.assign(config=[config.to_json() for config in without])
    told = {one.name: one for one in describe_contributions(constant, sites, ACCURACY, {}).factors}
    assert (told["stage 5"].told, told["stage 5"].why) == (False, "no trial has SE there")
    assert told["stage 4"].told

    always = table[[any(one.site.stage == 4 for one in config.placed) for config in configs]]
    told = {one.name: one for one in describe_contributions(always, sites, ACCURACY, {}).factors}
    assert not told["stage 4"].told
    assert told["stage 4"].why.startswith("every trial has SE there")
    assert told["stage 4"].importance is not None


def test_a_level_of_one_trial_cannot_be_told(stages):
    configs, table = drawn(stages, 80, seed=7)
    has = [any((one.site.stage, one.ratio) == (5, 2) for one in config.placed) for config in configs]
    keep = [not one or place == has.index(True) for place, one in enumerate(has)]
    table["accuracy"] = [truth(config) for config in configs] + NOISE * np.random.default_rng(7).standard_normal(80)
    found = describe_contributions(table[keep], stages.sites, ACCURACY, {})
    factor = next(one for one in found.factors if one.name == "stage 5")
    assert {one.level: one.effect is None for one in factor.levels} == {
        "r=32": False,
        "r=16": False,
        "r=8": False,
        "r=4": False,
        "r=2": True,
    }
    assert factor.why.startswith("r=2: too few trials")


def test_a_real_run_has_contributions_that_json_holds(finished_run):
    trials, run = read_results(finished_run / "run")
    assert run.contributions.trials == len(trials) == 6
    assert "too few" in run.contributions.sentence
    json.dumps(run.to_json()["contributions"], allow_nan=False)
    images = outcomes_by_image(load_trials(finished_run / "run"), ACCURACY)
    for number, accuracy in zip(trials["number"], trials["accuracy"], strict=True):
        assert images[number].shape == (run.data.validation,)
        assert images[number].mean() == pytest.approx(accuracy)


def test_levels_are_listed_from_the_fewest_parameters(stages):
    _, table = drawn(stages, 80, seed=8)
    table["accuracy"] = np.random.default_rng(8).random(80)
    for factor in describe_contributions(table, stages.sites, ACCURACY, {}).factors[:4]:
        ratios = [int(one.level[2:]) for one in factor.levels]
        assert all(first > second for first, second in pairwise(ratios))


def test_an_interaction_is_what_two_stages_do_beyond_their_sum(stages):
    configs, table = drawn(stages, 300, seed=5)
    used = [{placed.site.stage for placed in config.placed} for config in configs]
    table["accuracy"] = [truth(config) + 0.05 * ({2, 4} <= stage) for config, stage in zip(configs, used, strict=True)]
    found = describe_contributions(table, stages.sites, ACCURACY, {})
    pairs = {(one.first, one.second): one for one in found.interactions}
    assert len(pairs) == 6
    strong = pairs["stage 2", "stage 4"]
    np.testing.assert_allclose(strong.effect, 0.05, atol=1e-9)
    assert strong.trials[3] == sum({2, 4} <= stage for stage in used)
    assert sum(strong.trials) == len(table)
    without = describe_contributions(table.assign(accuracy=[truth(one) for one in configs]), stages.sites, ACCURACY, {})
    np.testing.assert_allclose([one.effect for one in without.interactions], 0, atol=1e-9)


def test_the_steps_to_a_trial_are_its_choices_and_add_up(stages):
    configs, table = drawn(stages, 60, seed=1)
    table["accuracy"] = list(map(truth, configs))
    found = describe_contributions(table, stages.sites, ACCURACY, {})
    gates = {"sigmoid": 0.0, "hard_sigmoid": HARD}
    usual = next(factor.reference for factor in found.factors if factor.name == "gate")
    for number, config in enumerate(configs[:20]):
        steps = steps_to(number, table, stages.sites, found)
        stages_used = {f"stage {placed.site.stage}: r={placed.ratio}" for placed in config.placed}
        assert {step.change for step in steps if step.change.startswith("stage")} == stages_used
        expected = truth(config) - 0.9 - (gates[usual] if config.placed else 0)
        assert sum(step.effect[0] for step in steps) == pytest.approx(expected, abs=1e-9)
