"""The report as text: GitHub's Markdown."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from ..words import counted
from .page import describe_evaluation
from .summary import summarize

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$@!])")
_BLOCK = re.compile(r"^(\d*)([-+=.)])")  # what begins a list or underlines a heading


def render_markdown(
    trials: pd.DataFrame,
    run: dict[str, Any],
    front: pd.DataFrame,
    verified: Sequence[tuple[dict[str, Any], pd.DataFrame]],
) -> str:
    """Return the report as Markdown: summary, front, verified networks, and how it was made.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run, as in ``run.json``.
        front: The front in words, as :func:`se_search.api.describe_front` has it.
        verified: The schedules of ``verified`` of ``run``, each with its networks in words, as
            :func:`se_search.api.describe_verified` has them.
    """
    return "\n".join(_lines(trials, run, front, verified)) + "\n"


def escape_markdown(text: Any) -> str:
    """Return a text of the user's as Markdown shows it within a line: nothing in it is markup."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def _paragraph(text: str) -> str:
    return _BLOCK.sub(r"\1\\\2", escape_markdown(text))


def _lines(
    trials: pd.DataFrame,
    run: dict[str, Any],
    front: pd.DataFrame,
    verified: Sequence[tuple[dict[str, Any], pd.DataFrame]],
) -> Iterator[str]:
    data = run["data"]
    evaluated = int(trials["state"].isin(["complete", "stopped"]).sum())
    failed = int((trials["state"] == "failed").sum())
    yield f"# Where SE pays in {escape_markdown(run['backbone'])}"
    for sentence in summarize(trials, run):
        yield from ("", _paragraph(sentence))
    yield ""
    yield (
        f"{evaluated} of {run['budget']} configurations evaluated on {escape_markdown(data['name'])}"
        + (f", {failed} failed" if failed else "")
        + f"; the search is {'finished' if run['finished'] else 'not finished'}."
    )
    for caution in run["cautions"]:
        yield from ("", f"> {_paragraph(caution)}")
    if len(front):
        yield from ("", "## Pareto front", "")
        how = escape_markdown(describe_evaluation(run["evaluator"]))
        judged = f"by {how} on {data['validation']} validation images, with 95 % intervals."
        yield f"Values of {run['quality']} are estimates {judged}"
        yield ""
        yield from _table(front)
    for schedule, networks in verified:
        epochs, seeds = counted(schedule["epochs"], "epoch"), counted(len(schedule["seeds"]), "seed")
        yield from ("", f"## Verified: trained by themselves for {epochs}", "")
        yield f"{seeds.capitalize()}, judged on {schedule['images']} test images, with 95 % intervals."
        yield ""
        yield from _table(networks)
        for sentence in (schedule["finding"], *schedule["ranking"]):
            yield from ("", _paragraph(sentence))
    yield from ("", "## How this was made", "")
    yield from (f"- {name}: {escape_markdown(value)}" for name, value in _made(run).items() if value)


def _made(run: dict[str, Any]) -> dict[str, Any]:
    data = run["data"]
    return {
        "Run": run["name"],
        "Backbone": f"{run['backbone']}, {run['backbone_parameters']:,} parameters as timm publishes it",
        "Data": (
            f"{data['name']}: {data['train']} images to train, {data['validation']} to validate, {data['test']} kept "
            f"for verification; {data['classes']} classes"
        ),
        "Study": run["study"],
        "Space": run["space"],
        "Evaluator": describe_evaluation(run["evaluator"]),
        "Objectives": ", ".join(run["objectives"]),
        "Latency": run["latency"].get("description"),
        "Seed": str(run["seed"]),
        "Versions": ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items()),
    }


def _table(shown: pd.DataFrame) -> Iterator[str]:
    yield _row([name or "remarks" for name in shown.columns])
    yield "|" + " --- |" * len(shown.columns)
    yield from (_row(row) for row in shown.itertuples(index=False))


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"
