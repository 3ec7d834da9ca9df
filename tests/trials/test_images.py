"""The images of a run: the same or none, and wherever they lie."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from own_evaluators import Quick
from PIL import Image

import se_search
from se_search import load_run
from se_search.errors import DataError, RunFolderError
from se_search.results.comparison import compare_runs
from se_search.trials.folder import read_definition
from se_search.trials.images import run_data


def search(folder, data, budget=2, **settings):
    return se_search.search(
        "test_resnet",
        data=str(data),
        out=folder,
        budget=budget,
        evaluator=Quick,
        image_size=32,
        latency_limit=0.01,
        latency_size="data",
        sampler="random",
        threads=1,
        **settings,
    )


@pytest.fixture(scope="module")
def _searched(tmp_path_factory):
    base = tmp_path_factory.mktemp("searched")
    for number in range(30):
        folder = base / "pics" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 9, 40, 200 - number)).save(folder / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        search("run", "pics")
    return base


@pytest.fixture
def searched(_searched, tmp_path, monkeypatch):
    """A directory with images ``pics`` and a run on them, which was started there with ``--data pics``."""
    base = tmp_path / "base"
    shutil.copytree(_searched, base)
    definition = yaml.safe_load((base / "run" / "study.yaml").read_text())
    assert definition["data"] == str(_searched / "pics")
    (base / "run" / "study.yaml").write_text(yaml.safe_dump(definition | {"data": str(base / "pics")}))
    monkeypatch.chdir(base)
    return base


def exchange_classes(folder):
    (folder / "cat").rename(folder / "kept")
    (folder / "dog").rename(folder / "cat")
    (folder / "kept").rename(folder / "dog")
    for before, after in ((folder / "cat", folder / "dog"), (folder / "dog", folder / "cat")):
        for file in sorted(before.glob("[0-9]*.png")):  # names and numbers of files stay
            file.rename(before / f"x{file.name}")
        assert after.is_dir()
    for one, other in (("cat", 0), ("dog", 1)):
        for place, file in enumerate(sorted((folder / one).iterdir(), key=lambda file: int(file.stem[1:]))):
            file.rename(folder / one / f"{2 * place + other}.png")


def test_other_images_of_the_same_names_are_refused_everywhere(searched):
    exchange_classes(searched / "pics")
    before = (searched / "run" / "study.yaml").read_bytes()
    told = r"run was started with other images: the .*contents of image files differ, in 'cat', 'dog'; restore them"
    with pytest.raises(RunFolderError, match=told):
        search("run", "pics", budget=3)
    run = load_run("run", Quick)
    with pytest.raises(RunFolderError, match=told):
        run.verify("1", seeds=1, epochs=1)
    with pytest.raises(RunFolderError, match=told):
        run.export(trial=0, to="exported")
    with pytest.raises(RunFolderError, match=told):
        se_search.analyze_excitation(run, trial=1)
    assert (searched / "run" / "study.yaml").read_bytes() == before
    search("other", "pics")
    with pytest.raises(RunFolderError, match=r"run and other cannot be compared: their data differ \(the .*contents"):
        compare_runs(["run", "other"])


def test_a_relative_path_means_the_same_images_from_anywhere(searched, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(searched / "pics", elsewhere / "pics")
    exchange_classes(elsewhere / "pics")
    monkeypatch.chdir(elsewhere)
    assert load_run(searched / "run", Quick).export(trial=0, to="exported").trial == 0
    card = (elsewhere / "exported" / "README.md").read_text()
    assert str(searched) not in card
    assert load_run(searched / "run")._repr_html_().count(str(searched / "pics")) == 0


def test_images_that_have_moved_are_found_by_data(searched, tmp_path):
    moved, run = tmp_path / "moved", load_run("run", Quick)
    (searched / "pics").rename(moved)
    with pytest.raises(RunFolderError, match=r"are no longer a folder at .*pics': give their folder with data"):
        run.export(trial=0, to="exported")
    assert run.export(trial=0, to="exported", data=str(moved)).trial == 0
    with pytest.raises(DataError, match="data 'digits' cannot replace '"):
        run.export(trial=0, to="exported", data="digits")
    assert len(search("run", moved, budget=3).trials) == 3
    assert read_definition(Path("run")).data == str(moved)
    exchange_classes(moved)
    with pytest.raises(RunFolderError, match="started with other images"):
        run.export(trial=0, to="again", data=str(moved))


def as_of_version_0_1_0(folder, data):
    """Take away what that version did not write."""
    study = yaml.safe_load((folder / "study.yaml").read_text())
    del study["splits"]["cut"]
    (folder / "study.yaml").write_text(yaml.safe_dump(study | {"data": data}))
    with closing(sqlite3.connect(folder / "study.db")) as connection, connection:
        ((text,),) = connection.execute("SELECT value_json FROM study_user_attributes WHERE key = 'data'").fetchall()
        noted = json.loads(text) | {"name": data}
        del noted["fingerprint"]
        connection.execute("UPDATE study_user_attributes SET value_json = ? WHERE key = 'data'", (json.dumps(noted),))


def test_a_run_of_version_0_1_0_resumes_with_its_own_cut(searched, tmp_path):
    as_of_version_0_1_0(searched / "run", "pics")
    definition = read_definition(Path("run"))
    assert definition.splits.cut == "order"
    by_order = run_data(Path("run"), definition)
    assert len(search("run", "pics", budget=3).trials) == 3
    assert read_definition(Path("run")).splits.cut == "order"
    assert run_data(Path("run"), read_definition(Path("run"))).validation.indices == by_order.validation.indices
    shutil.copytree("pics", tmp_path / "pics")
    as_of_version_0_1_0(searched / "run", "pics")
    with pytest.raises(RunFolderError, match="started with other images: name was pics and is "):
        search("run", tmp_path / "pics", budget=4)
    with pytest.raises(RunFolderError, match=r"splits\.cut is 'order' there and 'contents' here"):
        search("run", "pics", budget=4, settings={"splits.cut": "contents"})


def test_names_that_are_not_utf8_are_refused_at_the_start(searched):
    name = "pics\udcff"
    shutil.copytree("pics", name)
    with pytest.raises(DataError, match=r"data '.*pics\\udcff' is not UTF-8: rename the folder"):
        search("new", name)
    with pytest.raises(DataError, match=r"out 'run\\udcff' is not UTF-8"):
        search("run\udcff", "pics")
    assert not Path("new").exists()
    assert not Path("run\udcff").exists()
