"""How a study measures and predicts latency: the additive model in a run, from its measurements to the front."""

import json
import random

import numpy as np
import pytest
from own_evaluators import Quick
from timm.layers import SEModule

from se_search import SEConfig, load_run
from se_search.driver.loop import run_search
from se_search.driver.verification import run_verification
from se_search.errors import DefinitionError, EvaluationError, RunFolderError
from se_search.latency.additive import count_terms, measurements_from_json
from se_search.latency.meter import LatencyMeter, Ratio
from se_search.report.page import render_report
from se_search.results.record import read_results
from se_search.results.table import candidates_of
from se_search.statistics import accuracy_estimate, mean_estimate
from se_search.study.files import load_space, load_study
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.training.evaluator import Evaluation
from se_search.trials.latency import LATENCY_MODEL_FILE, configurations_to_measure

ONE_RATIO = SpaceDefinition(placement="stage", ratios=(16,), gates=("sigmoid",))


@pytest.fixture
def measured(monkeypatch):
    """Ratios that depend on the network alone, and a list of how many SE blocks each measured one had."""
    blocks = []

    def measure(meter, model, look=None):
        count = sum(isinstance(module, SEModule) for module in model.modules())
        blocks.append(count)
        ratio = 1 + 0.02 * count + 0.001 * random.Random(len(blocks)).gauss(0, 1)
        return Ratio(ratio, ratio - 0.002, ratio + 0.002, 80, 8, "target", 0.0, meter.conditions)

    monkeypatch.setattr(LatencyMeter, "measure", measure)
    return blocks


class Larger(Quick):
    """An evaluator that finds more SE blocks and wider ones more accurate, so that much is on the front."""

    def evaluate(self, config):
        right = (
            np.arange(len(self.data.validation))
            < 200 + 10 * len(config.placed) + sum(one.hidden for one in config.placed) / 8
        )
        losses = np.where(right, 0.1, 3.0).astype(np.float32)
        return Evaluation(accuracy_estimate(right), mean_estimate(losses), right[None], losses[None])


def search(folder, budget, **overrides):
    study = load_study("digits", backbone="test_resnet", latency="model", budget=budget, **overrides)
    run_search(study, folder, Larger)


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv3_small_050", "test_vit"])
@pytest.mark.parametrize("name", ["stages", "blocks"])
def test_what_is_measured_for_the_model_tells_the_cost_of_every_configuration_of_the_space(backbone, name):
    space = SearchSpace(backbone, load_space(name))
    configs = configurations_to_measure(space, 0)
    known = {term for config in configs for term in count_terms(config)}
    drawn = [space.draw(random.Random(seed)) for seed in range(50)]
    assert all(count_terms(config).keys() <= known for config in (*drawn, *space.known_answers().values()))
    assert len(configs) >= len(known) + 8
    assert SEConfig(backbone) not in configs
    assert configs == configurations_to_measure(space, 0)


def test_a_space_of_one_ratio_is_measured_at_one_width_and_a_tiny_one_repeatedly():
    space = SearchSpace("test_resnet", ONE_RATIO)
    configs = configurations_to_measure(space, 0)
    assert len(configs) == 4 + 8
    assert all(len(config.placed) == 1 for config in configs[:4])
    stages = {placed.site.stage for config in configs[:4] for placed in config.placed}
    assert stages == set(space.stages)


@pytest.mark.slow
def test_a_run_predicts_its_trials_and_measures_its_front(tmp_path):
    folder = tmp_path / "run"
    evaluator = {"epochs": 1, "recalibration_images": 64}
    study = load_study(
        "digits",
        backbone="test_resnet",
        budget=5,
        evaluator=evaluator,
        latency="model",
        latency_limit=0.05,
        latency_size="data",
    )
    run_search(study, folder)
    trials, run = read_results(folder)
    on_front = trials[trials["on_front"]]
    assert len(trials) == 5
    assert len(on_front)
    assert set(on_front["latency_stopped"]) <= {"target", "limit"}
    assert on_front["latency_pairs"].notna().all()
    predicted = trials[trials["latency_stopped"] == "model"]
    assert predicted["latency_pairs"].isna().all()
    assert (trials["latency_low"] < trials["latency_ratio"]).all()
    assert (trials["latency_ratio"] < trials["latency_high"]).all()
    learned = measurements_from_json((folder / LATENCY_MODEL_FILE).read_text(encoding="utf-8"))
    space = SearchSpace("test_resnet", load_space("stages"))
    assert [one.config for one in learned] == configurations_to_measure(space, 0)
    assert run.latency_learned_from == 16
    assert "Pareto front" in render_report(trials, run)


def test_a_finished_run_measures_nothing_again_and_a_larger_budget_only_new_members(tmp_path, measured):
    search(tmp_path / "run", 4)
    once = len(measured)
    assert once == 16 + len(candidates_of(load_run(tmp_path / "run").trials))
    search(tmp_path / "run", 4)
    assert len(measured) == once
    search(tmp_path / "run", 8)
    trials = load_run(tmp_path / "run").trials
    assert len(measured) == 16 + (trials["latency_stopped"] != "model").sum()
    assert set(trials[trials["on_front"]]["latency_stopped"]) == {"target"}


def test_a_member_that_turns_out_slow_leaves_the_front_and_others_are_measured_in_its_place(
    tmp_path, monkeypatch, measured
):
    measure = LatencyMeter.measure

    def slow_on_the_front(meter, model, look=None):
        ratio = measure(meter, model)
        learning = len(measured) <= 16
        return ratio if learning else Ratio(2.0, 1.9, 2.1, 80, 8, "limit", 0.0, meter.conditions)

    monkeypatch.setattr(LatencyMeter, "measure", slow_on_the_front)
    search(tmp_path / "run", 8, max_latency=1.5)
    trials, run = read_results(tmp_path / "run")
    # Predicted ratios keep the limit and measured ones do not: in the end all have been measured.
    assert set(trials["latency_ratio"]) == {2.0}
    assert (trials["latency_high"] == 2.1).all()
    assert not trials["feasible"].any()
    assert not trials["on_front"].any()
    assert len(measured) == 16 + 8
    assert run.hypervolume_history[-1] == 0.0
    assert any(line.startswith("16 of 24 latencies reached the ±0.5 % target") for line in run.cautions)
    with pytest.raises(RunFolderError, match="limits"):
        run_verification(tmp_path / "run")


def test_a_member_that_cannot_be_measured_stays_predicted_and_the_others_are_measured(tmp_path, monkeypatch, measured):
    measure = LatencyMeter.measure

    def fails_with_four_blocks(meter, model, look=None):
        ratio = measure(meter, model)
        if len(measured) > 16 and measured[-1] == 4:
            raise MemoryError("this network is too large")
        return ratio

    monkeypatch.setattr(LatencyMeter, "measure", fails_with_four_blocks)
    search(tmp_path / "run", 6)
    trials, run = read_results(tmp_path / "run")
    front = candidates_of(trials)
    assert set(front["latency_stopped"]) == {"model", "target"}
    assert set(front[front["latency_stopped"] == "model"]["se_blocks"]) == {4}
    assert run.finished


def test_a_configuration_that_cannot_be_timed_ends_the_search_in_one_sentence(tmp_path, monkeypatch):
    def fail(meter, model, look=None):
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(LatencyMeter, "measure", fail)
    with pytest.raises(EvaluationError, match=r"^configuration \w+ cannot be timed: no kernel for this$"):
        search(tmp_path / "run", 2)


def test_a_backbone_that_its_runtime_refuses_is_refused_before_anything_is_written(tmp_path):
    study = load_study("digits", backbone="test_resnet", latency_batch=2**20, latency_size=2**12)
    with pytest.raises(
        DefinitionError, match=r"^images of 3×4096×4096 in batches of 1048576 do not fit into the memory"
    ):
        run_search(study, tmp_path / "run", Larger)
    assert not (tmp_path / "run").exists()


def test_a_run_killed_while_it_measures_goes_on_there(tmp_path, monkeypatch, measured):
    measure = LatencyMeter.measure
    killed_after = [4, 16 + 1]

    def interrupted(meter, model, look=None):
        if killed_after and len(measured) == killed_after[0]:
            killed_after.pop(0)
            raise KeyboardInterrupt
        return measure(meter, model)

    monkeypatch.setattr(LatencyMeter, "measure", interrupted)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(folder, 4)
    assert len(measurements_from_json((folder / LATENCY_MODEL_FILE).read_text(encoding="utf-8"))) == 4
    with pytest.raises(KeyboardInterrupt):
        search(folder, 4)
    halfway = load_run(folder).trials
    assert list(halfway["state"]) == ["complete"] * 4
    assert (halfway["latency_stopped"] != "model").sum() == 1
    search(folder, 4)
    trials = load_run(folder).trials
    assert len(measured) == 16 + (trials["latency_stopped"] != "model").sum()
    assert set(trials[trials["on_front"]]["latency_stopped"]) == {"target"}


def test_measurements_of_another_machine_are_refused(tmp_path, measured):
    search(tmp_path / "run", 2)
    file = tmp_path / "run" / LATENCY_MODEL_FILE
    content = json.loads(file.read_text(encoding="utf-8"))
    for one in content:
        one["ratio"]["conditions"]["processor"] = "a faster one"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RunFolderError, match="was measured with processor 'a faster one' before and"):
        search(tmp_path / "run", 3)


def test_a_damaged_file_of_measurements_is_refused_and_one_that_was_removed_is_written_anew(tmp_path, measured):
    search(tmp_path / "run", 2)
    file = tmp_path / "run" / LATENCY_MODEL_FILE
    file.write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match="is damaged: remove it to measure again"):
        search(tmp_path / "run", 3)
    file.unlink()
    search(tmp_path / "run", 3)
    assert len(load_run(tmp_path / "run").trials) == 3
    assert len(measurements_from_json(file.read_text(encoding="utf-8"))) == 16
