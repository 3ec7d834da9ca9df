"""The table of trials, the front and its named members, against independent computations."""

import io
import itertools
import logging
import math
import pickle
import warnings
import zlib
from base64 import b64encode
from datetime import timedelta

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from scipy import stats

from se_search import SEConfig
from se_search.errors import RunFolderError
from se_search.results.hypervolume import hypervolume_history
from se_search.results.picks import pick_trials
from se_search.results.table import Advantage, candidates_of, cautions, front_of, gain_over_none, to_csv, trials_table
from se_search.trials.folder import load_trials
from se_search.trials.notes import (
    MEASURED_LATENCY,
    PREDICTED,
    latency_conditions,
    pack,
    pack_losses,
    quality_of,
    unpack,
    with_measured_latency,
)
from se_search.words import counted

IMAGES = 400
CONFIG = SEConfig("resnet10t")


def add(study, right, overhead, latency, constraint=None, correct=None, packed=None, **attributes):
    """Add a complete trial whose first ``right`` images are correct, unless ``correct`` says which."""
    if correct is None:
        correct = np.arange(IMAGES) < right
    measured = {
        "accuracy": float(correct.mean()),
        "accuracy_low": float(correct.mean()) - 0.01,
        "accuracy_high": float(correct.mean()) + 0.01,
        "log_loss": 0.1,
        "log_loss_low": 0.09,
        "log_loss_high": 0.11,
        "formula_parameters": overhead * 1e6,
        "counted_parameters": int(overhead * 1e6),
        "total_parameters": int((1 + overhead) * 1e6),
        "parameter_overhead": overhead,
        "flops_overhead": 0.01,
        "latency_ratio": latency,
        "latency_low": latency - 0.01,
        "latency_high": latency + 0.01,
        "correct": pack(correct[None]) if packed is None else packed,
        "losses": pack(np.where(correct, 0.1, 3.0).astype(np.float32)[None]),
        "config": CONFIG.to_json(),
        "config_id": CONFIG.id,
        "se_blocks": 0,
    }
    system = {} if constraint is None else {"constraints:max_latency": constraint}
    measured |= attributes
    quality = float(correct.mean()) if study.metric_names[0] == "accuracy" else measured["log_loss"]
    values = [quality, overhead, latency]
    study.add_trial(optuna.trial.create_trial(values=values, user_attrs=measured, system_attrs=system))


@pytest.fixture
def study():
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["accuracy", "parameter_overhead", "latency_ratio"])
    return study


def dominates(one, other):
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def test_candidates_for_the_front_are_what_no_other_dominates(study):
    random = np.random.default_rng(0)
    for _ in range(40):
        add(study, int(random.integers(300, 400)), float(random.uniform(0, 0.2)), float(random.uniform(1, 1.2)))
    table = trials_table(study)
    losses = [(-trial.values[0], *trial.values[1:]) for trial in study.trials]
    expected = {number for number, one in enumerate(losses) if not any(dominates(other, one) for other in losses)}
    assert set(candidates_of(table)["number"]) == expected
    assert set(front_of(table)["number"]) < expected
    assert 3 < len(expected) < 40
    assert list(front_of(table)["parameter_overhead"]) == sorted(front_of(table)["parameter_overhead"])


def test_members_of_one_cost_stand_by_accuracy(study):
    for right, overhead, latency in ((380, 0.01, 1.0), (390, 0.01, 1.1), (370, 0.0, 0.9)):
        add(study, right, overhead, latency)
    assert front_of(trials_table(study))["number"].tolist() == [2, 1, 0]


def test_the_fewest_parameters_break_ties(study):
    for right, overhead, latency in ((390, 0.02, 1.00), (390, 0.01, 1.10), (380, 0.005, 1.00), (370, 0.004, 1.05)):
        add(study, right, overhead, latency)
    picks = pick_trials(trials_table(study))
    assert (picks["accurate"], picks["small"], picks["fast"]) == (1, 3, 2)


def test_a_front_of_one_cost_or_one_accuracy_has_a_knee_too(study):
    add(study, 300, 0.01, 1.0)
    add(study, 390, 0.01, 1.1)
    assert pick_trials(trials_table(study))["knee"] == 1
    equal = trials_table(study).assign(accuracy=0.9, parameter_overhead=[0.02, 0.01])
    assert pick_trials(equal)["knee"] == 1


def test_a_trial_just_at_its_limit_keeps_it(study):
    add(study, 390, 0.0, 1.1, constraint=0.0)
    assert trials_table(study)[["feasible", "on_front"]].to_numpy().all()


def test_trials_beyond_a_limit_are_kept_off_the_front(study):
    add(study, 399, 0.0, 1.5, constraint=0.3)
    add(study, 390, 0.1, 1.1, constraint=-0.1)
    table = trials_table(study).set_index("number")
    assert list(table["feasible"]) == [False, True]
    assert list(table["on_front"]) == [False, True]
    assert list(table["front_probability"].fillna(-1)) == [-1, 1]
    assert pick_trials(trials_table(study)) == dict.fromkeys(("knee", "accurate", "small", "fast"), 1)


def test_a_member_that_cannot_be_told_from_a_smaller_one_is_tied_with_it(study):
    add(study, 380, 0.00, 1.00)
    add(study, 381, 0.01, 1.01)  # one image more: noise
    add(study, 398, 0.02, 1.02)  # eighteen images more and none fewer: no noise
    table = trials_table(study)
    assert table["on_front"].tolist() == [True, False, True]
    assert table["tied_with"].isna().tolist() == [True, False, True]
    assert table["tied_with"].iloc[1] == 0
    assert front_of(table)["number"].tolist() == [0, 2]


def test_a_noisy_latency_wins_no_place_in_any_list(study):
    """As in a run of resnet50: ×0.879 [0.518, 1.491] where all others with as many blocks have ×1.07 to ×1.20."""
    with_se = SEConfig.uniform("resnet10t")
    blocks = {"config": with_se.to_json(), "config_id": with_se.id, "se_blocks": 4}
    add(study, 380, 0.00, 1.000)
    add(study, 380, 0.01, 1.070, **blocks)
    add(study, 381, 0.02, 0.879, latency_low=0.518, latency_high=1.491, **blocks)
    add(study, 381, 0.03, 1.200, **blocks)
    table = trials_table(study)
    assert front_of(table)["number"].tolist() == [0]
    assert candidates_of(table)["number"].tolist() == [0, 2]
    assert pick_trials(table) == dict.fromkeys(("knee", "accurate", "small", "fast"), 0)
    # It is not slower than trial 0, or that image is drawn on which it is right and trial 0 is not.
    slower, without_it = stats.norm.sf((1 - 0.879) / ((1.491 - 0.518) / 3.92)), (1 - 1 / IMAGES) ** IMAGES
    assert table["front_probability"][2] == pytest.approx(1 - slower * without_it, abs=0.06)


def test_six_candidates_of_which_one_is_distinguishable_are_a_front_of_two(study):
    for number in range(6):
        add(study, 380 + number, 0.01 * number, 1 + 0.01 * number)
    add(study, 399, 0.08, 1.08)
    table = trials_table(study)
    assert candidates_of(table)["number"].tolist() == list(range(7))
    assert front_of(table)["number"].tolist() == list(pick_trials(table).front) == [0, 6]
    assert table["tied_with"].fillna(-1).tolist() == [-1, 0, 0, 0, 0, 0, -1]
    assert "5 of 7 candidates for the front are not measurably better than a cheaper one" in cautions(table, 0.1)[0]


def test_of_thousands_of_trials_the_front_is_sought_among_the_best(study, monkeypatch):
    for number in range(30):
        add(study, 380 - number, 0.01 * number, 1.0)
    add(study, 399, 0.5, 1.1)
    whole = trials_table(study)
    monkeypatch.setattr("se_search.results.values.MOST", 3)
    few = trials_table(study)
    for column in ("on_front", "tied_with"):
        assert few[column].equals(whole[column])
    assert (few["front_probability"] > 0).sum() <= 3
    assert few["front_probability"].min() == 0
    assert few["front_probability"].notna().all()


def test_a_tied_member_is_told_with_the_cheapest_of_all(study):
    add(study, 383, 0.02, 1.0)
    add(study, 381, 0.00, 1.1)
    add(study, 382, 0.01, 1.0)
    add(study, 380, 0.00, 1.0)  # as many parameters as trial 1, but faster
    table = trials_table(study)
    assert table["on_front"].tolist() == [False, False, False, True]
    assert table["tied_with"].fillna(-1).tolist() == [3, 3, 3, -1]


def test_the_named_members_of_a_front(study):
    add(study, 300, 0.00, 1.03)
    add(study, 360, 0.02, 1.02)  # 60 % of the gain for 20 % of the cost: the knee
    add(study, 380, 0.06, 1.01)
    add(study, 400, 0.10, 1.04)
    assert pick_trials(trials_table(study)) == {"knee": 1, "accurate": 3, "small": 0, "fast": 2}


def test_the_knee_is_never_a_tied_member(study):
    add(study, 390, 0.00, 1.00)
    add(study, 391, 0.001, 1.01)
    add(study, 392, 0.10, 1.02)
    assert pick_trials(trials_table(study))["knee"] == 0


def test_a_clear_gain_next_to_ties_is_the_knee(study):
    """Two members that can be told apart: the dearer one gains nearly all accuracy for a twentieth of the cost."""
    add(study, 220, 0.00, 1.00)
    add(study, 370, 0.005, 1.01)
    add(study, 372, 0.10, 1.02)
    table = trials_table(study)
    assert table["tied_with"].isna().tolist() == [True, True, False]
    assert pick_trials(table)["knee"] == 1


def test_failed_trials_have_a_row_with_their_reason_and_killed_ones_have_none(study):
    add(study, 390, 0.0, 1.0)
    for attributes in ({"error": "ValueError: no"}, {}):
        failed = {"config": CONFIG.to_json(), "config_id": CONFIG.id, "se_blocks": 0} | attributes
        study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=failed))
    table = trials_table(study)
    assert list(table["state"]) == ["complete", "failed"]
    assert list(table["error"]) == ["", "ValueError: no"]
    assert table["accuracy"].isna().tolist() == [False, True]


def test_a_row_says_what_became_of_a_trial(study):
    tanh = SEConfig.uniform("resnet10t", gate="tanh", stages=[2])
    blocks = {"config": tanh.to_json(), "config_id": tanh.id, "se_blocks": 1, "epochs": 3}
    add(study, 390, 0.01, 1.0, **blocks)
    stopped = {"accuracy": 0.5, "counted_parameters": 7} | blocks
    study.add_trial(optuna.trial.create_trial(state=TrialState.PRUNED, user_attrs=stopped))
    study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=stopped))
    add(study, 390, 0.0, 1.0)
    table = trials_table(study)
    assert table["number"].tolist() == [0, 1, 3]
    assert table["state"].tolist() == ["complete", "stopped", "complete"]
    assert table["feasible"].tolist() == [True, False, True]
    assert table["gate"].tolist() == ["tanh", "tanh", ""]
    assert table["se_blocks"].tolist() == [1, 1, 0]
    assert table["counted_parameters"].tolist() == [10_000, 7, 0]
    assert table["config"].tolist() == [tanh.to_json()] * 2 + [CONFIG.to_json()]
    assert table["config_id"].tolist() == [tanh.id] * 2 + [CONFIG.id]
    assert table["epochs"].fillna(0).tolist() == [3, 3, 0]
    assert table["log_loss"].isna().tolist() == [False, True, False]
    assert (table[["name", "error", "latency_stopped"]] == "").to_numpy().all()


def test_seconds_are_those_of_the_trial_unless_the_clock_was_set_back(study):
    add(study, 390, 0.0, 1.0)
    trial = study.trials[0]
    for seconds in (90, 0.4, -0.4):
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=seconds)
        study.add_trial(trial)
    assert trials_table(study)["seconds"].fillna(-1).tolist()[1:] == [90, 0.4, -1]


def test_a_latency_that_is_not_pooled_was_measured_unless_it_is_predicted(study):
    for stopped in ("target", PREDICTED):
        add(study, 390, 0.0, 1.02, latency_stopped=stopped)
    columns = ["latency_measured", "latency_measured_low", "latency_measured_high"]
    measured, predicted = trials_table(study)[columns].to_numpy()
    assert measured.tolist() == [1.02, 1.01, 1.03]
    assert np.isnan(predicted).all()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_an_objective_of_the_users_own_is_the_last_column(study):
    study.set_metric_names(["accuracy", "size", "latency_ratio"])
    add(study, 390, 0.01, 1.0, size=12)
    table = trials_table(study)
    assert table.columns[-1] == "size"
    assert table["size"].tolist() == [12.0]
    assert list(table.columns).count("accuracy") == 1


def test_cautions_say_what_the_front_does_not_show(study):
    assert cautions(trials_table(study), 0.1) == ["No configuration has been evaluated yet."]
    add(study, 399, 0.0, 1.5, constraint=0.3)
    assert cautions(trials_table(study), 0.1) == [
        "No evaluated configuration keeps the limits, so the Pareto front is empty."
    ]
    add(study, 380, 0.00, 1.00)
    (alone,) = cautions(trials_table(study), 0.1)
    assert alone.startswith("No configuration with SE is on the front")
    with_se = SEConfig.uniform("resnet10t")
    add(study, 381, 0.01, 1.01, config=with_se.to_json(), config_id=with_se.id, se_blocks=4)
    tied, still = cautions(trials_table(study), 0.1)
    assert tied.startswith("1 of 2 candidates for the front is not measurably better than a cheaper one")
    assert still == alone
    add(study, 398, 0.02, 1.02, config=with_se.to_json(), config_id=with_se.id, se_blocks=4)
    assert cautions(trials_table(study), 0.1) == [tied.replace("1 of 2", "1 of 3")]


def test_a_verified_gain_silences_the_caution_that_no_se_is_on_the_front(study):
    """Verified values decide: a front of estimates without SE says nothing against them."""
    add(study, 380, 0.00, 1.00)
    add(study, 381, 0.01, 1.01, **with_blocks())
    tied, alone = cautions(trials_table(study), 0.1)
    assert alone.startswith("No configuration with SE is on the front")
    assert cautions(trials_table(study), 0.1, helps=True) == [tied]
    assert "with ECA is on the front" in cautions(trials_table(study), 0.1, "ECA")[1]


def test_a_front_of_one_cost_is_said_to_be_one(study):
    with_se = SEConfig.uniform("resnet10t")
    for right, latency in ((390, 1.1), (380, 1.0)):
        add(study, right, 0.01, latency, config=with_se.to_json(), config_id=with_se.id, se_blocks=4)
    assert cautions(trials_table(study), 0.1) == [
        "All front members have the same number of parameters: no larger network was measurably better."
    ]


def test_an_empty_study_has_no_front(study):
    table = trials_table(study)
    assert table.empty
    assert pick_trials(table) == {}
    assert hypervolume_history(study, [0, 1, 2]) == []


@pytest.mark.parametrize("attributes", [{"config": "{"}, {"config": "[]"}, {"accuracy": "high"}, {"name": 3}])
def test_attributes_that_others_wrote_are_refused(study, attributes):
    add(study, 300, 0.0, 1.0)
    add(study, 390, 0.1, 1.1, **attributes)
    with pytest.raises(RunFolderError, match="not written by se-search"):
        trials_table(study)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 400)])
@pytest.mark.parametrize("kind", [bool, np.float32])
def test_packed_arrays_come_back(shape, kind):
    values = (np.random.default_rng(0).random(shape) * 3).astype(kind)
    back = unpack(pack(values))
    assert back.dtype == kind
    assert (back == values).all()


def test_losses_of_very_many_images_are_kept_as_means_of_blocks_that_tell_the_same():
    """The mean is that of all whole blocks; the standard error of it agrees up to its own chance (4,000 blocks)."""
    losses = np.random.default_rng(0).exponential(size=(1, 50_000)).astype(np.float32)
    kept = unpack(pack_losses(losses))
    assert kept.shape == (1, 50_000 // 13)
    assert len(pack_losses(losses)) < 25_000
    assert kept.mean() == pytest.approx(losses[:, : 13 * (50_000 // 13)].mean(), rel=1e-6)
    errors = [values.std(ddof=1) / np.sqrt(values.size) for values in (kept, losses)]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    few = losses[:, :400]
    assert (unpack(pack_losses(few)) == few).all()


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_notes_of_an_evaluation_fit_into_a_text_of_mysql(seeds):
    """A column of type TEXT holds 65,535 bytes; longer ones are refused."""
    losses = np.random.default_rng(0).exponential(size=(seeds, 50_000)).astype(np.float32)
    assert len(pack_losses(losses)) < 65_000
    assert unpack(pack_losses(losses)).mean() == pytest.approx(losses.mean(), rel=0.01)
    assert len(pack(losses < 1)) < 65_000


@pytest.mark.parametrize(
    "text",
    ["", "no base64", b64encode(zlib.compress(pickle.dumps([1]))).decode(), b64encode(b"x").decode()],
    ids=["nothing", "garbage", "pickle", "no zlib"],
)
def test_a_text_that_holds_code_or_garbage_is_refused(study, text):
    add(study, 300, 0.0, 1.0)
    add(study, 390, 0.1, 1.1, packed=text)
    with pytest.raises(RunFolderError, match="not written by se-search"):
        trials_table(study)


def with_blocks():
    config = SEConfig.uniform("resnet10t")
    return {"config": config.to_json(), "config_id": config.id, "se_blocks": 4}


@pytest.mark.parametrize("comparisons", [1, 12])
def test_a_gain_is_told_with_its_corrected_interval(study, comparisons):
    """Agresti and Min's interval (2005) of 16 images more and none fewer, with Bonferroni's quantile."""
    add(study, 380, 0.0, 1.0)
    add(study, 396, 0.01, 1.0, **with_blocks())
    for _ in range(comparisons - 1):
        add(study, 379, 0.02, 1.0, **with_blocks())
    centre = 16 / (IMAGES + 2)
    quantile = stats.norm.ppf(1 - 0.025 / comparisons)
    margin = quantile * math.sqrt(((16 + 1) / (IMAGES + 2) - centre**2) / (IMAGES + 2))
    assert gain_over_none(study, trials_table(study)).sentence == (
        "Significant gain from SE (estimated by the search). Trial 1 changes accuracy by +4.00 points "
        f"[{100 * (centre - margin):+.2f}, {100 * (centre + margin):+.2f}] relative to no SE "
        f"(paired by image, corrected for {counted(comparisons, 'comparison')})."
    )


def test_the_best_network_and_those_on_the_front_have_their_own_corrected_gains(study):
    """Agresti and Min's interval of each, with Bonferroni's quantile for three comparisons."""
    add(study, 380, 0.0, 1.0)
    add(study, 396, 0.03, 1.0, name="uniform r=16", **with_blocks())
    add(study, 379, 0.02, 1.0, **with_blocks())  # dominated
    add(study, 390, 0.01, 1.0, **with_blocks())
    gain = gain_over_none(study, trials_table(study))
    assert [(one.number, one.name) for one in gain.networks] == [(1, "uniform r=16"), (3, "")]
    for one, more in zip(gain.networks, (16, 10), strict=True):
        centre = more / (IMAGES + 2)
        margin = stats.norm.ppf(1 - 0.025 / 3) * math.sqrt(((more + 1) / (IMAGES + 2) - centre**2) / (IMAGES + 2))
        assert one.accuracy == one.judged == pytest.approx((more / IMAGES, centre - margin, centre + margin))
        assert (one.measurable, one.harmful) == (centre > margin, False)


@pytest.mark.parametrize(
    ("accuracy", "measurable", "harmful"),
    [
        ((0.02, 0.01, 0.03), True, False),
        ((0.02, -0.01, 0.05), False, False),
        ((-0.02, -0.05, 0.01), False, False),
        ((-0.02, -0.03, -0.01), False, True),
    ],
)
def test_only_a_whole_interval_shows_a_gain_or_a_loss(accuracy, measurable, harmful):
    value, low, high = accuracy
    log_loss = (-value, -high, -low)
    for judged, quality in ((accuracy, "accuracy"), (log_loss, "log_loss")):
        network = Advantage("id", 1, "", (0.0, 0.0, 0.0), judged, quality)
        assert (network.measurable, network.harmful) == (measurable, harmful)


def test_a_gain_is_claimed_only_where_it_is_no_chance_of_many_comparisons(study):
    """Eight images more and none fewer: clear in one comparison, but not for the best of sixty."""
    add(study, 380, 0.0, 1.0)
    assert gain_over_none(study, trials_table(study)) is None
    add(study, 388, 0.01, 1.0, **with_blocks())
    assert gain_over_none(study, trials_table(study)).sentence.startswith(
        "Significant gain from SE (estimated by the search). Trial 1 changes accuracy"
    )
    assert "+2.00 points" in gain_over_none(study, trials_table(study)).sentence
    for _ in range(59):
        add(study, 379, 0.02, 1.0, **with_blocks())
    assert gain_over_none(study, trials_table(study)).sentence.startswith(
        "No significant gain from SE (estimated by the search). The best of 60 configurations"
    )
    assert not gain_over_none(study, trials_table(study)).measurable
    add(study, 399, 0.03, 1.0, **with_blocks())
    assert "Trial 61 changes accuracy" in gain_over_none(study, trials_table(study)).sentence
    assert gain_over_none(study, trials_table(study)).measurable
    assert gain_over_none(study, trials_table(study)).sentence.startswith(
        "Significant gain from SE (estimated by the search)."
    )


def test_only_complete_trials_are_compared_with_the_network_without(study):
    one_block = with_blocks() | {"se_blocks": 1}
    add(study, 396, 0.01, 1.0, **one_block)
    add(study, 380, 0.0, 1.0)
    attributes = study.trials[0].user_attrs | {"accuracy": 1.0}
    study.add_trial(optuna.trial.create_trial(state=TrialState.PRUNED, user_attrs=attributes))
    assert "Trial 0 changes accuracy" in gain_over_none(study, trials_table(study)).sentence
    assert "by +4.00 points" in gain_over_none(study, trials_table(study)).sentence
    assert "corrected for 1 comparison)" in gain_over_none(study, trials_table(study)).sentence


def test_equal_networks_are_no_gain(study):
    add(study, 390, 0.0, 1.0)
    add(study, 390, 0.01, 1.0, **with_blocks())
    assert not gain_over_none(study, trials_table(study)).measurable
    assert "changes accuracy by +0.00 points [-" in gain_over_none(study, trials_table(study)).sentence


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_faster_member_with_equal_losses_needs_a_measurable_latency():
    study = optuna.create_study(directions=["minimize", "minimize", "minimize"])
    study.set_metric_names(["log_loss", "parameter_overhead", "latency_ratio"])
    add(study, 390, 0.0, 1.1)
    add(study, 390, 0.01, 1.0)
    assert trials_table(study)["on_front"].all()
    add(study, 390, 0.02, 0.98, latency_low=0.85)
    assert trials_table(study)["tied_with"].fillna(-1).tolist() == [-1, -1, 1]


def test_a_worse_best_is_no_gain(study):
    add(study, 399, 0.0, 1.0)
    add(study, 300, 0.01, 1.0, **with_blocks())
    assert gain_over_none(study, trials_table(study)).sentence.startswith(
        "No significant gain from SE (estimated by the search)."
    )


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_study_of_the_log_loss_compares_log_losses():
    study = optuna.create_study(directions=["minimize", "minimize", "minimize"])
    study.set_metric_names(["log_loss", "parameter_overhead", "latency_ratio"])
    random = np.random.default_rng(0)
    image = random.exponential(size=IMAGES)
    for overhead, shift in ((0.0, 0.0), (0.1, 0.001), (0.2, 0.2)):
        losses = (image - shift + random.normal(0, 0.1, IMAGES)).astype(np.float32)
        blocks = with_blocks() if overhead else {}
        add(study, 380, overhead, 1.0, losses=pack(losses[None]), log_loss=float(losses.mean()), **blocks)
    table = trials_table(study)
    assert table["tied_with"].iloc[2:].isna().all()
    best = int(table["number"][table["log_loss"].argmin()])
    assert pick_trials(table.assign(accuracy=[0.99, 0.5, 0.4]), quality_of(study))["accurate"] == best == 2
    assert gain_over_none(study, trials_table(study)).sentence.startswith(
        "Significant gain from SE (estimated by the search). Trial 2 changes log-loss"
    )
    told = table["log_loss"][2] - table["log_loss"][0]
    assert f"changes log-loss by {told:+.4f} [-0." in gain_over_none(study, trials_table(study)).sentence


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_higher_log_loss_is_no_gain():
    study = optuna.create_study(directions=["minimize", "minimize", "minimize"])
    study.set_metric_names(["log_loss", "parameter_overhead", "latency_ratio"])
    image = np.random.default_rng(0).exponential(size=IMAGES)
    for loss, blocks in ((image, {}), (image + 0.2, with_blocks()), (image + 0.3, with_blocks())):
        losses = pack(loss.astype(np.float32)[None])
        add(study, 380, 0.01 * len(blocks), 1.0, losses=losses, log_loss=float(loss.mean()), **blocks)
    gain = gain_over_none(study, trials_table(study))
    assert not gain.measurable
    assert "trial 1, changes log-loss by +0.2000" in gain.sentence


def test_table_rows_and_values_agree(study):
    for right, overhead in itertools.product((300, 350), (0.01, 0.02)):
        add(study, right, overhead, 1.0 + overhead, name="given")
    table = trials_table(study)
    for trial, row in zip(study.trials, table.to_dict("records"), strict=True):
        assert [row["accuracy"], row["parameter_overhead"], row["latency_ratio"]] == trial.values
        assert row["name"] == "given"


def test_a_front_no_better_than_guessing_is_said_to_be_so(study):
    add(study, 43, 0.0, 1.0)  # of 400: 10.75 % with an interval of one per cent to either side
    assert any("better than chance (10 %)" in said for said in cautions(trials_table(study), 0.1))
    assert not any("chance" in said for said in cautions(trials_table(study), 0.05))


def measured_as(ratio, stopped="target"):
    return {
        "latency_ratio": ratio,
        "latency_low": ratio - 0.001,
        "latency_high": ratio + 0.001,
        "latency_pairs": 80,
        "latency_stopped": stopped,
    }


@pytest.mark.filterwarnings("ignore:.*set_metric_names is experimental")
def test_a_measured_latency_takes_the_place_of_the_predicted_one_everywhere(study, monkeypatch, caplog):
    for latency in (1.02, 1.03, 1.04):
        add(study, 390, 0.01, latency, constraint=latency - 1.05, latency_stopped=PREDICTED)
    names = ["accuracy", "parameter_overhead", "latency_ratio"]
    study.set_metric_names(names)
    assert list(trials_table(study)["on_front"]) == [True, False, False]
    study.set_user_attr(f"{MEASURED_LATENCY}0", measured_as(1.06))
    optuna.logging.set_verbosity(optuna.logging.INFO)
    monkeypatch.setattr(logging.getLogger("optuna"), "propagate", True)
    caplog.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged = with_measured_latency(study)
    assert caplog.messages == []
    table = trials_table(merged)
    assert list(table["latency_ratio"]) == [1.06, 1.03, 1.04]
    assert list(table["latency_stopped"]) == ["target", PREDICTED, PREDICTED]
    assert list(table["latency_pairs"].isna()) == [False, True, True]
    assert list(table["feasible"]) == [False, True, True]
    assert list(table["on_front"]) == [False, True, False]
    assert merged.trials[0].values == [pytest.approx(0.975), 0.01, 1.06]
    assert merged.trials[0].constraints == {"max_latency": pytest.approx(1.06 - 1.05)}
    assert [trial.number for trial in merged.trials] == [0, 1, 2]
    assert [trial.duration for trial in merged.trials] == [trial.duration for trial in study.trials]
    assert merged.user_attrs == study.user_attrs
    assert merged.metric_names == names


def test_nothing_changes_where_nothing_was_measured_afterwards(study):
    add(study, 390, 0.01, 1.02)
    assert with_measured_latency(study) is study


@pytest.mark.filterwarnings("ignore:.*set_metric_names is experimental")
@pytest.mark.parametrize(("name", "note"), [("x", measured_as(1.0)), ("0", 3), ("0", {"latency_low": 1.0})])
def test_measured_latencies_that_nobody_wrote_are_refused(study, name, note):
    add(study, 390, 0.01, 1.02)
    study.set_metric_names(["accuracy", "parameter_overhead", "latency_ratio"])
    study.set_user_attr(f"{MEASURED_LATENCY}{name}", note)
    with pytest.raises(RunFolderError, match="were not written by se-search"):
        with_measured_latency(study)


def test_conditions_of_a_latency_that_another_version_wrote_are_refused(finished_run):
    study = load_trials(finished_run / "run")
    trial = study.trials[0]
    del trial.user_attrs["latency_conditions"]["affinity"]
    foreign = optuna.create_study(directions=study.directions)
    foreign.add_trial(trial)
    assert latency_conditions(study).description.startswith("batch 1, 3×32×32, float32, PyTorch")
    assert latency_conditions(optuna.create_study()) is None
    with pytest.raises(RunFolderError, match="not written by se-search: KeyError\\('affinity'\\)"):
        latency_conditions(foreign)


def test_no_text_of_a_csv_file_is_a_formula():
    """The first characters are those of OWASP's page on CSV injection; numbers stay numbers."""
    texts = [f"{first}1" for first in "=+-@\t\n\r"] + ["1=1", "", "a\r=1"]
    written = to_csv(pd.DataFrame({"number": [-1.5] * len(texts), "name": texts}))
    back = pd.read_csv(io.StringIO(written, newline=""), keep_default_na=False)
    assert back["number"].tolist() == [-1.5] * len(texts)
    # A carriage return becomes a line feed, which is quoted: the rest would begin a row.
    assert back["name"].tolist() == ["'=1", "'+1", "'-1", "'@1", "'\t1", "'\n1", "'\n1", "1=1", "", "a\n=1"]
    assert to_csv(pd.DataFrame({"name": ["=1", None, 2]}), header=False) == '\'=1\n""\n2\n'
