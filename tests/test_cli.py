"""The command line: mistakes, and what the small commands print."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest
import timm
import typer
from safetensors.torch import save_file
from timm.models import register_model
from torch import nn
from typer.testing import CliRunner

from se_search import SEConfig, __version__, completion, parameter_overhead
from se_search.api import sites
from se_search.cli import app, main
from se_search.errors import ExportError
from se_search.network.insertion import whole_state
from se_search.network.sites import find_places
from se_search.results.excitation import AnalysisPage
from se_search.results.record import read_results

COMMANDS = sorted(typer.main.get_command(app).commands)


class NoPlaceForSE(nn.Module):
    """A network with neither a residual branch nor a unit that occurs twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


@register_model
def no_place_for_se(pretrained=False, **kwargs):
    return NoPlaceForSE()


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, str]:
    """Every path below ``folder`` with a digest of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def assert_refused(result, *words):
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    sentence = result.stderr.strip()
    assert sentence.startswith("Error: ")
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


SPACES = {
    "ratio_0.yaml": "placement: stage\nratios: [0]\ngates: [sigmoid]\n",
    "ratio_half.yaml": "placement: stage\nratios: [2.5]\ngates: [sigmoid]\n",
    "gate.yaml": "placement: stage\nratios: [4]\ngates: [sigmoyd]\n",
    "malformed.yaml": "placement: stage\nratios: [4\ngates: [sigmoid]\n",
    "before.yaml": "placement: stage\npositions: [pre]\nratios: [4]\ngates: [sigmoid]\n",
    "position.yaml": "placement: stage\npositions: [behind]\nratios: [4]\ngates: [sigmoid]\n",
    "unknown_key.yaml": "placement: stage\nratio: [4]\nratios: [4]\ngates: [sigmoid]\n",
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backbone", "resnet5o"], ["'resnet5o'", "resnet50"]),
        (["--backbone", "no_place_for_se"], ["'no_place_for_se'", "no site"]),
        (["--backbone", "vgg11", "--space", "before.yaml"], ["'pre'", "vgg11", "it offers post"]),
        (["--backbone", "inception_v3"], ["'inception_v3'", "3×32×32"]),
        (["--space", "stagess"], ["'stagess'", "stages", "blocks"]),
        (["--study", "digit"], ["'digit'", "digits"]),
        (["--space", "malformed.yaml"], ["malformed.yaml", "line 3", "YAML"]),
        (["--study", "malformed.yaml"], ["malformed.yaml", "line 3", "YAML"]),
        (["--space", "ratio_0.yaml"], ["ratio_0.yaml", "ratios", "0", "at least 1"]),
        (["--space", "ratio_half.yaml"], ["ratio_half.yaml", "ratios", "2.5", "integer"]),
        (["--space", "gate.yaml"], ["gate.yaml", "gates", "'sigmoyd'", "hard_sigmoid"]),
        (["--space", "position.yaml"], ["position.yaml", "positions", "'behind'", "'post'"]),
        (["--space", "unknown_key.yaml"], ["unknown_key.yaml", "ratio", "ratios"]),
        (["--budget", "0"], ["--budget", "0", "1"]),
        (["--max-params", "abc"], ["--max-params", "'abc'", "5%"]),
        (["--max-latency", "0"], ["--max-latency", "greater than 0"]),
        (["--latency", "guess"], ["--latency is 'guess'", "'pooled', 'measured' or 'model'"]),
        (["--latency-batch", "0"], ["--latency-batch", "0", "greater than or equal to 1"]),
        (["--latency-runtime", "tensorrt"], ["--latency-runtime", "'tensorrt'", "'onnxruntime'"]),
        (["--latency-dtype", "int8"], ["--latency-dtype", "'int8'", "'bfloat16'"]),
        (["--latency-threads", "0"], ["--latency-threads", "0"]),
        (["--backbone", "test_vit", "--latency-size", "65"], ["'test_vit'", "3×65×65"]),
        (["--latency-runtime", "onnxruntime", "--latency-dtype", "bfloat16"], ["onnxruntime", "bfloat16", "float32"]),
        (["--data", "imagenet"], ["data", "'imagenet'", "digits", "folder of images"]),
        (["--sampler", "best"], ["--sampler", "'best'", "tpe"]),
        (["--priors", "best"], ["--priors", "'best'", "'known' or 'excitation'"]),
        (["--priors", "excitation", "--evaluator", "scratch"], ["--priors", "'scratch'", "supernet"]),
        (["--device", "tpu"], ["--device", "'tpu'", "cpu"]),
        (["--device", "cuda:99"], ["device 'cuda:99' not found", "CUDA device"]),
        (["--threads", "0"], ["--threads", "0"]),
        (["--out", "a_file"], ["a_file", "--out"]),
        (["--out", "a_file/run"], ["a_file/run", "--out"]),
        (["--out", "other_files"], ["other_files", "--out"]),
    ],
)
def test_a_mistake_is_told_in_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    for name, text in SPACES.items():
        Path(name).write_text(text)
    Path("a_file").write_text("not a folder")
    Path("other_files").mkdir()
    Path("other_files", "thesis.tex").write_text("precious")
    before = contents(tmp_path)
    if "--backbone" not in arguments:
        arguments = ["--backbone", "resnet10t", *arguments]

    assert_refused(invoke("run", *arguments), *words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet5o"], ["'resnet5o'", "resnet50"]),
        (["resnet10t", "--runtime", "tensorrt"], ["'tensorrt'", "onnxruntime"]),
        (["resnet10t", "--batch", "0"], ["batch of 0", "at least 1"]),
        (["resnet10t", "--threads", "0"], ["threads of 0", "at least 1"]),
        (["resnet10t", "--dtype", "int8"], ["'int8'", "bfloat16"]),
        (["resnet10t", "--memory-format", "nhwc"], ["'nhwc'", "channels_last"]),
        (["resnet10t", "--device", "cuda:7"], ["'cuda:7'", "CUDA"]),
        (["resnet10t", "--target", "0"], ["target", "0"]),
        (["resnet10t", "--limit", "nan"], ["limit", "nan"]),
        (["resnet10t", "--space", "stagess"], ["'stagess'", "stages"]),
        (["test_vit", "--size", "65"], ["'test_vit'", "3×65×65"]),
        (["resnet10t", "--config", "none.json"], ["none.json", "cannot be read"]),
        (["resnet10t", "--config", "text.json"], ["text.json", "not an SE configuration"]),
        (["resnet10t", "--config", "other.json"], ["other", "resnet18", "resnet10t"]),
        (["resnet10t", "--runtime", "openvino", "--dtype", "float16"], ["openvino", "float16", "float32"]),
    ],
)
def test_latency_tells_a_mistake_in_one_sentence_before_it_measures(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("text.json").write_text("no JSON")
    Path("other.json").write_text(SEConfig.uniform("resnet18").to_json())
    assert_refused(invoke("latency", *arguments), *words)


def test_a_log_in_another_encoding_gets_what_it_can_hold():
    command = [sys.executable, "-m", "se_search", "sites", "test_resnet"]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"2C?/16" in done.stdout


def test_latency_prints_what_the_given_configurations_cost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = SEConfig.uniform("test_resnet", 4)
    Path("mine.json").write_text(config.to_json())
    result = invoke(
        "latency", "test_resnet", "--config", "mine.json", "--size", "32", "--limit", "0.1", "--threads", "1"
    )
    assert result.exit_code == 0
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("mine")]
    assert re.search(rf"eager +{re.escape(f'{parameter_overhead(config).ratio * 100:+.2f} %')} ", row)
    assert re.search(r"×\d+\.\d{4} \[\d+\.\d{4}, \d+\.\d{4}\] +\d+ +(limit|target)", row)
    assert "95 % intervals; batch 1, 3×32×32, float32, PyTorch" in result.stdout
    assert "1 thread" in result.stdout


def test_latency_tells_files_of_one_name_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, ratio in (("a", 4), ("b", 16)):
        Path(folder).mkdir()
        Path(folder, "best.json").write_text(SEConfig.uniform("test_resnet", ratio).to_json())
    files = ["--config", "a/best.json", "--config", "b/best.json"]
    result = invoke("latency", "test_resnet", *files, *["--size", "32", "--limit", "0.1"])
    assert [line.split()[0] for line in result.stdout.splitlines() if "best" in line] == ["best", "b/best.json"]


def test_latency_measures_the_configurations_that_everybody_knows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("latency", "test_resnet", "--size", "32", "--limit", "0.1", "--optimized")
    assert result.exit_code == 0
    named = ("no SE", "uniform r=16", "r=16 without the last stage")
    assert [any(line.startswith(name) for line in result.stdout.splitlines()) for name in named] == [True] * 3
    assert "optimized for inference" in result.stdout


def test_a_number_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("run", "--budget", "many")
    assert result.exit_code == 2
    assert "--budget" in result.stderr
    assert contents(tmp_path) == {}


def test_the_folder_of_another_study_is_refused_and_stays_as_it_is(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    before = contents(finished_run)
    result = invoke("run", "--study", "tiny.yaml", "--seed", "1", "--backbone", "resnet18", "--out", "run")
    assert_refused(result, "run belongs to another study", "'test_resnet'", "'resnet18'", "seed is 0 there and 1 here")
    assert contents(finished_run) == before


def damage_bytes(file: Path) -> None:
    file.write_bytes(b"this is no database" * 100)


def damage_end(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_all(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_bytes, damage_end, damage_all])
@pytest.mark.parametrize(
    "command", [["run", "--study", "tiny.yaml", "--out", "run"], ["report", "run"], ["export", "run"]], ids=" ".join
)
def test_a_damaged_storage_is_refused_and_stays_as_it_is(finished_run, monkeypatch, damage, command):
    monkeypatch.chdir(finished_run)
    damage(Path("run", "study.db"))
    before = contents(finished_run)
    assert_refused(invoke(*command), "study.db", "damaged")
    assert contents(finished_run) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], ["nowhere", "run folder"]),
        (["run", "--pick", "best"], ["'best'", "knee, accurate, small, fast"]),
        (["run", "--trial", "77"], ["77", "complete"]),
        (["run", "--to", "run"], ["run", "--to"]),
        (["run", "--to", "tiny.yaml"], ["tiny.yaml", "--to"]),
        (["run", "--to", "tiny.yaml/deeper"], ["tiny.yaml/deeper", "--to"]),
    ],
)
def test_an_impossible_export_is_refused_and_nothing_is_written(finished_run, monkeypatch, arguments, words):
    monkeypatch.chdir(finished_run)
    before = contents(finished_run)
    assert_refused(invoke("export", *arguments), *words)
    assert contents(finished_run) == before


def test_damaged_shared_weights_are_refused(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    damage_end(Path("run", "supernet.safetensors"))
    assert_refused(invoke("export", "run", "--to", "exported"), "supernet.safetensors", "damaged")
    assert not Path("exported").exists()


def test_excitation_analyses_a_member_of_a_run_and_the_report_knows_of_it(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    result = invoke("excitation", "run", "--trial", "1", "--classes", "3,8,0", "--channels", "5")
    assert result.exit_code == 0, result.stderr
    folder = Path("run", "excitation", "trial-1")
    assert sorted(file.name for file in folder.iterdir()) == ["excitation.html", "excitation.json"]
    analysis = json.loads((folder / "excitation.json").read_text())
    table, run = read_results(Path("run"))
    config = SEConfig.from_json(table.set_index("number")["config"][1])
    assert analysis["config"] == config.to_dict()
    named = [(one.site.block, one.site.stage, one.site.position) for one in config.placed]
    assert [(one["block"], one["stage"], one["position"]) for one in analysis["blocks"]] == named
    # The network, the images and so the accuracy are those of the search.
    assert analysis["accuracy"][0] == pytest.approx(table.set_index("number")["accuracy"][1], abs=1e-6)
    assert analysis["data"] == {"name": "digits", "split": "validation", "images": 400, "classes": 10}
    assert {one["name"] for one in analysis["classes"]} == {"0", "3", "8"}
    assert {len(one["shown"]) for one in analysis["blocks"]} == {5}
    assert run.excitation == (AnalysisPage(1, False, "excitation/trial-1/excitation.html"),)
    for block in analysis["blocks"]:
        (row,) = [line for line in result.stdout.splitlines() if line.startswith(block["block"])]
        assert row.split()[1] == str(block["stage"])
        assert row.endswith(block["verdict"])
    for one in analysis["observations"]:
        assert f"{one['found']}: {one['paper']} {one['evidence']}" in result.stdout
    assert result.stdout.endswith(f"Page: {folder / 'excitation.html'}\n")


@pytest.mark.slow
def test_excitation_on_other_data_is_written_beside_the_runs_own(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    options = ["--trial", "1", "--images", "60", "--channels", "2"]
    result = invoke("excitation", "run", *options, "--data", "digits-hard")
    assert result.exit_code == 0, result.stderr
    folder = Path("excitation", "run-trial-1-digits-hard")
    assert result.stdout.endswith(f"Page: {folder / 'excitation.html'}\n")
    assert json.loads((folder / "excitation.json").read_text())["data"]["split"] == "test"
    assert not Path("run", "excitation").exists()
    # The run's own data by name are the run's own.
    assert invoke("excitation", "run", *options, "--data", "digits").exit_code == 0
    analysis = json.loads(Path("run", "excitation", "trial-1", "excitation.json").read_text())
    assert analysis["data"]["split"] == "validation"
    for caution in analysis["cautions"]:
        assert caution in result.stdout


def test_an_interrupted_analysis_leaves_nothing(finished_run, monkeypatch):
    def interrupt(analysis):
        raise KeyboardInterrupt

    monkeypatch.chdir(finished_run)
    monkeypatch.setattr("se_search.api.excitation.render_excitation", interrupt)
    before = contents(finished_run)
    assert invoke("excitation", "run", "--trial", "1", "--images", "60", "--to", "new/deeper").exit_code == 130
    assert contents(finished_run) == before


def test_an_interruption_that_became_another_error_still_stops(monkeypatch):
    def fail(*arguments, **options):
        try:
            try:
                raise KeyboardInterrupt
            finally:
                raise AssertionError("there was no mode") from ValueError("no mode")
        except AssertionError as error:
            raise ExportError("cannot be exported") from error

    monkeypatch.setattr("se_search.evidence.power.power", fail)
    result = invoke("power")
    assert (result.exit_code, result.stderr) == (130, "Stopped.\n")


@pytest.mark.slow
def test_excitation_analyses_an_exported_folder_and_timms_networks(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    assert invoke("export", "run", "--trial", "1", "--to", "exported").exit_code == 0
    result = invoke("excitation", "exported", "--data", "digits")
    assert result.exit_code == 0, result.stderr
    exported = json.loads(Path("excitation", "exported", "excitation.json").read_text())
    assert exported["source"] == "exported folder exported"
    assert exported["data"]["split"] == "test"
    save_file(whole_state(timm.create_model("seresnet18", num_classes=10)), "weights.safetensors")
    options = ["--pretrained", "weights.safetensors", "--data", "digits", "--images", "80", "--to", "deep/er"]
    result = invoke("excitation", "seresnet18", *options)
    assert result.exit_code == 0, result.stderr
    analysis = json.loads(Path("deep", "er", "excitation.json").read_text())
    assert analysis["backbone"] == "seresnet18"
    assert analysis["config"] is None
    assert [one["stage"] for one in analysis["blocks"]] == [2, 2, 3, 3, 4, 4, 5, 5]
    assert analysis["last_stage"]["blocks"] == ["layer4.0", "layer4.1"]


@pytest.mark.slow
def test_excitation_takes_the_weights_of_a_verification(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    assert_refused(invoke("excitation", "run", "--trial", "1", "--verified"), "has not been verified")
    assert invoke("verify", "run", "--members", "1", "--seeds", "1").exit_code == 0  # and uniform r=16, trial 1
    result = invoke("excitation", "run", "--trial", "1", "--verified")
    assert result.exit_code == 0, result.stderr
    analysis = json.loads(Path("run", "excitation", "trial-1-verified", "excitation.json").read_text())
    assert analysis["data"]["split"] == "test"
    table = read_results(Path("run"))[0].set_index("number")
    assert analysis["accuracy"][0] == pytest.approx(table["verified_accuracy"][1], abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--trial", "77"], ["77", "complete"]),
        (["run", "--pick", "best"], ["'best'", "knee"]),
        (["run", "--trial", "0"], ["no attention block"]),
        (["run", "--trial", "1", "--classes", "3"], ["3", "two"]),
        (["run", "--trial", "1", "--classes", "3,eleven"], ["'eleven'", "10 classes"]),
        (["run", "--trial", "1", "--channels", "0"], ["channels is 0", "at least 1"]),
        (["run", "--trial", "1", "--images", "0"], ["images is 0", "at least 1"]),
        (["run", "--trial", "1", "--device", "cuda:99"], ["'cuda:99'"]),
        (["run", "--trial", "1", "--device", "cuda:99", "--to", "new/deeper"], ["'cuda:99'"]),
        (["run", "--trial", "1", "--seed", "-1"], ["seed is -1", "at least 0"]),
        (["run", "--trial", "1", "--pretrained", "timm"], ["--pretrained", "run has its own weights: omit"]),
        (["run/excitation", "--pretrained", "timm"], ["--pretrained", "run/excitation has its own weights"]),
        (["seresnet18", "--trial", "1"], ["--trial requires a run", "seresnet18 is not one"]),
        (["seresnet18", "--pick", "knee"], ["--pick requires a run", "seresnet18 is not one"]),
        (["seresnet18", "--verified"], ["--verified requires a run", "seresnet18 is not one"]),
        (["run", "--trial", "1", "--to", "tiny.yaml"], ["tiny.yaml", "--to"]),
        (["run", "--trial", "1", "--to", "tiny.yaml/deeper"], ["tiny.yaml/deeper", "--to"]),
        (["seresnet5o"], ["'seresnet5o'", "neither a run folder", "seresnet50"]),
        (["."], [".", "not an exported folder"]),
        (["seresnet18"], ["seresnet18", "--pretrained"]),
        (["seresnet18", "--pretrained", "none.pth"], ["'none.pth'", "does not exist: use timm"]),
        (["seresnet18", "--pretrained", "timm"], ["--data is missing"]),
        (["seresnet18", "--pretrained", "1000.safetensors", "--data", "digits"], ["1000 classes", "digits has 10"]),
        (["resnet18", "--pretrained", "plain.safetensors", "--data", "digits"], ["this ResNet has no attention block"]),
    ],
)
def test_an_impossible_analysis_is_refused_and_nothing_is_written(finished_run, monkeypatch, arguments, words):
    monkeypatch.chdir(finished_run)
    for name, classes, file in (("seresnet18", 1000, "1000.safetensors"), ("resnet18", 10, "plain.safetensors")):
        if file in arguments:
            save_file(whole_state(timm.create_model(name, num_classes=classes)), file)
    Path("run", "excitation").mkdir()
    before = contents(finished_run)
    assert_refused(invoke("excitation", *arguments), *words)
    assert contents(finished_run) == before


def test_sites_prints_the_formula_of_every_site():
    result = invoke("sites", "resnet50", "--position", "standard", "--all")
    rows = [line.split() for line in result.output.splitlines() if " layer" in line]
    assert len(rows) == 16
    assert rows[0] == ["2", "layer1.0", "standard", "NCHW", "256", "8,192"]  # 2 · 256² / 16
    assert rows[-1] == ["5", "layer4.2", "standard", "NCHW", "2,048", "524,288"]  # 2 · 2048² / 16
    assert "2,514,944 to 25,557,032 parameters" in result.output


def test_sites_prints_every_position_and_what_stands_there_already():
    rows = [line.split() for line in invoke("sites", "resnet50", "--all").output.splitlines() if " layer" in line]
    assert Counter(row[2] for row in rows) == dict.fromkeys(("standard", "pre", "post", "identity", "3x3"), 16)
    first = next(line for line in invoke("sites", "efficientnet_b0", "--all").output.splitlines() if "existing" in line)
    # 32 channels, squeezed to 8: 2 · 32 · 8 weights, as with r = 4.
    assert first.split() == ["2", "blocks.0.0", "existing", "NCHW", "32", "128", "512,", "r=4"]


def test_sites_shows_sums_of_stages_beside_the_modules_of_timm():
    rows = [line.split() for line in invoke("sites", "resnet50", "--position", "standard").output.splitlines()]
    # 2 · Σ C² / 16 over the blocks of a stage.
    assert rows[1] == ["2", "layer1", "standard", "3", "256", f"{3 * 2 * 256**2 // 16:,}"]
    assert rows[4] == ["5", "layer4", "standard", "3", "2,048", f"{3 * 2 * 2048**2 // 16:,}"]


@pytest.mark.parametrize("arguments", [[], ["--position", "pre"], ["--position", "identity"]])
def test_sites_prints_the_same_from_the_atlas_as_from_a_trace(monkeypatch, arguments):
    traced = []
    monkeypatch.setattr(sites, "find_places", lambda name: traced.append(name) or find_places(name))
    from_atlas = [invoke("sites", name, *arguments).output for name in ("test_resnet", "test_efficientnet")]
    assert traced == []
    monkeypatch.setattr(metadata, "version", lambda name: "0.0")
    assert [invoke("sites", name, *arguments).output for name in ("test_resnet", "test_efficientnet")] == from_atlas
    assert traced == ["test_resnet", "test_efficientnet"]


@pytest.mark.parametrize(
    "arguments", [["test_resnet", "--all"], ["test_resnet", "--skipped"], ["test_resnet.r160_in1k"]]
)
def test_sites_traces_what_the_atlas_does_not_have(monkeypatch, arguments):
    traced = []
    monkeypatch.setattr(sites, "find_places", lambda name: traced.append(name) or find_places(name))
    assert invoke("sites", *arguments).exit_code == 0
    assert traced == arguments[:1]


def test_sites_tells_why_places_are_left_out():
    output = invoke("sites", "tnt_s_legacy_patch16_224", "--skipped").output
    assert re.search(r"blocks\.0 +post +the block returns more than one tensor", output)


@pytest.mark.slow
def test_reproduce_prints_the_papers_parameters_beside_those_counted():
    output = invoke("reproduce", "params").output
    line = next(line for line in output.splitlines() if line.startswith("SE, r=16"))
    assert line.split()[2:7] == ["28.1", "28.07", "-0.03", "28.09", "-0.01"]
    line = next(line for line in output.splitlines() if line.startswith("SE-MobileNet"))
    assert line.split()[1:3] == ["4.7", "4.71"]


def test_shipped_spaces_and_studies_are_listed():
    for command, folder in (("spaces", "search_spaces"), ("studies", "studies")):
        # The files of the repository; tests/study/test_definitions.py names them.
        shipped = sorted(file.stem for file in (Path(__file__).parents[1] / folder).glob("*.yaml"))
        assert re.findall(r"^(\S+):", invoke(command).output, re.MULTILINE) == shipped


def test_version():
    assert invoke("--version").output == f"se-search {__version__}\n"


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)]
)
def test_waiting_threads_sleep_sooner_unless_the_user_chose(monkeypatch, given, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["se-search", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    assert f"Example:\n    se-search {command}" in invoke(command, "--help").output


@pytest.mark.parametrize("arguments", [("report", "run\udcff"), ("export", "run", "--to", "to\udcff")])
def test_names_that_are_not_utf8_are_refused_at_the_start(arguments):
    assert_refused(invoke(*arguments), r"\udcff' is not UTF-8: rename it")


DOCUMENTED = (Path(__file__).parents[1] / "docs" / "json.md").read_text(encoding="utf-8")


def documented_keys(after: str) -> set[str]:
    """Names in the first column of the table that follows a text in the documentation."""
    rows = DOCUMENTED.split(after)[1].split("\n\n")[1].splitlines()[2:]
    return {name for row in rows for name in re.findall(r"`(\w+)(?:\[\])?`", row.split("|")[1])}


def json_of(*arguments):
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "after"),
    [
        (["report", "run"], "`se-search run`, `verify` and `report`:"),
        (["run", "--study", "tiny.yaml", "--out", "run", "--budget", "8", "--dry-run"], "`se-search run --dry-run`:"),
        (["export", "run"], "`se-search export`:"),
        (["sites", "test_resnet", "--skipped"], "`se-search sites`:"),
        (["evidence", "resnet50"], "with a backbone:"),
        (["power"], "`se-search power`:"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_json_has_the_documented_keys(finished_run, monkeypatch, arguments, after):
    monkeypatch.chdir(finished_run)
    assert json_of(*arguments).keys() == documented_keys(after)


def test_json_of_lists_has_what_is_printed():
    assert [one["name"] for one in json_of("spaces")] == re.findall(r"^(\S+):", invoke("spaces").output, re.MULTILINE)
    assert list(json_of("studies")) == re.findall(r"^(\S+):", invoke("studies").output, re.MULTILINE)
    rows = json_of("sites", "resnet50", "--position", "standard")["sites"]
    assert [row["module"] for row in rows] == [row["block"].rpartition(".")[0] for row in rows]


def test_progress_precedes_json_on_standard_error_and_a_quiet_command_has_none(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    arguments = ["latency", "test_resnet", "--size", "32", "--limit", "0.01"]
    result = invoke(*arguments, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["configuration"] for row in rows} >= {"no SE", "uniform r=16"}
    assert result.stderr.startswith("Measuring (0/")
    result = invoke(*arguments, "--quiet")
    assert result.stdout.startswith("configuration")
    assert not result.stderr


def test_a_verbose_command_shows_where_an_error_comes_from():
    result = invoke("run", "--sampler", "foo", "--verbose")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: --sampler is 'foo'")


def test_a_shell_completes_names_and_run_folders(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    known = completion.backbones("")
    assert set(known) <= set(timm.list_models())
    assert len(known) > 1000
    assert completion.spaces("block") == ["blocks"]
    assert completion.studies("t") == ["tiny.yaml"]
    assert completion.run_folders("r") == ["run"]
    assert completion.run_folders("../dir") == ["../directory/"]
    assert completion.run_folders("none/x") == []
    environment = {"_SE_SEARCH_COMPLETE": "complete_bash", "COMP_WORDS": "se-search sites resnet50c", "COMP_CWORD": "2"}
    shown = CliRunner().invoke(app, [], prog_name="se-search", env=environment)
    assert shown.stdout.split() == ["resnet50c"]
