"""Run folders of somebody else: nothing in them is executed, and what no search writes is refused in one sentence."""

import json
import pickle
import random
import shutil
import sqlite3
import zlib
from base64 import b64encode
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import assert_refused, contents, invoke

from se_search import load_run
from se_search.data.load import load_data
from se_search.errors import RunFolderError
from se_search.network.config import SEConfig
from se_search.network.insertion import create_model
from se_search.training.recipe import Training, TrainingRecipe
from se_search.trials.notes import pack, unpack


class Payload:
    """Would create a file when unpickled."""

    def __reduce__(self):
        return open, ("executed", "w")


def npy(kind, shape, data=b"", header="{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}\n"):
    """A file of NumPy's with a header that need not be true."""
    text = header.format(kind, shape).encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


PACKED = {
    "zeros without an end": bytes(2**26),
    "an array without an end": npy("|b1", f"(1, {2**26})", bytes(2**26)),
    "less than was promised": npy("<f8", "(1, 1000000000000)"),
    "more than was promised": npy("<f8", "(1, 1)", bytes(16)),
    "a negative size": npy("<f8", "(-1, -1)", bytes(8)),
    "objects": npy("|O", "(1, 1)", pickle.dumps([Payload()])),
    "a pickle": pickle.dumps(Payload()),
    "texts": npy("<U2", "(1, 1)", bytes(8)),
    "one dimension": npy("<f4", "(1,)", bytes(4)),
    "a header nested too deeply": npy("", "", header="-" * 9000 + "1"),
    "a header that does not end": npy("", "", header="(" * 9000),
    "another version": b"\x93NUMPY\x09\x00\x00\x00",
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_arrays_that_no_search_writes_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="a packed array"):
        unpack(b64encode(zlib.compress(PACKED[name])).decode())
    assert list(tmp_path.iterdir()) == []


def test_a_packed_array_is_cut_off_before_it_is_unpacked_to_its_end(monkeypatch):
    """A gigabyte of zeros is a text of 1.4 MB; what is read of it stays below a twentieth."""
    compressor = zlib.compressobj()
    packed = b"".join(compressor.compress(bytes(2**24)) for _ in range(64)) + compressor.flush()
    stream, read = zlib.decompressobj(), []

    def decompress(data, limit):
        read.append(stream.decompress(data, limit))
        return read[-1]

    monkeypatch.setattr(zlib, "decompressobj", lambda: SimpleNamespace(decompress=decompress))
    with pytest.raises(ValueError, match="a packed array"):
        unpack(b64encode(packed).decode())
    assert list(map(len, read)) == [2**25]


def test_a_checkpoint_with_a_pickled_object_is_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "x.checkpoint.pt"
    torch.save({"model": Payload(), "optimizer": {}, "average": None, "history": []}, checkpoint)
    model = create_model(SEConfig("test_resnet"), num_classes=10)
    with pytest.raises(RunFolderError, match=r"x\.checkpoint\.pt is damaged \(UnpicklingError\)"):
        Training(model, TrainingRecipe(epochs=1, batch=64, learning_rate=0.002), load_data("digits"), "cpu", checkpoint)
    assert [file.name for file in tmp_path.iterdir()] == ["x.checkpoint.pt"]


def test_the_mark_of_an_executed_payload_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Payload())).close()
    assert (tmp_path / "executed").exists()


ATTRIBUTES = {
    "correct": [json.dumps(b64encode(zlib.compress(content)).decode()) for content in PACKED.values()],
    "config": [
        json.dumps("[" * 100_000),
        json.dumps(" " * 2_000_000 + "{}"),
        json.dumps(SEConfig("test_resnet").to_json().replace("test_resnet", "../x").replace("{", '{"a\\nb":1,', 1)),
        json.dumps('{"sites":[]}'),
        "3",
        "null",
    ],
    "accuracy": ['"high"', "1" + "0" * 400, "{}", "[]"],
    "counted_parameters": ["1" + "0" * 40, '"x"', "null"],
    "name": ["3", "[]", "{}"],
    "latency_conditions": ["[]", "3", "{}"],
    "se_blocks": ['"many"', "null", "1e999"],
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_trials_that_no_search_writes_are_refused(finished_run, monkeypatch, name):
    monkeypatch.chdir(finished_run)
    for value in ATTRIBUTES[name]:
        with closing(sqlite3.connect("run/study.db")) as connection, connection:
            connection.execute("UPDATE trial_user_attributes SET value_json = ? WHERE key = ?", (value, name))
        before = contents(finished_run)
        assert_refused(invoke("report", "run"), "se-search")
        assert contents(finished_run) == before


def test_attributes_nested_too_deeply_for_the_storage_make_it_damaged(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    with closing(sqlite3.connect("run/study.db")) as connection, connection:
        connection.execute("UPDATE trial_user_attributes SET value_json = ?", ("[" * 100_000 + "]" * 100_000,))
    before = contents(finished_run)
    assert_refused(invoke("report", "run"), "study.db is damaged")
    assert contents(finished_run) == before


@pytest.mark.parametrize(
    "value", ["3", "[]", "{}", '{"classes": 0, "size": [3, 32, 32]}', '{"classes": "ten", "size": 3}']
)
def test_data_that_no_search_notes_are_refused(finished_run, monkeypatch, value):
    monkeypatch.chdir(finished_run)
    with closing(sqlite3.connect("run/study.db")) as connection, connection:
        connection.execute("UPDATE study_user_attributes SET value_json = ? WHERE key = 'data'", (value,))
    before = contents(finished_run)
    assert_refused(invoke("report", "run"), "run contains data that se-search did not write")
    assert contents(finished_run) == before


@pytest.mark.parametrize("file", ["run.json", "supernet.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, " " * 20_000_000, '"x"'], ids=["deep", "large", "a text"])
def test_descriptions_that_cannot_be_read_are_passed_over(finished_run, monkeypatch, file, text):
    monkeypatch.chdir(finished_run)
    Path("run", file).write_text(text)
    assert invoke("report", "run").exit_code == 0


def test_epochs_that_no_search_writes_are_refused(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    Path("run", "supernet.json").write_text('{"epochs": 3}')
    assert_refused(invoke("report", "run"), "run contains data that se-search did not write")


def test_a_packed_array_of_the_largest_size_comes_back():
    values = np.random.default_rng(0).random((2, 50_000)) < 0.5
    assert (unpack(pack(values)) == values).all()


ESCAPES = "\x1b]0;title\x07\x1b[2J\r\u202e\x9b31m"


def with_escapes(value, keep=()):
    """The same JSON with escapes before each text that is not a key, a name of ``keep`` or part of one."""
    if isinstance(value, dict):
        return {key: one if key in keep else with_escapes(one, keep) for key, one in value.items()}
    if isinstance(value, list):
        return [with_escapes(one, keep) for one in value]
    return ESCAPES + value if isinstance(value, str) else value


def change_texts(database, table, change):
    """Replace the JSON of user attributes by what ``change`` makes of their key and value; ``None`` keeps it."""
    with closing(sqlite3.connect(database)) as connection, connection:
        rows = connection.execute(f"SELECT rowid, key, value_json FROM {table}").fetchall()
        for row, key, text in rows:
            value = change(key, json.loads(text))
            if value is not None:
                connection.execute(f"UPDATE {table} SET value_json = ? WHERE rowid = ?", (json.dumps(value), row))


def assert_printable(result):
    for output in (result.stdout_bytes, result.stderr_bytes):
        unprintable = {one for one in output.decode() if not one.isprintable()} - {"\n"}
        assert not unprintable, output
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("readable", [True, False], ids=["texts that are shown", "every text"])
def test_escapes_in_the_texts_of_a_run_folder_reach_no_terminal(finished_run, monkeypatch, readable):
    """The first case leaves what commands understand, so that they get to the rest."""
    monkeypatch.chdir(finished_run)
    database = "run/study.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) "
            "SELECT trial_id, 'error', '\"x\"' FROM trials"
        )
        connection.execute("UPDATE trials SET state = 'FAIL' WHERE number = 5")

    def of_trial(key, value):
        if key in ("name", "error"):
            return ESCAPES + str(value)
        if key == "latency_conditions":
            return with_escapes(value, ("runtime", "device", "dtype", "memory_format") if readable else ())
        return None if readable or not isinstance(value, str) else ESCAPES + value

    def of_study(key, value):
        return (None if key == "data" else value) if readable else with_escapes(value)

    change_texts(database, "trial_user_attributes", of_trial)
    change_texts(database, "study_user_attributes", of_study)
    with closing(sqlite3.connect(database)) as connection, connection:
        text = json.dumps([f"{ESCAPES}.png"])
        study = connection.execute("SELECT study_id FROM studies").fetchone()[0]
        connection.execute(
            "INSERT OR REPLACE INTO study_user_attributes (study_id, key, value_json) "
            "VALUES (?, 'unreadable_images', ?)",
            (study, text),
        )
    for file in ("run.json", "supernet.json"):
        Path("run", file).write_text(json.dumps(with_escapes(json.loads(Path("run", file).read_text()))))
    definition = Path("run", "study.yaml").read_text()
    Path("run", "study.yaml").write_text(
        f"{definition}\n".replace("description: ''", f"description: {json.dumps(ESCAPES)}")
    )
    shutil.copytree("run", "other")
    shown = ""
    for arguments in (
        ("report", "run"),
        ("report", "run", "--format", "md", "--format", "csv"),
        ("compare", "run", "other"),
        ("export", "run", "--to", "exported"),
        ("run", "--study", "tiny.yaml", "--out", "run"),
        ("excitation", "run", "--trial", "99"),
    ):
        result = invoke(*arguments)
        assert_printable(result)
        shown += result.stdout + result.stderr
    assert r"\x1b]0;title\x07" in shown or not readable


@pytest.mark.slow
def test_escapes_reach_no_terminal_from_verification_and_from_exported_folders(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    change_texts("run/study.db", "trial_user_attributes", lambda key, value: ESCAPES + value if key == "name" else None)
    assert_printable(invoke("verify", "run", "--members", "1", "--seeds", "1", "--epochs", "1"))
    assert_printable(invoke("export", "run", "--to", "exported"))
    config = json.loads(Path("exported", "config.json").read_text())
    keep = ("architecture", "model_args", "weights_sha256", "input_size", "interpolation", "crop_mode")
    Path("exported", "config.json").write_text(json.dumps(with_escapes(config, keep)))
    assert_printable(invoke("excitation", "exported", "--data", "digits", "--images", "64", "--to", "analysis"))


def test_a_text_that_a_spreadsheet_would_execute_is_marked_as_text(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    formula = '=HYPERLINK("http://localhost")'
    change_texts("run/study.db", "trial_user_attributes", lambda key, value: formula if key == "name" else None)
    assert invoke("report", "run").exit_code == 0
    for file in ("trials.csv", "pareto.csv"):
        table = pd.read_csv(Path("run", file))
        assert set(table["name"].dropna()) <= {f"'{formula}"}
        assert (table["accuracy"] > 0).any()
    assert formula not in pd.read_csv("run/trials.csv").to_numpy().tolist()


TABLES = ("studies", "study_directions", "study_system_attributes", "study_user_attributes", "trials")
TABLES = (*TABLES, "trial_params", "trial_values", "trial_system_attributes", "trial_user_attributes")
CELLS = (None, -1, 2**63 - 1, 0.5, float("inf"), "", "x", "\ud800".encode("utf-8", "surrogatepass"), b"\x00\xff")
CELLS = (
    *CELLS,
    "[]",
    "{}",
    "null",
    "NaN",
    "1e999",
    '"x"',
    "[[]]",
    '{"name": "x"}',
    "COMPLETE",
    "RUNNING",
    "2100-01-01",
)


def change_a_cell(database, drawing):
    """Put something else into a cell of one of Optuna's tables, or take a row away; what was done."""
    with closing(sqlite3.connect(database)) as connection, connection:
        table = drawing.choice(TABLES)
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        rows = [row[0] for row in connection.execute(f"SELECT rowid FROM {table}")]
        if not rows:
            return table, "empty"
        row, column, value = drawing.choice(rows), drawing.choice(columns), drawing.choice(CELLS)
        try:
            if drawing.random() < 0.1:
                connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
            else:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
        except sqlite3.IntegrityError:
            return table, "kept"
        return table, column, value


@pytest.mark.parametrize(
    "seeds", [range(20), pytest.param(range(20, 2000), marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_storage_with_any_cell_changed_is_read_or_refused(finished_run, seeds):
    database = finished_run / "run" / "study.db"
    sound = database.read_bytes()
    outcomes = Counter()
    for seed in seeds:
        database.write_bytes(sound)
        drawing = random.Random(seed)
        changes = [change_a_cell(database, drawing) for _ in range(drawing.randint(1, 3))]
        try:
            load_run(finished_run / "run").trials  # noqa: B018  # reading it is what is tried
            outcomes["read"] += 1
        except RunFolderError:
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {changes}") from error
    assert min(outcomes["read"], outcomes["refused"]) > len(seeds) // 10
