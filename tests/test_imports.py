"""What may import what, and how light the package is."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import se_search

PACKAGE = Path(se_search.__file__).parent
ORDER = [
    "errors",
    "files",
    "words",
    "markdown",
    "progress",
    "plugins",
    "memory",
    "devices",
    "time_limit",
    "safe_path",
    "statistics",
    "paired_power",
    "definition",
    "network",
    "deployment",
    "data",
    "training",
    "latency",
    "excitation",
    "evidence",
    "study",
    "sampling",
    "trials",
    "cluster",
    "results",
    "tracking",
    "driver",
    "report",
    "export",
    "api",
    "visualization",
    "completion",
    "terminal",
    "cli",
    "__main__",
]
ARCHITECTURE = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
MAY_IMPORT = {
    "report": {"errors", "files", "words", "markdown", "evidence", "study", "trials", "results", "report"},
    "export": {"errors", "files", "words", "markdown", "plugins", "network", "deployment", "export"},
}


def part_of(module: str) -> str:
    return module.split(".")[0]


def imports(file: Path) -> set[str]:
    """Names of the package's parts that a file imports, wherever in the file."""
    inside = ("se_search", *file.relative_to(PACKAGE).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*inside[: -node.level], *(node.module.split(".") if node.module else ()))
            found |= {base[1]} if len(base) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.startswith("se_search") for name in modules), f"{file}: import relatively"
    return found - {"__version__"}


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file):
    part = part_of(".".join(file.relative_to(PACKAGE).with_suffix("").parts))
    allowed = MAY_IMPORT.get(part, set(ORDER[: ORDER.index(part) + 1]))
    assert imports(file) <= allowed


def drawing() -> list[str]:
    """Lines of the drawing in the documentation."""
    return ARCHITECTURE.split("```text\n")[1].split("```")[0].splitlines()


def test_the_drawing_shows_every_part_and_imports_run_down_it():
    below_all = ORDER[: ORDER.index("network")]
    drawn = ORDER[ORDER.index("network") :]
    # Explanations stand to the right of the drawing.
    line_of = {part: number for number, line in enumerate(drawing()) for part in drawn if part in line[:48].split()}
    assert line_of.keys() == set(drawn)
    for part in drawn:
        files = [file for file in FILES if file.relative_to(PACKAGE).with_suffix("").parts[0] == part]
        for imported in set().union(*map(imports, files)) - {part, *below_all}:
            # Parts on one line import each other from left to right, as main does the command line.
            assert (line_of[part], drawn.index(imported)) < (line_of[imported], drawn.index(part)), (part, imported)
    text = ARCHITECTURE.replace("\n", " ")
    assert all(f"`{part}`" in text for part in below_all)


def imported_files(file: Path) -> set[Path]:
    """Files of the package that a file imports when it is loaded."""
    found = set()
    for node in ast.parse(file.read_text()).body:  # not those that only type checkers see
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            inside = {folder / f"{alias.name}.py" for alias in node.names}
            found |= inside & set(FILES) or {folder.with_suffix(".py"), folder / "__init__.py"} & set(FILES)
    return found


def test_no_file_imports_itself_by_way_of_others():
    graph = {file: imported_files(file) - {file} for file in FILES}
    assert len(tuple(TopologicalSorter(graph).static_order())) == len(FILES)


def test_every_file_says_in_its_first_line_what_it_is_for():
    firsts = [(ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0] for file in FILES]
    assert all(first.endswith((".", ":")) for first in firsts)
    assert len(set(firsts)) == len(firsts)


def test_the_order_names_every_part():
    parts = {file.relative_to(PACKAGE).with_suffix("").parts[0] for file in FILES}
    assert parts == set(ORDER)


@pytest.mark.parametrize(
    "statement",
    [
        "import se_search",
        # Completion, and a mistake that the study's definition shows.
        "import se_search.cli as cli; from se_search import completion; from typer.testing import CliRunner; "
        "assert 'resnet50' in completion.backbones('resnet5'); "
        "assert \"--sampler is 'foo'\" in CliRunner().invoke(cli.app, ['run', '--sampler', 'foo']).stderr",
        "from se_search.study import files; files.list_spaces(); files.list_studies()",
        # What the atlas and the published tables tell.
        "import se_search.cli as cli; from typer.testing import CliRunner; "
        "asked = [['sites', 'resnet50'], ['evidence', 'resnet50'], ['atlas', 'resnet50']]; "
        "assert all(CliRunner().invoke(cli.app, one).exit_code == 0 for one in asked)",
    ],
)
def test_what_needs_no_network_is_light(statement):
    heavy = {"torch", "timm", "optuna", "pandas", "plotly", "sklearn"}
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)
    assert "se_search" in loaded


def test_scikit_learn_and_the_distributions_of_scipy_are_not_imported_with_the_package():
    """They are a tenth of all imports, and few commands need them."""
    for file in FILES:
        at_once = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom | ast.Import)]
        loaded = {getattr(node, "module", None) or one.name for node in at_once for one in node.names}
        loaded |= {f"{getattr(node, 'module', '')}.{one.name}" for node in at_once for one in node.names}
        assert not {name for name in loaded if name.startswith(("sklearn", "scipy.stats"))}, file


def test_every_public_name_is_there():
    assert set(se_search.__all__) <= set(dir(se_search))
    for name in se_search.__all__:
        assert getattr(se_search, name) is not None


def test_the_architecture_is_registered_if_timm_is_imported_later():
    """Where timm is imported first, test_timm_folder loads folders."""
    code = "import se_search, timm; print(timm.is_model('se_search'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
