"""A tiny real run that several tests look at."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TINY_STUDY = {
    "backbone": "resnet10t",
    "budget": 6,
    "evaluator": {"epochs": 1, "recalibration_images": 64},
    "latency": {"limit": 0.05},
}


@pytest.fixture(scope="session")
def _finished_run(tmp_path_factory):
    """Run folder of a search that the installed command has finished; for reading only."""
    directory = tmp_path_factory.mktemp("finished")
    (directory / "tiny.yaml").write_text(yaml.safe_dump(TINY_STUDY))
    command = [sys.executable, "-m", "se_search", "run", "--study", "tiny.yaml", "--out", "run"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (directory / "output.txt").write_text(done.stdout)
    return directory


@pytest.fixture
def finished_run(_finished_run, tmp_path) -> Path:
    """A copy of a finished run: ``run/``, its study ``tiny.yaml`` and the command's ``output.txt``."""
    return Path(shutil.copytree(_finished_run, tmp_path / "directory"))
