"""`se-search report` from the command line: several runs, other formats, during a search; and Optuna's dashboard."""

import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pandas as pd
import pytest
import yaml
from conftest import TINY_STUDY
from rich.console import Console
from typer.testing import CliRunner

from se_search import load_run
from se_search.api import follow_run
from se_search.cli import app
from se_search.errors import DefinitionError, RunFolderError
from se_search.results.record import read_results
from se_search.trials.folder import load_trials, open_folder, read_definition
from se_search.trials.notes import ENDED

COMMAND = [sys.executable, "-m", "se_search"]


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def directory(finished_run, monkeypatch):
    """A folder with two runs, as the current directory."""
    shutil.copytree(finished_run / "run", finished_run / "other")
    monkeypatch.chdir(finished_run)
    return finished_run


def test_several_runs_have_a_page_and_a_report_each(directory):
    for name in ("run", "other"):
        (directory / name / "report.html").unlink()
    result = invoke("compare", "run", "other")
    assert result.exit_code == 0, result.output
    assert "No significant difference between other and run: hypervolume ratio ×1.000" in result.stdout
    assert result.stdout.splitlines()[-1] == "Comparison: comparison.html"
    assert "2 runs compared" in (directory / "comparison.html").read_text()
    assert all((directory / name / "report.html").is_file() for name in ("run", "other"))
    assert invoke("compare", "run", "other", "--to", "again.html").exit_code == 0
    assert (directory / "again.html").is_file()


@pytest.mark.parametrize("form", ["html", "md", "csv"])
def test_a_terminal_is_told_while_the_report_is_written(finished_run, form, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(importlib.import_module("se_search.api.run"), "console", terminal)
    load_run(finished_run / "run").report_as(form)
    assert "Writing the report" in terminal.file.getvalue()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["compare", "run", "other", "--to", "output.txt"], "output.txt exists and is not a comparison of runs"),
        (["compare", "run", "run"], "2 runs cannot be compared: give two to 8 different run folders"),
        (["compare", "run"], "1 runs cannot be compared: give two to 8 different run folders"),
        (["compare", "run", "nowhere"], "nowhere is not a run folder"),
        (["watch", "run", "--every", "0"], "--every is 0: it must be at least 1 second"),
        (["watch", "output.txt"], "output.txt is not a run folder"),
        (["watch", "."], "is not a run folder"),
        (
            ["report", "run", "--format", "csv", "--format", "pdf"],
            "format 'pdf' is unknown: choose one of html, md, csv, png",
        ),
    ],
)
def test_a_mistake_is_told_in_one_sentence_and_nothing_is_written(directory, arguments, sentence):
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_the_report_in_other_formats(directory):
    for name in ("trials.csv", "pareto.csv", "report.html"):
        (directory / "run" / name).unlink()
    result = invoke("report", "run", "--format", "csv", "--format", "md")
    written, _, decided = result.stdout.partition("\n\n")
    assert written.split() == [
        "Report:",
        "run/trials.csv",
        "Report:",
        "run/pareto.csv",
        "Report:",
        "run/curves.csv",
        "Report:",
        "run/report.md",
    ]
    assert decided.startswith("No measurable difference. Estimated: ")
    assert len(pd.read_csv(directory / "run" / "trials.csv")) == TINY_STUDY["budget"]
    assert (directory / "run" / "report.md").read_text().startswith(r"# Where SE pays in test\_resnet" + "\n")
    assert not (directory / "run" / "report.html").exists()
    run = load_run("run")
    assert run.report_as("html") == (run.report(),)
    with pytest.raises(DefinitionError, match="'docx' is unknown"):
        run.report_as("docx")


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("CI") and not (shutil.which("chromium") or shutil.which("google-chrome")),
    reason="no Chromium is installed",
)
def test_figures_as_images(directory):
    run = load_run("run")
    written = run.report_as("png")
    assert [file.name for file in written] == [f"report-{name}.png" for name in run.figures]
    for file in written:
        content = file.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert int.from_bytes(content[16:20], "big") == 2000


@pytest.mark.slow
def test_images_without_what_draws_them_are_refused(directory):
    program = "import sys; sys.modules['kaleido'] = None; from se_search.cli import main; main()"
    command = [sys.executable, "-c", program, "report", "run", "--format", "png"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: the format png needs Chrome or Chromium and the package kaleido: pip install")
    assert done.stderr.count("\n") == 1
    assert not list((directory / "run").glob("*.png"))


def wait_for(condition, process, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def start(directory, *arguments):
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # in a background job it is ignored
    )


@pytest.mark.slow
def test_beside_a_search_the_report_follows_it_to_the_end(tmp_path):
    longer = {"budget": 12, "evaluator": TINY_STUDY["evaluator"] | {"epochs": 8}}  # than the imports of the report
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY_STUDY | longer))
    report = tmp_path / "run" / "report.html"
    live = start(tmp_path, "watch", "run", "--every", "1")
    assert live.stdout.readline() == "Waiting for a run in run; Ctrl-C ends this.\n"
    search = start(tmp_path, "run", "--study", "tiny.yaml", "--out", "run")
    wait_for(report.exists, search)
    assert '"live":1' in report.read_text()
    output, _ = search.communicate(timeout=300)
    assert search.returncode == 0, output
    told, _ = live.communicate(timeout=120)
    assert live.returncode == 0, told
    assert told.splitlines()[-2:] == ["12 of 12: run/report.html", "Report: run/report.html"]
    assert '"live":null' in report.read_text()
    trials = pd.read_csv(tmp_path / "run" / "trials.csv")
    assert list(trials["state"]) == ["complete"] * 12


@pytest.mark.slow
def test_interrupted_the_report_no_longer_reads_itself_anew(directory):
    (directory / "run" / "study.yaml").write_text(
        yaml.safe_dump(yaml.safe_load((directory / "run" / "study.yaml").read_text()) | {"budget": 99})
    )
    report = directory / "run" / "report.html"
    report.unlink()
    before = {path.name: path.stat().st_mtime_ns for path in (directory / "run").iterdir()}
    live = start(directory, "watch", "run", "--every", "60")
    wait_for(report.exists, live)
    assert live.stdout.readline() == "6 of 99: run/report.html\n"
    live.send_signal(signal.SIGINT)
    assert live.wait(60) == 130
    assert live.stdout.read() == "Stopped.\n"
    assert '"live":null' in report.read_text()
    after = {path.name: path.stat().st_mtime_ns for path in (directory / "run").iterdir() if path != report}
    assert after == before


def test_the_report_is_written_while_another_process_holds_the_folder(directory):
    with open_folder(directory / "run", read_definition(directory / "run")):
        assert follow_run("run", every=1) == (directory / "run" / "report.html").relative_to(directory)
        assert '"live":null' in (directory / "run" / "report.html").read_text()


def test_a_run_that_has_only_begun_is_waited_for_and_a_damaged_one_refused(directory, monkeypatch, capsys):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    (directory / "run" / "study.db").unlink()
    for folder in ("run", "nowhere"):
        with pytest.raises(KeyboardInterrupt):
            follow_run(folder)
        assert capsys.readouterr().out == f"Waiting for a run in {folder}; Ctrl-C ends this.\n"
    (directory / "run" / "study.db").write_text("no database")
    with pytest.raises(RunFolderError, match="damaged"):
        follow_run("run")


def test_a_run_without_a_trial_has_a_report(directory, monkeypatch, capsys):
    def interrupt(seconds):
        assert '"live":10' in Path("begun/report.html").read_text()
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    with open_folder(Path("begun"), read_definition(Path("run"))) as study:
        for name, value in load_trials(Path("run")).user_attrs.items():
            if name != ENDED:
                study.set_user_attr(name, value)
        with pytest.raises(KeyboardInterrupt):
            follow_run("begun")
    assert capsys.readouterr().out == "0 of 6: begun/report.html\n"
    assert '"live":null' in Path("begun/report.html").read_text()


def test_a_run_that_disappears_is_waited_for_again(directory, monkeypatch, capsys):
    (directory / "run" / "study.yaml").write_text(
        yaml.safe_dump(yaml.safe_load((directory / "run" / "study.yaml").read_text()) | {"budget": 99})
    )
    times = iter([lambda: None, lambda: shutil.rmtree("run"), lambda: None])

    def vanish(folder):
        next(times)()  # the second time between check and read
        return read_results(folder)

    pauses = iter(range(3))

    def sleep(seconds):
        if next(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("se_search.api.live.read_results", vanish)
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        follow_run("run")
    assert capsys.readouterr().out.splitlines() == [
        "6 of 99: run/report.html",
        "Waiting for a run in run; Ctrl-C ends this.",
    ]


def test_what_the_last_report_cannot_show_does_not_replace_an_interruption(directory, monkeypatch):
    def damage_and_interrupt(seconds):
        (directory / "run" / "study.db").write_text("no database")
        raise KeyboardInterrupt

    (directory / "run" / "study.yaml").write_text(
        yaml.safe_dump(yaml.safe_load((directory / "run" / "study.yaml").read_text()) | {"budget": 99})
    )
    monkeypatch.setattr(time, "sleep", damage_and_interrupt)
    assert invoke("watch", "run").exit_code == 130


def ask(application, path):
    environment = {"PATH_INFO": path.partition("?")[0], "QUERY_STRING": path.partition("?")[2]}
    setup_testing_defaults(environment)
    answered = []
    body = b"".join(application(environment, lambda status, headers, error=None: answered.append(status)))
    assert answered == ["200 OK"]
    return json.loads(body)


def test_a_dashboard_of_optunas_shows_the_study(directory):
    dashboard = pytest.importorskip("optuna_dashboard")
    application = dashboard.wsgi(f"sqlite:///{directory / 'run' / 'study.db'}")
    (summary,) = ask(application, "/api/studies")["study_summaries"]
    study = ask(application, f"/api/studies/{summary['study_id']}?after=0")
    assert study["objective_names"] == ["accuracy", "parameter_overhead", "latency_ratio"]
    assert study["directions"] == ["maximize", "minimize", "minimize"]
    trials = load_run("run").trials
    assert len(study["trials"]) == len(trials)
    columns = ["name", "config_id", "accuracy_low", "accuracy_high", "se_blocks"]
    for shown, row in zip(study["trials"], trials.to_dict("records"), strict=True):
        noted = {one["key"]: one["value"] for one in shown["user_attrs"]}
        # It shows the latency that was pooled over the trials until then.
        assert shown["values"] == [row["accuracy"], row["parameter_overhead"], float(noted["latency_ratio"])]
        assert float(noted["latency_low"]) <= shown["values"][2] <= float(noted["latency_high"])
        assert [noted.get(name, "") for name in columns] == [str(row[name]) for name in columns]
        assert json.loads(noted["config"])["backbone"] == "test_resnet"
        assert {one["name"] for one in shown["params"]} >= {"stage2.ratio", "gate"}
