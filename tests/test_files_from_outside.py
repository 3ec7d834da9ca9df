"""Any file that comes from outside, replaced by anything: a result or one sentence, quickly, and nothing written."""

import json
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conditions import CONDITIONS
from hypothesis import HealthCheck, given, settings, strategies as st

from se_search import SEConfig, create_model, export_timm, load_exported
from se_search.errors import SeSearchError
from se_search.files import read_json
from se_search.latency.additive import MeasuredLatency, measurements_to_json
from se_search.latency.meter import Ratio
from se_search.latency.other_device import OtherDevice
from se_search.results.trainings import read_outcomes, result_file
from se_search.study.files import load_study
from se_search.trials.folder import STORAGE_FILE, load_trials, open_folder, read_definition
from se_search.trials.latency import LATENCY_MODEL_FILE, read_latency_measurements
from se_search.trials.notes import pack, pack_losses

CONFIG = SEConfig.uniform("test_resnet", 16)
MEASURED = measurements_to_json([MeasuredLatency(CONFIG, Ratio(1.1, 1.0, 1.2, 80, 8, "target", 0.0, CONDITIONS))])

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changed(draw, text):
    """The JSON with a few values exchanged, anywhere in it."""
    content = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        place = content
        while True:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = draw(st.sampled_from(list(keys)))
            if not (isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3))):
                place[key] = draw(VALUES)
                break
            place = place[key]
    return json.dumps(content).encode()


@st.composite
def broken(draw, content):
    """The bytes with a piece put in, taken out or exchanged."""
    start = draw(st.integers(0, len(content)))
    end = start + draw(st.integers(0, 40))
    return content[:start] + draw(st.binary(max_size=12)) + content[end:]


OTHER_KINDS = ("folder", "pipe", "endless", "link to itself", "link to nothing", "missing")
MOST_MEMORY = 2**30  # bytes that reading may take


def put(file, content):
    """Put bytes or something of :data:`OTHER_KINDS` in place of a file."""
    if file.is_dir():
        file.rmdir()
    file.unlink(missing_ok=True)
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "folder":
        file.mkdir()
    elif content == "pipe":
        os.mkfifo(file)
    elif content == "endless":
        file.symlink_to("/dev/zero")
    elif content == "link to itself":
        file.symlink_to(file)
    elif content == "link to nothing":  # what is written through it lies outside the folder
        file.symlink_to(file.parents[2] / "outside")


@contextmanager
def memory_limited():
    """Let allocations fail that take more than :data:`MOST_MEMORY` beyond what this process has now."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MOST_MEMORY, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def below(folder, file):
    """All that lies below a folder, but a file and what SQLite puts beside it."""
    return {path for path in folder.rglob("*") if path != file and not path.name.startswith(STORAGE_FILE)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run folder with two trials, and an exported folder."""
    base = tmp_path_factory.mktemp("outside")
    study = load_study("digits", backbone="test_resnet")
    with open_folder(base / "run", study) as opened:
        for _ in range(2):
            opened.tell(opened.ask(), [0.5] * len(study.objectives))
    (base / "run" / "run.json").write_text(json.dumps({"started": "2026-01-01", "versions": {"python": "3.11"}}))
    (base / "run" / LATENCY_MODEL_FILE).write_text(MEASURED)
    (base / "other").mkdir()
    (base / "other" / "latency.json").write_text(MEASURED)
    (base / VERIFIED).parent.mkdir()
    (base / VERIFIED).write_text(
        json.dumps(
            {
                "correct": pack(np.ones((1, 8), bool)),
                "losses": pack_losses(np.ones((1, 8), np.float32)),
                "validation": {"accuracy": 0.5, "log_loss": 1.0},
            }
        )
    )
    export_timm(create_model(CONFIG, num_classes=10).eval(), base / "exported", input_size=(3, 32, 32))
    return base


VERIFIED = str(result_file(Path("run"), CONFIG, 1, 0))

READ = {
    "study.yaml": ("run/study.yaml", lambda base: read_definition(base / "run")),
    "study.db": ("run/study.db", lambda base: load_trials(base / "run").close()),
    "run.json": ("run/run.json", lambda base: read_json(base / "run" / "run.json")),
    "latency": (f"run/{LATENCY_MODEL_FILE}", lambda base: read_latency_measurements(base / "run")),
    "other device": (
        "other/latency.json",
        lambda base: OtherDevice(base / "other" / "latency.json", "test_resnet", (3, 32, 32)),
    ),
    "verified": (VERIFIED, lambda base: read_outcomes(base / "run")),
    "exported": ("exported/config.json", lambda base: load_exported(base / "exported")),
    "weights": ("exported/model.safetensors", lambda base: load_exported(base / "exported")),
}


MANY = pytest.mark.parametrize(
    "examples", [6, pytest.param(2000, marks=pytest.mark.slow)], ids=["few examples", "many examples"]
)


@pytest.mark.parametrize("kind", READ)
@MANY
def test_a_replaced_file_is_read_or_refused_in_one_sentence(folders, tmp_path, monkeypatch, kind, examples):
    name, read = READ[kind]
    base = tmp_path / "base"
    shutil.copytree(folders, base)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = base / name
    sound = file.read_bytes()
    contents = st.binary(max_size=200) | broken(sound) | st.sampled_from(OTHER_KINDS)
    if file.suffix == ".json":
        contents |= changed(sound.decode())
    before = below(tmp_path, file)
    outcomes = set()

    @settings(
        max_examples=examples, deadline=10_000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(contents)
    def check(content):
        put(file, content)
        try:
            with memory_limited():
                read(base)
            outcomes.add("read")
        except SeSearchError:  # whose message is one line, which test_cli tests
            outcomes.add("refused")
        assert below(tmp_path, file) == before

    check()
    for content in OTHER_KINDS:  # each of them, however few examples there are
        check.hypothesis.inner_test(content)
    put(file, sound)
    read(base)
    assert "refused" in outcomes or kind == "run.json"


@MANY
def test_a_changed_configuration_is_read_or_refused_in_one_sentence(examples):
    @settings(max_examples=examples, deadline=10_000, derandomize=True, database=None)
    @given(changed(CONFIG.to_json()) | broken(CONFIG.to_json().encode()))
    def check(content):
        try:
            config = SEConfig.from_json(content.decode("utf-8", "replace"))
        except SeSearchError:
            return
        assert SEConfig.from_json(config.to_json()) == config

    check()
