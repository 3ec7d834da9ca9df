"""A tiny real run that several tests look at, and a browser that opens pages as a person opens them: as files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from fault_table import write_table
from filelock import FileLock

TINY_STUDY = {
    "backbone": "test_resnet",
    "budget": 6,
    "evaluator": {"epochs": 1, "recalibration_images": 64},
    "latency": {"limit": 0.05, "size": "data"},
}


def pytest_terminal_summary(terminalreporter):
    """Print the table of phases and faults after its tests."""
    write_table(terminalreporter)


_THREADS, _VERBOSITY = torch.get_num_threads(), optuna.logging.get_verbosity()


@pytest.fixture(autouse=True)
def _settings_of_this_process():
    """Give the next test the threads and the verbosity of the start: searches set both, in fixtures of modules too."""
    yield
    torch.set_num_threads(_THREADS)
    optuna.logging.set_verbosity(_VERBOSITY)


@pytest.fixture(autouse=True)
def _no_timed_steps(request, monkeypatch):
    """Let searches plan without timed training steps, which take longer than trials here, except in tests of plans."""
    plan = sys.modules.get("se_search.driver.plan")
    if plan is not None and request.node.path.name != "test_plan.py":
        monkeypatch.setattr(plan, "EstimatingEvaluator", Unknown)


class Unknown:
    """A kind that no evaluator has."""


@pytest.fixture(scope="session")
def _finished_run(tmp_path_factory):
    """Run folder of a search that the installed command has finished; for reading only, by all workers of xdist."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{directory}.lock"):
        if not (directory / "output.txt").exists():
            directory.mkdir(exist_ok=True)
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


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None and not os.environ.get("CI"):
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """A function that opens a file without a network and returns the page, its errors and what it asked for."""
    contexts = []

    def open_file(file, width=1400, scheme="light", fragment=""):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, color_scheme=scheme)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        errors, asked = [], []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri() + fragment)
        return page, errors, asked

    yield open_file
    for context in contexts:
        context.close()
