"""The documentation does what it says: every code block and every command of it is run or checked.

Python blocks are executed, page by page in order, in a folder that holds a finished run. YAML blocks are loaded as a
space or a study. The entry points of TOML blocks are there, as of an installed package. `se-search` commands are run.
Where that would take long or needs the network, a smaller thing is done in its place, and only what the tables
``IN_COMMANDS`` and ``IN_PYTHON`` say. What starts other programs (make, pip, pytest, benchmarks) is checked against the
targets, extras, markers, files and options that exist. A block that is none of these fails.
"""

import ast
import functools
import inspect
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import yaml
from conftest import TINY_STUDY
from markdown_it import MarkdownIt
from safetensors.torch import save_file
from typer.main import get_command

import se_search
from se_search.cli import app
from se_search.plugins import CONFIGURATIONS, EVALUATORS, EXPORTERS, SPACES
from se_search.study.definitions import StudyDefinition
from se_search.study.space_definition import SpaceDefinition

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {"distributed.md"}
"""Pages about other machines: what stands there is checked against what exists, and not run."""
QUICK = {"README.md", "attention.md", "samplers.md", "security.md"}
"""Pages whose commands every run of the tests takes; the others are slow tests."""
RUN_IN_DOCS = "runs/resnet50-digits"

# Options of commands that get another value: a small network, few configurations, a trial that the tiny run has,
# embedded data, weights in a file.
IN_COMMANDS = {
    "--backbone": "test_resnet",
    "latency": "test_resnet",
    "--budget": "3",
    "--trial": "3",
    "--members": "1",
    "--data": "digits",
    "--pretrained": "weights.safetensors",
}

IN_PYTHON = {
    # A small network, one epoch, few configurations.
    'backbone="resnet18", budget=10': 'backbone="test_resnet", study="tiny.yaml", budget=3',
    # Weights of the backbone would be downloaded; the start is that of pretrained ones.
    "create_model(config, pretrained=True)": "create_model(config, identity_start=True)",
    # Small images, little time.
    "size=(3, 224, 224), threads=1": "size=(3, 64, 64), threads=1",
    "backbone, deployment=deployment)": "backbone, deployment=deployment, limit=0.5)",
}

SMALLEST_SPACE = {"placement": "stage", "ratios": [16], "gates": ["sigmoid"]}
SHELL = ("", "console", "bash", "sh", "shell")
DIRECTIVES = ("{toctree}", "text")
"""Fences for Sphinx, which ``make docs`` runs, and drawings, which ``test_imports.py`` holds against the code."""


@dataclass(frozen=True)
class Block:
    where: str
    language: str
    text: str

    def commands(self) -> list[list[str]]:
        """Words of each command; where a line starts with a prompt the others are output."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(page: Path) -> list[Block]:
    """Fenced and indented blocks."""
    return [
        Block(f"{page.relative_to(ROOT)}:{token.map[0] + 1}", token.info.strip(), token.content)
        for token in parse(page)
        if token.type in ("fence", "code_block")
    ]


def parse(page):
    return MarkdownIt().enable("table").parse(page.read_text())


def inline_parts(page: Path, kind: str):
    return [part for token in parse(page) for part in token.children or () if part.type == kind]


@functools.cache
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> set[str]:
    """Names of everything that some extra or the package itself needs."""
    declared = project()["project"]
    needed = declared["dependencies"] + [one for extra in declared["optional-dependencies"].values() for one in extra]
    return {re.match(r"[\w.-]+", one).group() for one in needed}


def small(words: list[str]) -> list[str]:
    """The `se-search` command that is run in place of one in the documentation."""
    words = [IN_COMMANDS.get(before, word) for before, word in itertools.pairwise(["", *words])]
    if "--image-size" in words:  # embedded data have their own
        place = words.index("--image-size")
        del words[place : place + 2]
    if words[1:2] == ["run"] and "--study" not in words:
        words += ["--study", "tiny.yaml"]
    if "own-images-pretrained" in words:  # its weights would be downloaded, and it has a budget of its own
        words += ["--pretrained", "weights.safetensors", "--budget", "3"]
    if words[1:2] == ["latency"] and "--model" in words and "--size" not in words:
        words += ["--size", "32"]  # that of the tiny study's data
    if words[1:2] == ["latency"] and "--limit" not in words:
        words += ["--limit", "0.1"]
    return words


def step_of(words: list[str]) -> dict | None:
    """What the runner does for a command; nothing for one that can only be checked."""
    words = as_command(words)
    if words[0] == "se-search":
        return {"command": small(words)}
    if words[:2] == ["python", "-c"]:
        return {"python": words[2]}
    if words[0] == "open":
        return {"file": words[1]}
    check(words)
    return None


def as_command(words: list[str]) -> list[str]:
    return ["se-search", *words[3:]] if words[:3] == ["python", "-m", "se_search"] else words


def check(words: list[str]) -> None:
    """Check a command against what exists, without running it."""
    program, *rest = as_command(words)
    options = [word.partition("=")[0] for word in rest if word.startswith("-")]
    others = [word for word in rest if not word.startswith("-")]
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(others) <= set(targets), words
    elif program == "pip":
        assert others[0] == "install", words
        for wanted in others[1:]:
            name, extras = re.fullmatch(r"([\w.-]+?)(?:\[([\w,-]+)\])?", wanted).groups()
            assert name in {".", "se-search", *requirements()}, words
            assert set((extras or "dev").split(",")) <= set(project()["project"]["optional-dependencies"]), words
    elif program == "pytest":
        markers = [one.partition(":")[0] for one in project()["tool"]["pytest"]["ini_options"]["markers"]]
        chosen = others.pop(0) if "-m" in options else None
        assert chosen in {None, *markers}, words
        assert all((ROOT / path).exists() for path in others), words
    elif program == "python":
        script = (ROOT / others[0]).read_text()
        assert all(f'"{option}"' in script for option in options), words
    elif program == ".ci/run":
        assert os.access(ROOT / program, os.X_OK)
    elif program == "se-search":
        command = get_command(app)
        if others:
            assert others[0] in command.commands, words
            command = command.commands[others[0]]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert set(options) <= known, words
    else:
        raise AssertionError(f"{' '.join(words)}: neither run nor checked")


def definition_of(block: Block) -> tuple[str, dict]:
    """Kind and content of a YAML block; a fragment is completed with the smallest space or with a backbone."""
    data = yaml.safe_load(block.text)
    if data.keys() <= set(SpaceDefinition.keys_for(data)):
        keys = SpaceDefinition.keys_for(data)
        return "space", {key: value for key, value in SMALLEST_SPACE.items() if key in keys} | data
    assert data.keys() <= StudyDefinition.model_fields.keys(), f"{block.where}: neither a space nor a study"
    return "study", {"backbone": "test_resnet"} | data


def write_definitions(words: list[str], definitions: list[tuple[str, dict]], folder: Path) -> None:
    """Write the files that a command names from the page's own blocks, a study with the tiny run's effort."""
    for option, value in itertools.pairwise(words):
        kind = option.removeprefix("--")
        if kind in ("space", "study") and value.endswith(".yaml") and not (folder / value).exists():
            on_page = [data for one, data in definitions if one == kind]
            assert on_page, f"{value} is named, but the page shows no {kind}"
            content = on_page[0] | (TINY_STUDY | {"budget": 3} if kind == "study" else {})
            (folder / value).write_text(yaml.safe_dump(content))


def shown(name: str) -> str:
    """The definition of ``name`` that a page shows, after the imports of that page."""
    for page in PAGES:
        trees = [ast.parse(block.text) for block in blocks_of(page) if block.language == "python"]
        statements = [statement for tree in trees for statement in tree.body]
        for statement in statements:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement]
            if name in (getattr(target, "id", getattr(target, "name", None)) for target in targets):
                imports = [one for one in statements if isinstance(one, (ast.Import, ast.ImportFrom))]
                return "\n".join(map(ast.unparse, [*imports, statement]))
    raise AssertionError(f"{name} is an entry point, but no page shows it")


def install_entry_points(block: Block, folder: Path) -> None:
    """Lay out a package with the entry points of a TOML block, as pip does."""
    groups = tomllib.loads(block.text)["project"]["entry-points"]
    assert groups.keys() <= {group.name for group in (SPACES, EVALUATORS, EXPORTERS, CONFIGURATIONS)}, block.where
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
        for target in points.values():
            module, _, name = target.partition(":")
            file = folder.joinpath(*module.split(".")).with_suffix(".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(shown(name))
    information = folder / "my_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in ELSEWHERE], ids=lambda page: page.name)
def test_what_runs_on_other_machines_exists(page):
    checked = 0
    for block in blocks_of(page):
        if block.language == "python":
            calls = [node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Call)]
            for call in calls:
                if ast.unparse(call.func).startswith("se_search."):
                    function = getattr(se_search, ast.unparse(call.func).removeprefix("se_search."))
                    inspect.signature(function).bind(*call.args, **{one.arg: one.value for one in call.keywords})
                    checked += 1
            continue
        commands = list(lists_in(yaml.safe_load(block.text))) if block.language == "yaml" else block.commands()
        for words in commands:
            if "se-search" in words:
                check(words[words.index("se-search") :])
                checked += 1
    assert checked >= 6


def lists_in(content):
    """Every list of a YAML document, which may be a command."""
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from lists_in(value)
    if isinstance(content, list):
        yield [str(one) for one in content]


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=() if page.name in QUICK else pytest.mark.slow)
        for page in PAGES
        if page.name not in ELSEWHERE
    ],
)
def test_a_page_does_what_it_says(page, finished_run, monkeypatch):
    shutil.copytree(finished_run / "run", finished_run / RUN_IN_DOCS)
    installed = finished_run / "installed"
    monkeypatch.setenv("PYTHONPATH", str(installed), prepend=os.pathsep)
    weights = timm.create_model("test_resnet", num_classes=10).state_dict()
    save_file(weights, finished_run / "weights.safetensors")
    blocks = blocks_of(page)
    definitions = [definition_of(block) for block in blocks if block.language == "yaml"]

    steps = []
    for number, block in enumerate(blocks):
        if block.language == "python":
            text = functools.reduce(lambda code, one: code.replace(*one), IN_PYTHON.items(), block.text)
            steps.append({"where": block.where, "python": text})
        elif block.language == "yaml":
            kind, data = definition_of(block)
            (finished_run / f"block{number}.yaml").write_text(yaml.safe_dump(data))
            steps.append({"where": block.where, kind: f"block{number}.yaml"})
        elif block.language == "toml":
            install_entry_points(block, installed)
        elif block.language in SHELL:
            for words in block.commands():
                if step := step_of(words):
                    write_definitions(step.get("command", []), definitions, finished_run)
                    steps.append({"where": block.where, **step})
        else:
            assert block.language in DIRECTIVES, f"{block.where} is neither run nor checked"
    if steps:
        take(steps, finished_run)


def take(steps: list[dict], folder: Path) -> None:
    """Take steps in one process in a folder."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("docs_steps.py"))],
        input=json.dumps(steps),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_notebook_does_what_it_says(tmp_path):
    weights = timm.create_model("test_resnet", num_classes=1000).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    cells = json.loads((ROOT / "docs" / "notebooks" / "search.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert 'PRETRAINED = "timm"' in code[0]
    code[0] = code[0].replace('PRETRAINED = "timm"', 'PRETRAINED = "weights.safetensors"')
    take([{"where": f"cell {number}", "python": text} for number, text in enumerate(code, 1)], tmp_path)
    assert (tmp_path / "exported" / "README.md").is_file()


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "benchmarks" / "README.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_commands_within_the_text_exist(page):
    for part in inline_parts(page, "code_inline"):
        if re.match(r"(se-search|make|pip|pytest|python) |\.ci/run$", part.content):
            check(shlex.split(part.content))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page):
    for kind, attribute in (("link_open", "href"), ("image", "src")):
        for part in inline_parts(page, kind):
            target = str(part.attrs[attribute])
            if not target.startswith(("http://", "https://", "#")):
                assert (page.parent / target.partition("#")[0]).exists(), target


def test_every_replacement_is_needed():
    blocks = [block for page in PAGES for block in blocks_of(page)]
    python = "".join(block.text for block in blocks if block.language == "python")
    assert [text for text in IN_PYTHON if text not in python] == []
    words = {word for block in blocks if block.language in SHELL for command in block.commands() for word in command}
    assert set(IN_COMMANDS) <= words


def test_the_reference_documents_every_public_name():
    text = (ROOT / "docs" / "api.rst").read_text()
    documented = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)(?:\(\))?$", text, re.MULTILINE)
    assert sorted(documented) == sorted(set(se_search.__all__) - {"__version__"})


def test_the_first_page_leads_to_every_page():
    first = ROOT / "docs" / "index.md"
    linked = {part.attrs["href"] for part in inline_parts(first, "link_open")}
    assert {page.name for page in PAGES if page.parent == first.parent} - {first.name} | {"api.rst"} <= linked
