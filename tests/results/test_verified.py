"""Verification decides: trainings that fail, picks, exports and cards, from made-up outcomes of known accuracy."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from made_up_trainings import IMAGES, write_trainings
from scipy import stats
from typer.testing import CliRunner

from se_search import SEConfig, create_model, load_exported, load_run
from se_search.cli import app
from se_search.errors import RunFolderError
from se_search.markdown import escape_text
from se_search.network.insertion import write_weights
from se_search.report.text import render_markdown
from se_search.results.picks import pick_verified
from se_search.results.record import read_results
from se_search.results.trainings import VERIFICATION, weights_file
from se_search.results.verified import Member, Retraining, Schedule, _front, command_for_seeds, read_verified
from se_search.study.files import load_space
from se_search.study.objectives import OBJECTIVES, quality_among
from se_search.study.space import SearchSpace
from se_search.terminal import show_exported, show_verified

BARE = SEConfig("test_resnet")
UNIFORM = SEConfig.uniform("test_resnet", 16)
GOALS = ("accuracy", "parameter_overhead", "latency_ratio")


@pytest.fixture
def folder(finished_run):
    return finished_run / "run"


def numbers(folder):
    return load_run(folder).trials.set_index("config_id")["number"]


def a_third_fails(folder):
    """Verify the search's knee, which fails in one of three trainings, beside uniform r=16, which never does."""
    trials = load_run(folder).trials
    with_se = trials[(trials["se_blocks"] > 0) & (trials["config_id"] != UNIFORM.id) & trials["feasible"]]
    estimated = with_se.sort_values("accuracy").iloc[-1]
    config = SEConfig.from_json(estimated["config"])
    write_trainings(folder, BARE, (0.55, 0.55, 0.55))
    write_trainings(folder, UNIFORM, (0.90, 0.905, 0.90))
    write_trainings(folder, config, (0.97, 0.965, 0.565), validation=(0.93, 0.95, 0.50))
    return config


def test_a_training_that_failed_is_named_with_what_a_user_gets(folder, capsys):
    config = a_third_fails(folder)
    trials, run = read_results(folder)
    (schedule,) = run.verified
    member = next(one for one in schedule.members if one.config_id == config.id)
    assert [one.learned for one in member.trainings] == [True, True, False]
    assert [one.accuracy[0] for one in member.trainings] == pytest.approx([0.97, 0.965, 0.565])
    assert member.accuracy[0] == pytest.approx((0.97 + 0.965 + 0.565) / 3)
    assert member.accuracy_learned[0] == pytest.approx((0.97 + 0.965) / 2)
    # Clopper and Pearson's interval of 2 of 3 by the quantiles of beta distributions.
    expected = (2 / 3, stats.beta.ppf(0.025, 2, 2), stats.beta.ppf(0.975, 3, 1))
    assert member.probability == pytest.approx(expected)
    others = [one for one in schedule.members if one is not member]
    assert [(one.learned, one.probability[2]) for one in others] == [(3, 1.0)] * 2
    (said,) = schedule.failures
    assert said.startswith(f"Trial {numbers(folder)[config.id]}")
    assert (
        "1 of 3 trainings did not learn (accuracy 56.50 %). A training learns with a probability of 67 % [9, 99]"
        in said
    )
    assert "the accuracy is then 96.75 % [" in said
    assert trials.set_index("config_id").loc[config.id, "verified_learned"] == 2
    assert escape_text(said) in render_markdown(trials, run)
    show_verified(folder)
    shown = " ".join(capsys.readouterr().out.split())
    assert said in shown
    assert f"verify {folder} --members verified --seeds 5" in shown


def test_verification_decides_the_picks(folder):
    config = a_third_fails(folder)
    failing, uniform, bare = (int(numbers(folder)[one.id]) for one in (config, UNIFORM, BARE))
    trials, run = read_results(folder)
    assert run.picks.source == "verified"
    assert dict(run.picks) == {"knee": uniform, "accurate": uniform, "small": bare, "fast": run.picks["fast"]}
    assert failing not in run.picks.values()
    assert list(load_run(folder).front["number"]) == list(run.picks.front) == [bare, uniform]
    said = render_markdown(trials, run)
    assert "Verified: uniform r=16 gains" in said.split("##")[0]
    assert f"--trial {uniform} --verified" in said
    assert "90.17 %" in said  # the mean of 0.90, 0.905 and 0.90, in the table; not the estimate
    load_run(folder).report()
    content = json.loads((folder / "run.json").read_text())
    assert (content["picks"]["knee"], content["picks_source"]) == (uniform, "verified")


def test_export_takes_the_verified_pick_and_its_card_states_the_file_first(folder, tmp_path):
    a_third_fails(folder)
    write_trainings(folder, UNIFORM, (0.90, 0.915, 0.88), validation=(0.80, 0.85, 0.84))
    torch.manual_seed(0)
    network = create_model(UNIFORM, num_classes=10)
    write_weights(network, weights_file(folder, UNIFORM, 1, 1))  # seed 1 is the best on the validation images
    target = tmp_path / "exported"
    result = CliRunner().invoke(app, ["export", str(folder), "--pick", "knee", "--to", str(target)])
    assert result.exit_code == 0, result.output
    assert f"trial {numbers(folder)[UNIFORM.id]} " in result.output
    assert "weights of seed 1, whose training is the best on the validation images" in " ".join(result.output.split())
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load_exported(target).eval()(images), network.eval()(images), rtol=0, atol=1e-6)
    rows = [
        line for line in (target / "README.md").read_text().splitlines() if line.startswith(("| accuracy", "| log-"))
    ]
    low, high = stats.binomtest(round(0.915 * IMAGES), IMAGES).proportion_ci(method="wilson")
    own, _, mean, _ = rows
    value = escape_text(f"91.50 % [{100 * low:.2f}, {100 * high:.2f}]")
    assert own.startswith(f"| accuracy of these weights (seed 1) | {value} |")
    assert mean.startswith(f"| accuracy, mean over seeds | {escape_text('89.83 % [')}")  # (90 + 91.5 + 88) / 3
    assert "3 training seeds" in mean
    assert "all trainings learned" in mean


def test_an_export_without_attention_says_so(folder, tmp_path, capsys):
    run = load_run(folder)
    trials = run.trials.set_index("name")["number"]
    bare = run.export(trial=int(trials["no SE"]), to=tmp_path / "bare")
    found = run.decision
    assert bare.remark == f"This is test_resnet without SE. {found.title}. {found.headline}."
    show_exported(bare, plain=False)
    assert bare.remark in " ".join(capsys.readouterr().out.split())
    assert run.export(trial=int(trials["uniform r=16"]), to=tmp_path / "uniform").remark == ""


@pytest.mark.slow
def test_the_weights_of_the_search_remain_available(folder, tmp_path):
    write_trainings(folder, BARE, (0.9,), validation=(0.9,))
    write_weights(create_model(BARE, num_classes=10), weights_file(folder, BARE, 1, 0))
    number, images = int(numbers(folder)[BARE.id]), torch.randn(2, 3, 32, 32)
    run = load_run(folder)
    (searched, _), (verified, _), (default, _) = (run.load(trial=number, verified=one) for one in (False, True, None))
    assert torch.equal(default(images), verified(images))
    assert not torch.allclose(default(images), searched(images))
    target = tmp_path / "exported"
    result = CliRunner().invoke(
        app, ["export", str(folder), "--trial", str(number), "--search-weights", "--to", str(target)]
    )
    assert result.exit_code == 0, result.output
    torch.testing.assert_close(load_exported(target).eval()(images), searched(images), rtol=0, atol=1e-5)
    assert "validation images of digits that training did not use" in (target / "README.md").read_text()


def test_weights_of_verification_that_are_missing_are_reported(folder, tmp_path):
    write_trainings(folder, BARE, (0.9,), validation=(0.9,))
    with pytest.raises(RunFolderError, match=r"verify it again, or use the weights of the search \(--search-weights\)"):
        load_run(folder).export(trial=int(numbers(folder)[BARE.id]), to=tmp_path / "exported")


def training(seed, accuracy, learned):
    return Retraining(seed, (accuracy,) * 3, (1 - accuracy,) * 3, learned, None)


def member(number, learned, accuracy, better_than=()):
    trainings = tuple(training(seed, accuracy, seed < learned) for seed in range(3))
    zero = (0.0, 0.0, 0.0)
    return Member(
        f"c{number}", number, "", (accuracy,) * 3, (1 - accuracy,) * 3, zero, zero, trainings, trainings[0],
        learned, (learned / 3, 0.0, 1.0), None, None, better_than,
    )  # fmt: skip


def picks_of(*members, latencies=None, feasible=None, objectives=GOALS, losses=()):
    """Picks among members whose trials have growing numbers of parameters, and the first images correct."""
    numbers = [one.number for one in members]
    table = pd.DataFrame({"number": [0 if one is None else one for one in numbers], "feasible": True})
    table["parameter_overhead"] = table["flops_overhead"] = 0.01 * table["number"]
    table["counted_parameters"] = 1000 * table["number"]
    table["latency_ratio"] = latencies or [1 + 0.1 * number for number in table["number"]]
    table["latency_low"], table["latency_high"] = table["latency_ratio"] - 0.01, table["latency_ratio"] + 0.01
    if feasible is not None:
        table["feasible"] = feasible
    right = {one.config_id: np.tile(np.arange(200) < 200 * one.accuracy[0], (3, 1)) for one in members}
    outcomes = {"accuracy": right, "log_loss": dict(zip(right, losses or right.values(), strict=True))}
    goals = [OBJECTIVES[name] for name in objectives]
    kept = table if None not in numbers else table[table["number"] > 0]
    schedule = Schedule(1, (0, 1, 2), 9, members, None, None, False, "", None, ())
    schedule = replace(schedule, front=_front(members, outcomes, kept, goals))
    return pick_verified(table, schedule, quality_among(objectives))


def test_only_networks_measurably_better_than_smaller_ones_are_picked():
    better = member(2, 3, 0.95, ("c0", "c1"))
    picks = picks_of(member(0, 3, 0.9), member(1, 3, 0.91), better, member(3, 3, 0.96, ("c0", "c1")))
    assert picks.front == (0, 2)  # 1 is not better than 0, and 3 not better than 2
    assert dict(picks) == {"knee": 2, "accurate": 2, "small": 0, "fast": 0}


def test_a_larger_network_that_is_measurably_faster_is_on_the_front():
    picks = picks_of(member(0, 3, 0.9), member(1, 3, 0.9), latencies=[1.1, 1.0])
    assert (picks.front, picks["fast"]) == ((0, 1), 1)
    assert picks_of(member(0, 3, 0.9), member(1, 3, 0.9), latencies=[1.0, 0.99]).front == (0,)


def test_latencies_have_the_errors_of_their_intervals():
    """Half-widths of 0.01 leave a difference of 0.02 at z = 2.77; beside accuracy, 1.96 is needed."""
    both = (member(0, 3, 0.9), member(1, 3, 0.9))
    assert picks_of(*both, latencies=[1.02, 1.0]).front == (0, 1)
    assert picks_of(*both, latencies=[1.014, 1.0]).front == (0,)  # z = 1.94


def test_without_an_exact_objective_the_fewest_parameters_stay():
    both = (member(0, 3, 0.9), member(1, 3, 0.9))
    assert picks_of(*both, latencies=[1.0, 0.995], objectives=("accuracy", "latency_ratio")).front == (0,)


@pytest.mark.parametrize("quality", ["accuracy", "log_loss"])
def test_the_most_accurate_is_the_one_with_the_best_mean(quality):
    """The ends of the intervals have another order."""
    accuracies, losses = ((0.8, 0.7, 0.99), (0.9, 0.6, 0.95)), ((0.2, 0.01, 0.4), (0.1, 0.05, 0.5))
    members = [
        replace(member(number, 3, 0.9), accuracy=accuracies[number], log_loss=losses[number]) for number in (0, 1)
    ]
    table = pd.DataFrame({"number": [0, 1], "parameter_overhead": [0.0, 0.1], "latency_ratio": [1.0, 1.1]})
    schedule = Schedule(1, (0, 1, 2), 9, tuple(members), None, None, False, "", None, (), front=(0, 1))
    picks = pick_verified(table, schedule, OBJECTIVES[quality])
    assert dict(picks) == {"knee": 1, "accurate": 1, "small": 0, "fast": 0}


def test_the_front_is_that_of_the_studys_objectives():
    """Without latency among the objectives, a larger network that is only faster has no advantage."""
    faster = (member(0, 3, 0.9), member(1, 3, 0.9))
    assert picks_of(*faster, latencies=[1.1, 1.0], objectives=("accuracy", "flops_overhead")).front == (0,)
    # Accuracy differs by two images of 200, log-loss by 0.3 with a standard error of 0.02.
    losses = [np.random.default_rng(seed).random((3, 200)) + gap for seed, gap in enumerate((0.3, 0.0))]
    both = (member(0, 3, 0.9), member(1, 3, 0.91))
    assert picks_of(*both).front == (0,)
    assert picks_of(*both, objectives=("log_loss", "parameter_overhead"), losses=losses).front == (0, 1)


def test_a_network_that_fails_is_not_picked_over_one_that_never_does():
    # The smaller one fails: that the larger one is not measurably better does not help it.
    assert picks_of(member(0, 2, 0.8), member(1, 3, 0.9)).front == (1,)
    # It is measurably better with its failures: then it may be picked.
    assert picks_of(member(0, 2, 0.93, ("c1",)), member(1, 3, 0.9)).front == (0,)
    # All fail as often: nothing tells them apart.
    assert picks_of(member(0, 2, 0.8), member(1, 2, 0.805)).front == (0,)


def test_networks_beyond_the_limits_are_not_picked():
    assert picks_of(member(0, 3, 0.9), member(1, 3, 0.95, ("c0",)), feasible=[True, False]).front == (0,)


def test_the_network_without_se_counts_also_if_no_trial_has_it():
    none = Member(**{**vars(member(0, 3, 0.9)), "number": None})
    assert picks_of(none, member(1, 3, 0.91)).front == ()
    assert picks_of(none, member(1, 3, 0.95)).front == (1,)


def test_the_exported_training_is_the_best_on_validation_images_or_the_first_of_an_earlier_version(folder):
    trials = load_run(folder).trials
    space = SearchSpace("test_resnet", load_space("stages"))

    def exported(quality="accuracy"):
        (schedule,) = read_verified(folder, trials, space, [OBJECTIVES[quality], OBJECTIVES["parameter_overhead"]], 0.1)
        return schedule.members[0].exported

    write_trainings(folder, BARE, (0.8, 0.9, 0.7), validation=(0.5, 0.6, 0.6))
    assert (exported().seed, exported().accuracy[0]) == (1, pytest.approx(0.9))
    assert exported("log_loss").seed == 1
    write_trainings(folder, BARE, (0.8, 0.9, 0.7))
    assert (exported().seed, exported().validation) == (0, None)


@pytest.mark.parametrize(
    "content", [{"accuracy": "x", "log_loss": 1}, {"accuracy": 0.5}, {"accuracy": float("nan"), "log_loss": 1}]
)
def test_damaged_values_of_a_training_are_refused(folder, content):
    write_trainings(folder, BARE, (0.8,))
    (file,) = (folder / VERIFICATION).glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"validation": content}))
    with pytest.raises(RunFolderError, match="is damaged"):
        read_results(folder)


def test_more_seeds_are_proposed_with_the_whole_command():
    schedule = Schedule(30, (0, 1, 2), 9, (), None, None, False, "", None, ())
    with_epochs = ("verify", "runs/a", "--members", "verified", "--seeds", "5", "--epochs", "30")
    assert command_for_seeds(schedule, "runs/a", 8) == with_epochs
    assert command_for_seeds(schedule, "runs/a", 30) == with_epochs[:-2]
