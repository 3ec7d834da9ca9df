"""What may import what, and how light the package is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import se_search

PACKAGE = Path(se_search.__file__).parent
ORDER = [
    "errors",
    "files",
    "words",
    "progress",
    "plugins",
    "network",
    "evaluation",
    "search",
    "report",
    "export",
    "api",
    "visualization",
    "cli",
    "__main__",
]
MAY_IMPORT = {
    "report": {"words", "search", "report"},
    "export": {"errors", "files", "words", "network", "export"},
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


def test_the_order_names_every_part():
    parts = {file.relative_to(PACKAGE).with_suffix("").parts[0] for file in FILES}
    assert parts == set(ORDER)


@pytest.mark.parametrize("module", ["se_search", "se_search.cli"])
def test_importing_is_light(module):
    heavy = {"torch", "timm", "optuna", "pandas", "plotly", "sklearn"}
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)
    assert "se_search" in loaded


def test_every_public_name_is_there():
    assert set(se_search.__all__) <= set(dir(se_search))
    for name in se_search.__all__:
        assert getattr(se_search, name) is not None


@pytest.mark.parametrize("order", ["import timm, se_search", "import se_search, timm"])
def test_the_architecture_is_registered_in_either_order_of_imports(order):
    code = f"{order}; print(timm.is_model('se_search'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
