"""A run in sentences: the result with its cost, and its uncertainty."""

from typing import Any

import pandas as pd

from ..results.record import DataRecord, RunRecord
from ..results.table import name_attention
from ..results.verified import Schedule
from ..study.objectives import OBJECTIVES
from ..words import counted
from .configuration import describe_stages
from .measures import interval_of, value_in_words, with_interval


def summarize(trials: pd.DataFrame, run: RunRecord) -> list[str]:
    """Summarise a run in two sentences; in none if its front is empty."""
    if "knee" not in run.picks:
        return []
    (row,) = trials[trials["number"] == run.picks["knee"]].to_dict("records")
    return [_result(row, run), _certainty(run)]


def in_words(schedule: Schedule) -> str:
    """Describe a schedule of verification: retrained independently (8 epochs, 3 seeds)."""
    return f"retrained independently ({counted(schedule.epochs, 'epoch')}, {counted(len(schedule.seeds), 'seed')})"


def describe_images(data: DataRecord) -> str:
    """Describe the numbers of images and classes."""
    images = f"{data.train:,} training, {data.validation:,} validation and {data.test:,} test images"
    return f"{images}; {data.classes} classes"


def _result(row: dict[Any, Any], run: RunRecord) -> str:
    stages = describe_stages(row["config"], run.sites)
    what = "no SE at all" if row["se_blocks"] == 0 else f"{name_attention(row['config'])} in {stages}"
    helps = run.verified[-1].helps if run.verified else run.gain is not None and run.gain.measurable
    chosen, caution = "best trade-off", ""
    if row["se_blocks"] > 0 and not helps:
        chosen, caution = "best candidate", ", though not significantly better than no SE"
    return (
        f"The {chosen} on {run.backbone} is {what} (trial {row['number']}){caution}: "
        f"{_quality(row, run)} "
        f"for {value_in_words(row, OBJECTIVES['parameter_overhead'])} parameters "
        f"and a latency of {value_in_words(row, OBJECTIVES['latency_ratio'])}."
    )


def _quality(row: dict[Any, Any], run: RunRecord) -> str:
    if run.picks.source == "verified":
        value = with_interval(interval_of(row, run.quality, "verified_"), run.quality)
        return f"a verified {run.quality.words} of {value}"
    return f"an estimated {run.quality.words} of {value_in_words(row, run.quality)}"


def _certainty(run: RunRecord) -> str:
    if run.verified:
        return f"{in_words(run.verified[-1]).capitalize()}: {run.verified[-1].finding}"
    if run.gain:
        return run.gain.sentence
    return "Unknown whether SE helps: networks with and without SE were not evaluated on the same images."
