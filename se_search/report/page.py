"""The report page: one HTML file that needs no network."""

import shlex
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from ..results.decision import Decision, decide
from ..results.record import RunRecord
from ..results.table import front_of, read_config, to_csv
from ..results.verified import Member, Schedule
from ..study.objectives import OBJECTIVES, Objective
from ..trials.notes import PREDICTED
from ..words import counted, percent
from .configuration import describe_stages, draw_configuration, shade
from .figures import FIGURES, report_figures
from .groups import complete_trials
from .html import render_page
from .measures import (
    hover_text,
    interval_of,
    objectives_shown,
    tie_in_words,
    with_interval,
    write_interval,
    write_limit,
    write_value,
)
from .summary import describe_images, describe_study, in_words, name_front

_PICK_TITLES = {
    "knee": "best trade-off of {quality} and parameters",
    "accurate": "best {quality}",
    "small": "fewest parameters",
    "fast": "lowest latency ratio",
}

_STATES = {
    "complete": "complete",
    "front": "on the front",
    "tied": "not distinguishable from a cheaper trial",
    "beyond": "beyond the limits",
    "stopped": "stopped early",
    "failed": "failed",
}

_ALWAYS_LISTED = ("accuracy", "parameter_overhead", "latency_ratio")
_ON_THE_FRONT = (*_ALWAYS_LISTED, "log_loss", "flops_overhead")


def render_report(trials: pd.DataFrame, run: RunRecord, live: int | None = None) -> str:
    """Return the whole page.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run.
        live: Interval in seconds at which the page reloads; ``None`` for never.
    """
    complete = complete_trials(trials)
    front = front_of(complete)
    figures = report_figures(trials, run, texts=False) if len(complete) else {}
    shown = objectives_shown(run)
    decision = decide(trials, run)
    counts = Counter(state for row in trials.to_dict("records") for state in _states(row))
    return render_page(
        "page.html.jinja",
        figures,
        scripts=("dashboard.js",),
        page={
            "hover": {int(row["number"]): hover_text(row, run) for row in complete.to_dict("records")},
            "csv": _csv(front, f"{run.name}-pareto.csv"),
            # The number of the trial goes between the parts.
            "command": [f"se-search export {shlex.quote(run.folder)} --trial ", " --to exported-", ""],
            "verified": trials["number"][trials["verified_seeds"] > 0].tolist(),
            "live": live,
        },
        run=run,
        live=live,
        decision=decision,
        decided=_decided(decision, trials, run),
        caveats=len(run.cautions) + bool(run.data.unreadable) + sum(len(one.failures) for one in run.verified),
        limits=", ".join(
            f"{one.heading} at most {write_limit(limit, one)}"
            for one in OBJECTIVES.values()
            if (limit := run.constraints.most_of(one)) is not None
        ),
        counts={state: counts[state] for state in _STATES if counts[state]},
        states=_STATES,
        front=[_row(row, run) for row in front.to_dict("records")],
        trials=[_row(row, run) for row in trials.to_dict("records")],
        verified=bool(run.verified),
        options=sorted({(one.rank, one.label) for text in front["config"] for one in read_config(text).placed}),
        own=[one for one in shown if one.name not in _ON_THE_FRONT],
        others=[one for one in shown if one.name not in _ALWAYS_LISTED],
        keeps=any(site.position == "existing" for site in run.sites),
        shade=shade,
        counted=counted,
        in_words=in_words,
        name_front=name_front(run),
        significance=partial(_significance, quality=run.quality),
        draw_trainings=_draw_trainings,
        images=describe_images(run.data),
        study=describe_study(run),
        write_value=write_value,
        write_interval=write_interval,
        pick_titles={name: title.format(quality=run.quality.words) for name, title in _PICK_TITLES.items()},
        titles={name: one.title_of(run) for name, one in FIGURES.items()},
        notes={name: one.note_of(run) for name, one in FIGURES.items()},
        logarithmic=bool((complete["parameter_overhead"] >= 0).all()),
        columns=lambda name: len(figures[name].layout.xaxis.tickvals or ()) if name in figures else 0,
    )


def _row(row: dict[Any, Any], run: RunRecord) -> dict[str, Any]:
    return row | {
        "picks": [name for name in _PICK_TITLES if run.picks.get(name) == row["number"]],
        "tie": "" if pd.isna(row["tied_with"]) else tie_in_words(row),
        "predicted": row["latency_stopped"] == PREDICTED,
        "states": " ".join(_states(row)),
        "stages": describe_stages(row["config"], run.sites, run.attention),
        "drawing": draw_configuration(row["config"], run.sites, run.attention),
    }


def _decided(decision: Decision, trials: pd.DataFrame, run: RunRecord) -> dict[str, Any] | None:
    """Return the row of the trial that the decision speaks of; ``None`` without one."""
    if decision.trial is None:
        return None
    (row,) = trials[trials["number"] == decision.trial].to_dict("records")
    accuracy = OBJECTIVES["accuracy"]
    source, prefix = ("Verified", "verified_") if decision.verified else ("Estimated", "")
    return _row({str(name): value for name, value in row.items()}, run) | {
        "where": f"{read_config(row['config']).attention} in {counted(row['se_blocks'], 'block')}",
        "reached": f"{source} accuracy {with_interval(interval_of(row, accuracy, prefix), accuracy)}",
    }


def _significance(member: Member, quality: Objective) -> str:
    """Say whether a verified network is significantly better or worse than the one without attention."""
    difference = member.log_loss_difference if quality.name == "log_loss" else member.accuracy_difference
    ends = [quality.sign * end for end in difference[1:]]
    if min(ends) > 0:
        return "better"
    return "worse" if max(ends) < 0 else "no difference"


@dataclass(frozen=True)
class _TrainingDrawing:
    """A training as a dot: its place from 0 (the lowest accuracy of a table) to 1 (the highest)."""

    place: float
    learned: bool
    title: str


def _draw_trainings(schedule: Schedule, member: Member) -> list[_TrainingDrawing]:
    reached = [one.accuracy[0] for network in schedule.members for one in network.trainings]
    low, width = min(reached, default=0.0), max(reached, default=0.0) - min(reached, default=0.0)
    return [
        _TrainingDrawing(
            (one.accuracy[0] - low) / width if width > 0 else 0.5,
            one.learned,
            f"seed {one.seed}: {percent(one.accuracy[0])}" + ("" if one.learned else ", did not learn"),
        )
        for one in member.trainings
    ]


def _states(row: dict[Any, Any]) -> list[str]:
    """Return the keys of :data:`_STATES` that a trial counts in."""
    if row["state"] != "complete":
        return [str(row["state"])]
    if not row["feasible"]:
        return ["complete", "beyond"]
    if row["on_front"]:
        return ["complete", "front"]
    return ["complete"] if pd.isna(row["tied_with"]) else ["complete", "tied"]


def _csv(front: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return the rows of ``pareto.csv`` by trial, so that the page can offer a download of those it shows."""
    lines = {
        int(number): to_csv(front.loc[[index]], header=False).rstrip("\r\n")
        for index, number in front["number"].items()
    }
    return {"name": name, "header": to_csv(front.iloc[:0]).rstrip("\r\n"), "lines": lines}
