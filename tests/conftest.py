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


LINE_OF_SCRIPTS = 10_000


@pytest.fixture(scope="session")
def _page(browser):
    """A page for all tests: a new one has a new process, and its start takes longer than opening a report."""
    context = browser.new_context(offline=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    return context.new_page()


@pytest.fixture
def open_page(_page, tmp_path_factory):
    """A function that opens a file without a network and returns the page, its errors and what it asked for.

    Each call leaves the file before, with what that has kept. Chromium compiles a script once for one address and line,
    and Plotly takes it a second: so a copy of the file is opened, always the same one, with its scripts on one line.
    """
    copy = tmp_path_factory.getbasetemp() / "page.html"
    listeners = {}

    def leave():
        for event in list(listeners):
            _page.remove_listener(event, listeners.pop(event))
        _page.evaluate("location.protocol === 'file:' && (localStorage.clear(), sessionStorage.clear())")
        _page.goto("about:blank")
        _page.mouse.move(0, 0)

    def open_file(file, width=1400, scheme="light", fragment=""):
        leave()
        errors, asked = [], []

        def dismiss(dialog):
            errors.append(dialog.message)
            dialog.dismiss()

        listeners["console"] = lambda message: errors.append(message.text) if message.type == "error" else None
        listeners["pageerror"] = lambda error: errors.append(str(error))
        listeners["dialog"] = dismiss
        listeners["request"] = lambda request: asked.append(request.url)
        for event, listener in listeners.items():
            _page.on(event, listener)
        _page.set_viewport_size({"width": width, "height": 900})
        _page.emulate_media(media="null", color_scheme=scheme)
        above, *scripts = file.read_text(encoding="utf-8").partition("<script>")
        copy.write_text("".join((above, "\n" * (LINE_OF_SCRIPTS - above.count("\n")), *scripts)), encoding="utf-8")
        _page.goto(copy.as_uri() + fragment)
        return _page, errors, asked

    yield open_file
    leave()
