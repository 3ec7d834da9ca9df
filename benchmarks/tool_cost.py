"""Overhead of the tool: time between evaluations, start-up time of commands, and memory.

    python benchmarks/tool_cost.py --trials 50 1000 10000 --samplers random ehvi --out tool_cost.json

A search runs with an evaluator that returns immediately, and with invented measurements of latency, which are pooled as
those of any run. For each number of trials, a run folder is filled with trials of random configurations. The next
trials are timed, from the end of one evaluation to the start of the next, in wall-clock and CPU time. Each number and
sampler has its own process, whose peak memory is reported. The same number of trials then runs under the profiler; its
times include its own overhead, and parts can contain each other. So are a further look at the latency of the front, but
for the measurement, and the report. The script also reports the seconds from starting Python to the evaluator's
preparation and to the first evaluation, and those of commands that load no PyTorch.
"""

import argparse
import cProfile
import json
import multiprocessing
import pstats
import random
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from se_search import SEConfig, load_run
from se_search.data.image_data import ImageData
from se_search.driver.loop import run_search
from se_search.files import write_text
from se_search.latency.meter import LatencyConditions, Ratio
from se_search.network.overhead import added_parameters, backbone_parameters
from se_search.progress import console
from se_search.results.contenders import uncertain_contenders
from se_search.statistics import accuracy_estimate, mean_estimate
from se_search.study.definitions import StudyDefinition
from se_search.study.evaluator_definition import FROM_PYTHON
from se_search.study.files import load_study
from se_search.study.safe_yaml import write_yaml
from se_search.study.space import SearchSpace
from se_search.training.evaluator import Evaluation
from se_search.training.protocols import ConfigurationSource, ProgressBar
from se_search.trials.folder import STORAGE_FILE, STUDY_FILE, load_trials, read_definition
from se_search.trials.latency import StudyLatency
from se_search.trials.notes import pack, pack_losses, unpack
from se_search.trials.pooling import describe_look

PARTS = {
    "ask": ("study.py", "ask"),
    "ask: proposing": ("distinct.py", "sample_relative"),
    "ask: Optuna's TPE": ("sampler.py", "_sample"),
    "ask: what was tried": ("distinct.py", "structures"),
    "ask: parameters": ("_cached_storage.py", "set_trial_param"),
    "anything left": ("distinct.py", "is_exhausted"),
    "lists of trials": ("_cached_storage.py", "get_all_trials"),
    "counting FLOPs": ("overhead.py", "flops_overhead"),
    "latency": ("latency.py", "pooled"),
    "packing": ("notes.py", "pack"),
    "tell": ("study.py", "tell"),
    "commits": ("base.py", "do_commit"),
}
"""Parts of a trial: file and name of the function whose cumulative time counts."""

LIGHT = ("--help", "--version", "spaces", "evidence resnet50", "atlas resnet50", "sites resnet50")
"""Commands that load no PyTorch."""

_START = """
import os, sys, time
import se_search

class Null:
    def __init__(self, study, space, data):
        pass

    def prepare(self, folder, space, progress_bar):
        print("at", time.time(), flush=True)

    def evaluate(self, config):
        print("at", time.time(), flush=True)
        os._exit(0)

se_search.search(sys.argv[1], space=sys.argv[2], evaluator=Null, out=sys.argv[3], latency_limit=0.01)
"""


class Null:
    """Evaluator that immediately returns a fixed result per configuration and records the times of its calls.

    Args:
        last: Number of evaluations, with a profile.
        profile: Profiler to run between the first and the last evaluation.
    """

    def __init__(self, last: int = 0, profile: cProfile.Profile | None = None) -> None:
        self._images, self._last, self._profile = 0, last, profile
        self.entered: list[tuple[float, float]] = []
        self.left: list[tuple[float, float]] = []

    def __call__(self, study: StudyDefinition, space: SearchSpace, data: ImageData) -> "Null":
        """Act as its own factory."""
        self._images = len(data.validation)
        return self

    def prepare(self, folder: Path, space: ConfigurationSource, progress_bar: ProgressBar) -> None:
        """Do nothing: there is no shared state."""

    def load(self, folder: Path) -> None:
        """Do nothing: there is no shared state to load."""

    def evaluate(self, config: SEConfig) -> Evaluation:
        """Draw losses with the configuration's name as the seed."""
        self.entered.append(_now())
        if self._profile and len(self.entered) == self._last:
            self._profile.disable()
        evaluation = evaluate(config, self._images)
        if self._profile and len(self.entered) == 1:
            self._profile.enable()
        self.left.append(_now())
        return evaluation

    def network(self, config: SEConfig) -> torch.nn.Module:
        """Never called: no objective is measured on networks."""
        raise NotImplementedError

    def between(self, clock: int) -> list[float]:
        """Return the milliseconds from the end of each evaluation to the start of the next.

        Args:
            clock: 0 for wall-clock time, 1 for CPU time.
        """
        return [1000 * (b[clock] - a[clock]) for a, b in zip(self.left, self.entered[1:], strict=False)]


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def evaluate(config: SEConfig, images: int) -> Evaluation:
    """Return the fixed result of a configuration."""
    losses = np.random.default_rng(int(config.id, 16)).exponential(size=(1, images)).astype(np.float32)
    correct = losses < 1
    return Evaluation(accuracy_estimate(correct[0]), mean_estimate(losses[0]), correct, losses)


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--space", default="blocks")
    parser.add_argument("--trials", type=int, nargs="+", default=[50, 1000, 10_000])
    parser.add_argument("--samplers", nargs="+", default=["random", "ehvi"])
    parser.add_argument("--timed", type=int, default=20, help="timed trials per number of trials")
    parser.add_argument("--starts", type=int, default=5, help="starts per command")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()

    measured: dict[str, Any] = {"backbone": options.backbone, "space": options.space, "trials": []}
    # One process each, so that peak memory is per search.
    pools = multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1)
    with tempfile.TemporaryDirectory() as kept, pools as pool:
        for trials in options.trials:
            filled = Path(kept) / str(trials)
            pool.apply(fill, (options.backbone, options.space, trials, filled))
            for sampler in options.samplers:
                arguments = (sampler, trials, options.timed, filled)
                measured["trials"].append(pool.apply(measure_trials, arguments))
                show(measured["trials"][-1])
    measured["start"] = measure_start(options.backbone, options.space, options.starts)
    for name, seconds in measured["start"].items():
        print(f"{name}: {seconds:.2f} s")
    if options.out:
        write_text(options.out, json.dumps(measured, indent=1))


def definition(backbone: str, space: str, sampler: str, budget: int) -> StudyDefinition:
    """Return the study: the default one with the null evaluator, and a target that each latency reaches."""
    return load_study(
        "digits",
        backbone=backbone,
        space=space,
        sampler=sampler,
        budget=budget,
        threads=1,
        evaluator=f"{FROM_PYTHON}Null",
        latency_target=0.5,
    )


def measured(latency: StudyLatency, config: SEConfig) -> dict[str, Any]:
    """Return invented attributes of a measurement, in place of :meth:`StudyLatency.measured`."""
    return describe_look(ratio_of(config, latency._meter.conditions))


def ratio_of(config: SEConfig, conditions: LatencyConditions) -> Ratio:
    """Return an invented measurement, the same for each configuration."""
    draw = random.Random(config.id)
    ratio = 1 + 0.01 * len(config.placed) + draw.gauss(0, 0.004)
    error = 0.01 * draw.lognormvariate(0, 0.5)
    return Ratio(ratio, ratio - error, ratio + error, 6, 3, "limit", 0.0, conditions)


def fill(backbone: str, space: str, trials: int, folder: Path) -> None:
    """Create a run folder of ``trials`` complete trials: the first few searched, the others copied with changes."""
    console.quiet = True
    StudyLatency.measured = measured  # type: ignore[method-assign]
    first = definition(backbone, space, "random", 4)
    run_search(first, folder, Null())
    study = load_trials(folder)
    template = study.get_trials()[-1]
    points = SearchSpace(backbone, first.resolved_space)
    known = {points.to_config(trial.params).structure for trial in study.get_trials()}
    rng = random.Random(0)
    # Optuna needs minutes to add ten thousand trials.
    with closing(sqlite3.connect(folder / STORAGE_FILE)) as connection, connection:
        while len(known) < trials:
            parameters = {name: rng.choice(one.choices) for name, one in points.distributions.items()}
            config = points.to_config(parameters)
            if config.structure not in known:
                add_trial(connection, len(known), template, parameters, config, points)
                known.add(config.structure)


def add_trial(
    connection: sqlite3.Connection,
    number: int,
    template: FrozenTrial,
    parameters: dict[str, Any],
    config: SEConfig,
    space: SearchSpace,
) -> None:
    """Add a complete trial of ``config`` with all attributes that a search records.

    Values that are slow to count are copied from the template, and latency is invented; nothing here reads them.
    """
    evaluation = evaluate(config, len(unpack(template.user_attrs["correct"])[0]))
    overhead = added_parameters(config) / backbone_parameters(config.backbone)
    conditions = LatencyConditions.from_dict(template.user_attrs["latency_conditions"])
    notes = (
        template.user_attrs
        | describe_look(ratio_of(config, conditions))
        | {
            "config": config.to_json(),
            "config_id": config.id,
            "se_blocks": config.block_count,
            "parameter_overhead": overhead,
            "latency_ratio": 1 + overhead,
            "accuracy": evaluation.accuracy.value,
            "correct": pack(evaluation.correct),
            "losses": pack_losses(evaluation.losses),
        }
    )
    (trial,) = connection.execute(
        "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete) "
        "SELECT ?, study_id, state, datetime_start, datetime_complete FROM trials WHERE number = ? RETURNING trial_id",
        (number, template.number),
    ).fetchone()
    connection.executemany(
        "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
        [
            (trial, name, one.to_internal_repr(parameters[name]), distribution_to_json(one))
            for name, one in space.distributions.items()
        ],
    )
    connection.executemany(
        "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, ?, ?, 'FINITE')",
        [(trial, 0, evaluation.accuracy.value), (trial, 1, overhead), (trial, 2, 1 + overhead)],
    )
    connection.executemany(
        "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
        [(trial, name, json.dumps(value)) for name, value in notes.items()],
    )


def measure_trials(sampler: str, trials: int, timed: int, filled: Path) -> dict[str, Any]:
    """Resume a copy of a filled run folder and time the next trials; then profile as many."""
    console.quiet = True
    StudyLatency.measured = measured  # type: ignore[method-assign]
    folder = filled.with_name(f"{trials}-{sampler}")
    shutil.copytree(filled, folder)
    # With the settings that the first search has made explicit.
    study = read_definition(folder).model_copy(update={"sampler": sampler, "budget": trials + timed + 1})
    write_text(folder / STUDY_FILE, write_yaml(study.model_dump(mode="json")))
    plain = Null()
    started = time.perf_counter()
    run_search(study, folder, plain)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    profile = cProfile.Profile()
    more = study.model_copy(update={"budget": trials + 2 * timed + 2})
    run_search(more, folder, Null(timed + 1, profile))
    with closing(load_trials(folder)) as stored:
        begun = time.perf_counter()
        uncertain_contenders(stored, 0.005)
        looked = time.perf_counter() - begun
    begun = time.perf_counter()
    report = load_run(folder).report()
    written = time.perf_counter() - begun
    return {
        "sampler": sampler,
        "trials": trials,
        "milliseconds": plain.between(0),
        "processor_milliseconds": plain.between(1),
        "seconds_to_resume": plain.entered[0][0] - started,
        "peak_mib": peak,
        "seconds_of_a_further_look": looked,
        "seconds_to_report": written,
        "report_megabytes": report.stat().st_size / 1e6,
        "parts": parts_of(profile, timed),
    }


def parts_of(profile: cProfile.Profile, trials: int) -> dict[str, float]:
    """Return the cumulative milliseconds per trial of each part under the profiler."""
    totals = dict.fromkeys(PARTS, 0.0)
    # Each entry: calls, primitive calls, own time, time with callees, callers.
    for (file, _, function), entry in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        for part, place in PARTS.items():
            if place == (Path(file).name, function):
                totals[part] += 1000 * entry[3] / trials
    return {part: total for part, total in totals.items() if total}


def measure_start(backbone: str, space: str, starts: int) -> dict[str, float]:
    """Return median seconds from process start to preparation, first evaluation, and end of light commands."""
    moments: dict[str, list[float]] = {}
    for _ in range(starts):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.time()
            command = [sys.executable, "-c", _START, backbone, space, str(Path(folder) / "run")]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        at = [float(line.removeprefix("at ")) - begun for line in printed.splitlines() if line.startswith("at ")]
        moments.setdefault("to the evaluator's preparation", []).append(at[0])
        moments.setdefault("to the first evaluation", []).append(at[1])
        for command in LIGHT:
            begun = time.time()
            subprocess.run([sys.executable, "-m", "se_search", *command.split()], check=True, capture_output=True)
            moments.setdefault(f"se-search {command}", []).append(time.time() - begun)
    return {name: statistics.median(seconds) for name, seconds in moments.items()}


def show(one: dict[str, Any]) -> None:
    """Print the results for one number of trials."""
    times, busy = sorted(one["milliseconds"]), statistics.median(one["processor_milliseconds"])
    print(
        f"{one['sampler']} at {one['trials']} trials: median {statistics.median(times):.0f} ms a trial "
        f"({times[0]:.0f} to {times[-1]:.0f}), {busy:.0f} ms of the processor; "
        f"{one['seconds_to_resume']:.1f} s to resume, peak {one['peak_mib']:.0f} MiB; a further look "
        f"{one['seconds_of_a_further_look']:.2f} s; the report of {one['report_megabytes']:.1f} MB "
        f"{one['seconds_to_report']:.1f} s"
    )
    print("  profiled, ms: " + ", ".join(f"{part} {ms:.1f}" for part, ms in one["parts"].items()), flush=True)


if __name__ == "__main__":
    main()
