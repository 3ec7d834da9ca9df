"""What the program chooses for a run, from the machine and from the run folder."""

import json
import warnings

import pytest
from own_evaluators import Quick

import se_search
from se_search.api import start
from se_search.data.load import load_data
from se_search.errors import DefinitionError
from se_search.study.files import load_study
from se_search.tracking import tracking
from se_search.tracking.tracker import Tracker
from se_search.training.recipe import StepTimes, Training
from se_search.trials.evaluators import choose_training
from se_search.trials.folder import read_definition
from se_search.trials.resume import with_choices_of

AUTO = {"name": "supernet", "precision": "auto", "channels_last": "auto"}
PLAIN, LAST, HALF, BOTH = [(precision, last) for precision in ("float32", "bfloat16") for last in (False, True)]


@pytest.fixture
def takes(monkeypatch):
    """A function that sets the seconds of a step by precision and memory format, and returns what is timed."""

    def of(seconds):
        timed = []

        def time_steps(training, losses):
            key = training.recipe.precision, training.recipe.channels_last
            timed.append(key)
            return StepTimes(9.0, seconds[key])

        monkeypatch.setattr(Training, "time_steps", time_steps)
        return timed

    return of


@pytest.fixture
def unreported(monkeypatch):
    """Searches write no report, which would take about a second each."""
    monkeypatch.setattr(se_search.Run, "report", lambda run: None)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", "test_resnet")


@pytest.mark.parametrize(
    ("given", "seconds", "chosen"),
    [
        (AUTO, {PLAIN: 1.0, LAST: 0.6, HALF: 0.9, BOTH: 0.5}, BOTH),
        (AUTO, {PLAIN: 1.0, LAST: 0.6, HALF: 3.0, BOTH: 4.0}, LAST),
        (AUTO, {PLAIN: 1.0, LAST: 0.97, HALF: 0.96, BOTH: 1.2}, PLAIN),  # not worth a change
        (AUTO | {"precision": "bfloat16"}, {HALF: 1.0, BOTH: 0.5}, BOTH),
        (AUTO | {"channels_last": True}, {LAST: 1.0, BOTH: 2.0}, LAST),
        ({"name": "supernet"}, {}, PLAIN),
    ],
)
def test_auto_takes_what_is_clearly_fastest_and_a_choice_overrides(takes, digits, given, seconds, chosen):
    timed = takes(seconds)
    study = load_study("digits", backbone="test_resnet", device="cpu", evaluator=given)
    study, speeds = choose_training(study, digits)
    assert (study.evaluator.precision, study.evaluator.channels_last) == chosen
    assert timed == list(seconds)
    assert {(one.precision, one.channels_last): one.seconds for one in speeds} == seconds


def test_processes_of_torchrun_do_not_choose_each_for_itself(takes, digits, monkeypatch):
    takes({})
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DefinitionError, match="cannot be auto under torchrun, because each of its 2 processes"):
        choose_training(load_study("digits", backbone="test_resnet", device="cpu", evaluator=AUTO), digits)


@pytest.mark.usefixtures("unreported")
def test_a_resumed_run_keeps_the_choice_and_run_json_has_the_times(takes, tmp_path):
    settings = {"evaluator.channels_last": "auto"}
    more = {"backbone": "test_resnet", "evaluator": Quick, "latency": {"limit": 0.01, "size": "data"}, "out": tmp_path}
    takes({PLAIN: 1.0, LAST: 0.5})
    se_search.search(**more, budget=1, settings=settings)
    takes({})  # nothing is timed again
    se_search.search(**more, budget=2, settings=settings)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["channels_last"] is True
    assert [one["seconds"] for one in record["training_speeds"]] == [1.0, 0.5]


def test_what_a_study_leaves_out_is_that_of_its_run_folder():
    def study(**given):
        return load_study("digits", backbone="resnet50", **given)

    there = study(threads=3, device="cuda:1", precision="bfloat16")
    resumed = with_choices_of(there, study())
    assert (resumed.threads, resumed.device, resumed.evaluator.precision) == (3, "cuda:1", "bfloat16")
    resumed = with_choices_of(there, study(threads=2, device="cpu", evaluator={"precision": "float32"}))
    assert (resumed.threads, resumed.device, resumed.evaluator.precision) == (2, "cpu", "float32")
    assert with_choices_of(there, study(device="auto")).device == "cuda:1"
    there = study(evaluator={"recalibration_images": 512})  # the default of earlier versions
    assert with_choices_of(there, study()).evaluator.recalibration_images == 512
    assert with_choices_of(there, study(evaluator={"recalibration_images": 64})).evaluator.recalibration_images == 64
    scratch = study(evaluator={"name": "scratch"})  # has no such setting
    assert with_choices_of(there, scratch) == with_choices_of(scratch, scratch)


@pytest.mark.usefixtures("unreported")
def test_a_resumed_search_keeps_tracking_as_its_folder_says(tmp_path, monkeypatch):
    opened = []

    class Numbers(Tracker):
        def __init__(self, folder, key):
            self.trials = []
            opened.append(self)

        def log_trial(self, number, parameters, values):
            self.trials.append(number)

        log_curve = log_figure = close = lambda self, *given: None

    monkeypatch.setattr(tracking, "_find", lambda package: Numbers)
    monkeypatch.setattr(start, "report_figures", lambda *results: {})
    more = {"backbone": "test_resnet", "evaluator": Quick, "latency": {"limit": 0.01, "size": "data"}, "out": tmp_path}
    se_search.search(**more, budget=1, track="wandb")
    se_search.search(**more, budget=2)
    assert [one.trials for one in opened] == [[0], [1]]
    assert read_definition(tmp_path).track == "wandb"


@pytest.mark.usefixtures("unreported")
def test_a_warning_is_shown_once_and_counted_over_resumes(tmp_path):
    class Warns(Quick):
        def evaluate(self, config):
            warnings.warn("of a library", UserWarning, stacklevel=1)
            return super().evaluate(config)

    more = {"backbone": "test_resnet", "evaluator": Warns, "latency": {"limit": 0.01, "size": "data"}}
    with pytest.warns(UserWarning, match="of a library") as shown:
        se_search.search(**more, budget=3, out=tmp_path)
    assert len([one for one in shown if "of a library" in str(one.message)]) == 1
    with pytest.warns(UserWarning, match="of a library"):
        se_search.search(**more, budget=4, out=tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["warnings"] == {"UserWarning: of a library": 4}
