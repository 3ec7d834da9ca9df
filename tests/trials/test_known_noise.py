"""The noise that a sampler is told, computed by hand from the outcomes of single images."""

import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from scipy import stats

from se_search.errors import RunFolderError
from se_search.trials.folder import load_trials
from se_search.trials.known_noise import KnownNoise
from se_search.trials.notes import pack, pack_losses

WRITTEN = Path(__file__).parent.parent / "fixtures" / "version-0.1.0" / "run"
NAMES = ("log_loss", "parameter_overhead", "latency_ratio")


def study_of(*all_losses, **attributes):
    study = optuna.create_study(directions=["minimize"] * 3)
    for losses in all_losses:
        notes = {"losses": pack_losses(losses.astype(np.float32)), "latency_low": 0.98, "latency_high": 1.06}
        trial = optuna.trial.create_trial(
            values=(losses.mean(), 0.0, 1.0),
            params={"r": 4},
            distributions={"r": CategoricalDistribution((4, 8))},
            user_attrs=notes | attributes,
        )
        study.add_trial(trial)
    return study


def test_noise_that_all_trials_share_is_not_counted():
    """Images are hard or easy for all networks; only what is a network's own changes the order of trials."""
    rng = np.random.default_rng(0)
    hardness = rng.exponential(2, (1, 2000))
    own = [rng.normal(0, scale, (1, 2000)) for scale in np.linspace(0.1, 0.5, 30)]
    study = study_of(*(hardness + one for one in own))
    noise = KnownNoise(study, NAMES)
    found = np.sqrt([noise(trial)[0] for trial in study.trials])
    assert found[8:] == pytest.approx(np.linspace(0.1, 0.5, 30)[8:] / np.sqrt(2000), rel=0.08)
    assert (found < 0.3 * hardness.std() / np.sqrt(2000)).all()


def test_it_is_the_variance_of_the_mean_after_subtraction_of_the_first_eight():
    losses = np.random.default_rng(1).random((10, 2, 50))
    study = study_of(*losses)
    of_images = losses.mean(1) - losses[:8].mean((0, 1))
    found = [KnownNoise(study, NAMES)(trial)[0] for trial in study.trials]
    assert found == pytest.approx(of_images.var(1, ddof=1) / 50, rel=1e-5)


def test_latency_has_the_variance_of_its_interval_and_exact_objectives_have_none():
    study = study_of(np.random.default_rng(1).random((1, 50)))
    found = KnownNoise(study, NAMES)(study.trials[0])
    assert set(found) == {0, 2}
    assert found[2] == pytest.approx((0.08 / (2 * stats.norm.ppf(0.975))) ** 2)


def test_trials_of_the_first_version_have_a_known_noise(tmp_path):
    study = load_trials(Path(shutil.copytree(WRITTEN, tmp_path / "run")))
    noise = KnownNoise(study, study.metric_names)
    trials = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert trials
    for trial in trials:
        found = noise(trial)
        assert found
        assert all(0 <= one < 1 for one in found.values())


@pytest.mark.parametrize(
    "attributes", [{"losses": "no array"}, {"losses": pack(np.ones((1, 3)))}, {"latency_low": None}]
)
def test_attributes_that_a_search_has_not_written_are_an_error_in_a_sentence(attributes):
    study = study_of(np.random.default_rng(1).random((1, 50)))
    study.add_trial(study_of(np.random.default_rng(1).random((1, 50)), **attributes).trials[0])
    noise = KnownNoise(study, NAMES)
    with pytest.raises(RunFolderError, match="not written by se-search"):
        noise(study.trials[1])
