"""Bad input of every kind to every command: one sentence, exit code 2, nothing written."""

import json
import os
from pathlib import Path

import pytest
from test_cli import COMMANDS, assert_refused, contents, invoke

from se_search import SEConfig

LONG = "x" * 5000
NESTED = "[" * 21 + "]" * 21
SPACE = "placement: stage\nratios: [4]\ngates: [sigmoid]\n"
STUDY = "backbone: test_resnet\n"
LAUGHS = "".join(f"a{one}: &a{one} [{', '.join([f'*a{one - 1}'] * 9)}]\n" for one in range(1, 10))

YAML = {
    "aliases that multiply": (f"a0: &a0 [lol]\n{LAUGHS}", ["is not accepted", "line 2", "alias"]),
    "an alias of itself": ("&a [*a]\n", ["is not accepted", "alias"]),
    "merging that multiplies": ("a: &a {b: 1}\n<<: [*a, *a]\n", ["is not accepted", "line 2", "alias"]),
    "lists in lists": (f"description: {NESTED}\n", ["is not accepted", "nested more than 20 levels"]),
    "mappings in mappings": ("{a: " * 30 + "}" * 30, ["is not accepted", "nested more than 20 levels"]),
    "lists without an end": ("[" * 2000, ["is not accepted", "nested more than 20 levels"]),
    "a large file": ("#" * 300_000, ["cannot be read", "262,144 bytes"]),
    "an integer without an end": (f"budget: {'9' * 5000}\n", ["line 1", "is not a valid int"]),
    "an integer to base 60": (f"budget: 1{':1' * 5000}\n", ["line 1", "is not a valid int"]),
    "a hexadecimal integer": (f"budget: 0x{'f' * 5000}\n", ["line 1", "is not a valid int"]),
    "a day that is none": ("description: 2001-13-45\n", ["line 1", "2001-13-45", "is not a valid timestamp"]),
    "a number that is none": ("budget: !!float many\n", ["line 1", "'many' is not a valid float"]),
    "a truth that is none": ("bias: !!bool perhaps\n", ["line 1", "'perhaps' is not a valid bool"]),
    "a Python object": ("budget: !!python/object/apply:os.abort []\n", ["line 1", "python/object"]),
    "a tag of its own": ("budget: !local 3\n", ["line 1", "!local"]),
    "a list as a key": ("? [a]\n: b\n", ["line 1", "unhashable"]),
    "two documents": ("a: 1\n---\na: 2\n", ["line 2", "another document"]),
    "a control character": ("backbone: a\x07b\n", ["not valid YAML"]),
}

KEYS = {
    "a key that is a number": ("3: 4\n", ["3"]),
    "a key with line breaks": ('"a\\nb\\e[31m": 1\n', ["a\\nb\\x1b[31m", "not a known key"]),
    "a key without an end": (f"? {LONG}\n: 1\n", ["xxx … xxx", "not a known key"]),
    "half of a character": ('"\\ud800": 1\n', ["\\ud800"]),
}

STUDIES = {
    "options that are bytes": ("evaluator: {name: mine, options: {a: !!binary //8=}}\n", ["options", "JSON"]),
    "options that are a day": ("evaluator: {name: mine, options: {a: 2024-01-01}}\n", ["options", "JSON"]),
    "too many data workers": ("data_workers: 1000000\n", ["data_workers", "1024"]),
    "too many threads": ("threads: 1000000\n", ["threads", "4096"]),
    "too large images": ("image_size: 1000000\n", ["image_size", "16384"]),
    "too large batches": ("evaluator: {batch: 1000000000}\n", ["evaluator.batch", "1048576"]),
    "an evaluator that is a path": ("evaluator: {name: ../../evil}\n", ["evaluator.name", "'../../evil'"]),
    "an evaluator nobody gave": ("evaluator: {name: 'python:evil'}\n", ["given from Python (evil)"]),
    "an objective with a line break": ('custom_objectives: {"a\\nb": minimize}\n', ["a\\nb", "letters"]),
    "an objective of the table": ("custom_objectives: {number: minimize}\n", ["number", "not in use"]),
    "a space elsewhere": ("space: ../../etc/passwd\n", ["'../../etc/passwd'", "neither a file"]),
    "a space that is a folder": ("space: .\n", ["'.'", "neither a file"]),
    "a space that is a study": ("space: mine.yaml\n", ["mine.yaml: placement is missing"]),
    "data with a control character": ('data: "a\\0b"\n', ["'a\\x00b'", "neither embedded"]),
    "a backbone that is a path": ("backbone: ../test_resnet\n", ["'../test_resnet'", "not an architecture"]),
}

CONFIGURATIONS = {
    "a large file": (" " * 2_000_000, ["1,048,576"]),
    "a very large file": (" " * 17_000_000, ["16,777,216"]),
    "lists without an end": ("[" * 100_000, ["not an SE configuration"]),
    "the same site thousands of times": (
        json.dumps(
            SEConfig.uniform("test_resnet").to_dict()
            | {"sites": SEConfig.uniform("test_resnet").to_dict()["sites"] * 999}
        ),
        ["entries: a site can have only one"],
    ),
    "hidden layers without an end": (
        SEConfig.uniform("test_resnet").to_json().replace('"rounding":8', '"rounding":1000000000'),
        ["rounding", "at most 1024"],
    ),
    "a number without an end": (
        SEConfig.uniform("test_resnet").to_json().replace(":16,", f":{'9' * 5000},"),
        ["digits"],
    ),
    "no number": (SEConfig.uniform("test_resnet").to_json().replace(":16,", ":NaN,"), ["ratio", "nan"]),
    "a backbone that is a path": ('{"backbone":"../x","sites":[],"removed":[]}', ["../x", "not for test_resnet"]),
    "a key with a line break": ('{"a\\nb":1,"backbone":"test_resnet","sites":[],"removed":[]}', ["a\\nb", "unknown"]),
}

RUN = ["run", "--backbone", "test_resnet"]

ARGUMENTS = [
    ["thin", LONG],
    ["thin", "file"],
    ["thin", "resnet50", "--pretrained", LONG],
    ["thin", "test_byobnet", "--data", "digits", "--images", "1"],
    ["thin", "test_byobnet", "--data", "digits", "--tolerance", "nan"],
    *([command, LONG] for command in ("verify", "report", "watch", "compare", "export", "excitation")),
    [*RUN, "--out", LONG],
    ["run", "--backbone", LONG],
    *([*RUN, option, value] for option in ("--study", "--space") for value in (LONG, "../x", "a\nb", "a\0b", ".", "")),
    *([*RUN, "--evaluator", value] for value in ("../x", "a/b", "a\x1b[31mb", "", "nobodys", LONG)),
    *(
        [*RUN, "--out", "run", "--data", value]
        for value in (LONG, "~nobody-of-this-name/x", "torch/../x", "wds/pipe:touch made")
    ),
    *([*RUN, "--data", value] for value in ("pictures", "loop")),
    *([*RUN, "--evaluator", "finetune", "--pretrained", value] for value in (LONG, "a\0b", "local-dir:none", "a/../b")),
    *(
        ["run", "--backbone", value]
        for value in ("../test_resnet", "hf-hub:a/b", "local-dir:.", "test_resnet.a\nb", "a/b.c/d")
    ),
    *([*RUN, "--study", "a folder/file.yaml/deeper"], [*RUN, "--out", "file/\x1b[31mrun"]),
    *(["sites", value] for value in (LONG, "../test_resnet", "a\nb", "test_resnet.x/y")),
    *(["sites", "test_resnet", "--position", value] for value in (LONG, "a\nb")),
    *(["latency", value] for value in (LONG, "hf-hub:a/b", "a\0b")),
    *(["latency", "test_resnet", "--config", value] for value in (LONG, "a\nb", ".", "binary.json")),
    *(["excitation", value] for value in ("a\nb", "a\0b", "../x", "pictures")),
    *(
        ["excitation", "test_resnet", "--data", "digits", "--pretrained", value]
        for value in (LONG, "a\0b", "local-dir:a\nb")
    ),
    *([command, value] for command in ("verify", "report", "export") for value in ("a\nb", "../x", "file")),
    ["watch", "file"],
    *(["compare", value, "pictures"] for value in ("a\nb", "pictures", "../x")),
    *([*RUN, "--set", value] for value in (LONG, "a\nb", "", "=", "budget", "a.b.c=1", "..=1", "budget=[1", "a\0b=1")),
    *([*RUN, "--set", f"budget={value}"] for value in (LONG, NESTED, "9" * 500, "!!python/object/apply:os.abort []")),
    *(["reproduce", value] for value in (LONG, "a\nb", "../x")),
    *(["atlas", value] for value in (LONG, "a\nb", "[")),
    *(["atlas", "--html", value] for value in (LONG, "file", ".")),
    *(["evidence", value] for value in (LONG, "a\nb", "hf-hub:a/b")),
    *(["power", "--data", value] for value in (LONG, "a\nb", "../x", "file", "a\0b")),
    *([*RUN, "--ray", value] for value in (LONG, "a\nb", "", "x:y", "ray://head:10001", "a\0b:1")),
]

WORKERS = {
    "fewer than none": (["--workers", "-1"], ["--workers is -1", "at least 1"]),
    "none": (["--workers", "0"], ["--workers is 0", "at least 1"]),
    "here and elsewhere": (["--workers", "2", "--ray", "auto"], ["--workers", "--ray", "omit one"]),
    "GPUs without them": (["--gpus-per-trial", "1"], ["--gpus-per-trial requires", "--workers", "--ray"]),
    "fewer GPUs than none": (["--workers", "2", "--gpus-per-trial", "-1"], ["--gpus-per-trial is -1", "at least 0"]),
    "GPUs that are no number": (["--workers", "2", "--gpus-per-trial", "nan"], ["--gpus-per-trial is nan"]),
    "a node without a cluster": (["--latency-node"], ["--latency-node requires --ray"]),
    "a node and a model": (["--ray", "auto", "--latency", "model", "--latency-node"], ["--latency-node", "model"]),
}

CASES = {
    **{
        f"{option[2:]}: {name}": ([*RUN, option, "mine.yaml"], {"mine.yaml": text}, words)
        for option in ("--space", "--study")
        for name, (text, words) in YAML.items()
    },
    **{
        f"study: {name}": (
            ["run", "--study", "mine.yaml"],
            {"mine.yaml": text if "backbone" in text else STUDY + text},
            words,
        )
        for name, (text, words) in STUDIES.items()
    },
    **{
        f"{option[2:]}: {name}": ([*RUN, option, "mine.yaml"], {"mine.yaml": start + text}, words)
        for option, start in (("--space", SPACE), ("--study", STUDY))
        for name, (text, words) in KEYS.items()
    },
    "space: too large a rounding": (
        [*RUN, "--space", "mine.yaml"],
        {"mine.yaml": f"{SPACE}rounding: 1000000000\n"},
        ["rounding", "1024"],
    ),
    **{
        f"configuration: {name}": (["latency", "test_resnet", "--config", "mine.json"], {"mine.json": text}, words)
        for name, (text, words) in CONFIGURATIONS.items()
    },
    **{
        f"run folder of {command}: {name}": (
            [command, "theirs"],
            {"theirs/study.yaml": text},
            ["study.yaml is damaged"],
        )
        for command in ("verify", "report", "watch", "export", "excitation")
        for name, (text, _) in YAML.items()
        if name in ("aliases that multiply", "lists in lists", "a large file", "a Python object")
    },
    **{f"workers: {name}": ([*RUN, *options], {}, words) for name, (options, words) in WORKERS.items()},
    **{" ".join(ascii(one)[1:-1][:20] for one in arguments): (arguments, {}, []) for arguments in ARGUMENTS},
}


def test_every_command_that_takes_something_is_among_them():
    assert {arguments[0] for arguments, _, _ in CASES.values()} == {*COMMANDS} - {"spaces", "studies"}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, name):
    arguments, files, words = CASES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a file")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "loop" / "class").mkdir(parents=True)
    for link in ("here", "there"):
        os.symlink("..", tmp_path / "loop" / "class" / link)
    for file, text in files.items():
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(text)
    before = contents_without_loops(tmp_path)

    result = invoke(*arguments)
    if result.stderr.startswith("Usage: "):  # typer's own: what is wrong stands below how the command is used
        result.stderr_bytes = result.stderr.strip().splitlines()[-1].encode()
    assert_refused(result, *words)
    assert result.stderr.strip().isprintable()
    assert len(result.stderr) < 6000
    assert contents_without_loops(tmp_path) == before


def contents_without_loops(folder):
    return {name: digest for name, digest in contents(folder).items() if not name.startswith("loop/class/")}
