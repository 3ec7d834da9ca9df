"""The decision of a run: verdict, figures and next command, from records written by hand."""

import math
import shlex
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

from se_search.cli import app
from se_search.evidence.power import Power
from se_search.network.config import SEConfig
from se_search.network.overhead import backbone_parameters
from se_search.results.decision import decide
from se_search.results.record import DataRecord, RunRecord
from se_search.results.table import Advantage, Gain
from se_search.results.verified import Member, Retraining, Schedule
from se_search.study.definitions import ConstraintsDefinition
from se_search.study.evaluator_definition import FROM_PYTHON, OwnEvaluatorDefinition, SupernetDefinition
from se_search.study.objectives import COLUMNS, OBJECTIVES, custom_objective

BARE = SEConfig("test_resnet")
UNIFORM = SEConfig.uniform("test_resnet", 16)
SMALL = SEConfig.uniform("test_resnet", 32)
GAIN = (0.408, 0.351, 0.464)
NONE = (0.004, -0.009, 0.017)
LOSS = (-0.031, -0.046, -0.016)


def trial(number, config, name="", **values):
    row = {column: float("nan") if kind == "float64" else "" for column, kind in COLUMNS.items()}
    return (
        row
        | {
            "number": number,
            "state": "complete",
            "name": name,
            "config_id": config.id,
            "config": config.to_json(),
            "parameter_overhead": 0.01 * config.block_count,
            "counted_parameters": 1000 * config.block_count,
            "total_parameters": 10_000,
            "latency_ratio": 1 + 0.02 * number,
            "latency_low": 1 + 0.02 * number - 0.005,
            "latency_high": 1 + 0.02 * number + 0.005,
            "latency_pairs": 100,
            "latency_stopped": "target",
            "feasible": True,
            "on_front": True,
            "tied_with": pd.NA,
            "se_blocks": config.block_count,
            "epochs": 8,
        }
        | values
    )


def results(*rows, **fields):
    """Return the table of trials, by default no SE, uniform r=16 and a smaller one, and the description of its run."""
    rows = rows or (trial(0, BARE, "no SE"), trial(1, UNIFORM, "uniform r=16"), trial(2, SMALL))
    trials = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    described = {
        "name": "run",
        "folder": "runs/my run",
        "backbone": "test_resnet",
        "backbone_parameters": backbone_parameters("test_resnet"),
        "data": DataRecord("digits", 1000, 400, 397, 10, (3, 32, 32)),
        "placement": "block",
        "budget": 3,
        "evaluator": SupernetDefinition(),
        "objectives": tuple(OBJECTIVES[name] for name in ("accuracy", "parameter_overhead", "latency_ratio")),
        "constraints": ConstraintsDefinition(),
        "picks": {"knee": 1, "accurate": 1, "small": 0, "fast": 0},
        "quality": OBJECTIVES["accuracy"],
        "gain": None,
        "verified": (),
        "finished": True,
        "attention": "SE",
        "baselines": ("no SE", "uniform r=16"),
    }
    described["sites"] = ()
    missing = {name: None for name in RunRecord.__dataclass_fields__ if name not in described}
    return trials, RunRecord(**missing | described | fields)


def advantage(accuracy, number=1, name="uniform r=16", config=UNIFORM, log_loss=None):
    judged, quality = (accuracy, "accuracy") if log_loss is None else (log_loss, "log_loss")
    return Advantage(config.id, number, name, accuracy, judged, quality)


def estimated(*networks):
    return Gain(networks[0].measurable, "", networks)


def schedule(*networks, seeds=(0, 1, 2), epochs=8):
    return Schedule(epochs, seeds, 397, (), None, None, networks[0].measurable, "", None, (), networks=networks)


def verified(accuracy, log_loss, **fields):
    return {"verified": (schedule(advantage(accuracy, log_loss=log_loss), **fields),)}


def commands(decision):
    return [step.command for step in decision.next]


def assert_a_command_line_takes(command):
    """Parse a command as the command line does, without running it."""
    program, name, *arguments = shlex.split(command)
    assert program == "se-search"
    found = get_command(app).commands[name]
    return found.make_context(name, list(arguments)).params


def test_a_verified_gain_is_exported_with_its_verified_weights():
    decision = decide(*results(**verified(GAIN, (-0.9, -1.1, -0.7))))
    assert decision.verdict == "helps"
    assert decision.headline == "Verified: uniform r=16 gains 40.8 points over no SE [35.1, 46.4]"
    assert (decision.network, decision.trial, decision.config) == ("uniform r=16", 1, UNIFORM.to_json())
    assert [(one.name, one.text, one.interval) for one in decision.figures] == [
        ("accuracy", "+40.8 points", "[+35.1, +46.4]"),
        ("parameters", f"+{UNIFORM.block_count}.00 %", f"(+{UNIFORM.block_count},000)"),
        ("latency", "×1.020", "[1.015, 1.025]"),
    ]
    assert decision.figures[0].values == GAIN
    assert commands(decision) == ["se-search export 'runs/my run' --trial 1 --verified --to exported"]
    given = assert_a_command_line_takes(decision.next[0].command)
    assert (Path(given["folder"]), given["trial"], given["verified"]) == (Path("runs/my run"), 1, True)


def test_what_is_published_is_said_beside_it():
    decision = decide(*results(**verified(GAIN, (-0.9, -1.1, -0.7))))
    # The pairs of resnets that differ in SE only: a3 at 224 pixels and the paper's ResNet-50 are the ends.
    published = "-1.02 to +1.51 points of ImageNet top-1 accuracy (13 results, one checkpoint each)"
    assert decision.known == f"Published for SE in resnet networks: {published}."
    nothing = decide(*results(trial(0, BARE, "no SE")))
    assert (nothing.verdict, nothing.known) == ("no result yet", decision.known)


def test_after_a_gain_by_stages_a_search_by_blocks_is_offered():
    decision = decide(*results(placement="stage", **verified(GAIN, (-0.9, -1.1, -0.7))))
    export, search = commands(decision)
    assert " export " in export
    assert search == "se-search run --study 'runs/my run/study.yaml' --space blocks --out runs/run-blocks"
    assert assert_a_command_line_takes(search)["space"] == "blocks"


def test_few_seeds_ask_for_more_of_the_same_trainings():
    one_seed = verified(GAIN, (-0.9, -1.1, -0.7), seeds=(0,), epochs=30)
    decision = decide(*results(**one_seed))
    assert commands(decision)[0] == "se-search verify 'runs/my run' --members verified --seeds 3 --epochs 30"
    assert_a_command_line_takes(commands(decision)[0])
    assert "1 seed cannot show" in decision.next[0].reason
    assert commands(decision)[1].startswith("se-search export")
    no_difference = decide(*results(**verified(NONE, (-0.02, -0.05, 0.01), seeds=(0,), epochs=30)))
    assert commands(no_difference) == [commands(decision)[0], ""]


def member_of(config, accuracies, error=""):
    """A verified network that learned in each training of an accuracy above 50 %, or diverged in all."""
    trainings = tuple(
        Retraining(seed, (accuracy, 0.0, 1.0), (0.1, 0.0, 1.0), accuracy > 0.5, None, error)
        for seed, accuracy in enumerate(accuracies)
    )
    learned = sum(one.learned for one in trainings)
    some = ((0.8, 0.7, 0.9),) * 2
    return Member(
        config.id, 1, "", *some, *some, trainings, trainings[0], learned, (learned / 3, 0.0, 1.0), None, None, ()
    )


def test_a_training_that_did_not_learn_is_named_and_asks_for_more_seeds():
    """Two trainings of three reach 97 %, one 50 %."""
    clean = schedule(advantage(GAIN, log_loss=(-0.9, -1.1, -0.7)))
    found = replace(clean, members=(member_of(UNIFORM, (0.97, 0.5, 0.97)),))
    decision = decide(*results(verified=(found,)))
    assert decision.headline.endswith("over no SE [35.1, 46.4]; 1 of 3 trainings did not learn")
    assert decision.next[0].reason == "Train more seeds: 1 of 3 trainings did not learn."
    assert commands(decision)[0] == "se-search verify 'runs/my run' --members verified --seeds 5"
    assert " export " in commands(decision)[1]
    # The longest schedule decides.
    assert decide(*results(verified=(clean, found))).headline == decision.headline
    assert decide(*results(verified=(found, clean))).headline.endswith("over no SE [35.1, 46.4]")


def test_a_baseline_that_always_diverges_leaves_no_result():
    """Its differences would say that attention helps."""
    diverged = member_of(BARE, (0.1, 0.1, 0.1), error="the loss is NaN")
    found = replace(schedule(advantage(GAIN, log_loss=(-0.9, -1.1, -0.7))), members=(diverged,))
    decision = decide(*results(verified=(found,)))
    assert decision.verdict == "no result yet"
    assert decision.headline == "Unknown whether SE helps: all trainings of the network without SE diverged"
    (step,) = decision.next
    assert step.command == ""
    assert step.reason.startswith("Lower the learning_rate of runs/my run/study.yaml or set its clip_gradient")
    once = replace(diverged.trainings[0], error="")
    some = replace(found, members=(replace(diverged, trainings=(once, *diverged.trainings[1:])),))
    assert decide(*results(verified=(some,))).verdict == "helps"


def test_an_estimated_gain_is_to_be_verified_first():
    decision = decide(*results(gain=estimated(advantage(GAIN))))
    assert decision.verdict == "not verified yet"
    assert decision.headline == "Estimated: uniform r=16 gains 40.8 points over no SE [35.1, 46.4]"
    verify, export = commands(decision)
    assert verify == "se-search verify 'runs/my run'"
    assert export == "se-search export 'runs/my run' --trial 1 --to exported"
    assert assert_a_command_line_takes(verify)["seeds"] == 3
    assert not assert_a_command_line_takes(export)["verified"]


@pytest.mark.parametrize("loss", [None, (-0.02, -0.05, 0.01)], ids=["estimated", "verified"])
def test_without_a_measurable_difference_nothing_is_exported(loss):
    fields = {"gain": estimated(advantage(NONE))} if loss is None else verified(NONE, loss)
    decision = decide(*results(**fields))
    assert decision.verdict == "no measurable difference"
    between = "no measurable difference between uniform r=16 and no SE"
    change = "accuracy +0.4 points [-0.9, +1.7]" if loss is None else "log-loss -0.0200 [-0.0500, +0.0100]"
    assert decision.headline == f"{'Estimated' if loss is None else 'Verified'}: {between} ({change})"
    assert commands(decision) == ([""] if loss else ["se-search verify 'runs/my run'", ""])
    assert decision.next[-1].reason.startswith("Use test_resnet without SE, or more images")


@pytest.mark.parametrize(
    ("attention", "title", "lost"),
    [
        ("ECA", "ECA helps", "ECA does not help"),
        ("local convolution", "Local convolution helps", "Local convolution does not help"),
        ("attention", "Attention helps", "Attention does not help"),
    ],
)
def test_sentences_name_the_attention_that_was_searched(attention, title, lost):
    decision = decide(*results(attention=attention, **verified(GAIN, (-0.9, -1.1, -0.7))))
    assert (decision.title, decision.headline) == (
        title,
        f"Verified: uniform r=16 gains 40.8 points over no {attention} [35.1, 46.4]",
    )
    decision = decide(*results(attention=attention, **verified(LOSS, (0.1, 0.05, 0.15))))
    assert decision.title == lost
    assert f"loses 3.1 points against no {attention}" in decision.headline
    for rows, picks in (((), {"knee": 1}), ((trial(0, BARE),), {"knee": 0}), ((trial(1, UNIFORM),), {"knee": 1})):
        for gain in (estimated(advantage(NONE)), None):
            said = decide(*results(*rows, picks=picks, attention=attention, gain=gain))
            words = " ".join([said.title, said.headline, *(step.reason for step in said.next)])
            assert "SE" not in words.split()


def test_without_a_measurable_difference_it_says_what_would_tell():
    power = Power(None, None, None, ("", "", "So the search needs about 9,000 validation images."))
    decision = decide(*results(gain=estimated(advantage(NONE)), power=power))
    assert decision.next[-1].reason.endswith("measurably better. The search needs about 9,000 validation images.")


def test_a_front_without_se_leaves_nothing_to_verify():
    rows = trial(0, BARE, "no SE"), trial(1, UNIFORM, on_front=False)
    decision = decide(*results(*rows, gain=estimated(advantage(NONE, name=""))))
    assert commands(decision) == [""]
    assert "between trial 1 and no SE" in decision.headline
    one_block = SEConfig.uniform("test_resnet", 16, stages=[2])
    assert one_block.block_count == 1
    rows = trial(0, BARE, "no SE"), trial(1, one_block)
    decision = decide(*results(*rows, gain=estimated(advantage(NONE, name="", config=one_block))))
    assert commands(decision) == ["se-search verify 'runs/my run'", ""]


def test_a_verified_loss_ends_the_matter():
    decision = decide(*results(**verified(LOSS, (0.1, 0.05, 0.15))))
    assert decision.verdict == "worse"
    assert decision.headline == "Verified: uniform r=16 loses 3.1 points against no SE [1.6, 4.6]"
    assert commands(decision) == [""]
    assert decision.next[0].reason == "Use test_resnet without SE: on these data it is better."


def test_a_gain_that_only_the_log_loss_shows_is_told_in_its_unit():
    decision = decide(*results(**verified((0.001, -0.002, 0.004), (-0.02, -0.03, -0.01))))
    assert decision.verdict == "helps"
    said = "uniform r=16 changes log-loss by -0.0200 [-0.0300, -0.0100] relative to no SE"
    assert decision.headline == f"Verified: {said}"
    assert decision.figures[0].text == "+0.10 points"  # a narrow interval deserves another digit
    just = decide(*results(**verified((0.02, 0.0, 0.04), (-0.02, -0.03, -0.01))))
    assert just.headline == f"Verified: {said}"  # an interval that begins at 0 shows no gain of accuracy


def test_the_knee_is_the_subject_where_its_gain_is_measurable():
    best = advantage((0.1, 0.05, 0.15), number=1)
    knee = advantage((0.09, 0.04, 0.14), number=2, name="", config=SMALL)
    picks = {"knee": 2, "accurate": 1, "small": 0, "fast": 0}
    assert decide(*results(gain=estimated(best, knee), picks=picks)).trial == 2
    uncertain = replace(knee, judged=NONE)
    assert decide(*results(gain=estimated(best, uncertain), picks=picks)).trial == 1


def test_a_network_beyond_the_limits_is_not_the_subject():
    rows = trial(0, BARE), trial(1, UNIFORM, feasible=False, on_front=False), trial(2, SMALL)
    networks = advantage((0.1, 0.05, 0.15)), advantage((0.09, 0.04, 0.14), number=2, name="", config=SMALL)
    assert decide(*results(*rows, gain=estimated(*networks))).trial == 2


def test_costs_are_against_no_se_where_the_backbone_has_attention_of_its_own():
    """Removing it saves a fifth of 10,000 parameters; margins of latency in logarithms add up as 3, 4, 5."""
    bare = {"parameter_overhead": -0.2, "counted_parameters": -2000}
    bare |= {"latency_ratio": 0.9, "latency_low": 0.9 / math.exp(0.03), "latency_high": 0.9 * math.exp(0.03)}
    other = {"latency_ratio": 1.08, "latency_low": 1.08 / math.exp(0.04), "latency_high": 1.08 * math.exp(0.04)}
    other |= {"parameter_overhead": 0.2, "counted_parameters": 2000}
    rows = trial(0, UNIFORM, **other), trial(1, BARE, **bare)
    gain = estimated(advantage(GAIN, number=0))
    _, parameters, latency = decide(*results(*rows, gain=gain)).figures
    assert (parameters.text, parameters.interval) == ("+50.00 %", "(+4,000)")
    assert latency.values == pytest.approx((1.2, 1.2 / math.exp(0.05), 1.2 * math.exp(0.05)))
    foreign = trial(1, BARE, **bare | {"latency_low": 0.0})
    assert [one.name for one in decide(*results(rows[0], foreign, gain=gain)).figures] == ["accuracy"]


def test_a_baseline_without_a_trial_has_a_verdict_and_no_export():
    network = advantage(GAIN, number=None, log_loss=(-0.9, -1.1, -0.7))
    decision = decide(*results(verified=(schedule(network),)))
    assert (decision.verdict, decision.trial, decision.config) == ("helps", None, "")
    assert [one.name for one in decision.figures] == ["accuracy"]
    assert commands(decision) == []


def test_an_unfinished_search_is_resumed_first():
    decision = decide(*results(finished=False, gain=estimated(advantage(GAIN))))
    resume = "se-search run --study 'runs/my run/study.yaml' --out 'runs/my run'"
    assert commands(decision)[0] == resume
    assert commands(decision)[1] == "se-search verify 'runs/my run'"
    assert_a_command_line_takes(resume)


@pytest.mark.parametrize(
    ("rows", "picks", "headline"),
    [
        ([trial(0, BARE, state="failed")], {}, "No configuration has been evaluated yet"),
        ([trial(0, BARE, feasible=False, on_front=False)], {}, "No evaluated configuration keeps the limits"),
        ([trial(1, UNIFORM)], {"knee": 1}, "Unknown whether SE helps: the network without SE was not evaluated"),
        (
            [trial(0, BARE)],
            {"knee": 0},
            "Unknown whether SE helps: no network with SE within the limits was evaluated",
        ),
    ],
)
def test_without_a_comparison_there_is_no_result(rows, picks, headline):
    decision = decide(*results(*rows, picks=picks))
    assert (decision.verdict, decision.headline, decision.figures) == ("no result yet", headline, ())
    more = "se-search run --study 'runs/my run/study.yaml' --budget 6 --out 'runs/my run'"
    assert commands(decision) == ([] if rows[0]["state"] == "failed" else [more])


def test_functions_of_python_have_no_command_that_searches_or_exports_their_weights():
    own = OwnEvaluatorDefinition(name=f"{FROM_PYTHON}mine")
    decision = decide(*results(evaluator=own, finished=False, gain=estimated(advantage(GAIN))))
    assert commands(decision) == ["", "se-search verify 'runs/my run'"]
    assert "se_search.search" in decision.next[0].reason
    objectives = OBJECTIVES["accuracy"], custom_objective("energy", "minimize")
    assert commands(decide(*results(objectives=objectives, finished=False)))[0] == ""
