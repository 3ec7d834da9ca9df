"""The plan of a search: exact corners, estimates of every evaluator, nothing written, and the time left."""

import io
import time

import pytest
import timm
import torch
from own_evaluators import Quick
from rich.console import Console

import se_search
from se_search import SEConfig, parameter_overhead, progress
from se_search.cluster.executor import ClusterOptions
from se_search.data.load import load_data
from se_search.driver.plan import find_corners
from se_search.network.backbones import create_on_meta
from se_search.network.insertion import count_parameters, write_weights
from se_search.network.overhead import count_flops
from se_search.progress import Phase, Schedule
from se_search.study.files import load_space, load_study
from se_search.study.space import SearchSpace
from se_search.training.evaluator import EstimatingEvaluator
from se_search.trials.evaluators import create_shipped

SIZE = (3, 32, 32)


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("space", ["stages", "blocks"])
def test_the_corners_are_the_bare_backbone_and_the_smallest_ratio_everywhere(space):
    fewest, most = find_corners(SearchSpace("test_resnet", load_space(space)), SIZE)
    backbone = create_on_meta("test_resnet")
    assert (fewest.parameters, fewest.parameter_overhead) == (count_parameters(backbone), 0)
    assert fewest.flops == count_flops(backbone, SIZE)
    assert "no SE" in fewest.name
    smallest = min(load_space(space).kinds["se"].ratios)
    largest = parameter_overhead(SEConfig.uniform("test_resnet", smallest))
    assert most.parameter_overhead == largest.ratio
    assert most.parameters == fewest.parameters + largest.counted


def test_no_network_of_a_thinning_space_is_outside_its_corners():
    space = SearchSpace("seresnet50", load_space("thin"))
    fewest, most = find_corners(space, SIZE)
    costs = [parameter_overhead(config).ratio for config in space.known_answers().values()]
    assert fewest.parameter_overhead == min(costs)
    assert most.parameter_overhead >= max(costs) == 0


def test_a_dry_run_of_a_finished_run_writes_nothing_and_plans_what_is_left(finished_run, capsys, monkeypatch):
    waiting = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("se_search.driver.plan.console", waiting)
    before = contents(finished_run)
    study = str(finished_run / "tiny.yaml")
    plan = se_search.plan(study=study, out=finished_run / "run", budget=10)
    assert contents(finished_run) == before
    assert "Timing a few steps" in waiting.file.getvalue()
    assert plan.trials == 4
    # The supernet is trained already.
    titles = ["Evaluating configurations", "Measuring the latency of the front and its rivals again"]
    assert [phase.title for phase in plan.phases] == [*titles, "Writing the report"]
    assert plan.seconds > 0
    assert plan.disk > 5_000_000
    plan.show()
    shown = capsys.readouterr().out
    for words in (
        "stage 2: ",
        "Evaluated first: no SE, uniform r=16",
        "Most parameters",
        "Published for SE",
        "Estimated: about",
    ):
        assert words in shown


def test_how_long_trials_take_on_a_cluster_is_unknown(finished_run, monkeypatch):
    monkeypatch.setattr(ClusterOptions, "check", lambda options, study: None)  # there is no cluster
    plan = se_search.plan(study=str(finished_run / "tiny.yaml"), out=finished_run / "run", budget=10, ray="auto")
    assert plan.seconds is None
    assert "nodes of the cluster decide how many trials run at once" in plan.problem


def test_one_process_of_torchrun_plans(finished_run, monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=r"^0$"):
        se_search.plan(study=str(finished_run / "tiny.yaml"), out=finished_run / "run", budget=10)


def test_the_plan_of_a_run_names_its_phases_in_their_order(finished_run):
    shown = (finished_run / "output.txt").read_text()
    titles = ["Training the supernet", "Evaluating configurations", "Measuring the latency", "Writing the report"]
    assert sorted(titles, key=shown.index) == titles
    assert "(0/" in shown[shown.index("Writing the report") :]


def test_an_evaluator_that_gives_no_estimate_is_said_to_give_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan = se_search.plan(backbone="test_resnet", evaluator=Quick, budget=3, latency={"limit": 0.05, "size": "data"})
    plan.show()
    assert "The evaluator python:Quick gives no estimate." in capsys.readouterr().out
    assert plan.seconds is None
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", "test_resnet")


@pytest.mark.parametrize(
    ("settings", "titles"),
    [
        ({"name": "supernet"}, ["Training the supernet"]),
        ({"name": "supernet", "pretrained": "weights.safetensors"}, ["Training the supernet"]),
        ({"name": "finetune"}, ["Training the backbone"]),
        ({"name": "scratch", "seeds": 2}, []),
    ],
    ids=["supernet", "pretrained", "finetune", "scratch"],
)
def test_estimates_change_neither_weights_nor_random_states_nor_files(tmp_path, monkeypatch, digits, settings, titles):
    monkeypatch.chdir(tmp_path)
    if "pretrained" in settings:
        write_weights(timm.create_model("test_resnet", num_classes=10), tmp_path / "weights.safetensors")
    study = load_study("digits", backbone="test_resnet", device="cpu", evaluator=settings)
    space = SearchSpace("test_resnet", study.resolved_space)
    evaluator = create_shipped(study, space, digits)
    assert isinstance(evaluator, EstimatingEvaluator)
    files = contents(tmp_path)
    model = getattr(evaluator, "model", torch.nn.Identity())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    effort = evaluator.estimate(tmp_path, space)
    assert [phase.title for phase in effort.phases] == titles
    assert all(phase.seconds > 0 for phase in effort.phases)
    assert effort.trial > 0
    assert contents(tmp_path) == files
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_schedule_takes_the_observed_speed_after_three_steps(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    schedule = Schedule([Phase("gone", 5, 9.0), Phase("train", 10, 1.0), Phase("write", 1, 4.0)])
    assert schedule.seconds_left == 45 + 10 + 4
    schedule.begin("train", 10, 2)  # two steps were taken before; the first phase is not needed
    assert schedule.seconds_left == 8 + 4
    clock[0] = 4.0
    schedule.advance(2)
    assert schedule.seconds_left == 6 + 4
    clock[0] = 6.0
    schedule.advance(1)
    assert schedule.seconds_left == 5 * 2 + 4
    schedule.end()
    assert schedule.seconds_left == 4


def test_a_phase_of_unknown_speed_has_one_after_its_first_step(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    schedule = Schedule([Phase("evaluate", 4)])
    schedule.begin("evaluate", 4, 0)
    assert schedule.seconds_left is None
    clock[0] = 30.0
    schedule.advance(1)
    assert schedule.seconds_left == 90
    assert schedule.in_words() == "; about 1.5 min left"


def test_lines_of_the_outer_bar_tell_the_time_left(capsys):
    with progress.following(Schedule([Phase("outer", 3, 60.0)])), progress.progress_bar("outer", 3) as advance:
        with progress.progress_bar("inner", 2) as inner:
            inner(1, "inside")
        advance(1, "first")
    lines = capsys.readouterr().out.splitlines()
    assert "inside" in lines
    assert "first; about 2.0 min left" in lines
