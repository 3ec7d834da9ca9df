"""A run in sentences: what was found and what it costs, how sure that is."""

from typing import Any

import pandas as pd

from ..results.record import RunRecord
from ..study.objectives import OBJECTIVES
from ..words import counted
from .configuration import describe_stages
from .measures import value_in_words


def summarize(trials: pd.DataFrame, run: RunRecord) -> list[str]:
    """Say in two plain sentences what a run has found; in none, where its front is empty.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run.
    """
    if "knee" not in run.picks:
        return []
    (row,) = trials[trials["number"] == run.picks["knee"]].to_dict("records")
    return [_found(row, run), _how_sure(run)]


def _found(row: dict[Any, Any], run: RunRecord) -> str:
    stages = describe_stages(row["config"], run.sites)
    what = "no SE at all" if row["se_blocks"] == 0 else f"SE in {stages}"
    helps = run.verified[-1].helps if run.verified else run.gain is not None and run.gain.measurable
    chosen, caution = "best trade", ""
    if row["se_blocks"] > 0 and not helps:
        chosen, caution = "best candidate", ", though not measurably better than no SE"
    return (
        f"The {chosen} on {run.backbone} is {what} (trial {row['number']}){caution}: "
        f"an estimated {run.quality.words} of {value_in_words(row, run.quality)} "
        f"for {value_in_words(row, OBJECTIVES['parameter_overhead'])} parameters "
        f"and a latency of {value_in_words(row, OBJECTIVES['latency_ratio'])}."
    )


def _how_sure(run: RunRecord) -> str:
    if run.verified:
        schedule = run.verified[-1]
        return f"Trained by themselves for {counted(schedule.epochs, 'epoch')}: {schedule.finding}"
    if run.gain:
        return run.gain.sentence
    return "Whether SE helps here cannot be told: no network without SE and with it was evaluated on the same images."
