"""A run in sentences: what was found and what it costs, how sure that is."""

from typing import Any

import pandas as pd

from ..words import counted
from .configuration import describe_stages
from .measures import MEASURED, quality_of_run, value_in_words


def summarize(trials: pd.DataFrame, run: dict[str, Any]) -> list[str]:
    """Say in two plain sentences what a run has found; in none, where its front is empty.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run, as in ``run.json``.
    """
    if "knee" not in run["picks"]:
        return []
    (row,) = trials[trials["number"] == run["picks"]["knee"]].to_dict("records")
    return [_found(row, run), _how_sure(run)]


def _found(row: dict[Any, Any], run: dict[str, Any]) -> str:
    stages = describe_stages(row["config"], run["sites"])
    what = "no SE at all" if row["se_blocks"] == 0 else f"SE in {stages}"
    helps = run["verified"][-1]["helps"] if run["verified"] else run["gain_is_measurable"]
    chosen, caution = "best trade", ""
    if row["se_blocks"] > 0 and not helps:
        chosen, caution = "best candidate", ", though not measurably better than no SE"
    return (
        f"The {chosen} on {run['backbone']} is {what} (trial {row['number']}){caution}: "
        f"an estimated {run['quality']} of {value_in_words(row, quality_of_run(run))} "
        f"for {value_in_words(row, MEASURED['parameter_overhead'])} parameters "
        f"and a latency of {value_in_words(row, MEASURED['latency_ratio'])}."
    )


def _how_sure(run: dict[str, Any]) -> str:
    if run["verified"]:
        schedule = run["verified"][-1]
        return f"Trained by themselves for {counted(schedule['epochs'], 'epoch')}: {schedule['finding']}"
    if run["gain"]:
        return str(run["gain"])
    return "Whether SE helps here cannot be told: no network without SE and with it was evaluated on the same images."
