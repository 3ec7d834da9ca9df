"""Latencies of another device: measured there into a file, and predicted here from it."""

import json
import random
import subprocess
import sys

import pytest
from own_evaluators import Quick
from timm.layers import SEModule
from typer.testing import CliRunner

from se_search import SEConfig
from se_search.api.latency import measure_latency_model
from se_search.cli import app
from se_search.driver.loop import run_search
from se_search.errors import DefinitionError, RunFolderError
from se_search.latency import meter
from se_search.latency.additive import measurements_from_json
from se_search.latency.pooled import pool_latencies
from se_search.report.page import render_report
from se_search.report.text import render_markdown
from se_search.results.record import read_results
from se_search.study.files import load_study
from se_search.trials.latency import LATENCY_MODEL_FILE
from se_search.trials.notes import PREDICTED


@pytest.fixture(scope="module")
def phone(tmp_path_factory):
    """A file that a device named phone has measured: 2 % for each SE block, with noise."""
    file = tmp_path_factory.mktemp("phone") / "phone.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "processor_name", lambda device: "phone")
        patch.setattr(meter.LatencyMeter, "measure", ratios_of_blocks(0.02))
        conditions = measure_latency_model("test_resnet", file)
        assert conditions.processor == "phone"
    return file


def ratios_of_blocks(cost):
    noise = random.Random(0)

    def measure(meter_, model, look=None):
        count = sum(isinstance(module, SEModule) for module in model.modules())
        ratio = 1 + cost * count + 0.001 * noise.gauss(0, 1)
        return meter.Ratio(ratio, ratio - 0.002, ratio + 0.002, 80, 8, "target", 0.0, meter_.conditions)

    return measure


def refuse(*args, **kwargs):
    raise AssertionError("nothing is measured here")


def search(folder, file, budget=3, **overrides):
    settings = {"backbone": "test_resnet", "latency_from": str(file), "budget": budget} | overrides
    run_search(load_study("digits", **settings), folder, Quick)


def test_a_search_here_predicts_the_latency_there(tmp_path, monkeypatch, phone):
    monkeypatch.setattr(meter, "processor_name", lambda device: "server")
    monkeypatch.setattr(meter.LatencyMeter, "__init__", refuse)
    folder = tmp_path / "run"
    search(folder, phone)
    trials, run = read_results(folder)
    assert set(trials["latency_stopped"]) == {PREDICTED}
    assert (run.latency.processor, run.latency_elsewhere) == ("phone", True)
    model = pool_latencies(measurements_from_json(phone.read_text()))
    for row in trials.to_dict("records"):
        assert row["latency_ratio"] == pytest.approx(model.predict(SEConfig.from_json(row["config"])).value)
        assert row["latency_ratio"] == pytest.approx(1 + 0.02 * row["se_blocks"], abs=0.004)
    sentence = "Latencies are predicted from measurements on phone; nothing was measured on this machine."
    assert sentence in run.cautions
    page = render_report(trials, run)
    assert sentence in page
    assert "On the front of a finished search" not in page
    assert "cpu (phone)" in render_markdown(trials, run)
    # The same command resumes; the run folder has the measurements.
    search(folder, phone, budget=4)
    assert len(read_results(folder)[0]) == 4
    assert (folder / LATENCY_MODEL_FILE).read_text() == phone.read_text()
    # They serve when the file is gone.
    gone = tmp_path / "gone.json"
    phone.rename(gone)
    search(folder, phone, budget=4)
    gone.rename(phone)
    # Another device than that of the trials before is refused.
    other = tmp_path / "tablet.json"
    other.write_text(phone.read_text().replace('"phone"', '"tablet"'))
    with pytest.raises(RunFolderError):
        search(folder, other, budget=5)
    phone_again = tmp_path / "again.json"
    phone_again.write_text(other.read_text())
    (folder / "study.yaml").write_text((folder / "study.yaml").read_text().replace(str(phone), str(phone_again)))
    with pytest.raises(RunFolderError, match="processor 'phone' before and 'tablet' now"):
        search(folder, phone_again, budget=5)


def changed(content, **values):
    content[-1]["ratio"] |= values
    return content


def on_another(content):
    content[-1]["ratio"]["conditions"]["processor"] = "tablet"
    return content


BROKEN = {
    "not JSON": (lambda content: "{", "is damaged or was not written by"),
    "another file": (lambda content: {"version": 1}, "is damaged or was not written by"),
    "a key is missing": (lambda content: [{"config": content[0]["config"]}], "is damaged or was not written by"),
    "a negative ratio": (lambda content: changed(content, low=-1.0), "is damaged or was not written by"),
    "a text for a number": (lambda content: changed(content, median="fast"), "is damaged or was not written by"),
    "no measurement": (lambda content: [], "has no measurement"),
    "two devices": (on_another, "mixes measurements.*'phone' before and 'tablet' now"),
    "too few": (lambda content: content[:3], "do not determine the latencies of this space"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damaged_and_foreign_files_are_refused_before_anything_is_written(tmp_path, phone, name):
    damage, message = BROKEN[name]
    content = damage(json.loads(phone.read_text()))
    file = tmp_path / "file.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DefinitionError, match=message) as caught:
        search(tmp_path / "run", file)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_file_for_other_images_or_another_backbone_or_none_is_refused(tmp_path, phone):
    with pytest.raises(DefinitionError, match="images of 3×160×160, and the study measures at 3×64×64"):
        search(tmp_path / "run", phone, latency_size=64)
    with pytest.raises(DefinitionError, match="is of backbone test_resnet, and the study's is resnet18"):
        search(tmp_path / "run", phone, backbone="resnet18", latency_size=160)
    with pytest.raises(DefinitionError, match=r"none\.json cannot be read: No such file"):
        search(tmp_path / "run", tmp_path / "none.json")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latency_batch": 8}, "has its own conditions: omit batch"),
        ({"latency": "measured"}, "requires the source model"),
    ],
)
def test_a_file_has_its_own_conditions(phone, settings, message):
    with pytest.raises(DefinitionError, match=f"latency_from is .*: {message}"):
        load_study("digits", backbone="test_resnet", latency_from=str(phone), **settings)


def test_the_command_writes_the_file_and_resumes_it_on_the_same_device_only(tmp_path, monkeypatch, phone):
    monkeypatch.setattr(meter.LatencyMeter, "measure", ratios_of_blocks(0.02))
    content = json.loads(phone.read_text())
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(content[:5]))
    command = ["latency", "test_resnet", "--model", str(file)]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "was measured with processor 'phone' before" in refused.stderr
    monkeypatch.setattr(meter, "processor_name", lambda device: "phone")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    assert "cpu (phone)" in done.stdout
    assert [one.config for one in measurements_from_json(file.read_text())] == [
        one.config for one in measurements_from_json(phone.read_text())
    ]
    both = CliRunner().invoke(app, [*command, "--runtime", "eager", "--runtime", "compile"])
    assert both.stderr == "Error: --model measures a space with one runtime: omit --config and further runtimes\n"


AS = (
    "import sys\nfrom se_search.cli import app\nfrom se_search.latency import meter\n"
    "meter.processor_name = lambda device: sys.argv[1]\napp(sys.argv[2:])"
)
"""A command on a device of that name."""


def run_as(device, *arguments, folder):
    return subprocess.run(
        [sys.executable, "-c", AS, device, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_file_goes_from_a_process_on_one_device_to_one_on_another(tmp_path):
    measure = ("latency", "test_resnet", "--model", "phone.json", "--size", "32", "--limit", "0.1", "--threads", "1")
    done = run_as("phone", *measure, folder=tmp_path)
    assert "cpu (phone)" in done.stdout, done.stderr
    settings = ("--set", "evaluator.epochs=1", "--set", "evaluator.recalibration_images=64", "--latency-size", "32")
    search = ("run", "--backbone", "test_resnet", "--out", "run", "--latency-from", "phone.json", *settings)
    done = run_as("server", *search, "--budget", "4", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    trials, run = read_results(tmp_path / "run")
    assert (run.latency.processor, run.latency_elsewhere) == ("phone", True)
    model = pool_latencies(measurements_from_json((tmp_path / "phone.json").read_text()))
    assert list(trials["latency_ratio"]) == pytest.approx(
        [model.predict(SEConfig.from_json(one)).value for one in trials["config"]]
    )
    assert "predicted from measurements on phone" in (tmp_path / "run" / "report.html").read_text()
    # Another device adds nothing to the file, and the run does not take its measurements.
    refused = run_as("server", *measure, folder=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    (tmp_path / "phone.json").unlink()
    assert run_as("server", *measure, folder=tmp_path).returncode == 0
    refused = run_as("server", *search, "--budget", "5", folder=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    # Without the file the run resumes from its copy.
    (tmp_path / "phone.json").unlink()
    assert run_as("server", *search, "--budget", "5", folder=tmp_path).returncode == 0
    assert len(read_results(tmp_path / "run")[0]) == 5
