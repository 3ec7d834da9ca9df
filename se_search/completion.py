"""What a shell completes: names of backbones, spaces, studies and run folders, without PyTorch."""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from .plugins import SPACES, find_plugins
from .study.files import shipped_names

_ARCHITECTURE = re.compile(r"^@register_model\ndef (\w+)\(", re.MULTILINE)
_STUDY_FILE = "study.yaml"


def backbones(incomplete: str) -> list[str]:
    """Return names of timm architectures, from its source."""
    found = find_spec("timm")
    folders = (found.submodule_search_locations if found else None) or ()
    files = (file for folder in folders for file in Path(folder, "models").glob("*.py"))
    names = (name for file in files for name in _ARCHITECTURE.findall(file.read_text(encoding="utf-8")))
    return sorted(_starting_with(incomplete, names))


def spaces(incomplete: str) -> list[str]:
    """Return names of shipped spaces and those of plugins, and YAML files."""
    names = [*shipped_names("search_spaces"), *(plugin.name for plugin in find_plugins(SPACES))]
    return [*_starting_with(incomplete, names), *_files(incomplete)]


def studies(incomplete: str) -> list[str]:
    """Return names of shipped studies, and YAML files."""
    return [*_starting_with(incomplete, shipped_names("studies")), *_files(incomplete)]


def run_folders(incomplete: str) -> list[str]:
    """Return run folders, and folders on the way to them."""
    found = []
    for path in _paths(incomplete):
        with suppress(OSError):  # a folder that must not be read
            if (path / _STUDY_FILE).is_file():
                found.append(str(path))
            elif path.is_dir() and any(path.glob(f"*/{_STUDY_FILE}")):
                found.append(f"{path}/")
    return found


def _files(incomplete: str) -> Iterator[str]:
    return (str(path) for path in _paths(incomplete) if path.suffix == ".yaml")


def _paths(incomplete: str) -> list[Path]:
    parent, _, start = incomplete.rpartition("/")
    folder = Path(f"{parent}/" if parent or incomplete.startswith("/") else ".")
    try:
        return sorted(path for path in folder.iterdir() if path.name.startswith(start))
    except OSError:  # there is no such folder
        return []


def _starting_with(incomplete: str, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if name.startswith(incomplete))
