"""The report as text: GitHub's Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from ..markdown import escape_text, one_line
from ..results.decision import decide
from ..results.record import RunRecord
from ..words import counted
from .summary import describe_images, describe_study, in_words, name_front
from .tables import describe_front, describe_verified


def render_markdown(trials: pd.DataFrame, run: RunRecord) -> str:
    """Return the report as Markdown: summary, front, verified networks and settings."""
    return "\n".join(_lines(trials, run)) + "\n"


def _lines(trials: pd.DataFrame, run: RunRecord) -> Iterator[str]:
    evaluated = int(trials["state"].isin(["complete", "stopped"]).sum())
    failed = int((trials["state"] == "failed").sum())
    yield f"# Where {run.attention} pays in {escape_text(run.backbone)}"
    yield from _decision(trials, run)
    failures = f", {failed} failed" if failed else ""
    state = f"{failures}; the search is {'finished' if run.finished else 'not finished'}"
    yield from ("", f"{evaluated} of {run.budget} configurations evaluated on {escape_text(run.data.name)}{state}.")
    for caution in run.cautions:
        yield from ("", f"> {escape_text(caution)}")
    for schedule in reversed(run.verified):
        yield from ("", f"## Verified: {in_words(schedule)}", "")
        yield from (f"Evaluated on {counted(schedule.images, 'test image')}, with 95 % intervals.", "")
        yield from _table(describe_verified(schedule))
        for sentence in (schedule.finding, *schedule.failures, *schedule.ranking):
            yield from ("", escape_text(sentence))
    front = describe_front(trials, run)
    if len(front):
        yield from ("", f"## {name_front(run)}", "")
        method = escape_text(run.evaluator.method)
        images = f"{run.data.validation} validation images, with 95 % intervals"
        yield from (f"{run.quality.words.capitalize()} is estimated by {method} on {images}.", "")
        yield from _table(front)
    yield from ("", "## How this was made", "")
    data = run.data
    pooled = f"; pooled over {run.latency_pooled_over} measurements" if run.latency_pooled_over else ""
    made = {
        "Run": run.name,
        "Backbone": f"{run.backbone}, {run.backbone_parameters:,} parameters in timm",
        "Data": f"{data.name}: {describe_images(data)}",
        "Study": describe_study(run),
        "Space": run.space,
        "Evaluator": run.evaluator.method,
        "Objectives": ", ".join(one.words for one in run.objectives),
        "Latency": run.latency and run.latency.description + pooled,
        "Seed": str(run.seed),
        "Versions": ", ".join(f"{name} {version}" for name, version in run.provenance.versions.items()),
    }
    yield from (f"- {name}: {escape_text(value)}" for name, value in made.items() if value)
    if run.power is not None:
        yield "- Power:"
        yield from (f"  - {escape_text(sentence)}" for sentence in run.power.sentences)


def _decision(trials: pd.DataFrame, run: RunRecord) -> Iterator[str]:
    decision = decide(trials, run)
    yield from ("", escape_text(f"{decision.title}. {decision.headline}."))
    if decision.figures:
        yield from ("", escape_text(f"{decision.network} against no {run.attention}:"), "")
        yield from (f"- {escape_text(f'{one.name} {one.text} {one.interval}')}" for one in decision.figures)
    if run.focus:
        yield from ("", escape_text(run.focus))
    for step in decision.next:
        yield from ("", escape_text(f"Next: {step.reason}"))
        if step.command:
            yield from ("", f"    {one_line(step.command)}")
    yield from ("", escape_text(decision.known))


def _table(shown: pd.DataFrame) -> Iterator[str]:
    yield _row([name or "remarks" for name in shown.columns])
    yield "|" + " --- |" * len(shown.columns)
    yield from (_row(row) for row in shown.itertuples(index=False))


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(escape_text, cells)) + " |"
