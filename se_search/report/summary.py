"""A run in two sentences: what was found and what it costs, and how sure that is."""

import json
from typing import Any

import pandas as pd

from ..words import counted
from .configuration import describe_stages


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
    stages = describe_stages(json.loads(row["config"]), run["sites"])
    what = "no SE at all" if row["se_blocks"] == 0 else f"SE in {stages}"
    if run["quality"] == "accuracy":
        quality = (
            f"an estimated accuracy of {row['accuracy']:.2%} [{row['accuracy_low']:.2%}, {row['accuracy_high']:.2%}]"
        )
    else:
        quality = (
            f"an estimated log-loss of {row['log_loss']:.4f} [{row['log_loss_low']:.4f}, {row['log_loss_high']:.4f}]"
        )
    return (
        f"The best trade on {run['backbone']} is {what} (trial {row['number']}): {quality} "
        f"for {row['parameter_overhead']:+.2%} parameters and a latency of ×{row['latency_ratio']:.3f} "
        f"[{row['latency_low']:.3f}, {row['latency_high']:.3f}]."
    )


def _how_sure(run: dict[str, Any]) -> str:
    if run["verified"]:
        schedule = run["verified"][-1]
        return f"Trained by themselves for {counted(schedule['epochs'], 'epoch')}: {schedule['finding']}"
    if run["gain"]:
        return str(run["gain"])
    return "Whether SE helps here cannot be told: no network without SE and with it was evaluated on the same images."
