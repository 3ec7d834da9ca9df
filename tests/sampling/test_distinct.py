"""Proposals are new, allowed and reproducible by seed."""

import optuna
import pytest
import torch
from optuna.trial import TrialState

from se_search import SEConfig, create_model
from se_search.network.backbones import network_options
from se_search.sampling.distinct import DistinctSampler, tried_structures
from se_search.sampling.ehvi import EHVISampler
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition

SMALL = SearchSpace("resnet10t", SpaceDefinition(placement="stage", ratios=(16,), gates=("sigmoid",)))


def parameters_of(config: SEConfig) -> int:
    return sum(placed.parameters for placed in config.placed)


def search(space, name="ehvi", seed=0, trials=1000, is_allowed=lambda config: True):
    """Ask and tell until the trials are complete or the space is exhausted; return the proposals."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    exact = {1: lambda parameters: parameters_of(space.to_config(parameters))}
    study.sampler = sampler = DistinctSampler(space, name, seed, is_allowed, exact, {})
    proposed = []
    while len(proposed) < trials and not sampler.is_exhausted(study):
        trial = study.ask(dict(space.distributions))
        config = space.to_config(trial.params)
        proposed.append(config)
        study.tell(trial, [len(config.placed) % 3, parameters_of(config)])
    return proposed


@pytest.mark.parametrize("name", ["ehvi", "gp", "tpe", "nsga2", "random"])
def test_a_small_space_is_gone_through_without_a_repeat(name):
    proposed = search(SMALL, name)
    assert len(proposed) == 2**4
    assert len(set(proposed)) == 2**4


def test_the_same_network_under_another_ratio_is_not_proposed():
    # With timm's rounding, 64 channels have 8 hidden units at r=8 and at r=16, the others two widths each.
    space = SearchSpace("resnet10t", SpaceDefinition(placement="stage", ratios=(8, 16), gates=("sigmoid",)))
    assert len(search(space)) == 2 * 3 * 3 * 3


@pytest.mark.parametrize("name", ["ehvi", "gp", "tpe", "nsga2", "random"])
def test_no_proposal_breaks_a_limit_and_all_that_keep_it_are_found(name):
    limit = 20_000
    proposed = search(SMALL, name, is_allowed=lambda config: parameters_of(config) <= limit)
    possible = {SMALL.to_config(parameters) for parameters in SMALL.enumerate()}
    assert set(proposed) == {config for config in possible if parameters_of(config) <= limit}
    assert 0 < len(proposed) < len(possible)


@pytest.mark.parametrize(
    ("backbone", "side", "extents", "kept"),
    [
        ("test_resnet", 8, ("global", 8), 1),  # maps of at most 8×8 positions
        ("test_vit", 32, ("global", 8, 4), 2),  # a grid of 2×2, and a class token that only the global squeeze includes
    ],
)
def test_windows_that_hold_the_whole_map_are_evaluated_once(backbone, side, extents, kept):
    size = (3, side, side)
    definition = SpaceDefinition(
        placement="stage", positions=("post",), ratios=(16,), gates=("sigmoid",), extents=extents
    )
    space = SearchSpace(backbone, definition)
    assert len(search(space)) == (1 + len(extents)) ** len(space.stages)
    space.merge_extents(size, size)
    assert len(search(space)) == (1 + kept) ** len(space.stages)
    # What counts as one network computes the same.
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    outputs = {}
    for extent in extents:
        config = SEConfig.uniform(backbone, 16, position="post", extent=extent)
        torch.manual_seed(0)
        with torch.no_grad():
            model = create_model(config, **network_options(backbone, size)).eval()
            outputs.setdefault(space.structure(config), []).append(model(images))
    assert len(outputs) == kept
    for first, *others in outputs.values():
        for other in others:
            torch.testing.assert_close(other, first)


def test_the_seed_fixes_the_proposals():
    space = SearchSpace("resnet18", load_space("blocks"))
    first, again, other = (search(space, seed=seed, trials=25) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", ["ehvi", "gp"])
def test_a_search_resumes_with_the_same_proposals(name):
    space = SearchSpace("resnet18", load_space("stages"))
    distributions = dict(space.distributions)

    def resumed(trials):
        study = optuna.create_study(directions=["maximize", "minimize"])
        study.add_trials(trials)
        exact = {1: lambda parameters: parameters_of(space.to_config(parameters))}
        study.sampler = DistinctSampler(space, name, 0, lambda config: True, exact, {})
        return study

    study = resumed([])
    for _ in range(13):
        trial = study.ask(distributions)
        config = space.to_config(trial.params)
        study.tell(trial, [len(config.placed) % 3, parameters_of(config)])
    assert resumed(study.trials[:12]).ask(distributions).params == study.trials[12].params


@pytest.mark.parametrize("name", ["ehvi", "gp", "tpe", "nsga2", "random"])
def test_the_largest_seed_of_a_study_works(name):
    assert len(search(SMALL, name, seed=2**31 - 1, trials=4)) == 4


def test_a_killed_trial_is_proposed_again_and_a_failed_one_is_not():
    study = optuna.create_study(directions=["maximize", "minimize"])
    points = list(SMALL.enumerate())
    for parameters, attributes in ((points[1], {}), (points[2], {"error": "RuntimeError: out of memory"})):
        trial = optuna.trial.create_trial(
            state=TrialState.FAIL, params=parameters, distributions=dict(SMALL.distributions), user_attrs=attributes
        )
        study.add_trial(trial)
    study.enqueue_trial(points[3])
    tried = tried_structures(study, SMALL)
    assert tried == {SMALL.to_config(points[number]).structure for number in (2, 3)}


def test_a_waiting_trial_keeps_its_own_parameters():
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.sampler = DistinctSampler(SMALL, "tpe", 0, lambda config: True, {}, {})
    wanted = list(SMALL.enumerate())[7]
    study.enqueue_trial(wanted)
    assert study.ask(dict(SMALL.distributions)).params == wanted


def test_a_sampler_that_looks_for_a_new_configuration_itself_is_asked_once(monkeypatch):
    study = optuna.create_study(directions=["maximize", "minimize"])
    exact = {1: lambda parameters: parameters_of(SMALL.to_config(parameters))}
    study.sampler = DistinctSampler(SMALL, "ehvi", 0, lambda config: False, exact, {})
    point = next(SMALL.enumerate())
    distributions = dict(SMALL.distributions)
    study.add_trial(optuna.trial.create_trial(values=[0.5, 0], params=point, distributions=distributions))
    asked = []
    sample = EHVISampler.sample_relative
    monkeypatch.setattr(EHVISampler, "sample_relative", lambda *given: asked.append(1) or sample(*given))
    study.ask(distributions)
    assert len(asked) == 1
