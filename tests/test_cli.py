"""The command line: mistakes, and what the small commands print."""

import hashlib
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from se_search import __version__
from se_search.cli import app


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
    "unknown_key.yaml": "placement: stage\nratio: [4]\nratios: [4]\ngates: [sigmoid]\n",
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backbone", "resnet5o"], ["'resnet5o'", "resnet50"]),
        (["--backbone", "vgg11"], ["'vgg11'", "no site"]),
        (["--backbone", "seresnet50"], ["'seresnet50'", "already"]),
        (["--space", "stage"], ["'stage'", "stages", "blocks"]),
        (["--study", "digit"], ["'digit'", "digits"]),
        (["--space", "malformed.yaml"], ["malformed.yaml", "line 3", "YAML"]),
        (["--study", "malformed.yaml"], ["malformed.yaml", "line 3", "YAML"]),
        (["--space", "ratio_0.yaml"], ["ratio_0.yaml", "ratios", "0", "at least 1"]),
        (["--space", "ratio_half.yaml"], ["ratio_half.yaml", "ratios", "2.5", "integer"]),
        (["--space", "gate.yaml"], ["gate.yaml", "gates", "'sigmoyd'", "hard_sigmoid"]),
        (["--space", "unknown_key.yaml"], ["unknown_key.yaml", "ratio", "ratios"]),
        (["--budget", "0"], ["--budget", "0", "1"]),
        (["--max-params", "abc"], ["--max-params", "'abc'", "5%"]),
        (["--max-latency", "0"], ["--max-latency", "greater than 0"]),
        (["--data", "imagenet"], ["--data", "'imagenet'", "digits"]),
        (["--sampler", "best"], ["--sampler", "'best'", "tpe"]),
        (["--device", "tpu"], ["--device", "'tpu'", "cpu"]),
        (["--device", "cuda:99"], ["--device", "'cuda:99'", "CUDA"]),
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
    assert_refused(result, "run belongs to another study", "'resnet10t'", "'resnet18'", "seed is 0 there and 1 here")
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


def test_sites_prints_the_formula_of_every_site():
    result = invoke("sites", "resnet50")
    rows = [line.split() for line in result.output.splitlines() if " layer" in line]
    assert len(rows) == 16
    assert rows[0] == ["2", "layer1.0", "standard", "256", "8,192"]  # 2 · 256² / 16
    assert rows[-1] == ["5", "layer4.2", "standard", "2,048", "524,288"]  # 2 · 2048² / 16
    assert "2,514,944 to 25,557,032 parameters" in result.output


def test_shipped_spaces_and_studies_are_listed():
    assert re.findall(r"^(\w+):", invoke("spaces").output, re.MULTILINE) == ["blocks", "stages"]
    assert re.findall(r"^(\w+):", invoke("studies").output, re.MULTILINE) == ["digits"]


def test_version():
    assert invoke("--version").output == f"se-search {__version__}\n"


@pytest.mark.parametrize("command", ["run", "report", "export", "sites", "spaces", "studies"])
def test_every_command_has_help_with_an_example(command):
    assert f"Example:\n    se-search {command}" in invoke(command, "--help").output
