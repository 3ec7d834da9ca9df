"""A user's workflow on a folder of images: search, verification, export."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from typer.testing import CliRunner

import se_search  # noqa: F401  # registers the architecture of exports
from se_search.cli import app
from se_search.data.load import load_data

PER_CLASS = 40
COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}
STUDY = {"backbone": "test_resnet", "budget": 3, "evaluator": {"epochs": 2, "batch": 16}, "latency": {"limit": 0.05}}


def write_pictures(folder):
    """Coloured noise in odd sizes as JPEG and PNG, in RGB, RGBA, grey and palette modes, and one invalid file."""
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        place = folder / name
        place.mkdir(parents=True)
        for number in range(PER_CLASS):
            height, width = random.integers(20, 70, 2)
            pixels = np.clip(random.normal(colour, 40, (height, width, 3)), 0, 255).astype(np.uint8)
            picture = Image.fromarray(pixels)
            if number % 8 == 0:
                picture.convert("RGBA").save(place / f"{number}.png")
            elif number % 8 == 1:
                picture.convert("P").save(place / f"{number}.png")
            elif number % 8 == 2 and name == "blue":
                picture.convert("L").save(place / f"{number}.jpg")
            else:
                picture.save(place / f"{number}.{'jpg' if number % 2 else 'png'}")
    (folder / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    write_pictures(folder / "pictures")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    steps = [
        ("run", "--study", "tiny.yaml", "--data", "pictures", "--image-size", "48", "--out", "run"),
        ("verify", "run", "--members", "1", "--seeds", "1"),
        ("export", "run", "--trial", "1", "--search-weights", "--to", "exported"),
    ]
    outputs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for step in steps:
            result = CliRunner().invoke(app, step)
            assert result.exit_code == 0, result.output
            outputs.append(result.stdout)
    return folder, outputs


def test_the_unreadable_picture_is_counted_and_named(walked):
    folder, outputs = walked
    run = json.loads((folder / "run" / "run.json").read_text())
    assert [name.endswith("broken.jpg") for name in run["data"]["unreadable"]] == [True]
    assert "Skipped unreadable images: 1; run.json names them." in outputs[0]
    assert "broken.jpg" in (folder / "run" / "report.html").read_text()
    assert run["data"]["train"] + run["data"]["validation"] + run["data"]["test"] == 3 * PER_CLASS + 1


def test_the_verified_values_are_in_the_report(walked):
    folder, outputs = walked
    assert "Retrained independently (2 epochs, 1 seed), evaluated on" in outputs[1]
    assert pd.read_csv(folder / "run" / "pareto.csv")["verified_accuracy"].notna().any()
    assert "Verified: retrained independently (2 epochs, 1 seed)" in (folder / "run" / "report.html").read_text()


def test_the_exported_network_with_timms_transform_has_the_accuracy_of_the_trial(walked, monkeypatch):
    folder, _ = walked
    monkeypatch.chdir(folder)
    model = timm.create_model(f"local-dir:{folder / 'exported'}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    names = json.loads((folder / "exported" / "config.json").read_text())["label_names"]
    assert names == sorted(COLOURS)

    data = load_data("pictures", "test_resnet", 48)
    right = []
    for index in range(len(data.validation)):
        sample = data.validation[index]
        if not isinstance(sample, tuple):
            continue  # the broken one
        path = Path("pictures", data.validation.source.name(data.validation.indices[index]))
        with Image.open(path) as picture, torch.no_grad():
            logits = model(transform(picture.convert("RGB"))[None])
        right.append(names[int(logits.argmax())] == path.parent.name)
    trials = pd.read_csv(folder / "run" / "trials.csv").set_index("number")
    assert np.mean(right) == pytest.approx(trials.loc[1, "accuracy"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nothing"], ["'nothing'", "digits", "folder of images"]),
        (["--data", "empty"], ["empty"]),
        (["--data", "one"], ["class"]),
        (["--data", "unlabeled"], ["outside of any class"]),
        (["--data", "splits"], ["splits with different classes", "'b'", "'c'"]),
        (["--data", "digits", "--image-size", "64"], ["image_size"]),
        (["--data", "pictures", "--image-size", "4"], ["image-size", "8"]),
        (
            ["--evaluator", "scratch", "--pretrained", "timm"],
            ["--pretrained requires --evaluator supernet or finetune"],
        ),
        (["--evaluator", "finetune", "--pretrained", "nothing.pth"], ["nothing.pth", "checkpoint"]),
        (["--evaluator", "scratsh"], ["scratsh", "near names: scratch"]),
        (["--epochs", "0"], ["epochs", "0"]),
    ],
)
def test_wrong_data_and_evaluators_are_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(STUDY))
    (tmp_path / "empty").mkdir()
    splits = ("splits/train/a", "splits/train/b", "splits/val/a", "splits/val/c")
    for folder in ("pictures/a", "pictures/b", "one/a", "unlabeled", *splits):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (16, 16)).save(tmp_path / folder / f"{number}.png")
    result = CliRunner().invoke(app, ["run", "--study", "tiny.yaml", "--out", "run", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert not (tmp_path / "run").exists()
