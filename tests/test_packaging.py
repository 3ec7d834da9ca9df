"""What is built for others to install: complete, well described, and at work away from the checkout."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from conftest import TINY_STUDY

import se_search

ROOT = Path(__file__).parents[1]
NOT_TRACKED = (".git", ".*cache", ".venv", "__pycache__", "_build", "build", "dist", "*.egg-info", "runs", "exported")


class Built(NamedTuple):
    """Files of the source distribution and of the wheel, the wheel itself, and its description."""

    source_files: set[str]
    wheel_files: set[str]
    wheel: Path
    description: Message


def run(*command, folder, **environment):
    done = subprocess.run(
        [str(one) for one in command],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    """Built as for a release, from a copy of the checkout: the wheel from the source distribution."""
    checkout = tmp_path_factory.mktemp("build") / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*NOT_TRACKED))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", folder=checkout)
    (source,) = (checkout / "dist").glob("*.tar.gz")
    (wheel,) = (checkout / "dist").glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", source, wheel, folder=checkout)
    with tarfile.open(source) as archive:
        source_files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    with zipfile.ZipFile(wheel) as archive:
        wheel_files = set(archive.namelist())
        description = message_from_bytes(archive.read(f"se_search-{se_search.__version__}.dist-info/METADATA"))
    return Built(source_files, wheel_files, wheel, description)


def files_below(folder: str) -> set[str]:
    """Files of the checkout, without what is made by running and building."""
    found = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not {"__pycache__", "_build"} & set(path.parts)}


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(built):
    inside = {name for name in built.wheel_files if ".dist-info/" not in name}
    beside = {f"se_search/{name}" for folder in ("search_spaces", "studies") for name in files_below(folder)}
    assert inside == files_below("se_search") | beside
    assert inside >= {"se_search/py.typed", "se_search/studies/digits.yaml", "se_search/report/page.html.jinja"}
    assert inside >= {"se_search/evidence/published.csv", "se_search/evidence/atlas.json.gz"}


def test_the_source_distribution_holds_tests_documentation_and_benchmarks(built):
    for folder in ("se_search", "search_spaces", "studies", "tests", "docs", "benchmarks"):
        assert files_below(folder) <= built.source_files
    described = {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff"}
    assert described | {"Makefile", ".ci/run", "pyproject.toml"} <= built.source_files


def test_the_wheel_is_described(built):
    described = built.description
    assert (described["Name"], described["Version"]) == ("se-search", se_search.__version__)
    assert described["License-Expression"] == "Apache-2.0"
    assert described["Author"] == "se-search maintainers"
    assert described["Description-Content-Type"] == "text/markdown"
    assert described.get_payload(decode=True).decode() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"se_search-{se_search.__version__}.dist-info/licenses/LICENSE" in built.wheel_files
    assert set(described.get_all("Provides-Extra")) == {
        *("onnx", "openvino", "hfds", "wds", "png", "ray", "dashboard"),
        *("tensorboard", "wandb", "mlflow", "docs", "dev"),
    }


@pytest.mark.slow
def test_the_installed_wheel_searches_and_exports_away_from_the_checkout(built, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, "--target", site, built.wheel, folder=elsewhere)

    def command(*words):
        return run(site / "bin" / "se-search", *words, folder=elsewhere, PYTHONPATH=str(site))

    where = "import se_search; print(se_search.__file__)"
    assert run(sys.executable, "-c", where, folder=elsewhere, PYTHONPATH=str(site)).startswith(str(site))
    assert command("--version") == f"se-search {se_search.__version__}\n"
    spaces = {file.stem for file in (ROOT / "search_spaces").glob("*.yaml")}
    assert spaces <= set(re.findall(r"^([\w-]+):", command("spaces"), re.MULTILINE))

    (elsewhere / "tiny.yaml").write_text(yaml.safe_dump(TINY_STUDY))
    command("run", "--study", "tiny.yaml", "--budget", "3", "--out", "run")
    assert "</html>" in (elsewhere / "run" / "report.html").read_text()
    command("export", "run", "--to", "exported")
    assert (elsewhere / "exported" / "model.safetensors").stat().st_size > 0


@pytest.mark.slow
def test_an_editable_install_finds_the_spaces_and_studies_of_the_checkout(tmp_path):
    """Setuptools maps the two folders outside se_search/ only where they are packages."""
    checkout, site = tmp_path / "checkout", tmp_path / "site"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*NOT_TRACKED))
    (checkout / "search_spaces" / "mine.yaml").write_text("{placement: stage, ratios: [8], gates: [sigmoid]}\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    run(*pip, "--target", site, "--editable", checkout, folder=tmp_path)
    shown = (
        "import site; site.addsitedir({!r}); import se_search.api as api; print(*(one.name for one in api.spaces()))"
    )
    names = run(
        sys.executable,
        "-S",
        "-c",
        shown.format(str(site)),
        folder=tmp_path,
        PYTHONPATH=f"{site}{os.pathsep}{dependencies()}",
    )
    assert "mine" in names.split()


def dependencies() -> str:
    """The folder of installed packages, searched without what its .pth files add: the checkout under test."""
    return str(Path(yaml.__file__).parents[1])


def test_the_licence_is_apache_2():
    lines = [line.strip() for line in (ROOT / "LICENSE").read_text().splitlines() if line.strip()]
    assert lines[:2] == ["Apache License", "Version 2.0, January 2004"]
    assert "END OF TERMS AND CONDITIONS" in lines


def test_the_citation_has_the_keys_of_its_schema():
    """Those that the schema of Citation File Format 1.2.0 requires, and no others than it knows."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    required = {"cff-version", "message", "title", "authors"}
    known = required | {
        *("abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url"),
        *("preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type", "url"),
        "version",
    }
    assert required <= citation.keys() <= known
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", se_search.__version__)
    assert citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:1709.01507"}]


def test_the_changelog_names_the_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)[0] in ("Unreleased", se_search.__version__)
    assert se_search.__version__ in text
