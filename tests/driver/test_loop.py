"""The study loop on a tiny real backbone: budget, limits, failures, no duplicate evaluations."""

import os

import pytest
import torch

from se_search import SEConfig, load_run, parameter_overhead
from se_search.driver.loop import run_search
from se_search.errors import EvaluationError, RunFolderError
from se_search.latency.meter import LatencyMeter
from se_search.network.overhead import backbone_parameters
from se_search.report.page import render_report
from se_search.results.record import read_results
from se_search.study.files import load_space, load_study
from se_search.study.space import SearchSpace
from se_search.trials import folder as run_folder
from se_search.trials.evaluators import choose_device, warn_if_busy
from se_search.trials.resume import with_choices_of
from se_search.trials.trials import Trials

UNIFORM = SEConfig.uniform("test_resnet", 16)


@pytest.fixture
def going_on(finished_run):
    """The run folder of a finished search, and a function that resumes it with a larger budget."""
    folder = finished_run / "run"

    def go_on(more: int) -> None:
        study = load_study(str(finished_run / "tiny.yaml"))
        run_search(study.model_copy(update={"budget": study.budget + more}), folder)

    return folder, go_on


@pytest.fixture
def one_thread_more():
    """Increase PyTorch's thread count by one, as in another process."""
    threads = torch.get_num_threads() + 1
    torch.set_num_threads(threads)
    return threads


def tiny_study(finished_run, **overrides):
    return load_study(str(finished_run / "tiny.yaml"), **overrides)


def test_the_known_answers_come_first_and_the_budget_counts_distinct_networks(finished_run):
    trials = load_run(finished_run / "run").trials
    assert list(trials["name"])[:3] == ["no SE", "uniform r=16", "r=16 without the last stage"]
    assert len(trials) == tiny_study(finished_run).budget
    structures = {SEConfig.from_json(text).structure for text in trials["config"]}
    assert len(structures) == len(trials)


def test_a_known_answer_that_was_interrupted_or_killed_comes_first_when_the_search_resumes(tmp_path):
    study = load_study("digits", backbone="test_resnet", sampler="random")
    space = SearchSpace("test_resnet", load_space("stages"))
    with run_folder.open_folder(tmp_path / "run", study) as opened:
        started = Trials(study, space, (1, 8, 8), opened, {})
        started.interrupt(started.propose())
        Trials(study, space, (1, 8, 8), opened, {}).propose()  # and killed
        resumed = Trials(study, space, (1, 8, 8), opened, {})
        assert [resumed.propose().named["name"] for _ in range(2)] == ["no SE", "uniform r=16"]


def test_a_resume_reads_the_definition_of_its_folder_once(going_on, monkeypatch):
    folder, go_on = going_on
    read = []
    usual = run_folder.load_study
    monkeypatch.setattr(run_folder, "load_study", lambda name: read.append(name) or usual(name))
    go_on(1)
    assert read == [str(folder / "study.yaml")]


def test_parameters_beyond_the_limit_are_never_evaluated(finished_run, tmp_path, capsys):
    limit = 0.018
    assert parameter_overhead(UNIFORM).ratio > limit > parameter_overhead(UNIFORM.without_stage(5)).ratio
    run_search(tiny_study(finished_run, space="blocks", max_params="1.8%", budget=5), tmp_path / "run")
    trials = load_run(tmp_path / "run").trials
    assert len(trials) == 5
    counted = [parameter_overhead(SEConfig.from_json(text)).ratio for text in trials["config"]]
    assert max(counted) <= limit
    assert list(trials["name"])[:2] == ["no SE", "r=16 without the last stage"]
    assert "Skipped uniform r=16: it exceeds max_params." in capsys.readouterr().out


def test_a_configuration_exactly_at_the_limit_is_tried(tmp_path):
    space = SearchSpace("test_resnet", load_space("blocks"))
    alike = {name: True for name in space.distributions if name.startswith("layer")}
    config = space.to_config(
        {f"stage{stage}.ratio": 4 if stage == 5 else 2 for stage in space.stages}
        | {"gate": "sigmoid", **alike, "layer3.0": False}
    )
    added, backbone = parameter_overhead(config).counted, backbone_parameters("test_resnet")
    limit = added / backbone
    assert added > limit * backbone  # as floating-point numbers round
    study = load_study("digits", backbone="test_resnet", space="blocks", max_params=limit, sampler="random")
    with run_folder.open_folder(tmp_path / "run", study) as opened:
        trials = Trials(study, space, (1, 8, 8), opened, {config: "at the limit"})
        assert "at the limit" in [trials.propose().named.get("name") for _ in range(3)]


def test_a_latency_that_nothing_keeps_gives_an_empty_front_and_a_report_that_says_so(finished_run, tmp_path):
    run_search(tiny_study(finished_run, max_latency=0.01, budget=2), tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert len(run.trials) == 2
    assert run.front.empty
    assert not run.trials["feasible"].any()
    with pytest.raises(RunFolderError, match="within its limits"):
        run.config("knee")
    assert "No evaluated configuration keeps the limits" in render_report(*read_results(run.folder))


def test_when_everything_fails_the_search_stops_early_and_keeps_what_it_has(going_on, monkeypatch):
    folder, go_on = going_on
    before = load_run(folder).trials

    def fail(meter, model, look=None):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(LatencyMeter, "measure", fail)
    with pytest.raises(EvaluationError, match="5 trials in a row failed, the last with: the device is gone"):
        go_on(30)
    trials = load_run(folder).trials
    assert (trials["state"] == "complete").sum() == len(before)
    assert (trials["state"] == "failed").sum() == 5


def test_a_space_smaller_than_the_budget_ends_the_search(finished_run, tmp_path, capsys):
    (finished_run / "two.yaml").write_text("placement: stage\nratios: [16]\ngates: [sigmoid]\n")
    study = tiny_study(finished_run, space=str(finished_run / "two.yaml"), max_params="0.01%", budget=10)
    run_search(study, tmp_path / "run")
    # One SE block has more than 0.01 % of the backbone's parameters: only the network without SE is left.
    assert list(load_run(tmp_path / "run").trials["name"]) == ["no SE"]
    assert "the search ends after 1 of 10" in capsys.readouterr().out
    assert read_results(tmp_path / "run")[1].finished


def test_a_search_is_finished_when_it_has_ended_with_the_budget_that_it_has_now(going_on, monkeypatch):
    folder, go_on = going_on
    assert read_results(folder)[1].finished

    def interrupt(meter, model, look=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LatencyMeter, "measure", interrupt)
        with pytest.raises(KeyboardInterrupt):
            go_on(1)
    assert not read_results(folder)[1].finished
    go_on(1)
    assert read_results(folder)[1].finished


def test_a_search_goes_on_with_the_threads_that_it_began_with(finished_run, one_thread_more):
    folder = finished_run / "run"
    before = load_study(str(folder / "study.yaml")).threads
    assert before != one_thread_more
    run_search(tiny_study(finished_run), folder)
    assert load_study(str(folder / "study.yaml")).threads == before == torch.get_num_threads()
    with pytest.raises(RunFolderError, match=f"threads is {before} there and {one_thread_more} here"):
        run_search(tiny_study(finished_run, threads=one_thread_more), folder)


@pytest.mark.parametrize(
    ("has_gpu", "given", "device", "workers"),
    [
        (False, {}, "cpu", 0),
        (False, {"data": "my-images"}, "cpu", 0),
        (True, {}, "cuda", 0),  # embedded images are in memory
        (True, {"data": "my-images"}, "cuda", 5),
        (True, {"data": "my-images", "device": "cpu"}, "cpu", 0),
        (True, {"data": "my-images", "settings": {"data_workers": 2}}, "cuda", 2),
    ],
)
def test_a_gpu_is_used_where_there_is_one(has_gpu, given, device, workers, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    study = load_study("digits", backbone="test_resnet", **given)
    chosen = choose_device(study)
    assert (chosen.device, chosen.data_workers) == (device, workers)
    there = study.model_copy(update={"device": "cuda:1"})
    assert choose_device(with_choices_of(there, study)).device == ("cuda:1" if study.device == "auto" else "cpu")


def test_a_busy_machine_is_told_where_threads_would_wait_for_each_other(one_thread_more, monkeypatch, capsys):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for threads, load, told in ((2, 2.5, True), (2, 1.5, False), (1, 2.5, False)):
        torch.set_num_threads(threads)
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0, 0))
        warn_if_busy()
        said = capsys.readouterr().out
        assert ("Other processes keep the 2 CPUs busy (load 2.5): training with 2 threads" in said) == told
