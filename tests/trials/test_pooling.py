"""Pooled latencies of a run: what is measured, stored, shown, and measured again after the last trial."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from own_evaluators import Quick
from timm.layers import SEModule

from se_search import load_run
from se_search.driver.loop import run_search
from se_search.errors import RunFolderError
from se_search.latency.additive import MeasuredLatency
from se_search.latency.meter import LatencyMeter, Ratio
from se_search.latency.pooled import LatencyPool, pool_latencies
from se_search.network.config import SEConfig
from se_search.network.insertion import create_model_on_meta
from se_search.network.overhead import count_flops
from se_search.results.contenders import latency_contenders
from se_search.statistics import accuracy_estimate, mean_estimate
from se_search.study.definitions import StudyDefinition
from se_search.study.files import load_study
from se_search.training.evaluator import Evaluation
from se_search.trials.folder import load_trials, read_definition
from se_search.trials.latency import latency_size, resolve_latency
from se_search.trials.notes import with_measured_latency
from se_search.trials.pooling import LOOKS, further_looks, pooled_trials
from se_search.trials.resume import with_choices_of


class Larger(Quick):
    """An evaluator that finds more SE blocks more accurate, so that much is on the front."""

    def evaluate(self, config):
        right = np.arange(len(self.data.validation)) < 200 + 10 * len(config.placed)
        losses = np.where(right, 0.1, 3.0).astype(np.float32)
        return Evaluation(accuracy_estimate(right), mean_estimate(losses), right[None], losses[None])


@pytest.fixture
def looks(monkeypatch):
    """Ratios that depend on the blocks alone but for noise, and the list of limits with which each was measured."""
    limits, random = [], np.random.default_rng(0)

    def measure(meter, model, look=None):
        limits.append(look)
        blocks = sum(isinstance(module, SEModule) for module in model.modules())
        ratio = 1 + 0.02 * blocks + 0.004 * random.normal()
        error = 4.3 * 0.004 * math.sqrt(random.chisquare(2) / 2)
        return Ratio(ratio, ratio - error, ratio + error, 6, 3, "limit", 0.0, meter.conditions)

    monkeypatch.setattr(LatencyMeter, "measure", measure)
    return limits


def search(folder, budget=12, **overrides):
    study = load_study("digits", backbone="test_resnet", budget=budget, latency_size="data", **overrides)
    run_search(study, folder, Larger)


def test_each_trial_gets_a_short_look_then_the_front_and_its_rivals_get_more(tmp_path, looks, capsys):
    search(tmp_path / "run")
    study = load_trials(tmp_path / "run")
    again = further_looks(study)
    assert set(looks) == {1.0}
    assert len(looks) == 12 + sum(map(len, again.values()))
    assert 0 < sum(map(len, again.values())) <= 2 * 12 // 3
    contenders = {one.number for one in latency_contenders(with_measured_latency(study))}
    assert "front members and rivals is within ±0.5 %" in capsys.readouterr().out
    trials = load_run(tmp_path / "run").trials
    assert set(trials.loc[trials["on_front"], "number"]) <= contenders
    assert 0 not in again  # the backbone, whose ratio is known


def test_tables_show_the_pooled_ratio_and_the_measured_one(tmp_path, looks):
    search(tmp_path / "run")
    stored, trials = load_trials(tmp_path / "run"), load_run(tmp_path / "run").trials
    again = further_looks(stored)
    measured = []
    for trial in stored.get_trials():
        for notes in (trial.user_attrs, *again.get(trial.number, [])):
            look = notes["latency_look"]
            ratio = Ratio(look["median"], look["low"], look["high"], 6, 3, "limit", 0.0, None)
            measured.append(MeasuredLatency(SEConfig.from_json(trial.user_attrs["config"]), ratio))
    expected = pool_latencies(measured)
    for place, row in enumerate(trials.to_dict("records")):
        estimate = expected.estimate(place)
        shown = [row[name] for name in ("latency_ratio", "latency_low", "latency_high")]
        assert shown == pytest.approx([estimate.value, estimate.low, estimate.high])
    once = trials[~trials["number"].isin(list(again))]
    for row in once.to_dict("records"):
        notes = stored.trials[row["number"]].user_attrs
        assert row["latency_measured"] == notes["latency_measured"]
    assert trials["latency_ratio"][0] == 1.0 != trials["latency_measured"][0]
    pooled = pooled_trials(stored)
    assert pooled.numbers == tuple(trials["number"])
    np.testing.assert_allclose(pooled.ratios, trials["latency_ratio"])
    assert pooled.covariance.shape == (12, 12)
    # Together the ratios are more certain than each alone.
    wide = trials["latency_measured_high"] - trials["latency_measured_low"]
    assert ((trials["latency_high"] - trials["latency_low"]) / wide)[1:].median() < 1


def test_a_report_pools_the_latencies_of_a_run_once(tmp_path, looks, monkeypatch):
    search(tmp_path / "run")
    fits, fit = [], LatencyPool.fit
    monkeypatch.setattr(LatencyPool, "fit", lambda pool: fits.append(pool) or fit(pool))
    load_run(tmp_path / "run").report()
    assert len(fits) == 1


def test_an_interrupted_run_resumes_its_further_measurements_and_a_finished_one_makes_none(
    tmp_path, looks, monkeypatch
):
    measure = LatencyMeter.measure

    def interrupted(meter, model, look=None):
        if len(looks) == 14:
            raise KeyboardInterrupt
        return measure(meter, model, look)

    with monkeypatch.context() as patch:
        patch.setattr(LatencyMeter, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "run")
    assert sum(map(len, further_looks(load_trials(tmp_path / "run")).values())) == 2
    search(tmp_path / "run")
    total = len(looks)
    assert total == 12 + sum(map(len, further_looks(load_trials(tmp_path / "run")).values()))
    search(tmp_path / "run")
    assert len(looks) == total


def test_a_trial_that_cannot_be_measured_again_keeps_its_look(tmp_path, looks, monkeypatch, capsys):
    measure = LatencyMeter.measure

    def fails(meter, model, look=None):
        if len(looks) >= 6:
            raise RuntimeError("the device is gone")
        return measure(meter, model, look)

    monkeypatch.setattr(LatencyMeter, "measure", fails)
    search(tmp_path / "run", 6)
    assert "cannot be measured: RuntimeError: the device is gone" in capsys.readouterr().out
    assert not further_looks(load_trials(tmp_path / "run"))
    assert list(load_run(tmp_path / "run").trials["state"]) == ["complete"] * 6


@pytest.mark.parametrize(
    "looks_of_somebody",
    [3, [3], [{}], [{"latency_look": {"median": 1.0, "low": 2.0, "high": 3.0}}]],
)
def test_further_measurements_that_nobody_wrote_are_refused(tmp_path, looks, looks_of_somebody):
    search(tmp_path / "run", 3)
    load_trials(tmp_path / "run").set_user_attr(f"{LOOKS}1", looks_of_somebody)
    with pytest.raises(RunFolderError, match="were not written by se-search"):
        load_run(tmp_path / "run").trials  # noqa: B018


def test_embedded_data_are_timed_at_timms_size_of_the_backbone_and_images_at_their_own():
    embedded = StudyDefinition(backbone="resnet50")
    assert latency_size(embedded, (3, 32, 32)) == (3, 224, 224)  # timm.create_model("resnet50").default_cfg
    assert latency_size(StudyDefinition(backbone="test_resnet"), (3, 32, 32)) == (3, 160, 160)
    assert latency_size(StudyDefinition(backbone="resnet50", data="my-images"), (3, 96, 96)) == (3, 96, 96)
    for given, size in ((64, 64), ("64", 64), ("data", 32), (None, 32), ("backbone", 224)):
        definition = StudyDefinition(backbone="resnet50", latency={"size": given})
        assert latency_size(definition, (3, 32, 32)) == (3, size, size)


def test_the_study_of_a_run_names_the_size_and_a_run_of_an_earlier_version_keeps_its_own():
    now = StudyDefinition(backbone="resnet50")
    assert resolve_latency(now).latency.size == "backbone"
    assert resolve_latency(StudyDefinition(backbone="resnet50", data="my-images")).latency.size == "data"
    before = read_definition(Path(__file__).parents[1] / "fixtures" / "version-0.1.0" / "run")
    resumed = with_choices_of(before, load_study("digits", backbone="resnet50")).latency
    assert (resumed.source, resumed.size) == ("measured", "data")
    given = load_study("digits", backbone="resnet50", latency={"source": "pooled", "size": 64})
    resumed = with_choices_of(before, given).latency
    assert (resumed.source, resumed.size) == ("pooled", 64)


def test_flops_are_counted_at_the_size_of_the_latency(tmp_path, looks):
    run_search(load_study("digits", backbone="test_resnet", budget=2), tmp_path / "run", Larger)
    run = load_run(tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run" / "study.yaml").read_text())["latency"]["size"] == "backbone"
    config = SEConfig.from_json(run.trials["config"][1])
    bare, searched = (
        count_flops(create_model_on_meta(one), (3, 160, 160)) for one in (SEConfig("test_resnet"), config)
    )
    assert run.trials["flops_overhead"][1] == pytest.approx(searched / bare - 1, rel=1e-6)
