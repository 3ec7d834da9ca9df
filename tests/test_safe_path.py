"""No process executes modules that lie where the user stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import se_search
from se_search.safe_path import safe_path

MODULES = ("colorlog", "typer", "warnings", "torch", "loky", "ray")


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A current directory with modules that leave a mark when they are imported."""
    monkeypatch.chdir(tmp_path)
    for name in MODULES:
        Path(f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'a').write({name!r} + ' ')")
    return tmp_path


def executed(folder):
    mark = folder / "executed"
    return mark.read_text() if mark.exists() else ""


def run(*arguments, **options):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr


def test_the_command_as_a_module_does_not_import_from_the_current_directory(hostile):
    run("-m", "se_search", "studies")
    assert executed(hostile) == ""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no safe path before 3.11")
def test_processes_are_started_with_a_safe_path(hostile):
    run("-c", "import colorlog")
    assert executed(hostile) == "colorlog "  # the mark works
    with safe_path():
        run("-c", "import sys; sys.exit('colorlog' in sys.modules or '' in sys.path)")
    assert "PYTHONSAFEPATH" not in os.environ


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has no safe path before 3.11")
@pytest.mark.slow
def test_the_process_that_measures_latency_does_not_import_from_the_current_directory(hostile):
    code = """
from se_search.deployment.deployment import Deployment
from se_search.latency.isolated import IsolatedMeter
from se_search import SEConfig, create_model
if __name__ == "__main__":
    IsolatedMeter(create_model(SEConfig("test_resnet")).eval(), Deployment(size=(3, 32, 32)), 1, 0.1, 0).close()
"""
    script = hostile / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(code)
    run(str(script), env=os.environ | {"PYTHONPATH": str(Path(se_search.__file__).parents[1])})
    assert executed(hostile) == ""
