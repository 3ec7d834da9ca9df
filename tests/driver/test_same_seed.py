"""A seed determines everything except measured times."""

import pytest

from se_search import load_run
from se_search.driver.loop import run_search
from se_search.study.files import load_study

CLOCKED = [
    "latency_ratio",
    "latency_low",
    "latency_high",
    "latency_measured",
    "latency_measured_low",
    "latency_measured_high",
    "latency_pairs",
    "latency_stopped",
    "latency_interruptions",
    "seconds",
    "tied_with",
]


def trials_of(tmp_path, name, budget=10, **settings):
    study = load_study(
        "digits",
        backbone="test_resnet",
        budget=budget,  # the sampler's model proposes from the ninth trial on
        objectives=["accuracy", "parameter_overhead"],
        latency={"limit": 0.05, "size": "data"},
        threads=1,
        **settings,
    )
    run_search(study, tmp_path / name)
    return load_run(tmp_path / name).trials.drop(columns=CLOCKED)


SUPERNET = {"name": "supernet", "epochs": 1, "recalibration_images": 64}


@pytest.fixture(scope="module")
def first_of_supernet(tmp_path_factory):
    return trials_of(tmp_path_factory.mktemp("supernet"), "first", evaluator=SUPERNET)


def test_two_runs_with_one_seed_give_the_same_trials_and_values(first_of_supernet, tmp_path):
    assert first_of_supernet.equals(trials_of(tmp_path, "second", evaluator=SUPERNET))
    assert first_of_supernet["log_loss"].nunique() > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "evaluator",
    [
        {"name": "finetune", "epochs": 1, "halving": 2, "mixup": 0.2},
        {"name": "scratch", "epochs": 2, "halving": 2, "ema_decay": 0.9},
    ],
    ids=lambda evaluator: evaluator["name"],
)
def test_two_runs_with_one_seed_train_alike(tmp_path, evaluator):
    first = trials_of(tmp_path, "first", evaluator=evaluator)
    second = trials_of(tmp_path, "second", evaluator=evaluator)
    assert first.equals(second)
    assert first["log_loss"].nunique() > 5


@pytest.mark.slow
def test_another_seed_gives_other_values(first_of_supernet, tmp_path):
    other = trials_of(tmp_path, "other", budget=5, evaluator=SUPERNET, seed=1)
    assert first_of_supernet["log_loss"].iloc[0] != other["log_loss"].iloc[0]
    assert list(first_of_supernet["config_id"][:5]) != list(other["config_id"])
