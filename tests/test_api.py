"""The Python calls: what a notebook shows, functions given from Python, networks of one's own."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
import yaml
from own_evaluators import Quick
from timm.models import register_model
from timm.models.resnet import BasicBlock
from torch import nn
from typer.testing import CliRunner

from se_search import PlacedSE, SEConfig, create_model, find_sites, insert, load_exported, load_run, parameter_overhead
from se_search.api import search, spaces, start, studies
from se_search.cli import app
from se_search.cluster.executor import ClusterOptions
from se_search.data.load import load_data
from se_search.driver.loop import load_network
from se_search.errors import ConfigurationError, DefinitionError, RunFolderError
from se_search.report.tables import describe_front
from se_search.results.record import read_results
from se_search.results.table import front_of
from se_search.training.evaluator import evaluate_network
from se_search.trials.folder import load_trials

TINY = {"backbone": "test_resnet", "budget": 3, "latency": {"limit": 0.05, "size": "data"}}
SUPERNET = {"epochs": 1, "recalibration_images": 64}


class Untrained(Quick):
    """Judges networks with the weights that a seed gives them."""

    def network(self, config):
        torch.manual_seed(3)
        return super().network(config)

    def evaluate(self, config):
        return evaluate_network(self.network(config), self.data.validation)


class OwnNetwork(nn.Module):
    """Blocks of timm in a module of one's own."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        shortcut = nn.Sequential(nn.Conv2d(32, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
        self.early = nn.Sequential(BasicBlock(32, 32), BasicBlock(32, 32))
        self.late = nn.Sequential(BasicBlock(32, 64, 2, shortcut), BasicBlock(64, 64))
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(self.late(self.early(self.stem(x))).mean((2, 3)))


@register_model
def own_network(pretrained=False, num_classes=10, **kwargs):
    return OwnNetwork(num_classes)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_notebook_shows_the_front_and_where_the_report_is(finished_run):
    run = load_run(finished_run / "run")
    html = run._repr_html_()
    assert re.findall(r"<td>(\d+)</td>\s*<td>[\d.]+ % \[", html) == [str(number) for number in run.front["number"]]
    assert f"Report: {run.folder / 'report.html'}" in html
    (run.folder / "report.html").unlink()
    assert "No report yet" in run._repr_html_()


def test_what_a_notebook_shows_is_escaped(finished_run):
    trials, run = read_results(finished_run / "run")
    trials.loc[trials["on_front"], "name"] = "<script>alert(1)</script>"
    assert "<script>" in describe_front(trials, run)[""].iloc[0]
    folder = finished_run / "run<b>&"
    (finished_run / "run").rename(folder)
    html = load_run(folder)._repr_html_()
    assert "<b>" not in html
    assert "run&lt;b&gt;&amp;" in html


@pytest.mark.slow
def test_a_run_without_a_front_says_so_in_a_notebook(finished_run):
    study = load_run(search(**TINY, evaluator=SUPERNET, max_latency=0.01, out=finished_run / "none").folder)
    assert "No evaluated configuration keeps the limits" in study._repr_html_()
    assert "<table" not in study._repr_html_()


def test_the_front_in_words_is_the_front(finished_run):
    trials, run = read_results(finished_run / "run")
    words = describe_front(trials, run)
    front = front_of(trials)
    assert [int(number) for number in words["trial"]] == list(front["number"])
    assert [float(text.split("%")[0]) for text in words["parameters"]] == pytest.approx(
        list(front["parameter_overhead"] * 100), abs=0.005
    )
    picked = {pick: number for number, text in zip(words["trial"], words[""], strict=True) for pick in text.split(", ")}
    assert {pick: int(picked[pick]) for pick in run.picks} == run.picks


@pytest.mark.slow
def test_figures_are_those_of_the_report(finished_run):
    run = load_run(finished_run / "run")
    points = run.figure().data
    numbers = {int(number) for trace in points if trace.customdata is not None for number in trace.customdata}
    assert numbers == set(run.trials["number"])
    assert len(run.figure("hypervolume").data[0].y) == len(run.trials)
    with pytest.raises(RunFolderError, match=rf"figure 'hyper' is unknown.*{', '.join(run.figures)}"):
        run.figure("hyper")


def test_what_is_shipped_is_listed():
    # The files of the repository; tests/study/test_definitions.py names them.
    shipped = Path(__file__).parents[1] / "search_spaces"
    assert [one.name for one in spaces() if not one.package] == sorted(file.stem for file in shipped.glob("*.yaml"))
    assert studies()["digits"].budget == 50


def test_an_evaluator_given_from_python_judges_and_gives_its_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = search(**TINY, evaluator=Untrained, out="run")
    assert yaml.safe_load((tmp_path / "run" / "study.yaml").read_text())["evaluator"]["name"] == "python:Untrained"
    images, labels = load_data("digits").validation.tensors
    model = Untrained(None, None, load_data("digits")).network(SEConfig("test_resnet"))
    with torch.no_grad():
        expected = (model(images).argmax(1) == labels).double().mean().item()
    assert run.trials.set_index("name").loc["no SE", "accuracy"] == expected
    found, data = load_network(run.folder, SEConfig("test_resnet"), Untrained)
    assert data.name == "digits"
    torch.testing.assert_close(found(images), model(images), rtol=0, atol=0)

    before = list(run.trials["config_id"])
    more = search(**(TINY | {"budget": 4}), evaluator=Untrained, out="run")
    assert list(more.trials["config_id"])[:3] == before
    assert len(more.trials) == 4


def test_the_command_line_refuses_a_run_with_an_evaluator_given_from_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search(**TINY, evaluator=Untrained, out="run")
    for arguments in (
        ["run", "--study", "run/study.yaml", "--out", "elsewhere"],
        ["run", "--backbone", "test_resnet", "--out", "run"],
        ["export", "run"],
    ):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert "evaluator given from Python (Untrained): use Python and pass evaluator=" in result.stderr
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "exported").exists()
    assert invoke("report", "run").exit_code == 0


@pytest.mark.parametrize("evaluator", [lambda study, space, data: None, 3, object()])
def test_an_evaluator_without_a_name_is_refused(tmp_path, evaluator):
    with pytest.raises(DefinitionError, match="has no name to resume by"):
        search(**TINY, evaluator=evaluator, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("objectives", "words"),
    [
        ({"accuracy": "minimize", "latency_ratio": "minimize"}, ["'accuracy'", "must be 'maximize'"]),
        ({"accuracy": "maximize", "energy": "minimize"}, ["'energy'", "a function and its direction"]),
        ({"accuracy": "maximize", "energy": (len, "least")}, ["energy", "'least'", "'maximize' or 'minimize'"]),
        ({"accuracy": "maximize", "two words": (len, "minimize")}, ["'two words'", "letters, digits and _"]),
        ({"energy": (len, "minimize")}, ["objectives is ", "2"]),
        (["accuracy", "energy"], ["objectives.1", "'energy'", "latency_ratio"]),
    ],
)
def test_impossible_objectives_are_refused_and_nothing_is_written(tmp_path, objectives, words):
    with pytest.raises(DefinitionError) as refusal:
        search(**TINY, objectives=objectives, out=tmp_path / "run")
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_no_column_or_attribute_of_trials_can_be_an_objective_of_ones_own(finished_run, tmp_path):
    run = load_run(finished_run / "run")
    attributes = {name for trial in load_trials(run.folder).get_trials() for name in trial.user_attrs}
    for name in {*run.trials.columns, *attributes}:
        with pytest.raises(DefinitionError):
            search(**TINY, objectives={"accuracy": "maximize", name: (len, "minimize")}, out=tmp_path / "run")


def test_a_module_of_timms_blocks_takes_se_blocks():
    model = OwnNetwork().eval()
    before = dict(model.state_dict())
    sites = find_sites(model, input_size=(3, 32, 32), position="standard")
    # Two residual blocks of 32 channels at half the resolution, two of 64 at a quarter.
    assert [(site.block, site.stage, site.channels) for site in sites] == [
        ("early.0", 2, 32),
        ("early.1", 2, 32),
        ("late.0", 3, 64),
        ("late.1", 3, 64),
    ]
    config = SEConfig("own", tuple(PlacedSE(site, ratio=4) for site in sites if site.stage == 3))
    assert insert(model, config) is model
    added = {name: value for name, value in model.state_dict().items() if name not in before}
    assert {name.rpartition(".fc")[0] for name in added} == {"late.0.se", "late.1.se"}
    # Each block: 64 → 16 → 64 with biases.
    assert sum(value.numel() for value in added.values()) == 2 * (2 * 64 * 16 + 16 + 64)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert SEConfig.from_json(config.to_json()) == config


def test_a_network_of_ones_own_that_timm_knows_is_a_backbone_like_any_other(tmp_path):
    config = SEConfig.uniform("own_network", 4)
    # Two blocks of 32 channels and two of 64, without biases 2C²/4 each.
    assert parameter_overhead(config).formula == 2 * 2 * 32**2 / 4 + 2 * 2 * 64**2 / 4
    run = search(**(TINY | {"backbone": "own_network"}), evaluator=SUPERNET, out=tmp_path / "run")
    assert (run.trials["state"] == "complete").sum() == 3


def weights_of_stages(config, model):
    """What a device might be charged: a thousandth of the weights of SE blocks, in the network that was evaluated."""
    assert not model.training
    return sum(value.numel() for name, value in model.named_parameters() if ".se." in name) / 1000


OBJECTIVES_WITH_ENERGY = {"accuracy": "maximize", "energy": (weights_of_stages, "minimize")}


@pytest.fixture(scope="module")
def _with_energy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("energy") / "run"
    search(**TINY, evaluator=SUPERNET, objectives=OBJECTIVES_WITH_ENERGY, out=folder)
    return folder


@pytest.fixture
def with_energy(_with_energy, tmp_path, monkeypatch):
    """A run whose second objective a function measures, in the current folder as ``run``."""
    monkeypatch.chdir(tmp_path)
    return load_run(shutil.copytree(_with_energy, "run"))


def test_an_objective_of_ones_own_is_a_metric_of_the_study_and_a_column_of_the_tables(with_energy):
    study = load_trials(with_energy.folder)
    assert study.metric_names == ["accuracy", "energy"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    expected = {}
    for trial in study.get_trials():
        config = SEConfig.from_json(trial.user_attrs["config"])
        expected[trial.number] = sum(placed.parameters for placed in config.placed) / 1000
        assert trial.values[1] == expected[trial.number]
    for table in (with_energy.trials, pd.read_csv("run/trials.csv"), pd.read_csv("run/pareto.csv")):
        assert dict(zip(table["number"], table["energy"], strict=True)).items() <= expected.items()
    assert max(expected.values()) > 0
    run = json.loads(Path("run/run.json").read_text())
    assert run["objectives"] == ["accuracy", "energy"]
    assert run["hypervolume_reference"]["energy"] == max(expected.values())
    front = describe_front(*read_results(Path("run")))
    assert list(front["energy"]) == [f"{v:.4g}" for v in with_energy.front["energy"]]
    page = Path("run/report.html").read_text()
    assert "accuracy, energy" in page
    cells = re.findall(r'<td data-value="([\d.]+)">\s*([\d.e+]+)</td>', page)
    assert {(str(value), f"{value:.4g}") for value in expected.values()} <= set(cells)


def test_an_objective_of_ones_own_is_what_the_front_is_judged_by(with_energy):
    trials = with_energy.trials
    pairs = list(zip(trials["accuracy"], trials["energy"], strict=True))
    undominated = [not any(a >= b[0] and e <= b[1] and (a, e) != b for a, e in pairs) for b in pairs]
    assert list(trials["on_front"] | trials["tied_with"].notna()) == undominated


@pytest.mark.slow
def test_a_run_with_an_objective_of_ones_own_goes_on_with_a_function_of_the_same_name_only(with_energy):
    before = list(with_energy.trials["config_id"])
    stored = yaml.safe_load(Path("run/study.yaml").read_text())
    assert stored["custom_objectives"] == {"energy": "minimize"}
    for arguments in (
        ["run", "--study", "run/study.yaml", "--out", "run", "--budget", "4"],
        ["run", "--backbone", "test_resnet", "--out", "run"],
    ):
        refused = invoke(*arguments)
        assert refused.exit_code == 2
        assert "measures (energy): use Python and pass objectives=" in refused.stderr
    other = {"accuracy": "maximize", "heat": (weights_of_stages, "minimize")}
    with pytest.raises(RunFolderError, match=r"\(energy\): use Python and pass objectives="):
        search(**TINY, evaluator=SUPERNET, objectives=other, out="run")
    turned = {"accuracy": "maximize", "energy": (weights_of_stages, "maximize")}
    with pytest.raises(RunFolderError, match=r"custom_objectives.energy is 'minimize' there and 'maximize' here"):
        search(**TINY, evaluator=SUPERNET, objectives=turned, out="run")
    assert list(load_run("run").trials["config_id"]) == before
    for arguments in (["report", "run"], ["export", "run", "--to", "exported"]):
        assert invoke(*arguments).exit_code == 0

    more = search(**(TINY | {"budget": 4}), evaluator=SUPERNET, objectives=OBJECTIVES_WITH_ENERGY, out="run")
    assert list(more.trials["config_id"])[:3] == before
    assert len(more.trials) == 4


def test_a_measurement_that_is_no_number_fails_its_trial_only(with_energy):
    def measure(config, model):
        return math.nan if len(values) == 0 and not values.append(0) else 1.0

    values = []
    objectives = {"accuracy": "maximize", "energy": (measure, "minimize")}
    more = search(**(TINY | {"budget": 4}), evaluator=SUPERNET, objectives=objectives, out="run")
    failed = more.trials[more.trials["state"] == "failed"]
    assert list(failed["error"]) == ["EvaluationError: objective energy is nan: it must be a finite number"]
    assert (more.trials["state"] == "complete").sum() == 4


def test_an_evaluator_given_from_python_exports_its_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search(**TINY, evaluator=Untrained, out="run").export("accurate", to="first")
    again = load_run("run", evaluator=Untrained).export("accurate", to="second")
    first, second = (timm.create_model(f"local-dir:{name}", pretrained=True).eval() for name in ("first", "second"))
    images = load_data("digits").validation.tensors[0][:8]
    torch.testing.assert_close(first(images), second(images), rtol=0, atol=0)
    run = load_run("run")
    config = run.config("accurate")
    assert run.number("accurate") == again.trial
    expected = Untrained(None, None, load_data("digits")).network(config)
    torch.testing.assert_close(first(images), expected(images), rtol=0, atol=1e-6)


def test_what_a_gpu_has_trained_is_exported_without_one(finished_run):
    definition = finished_run / "run" / "study.yaml"
    definition.write_text(definition.read_text().replace("device: cpu", f"device: cuda:{torch.cuda.device_count()}"))
    load_run(finished_run / "run").export(to=finished_run / "exported")
    network = load_exported(finished_run / "exported").eval()
    assert network(torch.randn(2, *network.pretrained_cfg["input_size"])).shape == (2, 10)


def test_search_is_the_function_whatever_has_been_imported():
    code = (
        "import se_search; se_search.load_run; from se_search.study.files import load_study;"
        "from se_search.driver import loop; import se_search.study.space;"
        "print(callable(se_search.search), callable(loop.run_search))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True True\n"


@pytest.mark.parametrize("data", ["my-images", "my-images/", "my-images/."])
def test_a_run_folder_has_the_name_of_its_data_as_given(tmp_path, monkeypatch, data):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "my-images").symlink_to("elsewhere")
    monkeypatch.chdir(tmp_path)
    call = start._read_call(cluster=ClusterOptions(), backbone="resnet18", data=data)
    assert call.folder == Path("runs/resnet18-my-images")


def test_a_run_says_what_was_found(finished_run):
    run = load_run(finished_run / "run")
    headline = run.decision.headline
    assert repr(run) == f"Run({str(finished_run / 'run')!r}, test_resnet on digits: {headline})"
    assert headline in run.summary()
    assert "6 of 6 trials complete" in run.summary()
    assert [trial.number for trial in run.study.trials] == list(run.trials["number"])
    assert run.config("small").to_json() == run.trials.set_index("number")["config"][run.number("small")]
    (finished_run / "run" / "study.db").unlink()
    assert repr(run) == f"Run({str(finished_run / 'run')!r}, no results yet)"


@pytest.mark.parametrize("given", ["resnet18", None])
def test_what_is_no_configuration_is_refused_with_what_is_wanted(given):
    with pytest.raises(ConfigurationError, match=r"create_model takes an SEConfig.* SEConfig\.uniform\('resnet"):
        create_model(given)


@pytest.mark.parametrize(
    ("backbone", "position"), [("vgg11", "post"), ("test_resnet", "standard"), ("seresnet18", "existing")]
)
def test_a_uniform_configuration_takes_the_position_that_suits_the_backbone(backbone, position):
    assert {site.position for site in SEConfig.uniform(backbone, 16).sites} == {position}
