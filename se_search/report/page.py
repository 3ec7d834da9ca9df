"""The report page: one HTML file that needs no network."""

import shlex
from collections import Counter
from typing import Any

import pandas as pd

from ..results.record import RunRecord
from ..results.table import front_of, read_config
from ..study.objectives import OBJECTIVES
from ..trials.notes import PREDICTED
from ..words import counted
from .configuration import describe_stages, draw_configuration, shade
from .figures import FIGURES, report_figures
from .groups import complete_trials
from .html import render_page
from .measures import hover_text, objectives_shown, write_interval, write_limit, write_value
from .summary import summarize

_PICK_TITLES = {
    "knee": "best trade of {quality} for parameters, among those not tied with a smaller one",
    "accurate": "best {quality}",
    "small": "fewest parameters",
    "fast": "lowest latency ratio",
}

_STATES = {
    "complete": "complete",
    "front": "on the front",
    "tied": "of them tied with a smaller one",
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
        live: Seconds after which the page reads itself anew; it does not without.
    """
    complete = complete_trials(trials)
    front = front_of(complete)
    figures = report_figures(trials, run, texts=False) if len(complete) else {}
    shown = objectives_shown(run)
    return render_page(
        "page.html.jinja",
        figures,
        scripts=("dashboard.js",),
        page={
            "hover": {int(row["number"]): hover_text(row, run) for row in complete.to_dict("records")},
            "csv": _csv(front, f"{run.name}-pareto.csv"),
            "command": _command(run),
            "live": live,
        },
        run=run,
        live=live,
        summary=summarize(trials, run),
        limits=_limits(run),
        counts=_counts(trials),
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
        write_value=write_value,
        write_interval=write_interval,
        pick_titles={name: title.format(quality=run.quality.words) for name, title in _PICK_TITLES.items()},
        captions=FIGURES,
        columns=lambda name: len(figures[name].layout.xaxis.tickvals or ()) if name in figures else 0,
    )


def _row(row: dict[Any, Any], run: RunRecord) -> dict[str, Any]:
    picks = [name for name in _PICK_TITLES if run.picks.get(name) == row["number"]]
    tied = None if pd.isna(row["tied_with"]) else int(row["tied_with"])
    return row | {
        "picks": picks,
        "tied_with": tied,
        "predicted": row["latency_stopped"] == PREDICTED,
        "states": " ".join(_states(row)),
        "stages": describe_stages(row["config"], run.sites),
        "drawing": draw_configuration(row["config"], run.sites),
    }


def _limits(run: RunRecord) -> str:
    limits = {one: run.constraints.most_of(one) for one in OBJECTIVES.values()}
    return ", ".join(
        f"{one.heading} at most {write_limit(limit, one)}" for one, limit in limits.items() if limit is not None
    )


def _counts(trials: pd.DataFrame) -> dict[str, int]:
    """Count the trials of each state that :func:`_states` tells apart."""
    counts = Counter(state for row in trials.to_dict("records") for state in _states(row))
    return {state: counts[state] for state in _STATES if counts[state]}


def _states(row: dict[Any, Any]) -> list[str]:
    if row["state"] != "complete":
        return [str(row["state"])]
    if not row["feasible"]:
        return ["complete", "beyond"]
    tied = [] if pd.isna(row["tied_with"]) else ["tied"]
    return ["complete", *(["front", *tied] if row["on_front"] else [])]


def _csv(front: pd.DataFrame, name: str) -> dict[str, Any]:
    """Return the rows of ``pareto.csv`` one by one, so that the page can offer those that it shows."""
    lines = {
        int(number): front.loc[[index]].to_csv(index=False, header=False).rstrip("\r\n")
        for index, number in front["number"].items()
    }
    return {"name": name, "header": front.iloc[:0].to_csv(index=False).rstrip("\r\n"), "lines": lines}


def _command(run: RunRecord) -> list[str]:
    """Return the command that exports a trial, as the parts that its number stands between."""
    return [f"se-search export {shlex.quote(run.folder)} --trial ", " --to exported-", ""]
