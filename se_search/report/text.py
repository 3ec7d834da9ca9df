"""The report as text: GitHub's Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from ..markdown import escape_text
from ..results.record import RunRecord
from ..words import counted
from .summary import summarize
from .tables import describe_front, describe_verified


def render_markdown(trials: pd.DataFrame, run: RunRecord) -> str:
    """Return the report as Markdown: summary, front, verified networks, and how it was made.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run.
    """
    return "\n".join(_lines(trials, run)) + "\n"


def _lines(trials: pd.DataFrame, run: RunRecord) -> Iterator[str]:
    evaluated = int(trials["state"].isin(["complete", "stopped"]).sum())
    failed = int((trials["state"] == "failed").sum())
    yield f"# Where SE pays in {escape_text(run.backbone)}"
    for sentence in summarize(trials, run):
        yield from ("", escape_text(sentence))
    yield ""
    yield (
        f"{evaluated} of {run.budget} configurations evaluated on {escape_text(run.data.name)}"
        + (f", {failed} failed" if failed else "")
        + f"; the search is {'finished' if run.finished else 'not finished'}."
    )
    for caution in run.cautions:
        yield from ("", f"> {escape_text(caution)}")
    front = describe_front(trials, run)
    if len(front):
        yield from ("", "## Pareto front", "")
        how = escape_text(run.evaluator.method)
        judged = f"by {how} on {run.data.validation} validation images, with 95 % intervals."
        yield f"Values of {run.quality.words} are estimates {judged}"
        yield ""
        yield from _table(front)
    for schedule in run.verified:
        epochs, seeds = counted(schedule.epochs, "epoch"), counted(len(schedule.seeds), "seed")
        yield from ("", f"## Verified: trained by themselves for {epochs}", "")
        yield f"{seeds.capitalize()}, judged on {schedule.images} test images, with 95 % intervals."
        yield ""
        yield from _table(describe_verified(schedule))
        for sentence in (schedule.finding, *schedule.ranking):
            yield from ("", escape_text(sentence))
    yield from ("", "## How this was made", "")
    yield from (f"- {name}: {escape_text(value)}" for name, value in _made(run).items() if value)


def _made(run: RunRecord) -> dict[str, Any]:
    data = run.data
    return {
        "Run": run.name,
        "Backbone": f"{run.backbone}, {run.backbone_parameters:,} parameters as timm publishes it",
        "Data": (
            f"{data.name}: {data.train} images to train, {data.validation} to validate, {data.test} kept "
            f"for verification; {data.classes} classes"
        ),
        "Study": run.study,
        "Space": run.space,
        "Evaluator": run.evaluator.method,
        "Objectives": ", ".join(one.words for one in run.objectives),
        "Latency": run.latency and run.latency.description,
        "Seed": str(run.seed),
        "Versions": ", ".join(f"{name} {version}" for name, version in run.provenance.versions.items()),
    }


def _table(shown: pd.DataFrame) -> Iterator[str]:
    yield _row([name or "remarks" for name in shown.columns])
    yield "|" + " --- |" * len(shown.columns)
    yield from (_row(row) for row in shown.itertuples(index=False))


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(escape_text, cells)) + " |"
