"""Tables in words, as a terminal, a notebook and Markdown show them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from ..results.record import RunRecord
from ..results.table import front_of
from ..results.verified import Schedule
from ..study.objectives import OBJECTIVES
from ..words import percent_with_interval
from .measures import interval_of, objectives_shown, value_in_words, with_interval, write_value

_ACCURACY, _LOG_LOSS, _LATENCY = (OBJECTIVES[name] for name in ("accuracy", "log_loss", "latency_ratio"))
_COSTS = (OBJECTIVES["parameter_overhead"], OBJECTIVES["flops_overhead"])


def describe_front(trials: pd.DataFrame, run: RunRecord) -> pd.DataFrame:
    """Return the Pareto front in words, one row for each member from the smallest network to the largest.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run.
    """
    picks: dict[int, list[str]] = {}
    for pick, number in run.picks.items():
        picks.setdefault(number, []).append(pick)
    shown, rows = objectives_shown(run), []
    for row in front_of(trials).to_dict("records"):
        remarks = [*picks.get(row["number"], []), *([row["name"]] if row["name"] else [])]
        if not pd.isna(row["tied_with"]):
            remarks.append(f"{run.quality.words} not distinguishable from trial {row['tied_with']}'s")
        rows.append(
            {
                "trial": str(row["number"]),
                **{one.heading: value_in_words(row, one) for one in shown},
                "SE blocks": str(row["se_blocks"]),
                "": ", ".join(remarks),
            }
        )
    return pd.DataFrame(rows)


def describe_verified(schedule: Schedule) -> pd.DataFrame:
    """Return what one schedule of verification has found in words, one row for each network.

    Args:
        schedule: The schedule.
    """
    rows = []
    for member in schedule.members:
        against = with_interval(member.log_loss_difference, _LOG_LOSS, signed=True)
        rows.append(
            {
                "trial": "–" if member.number is None else str(member.number),
                "accuracy": with_interval(member.accuracy, _ACCURACY),
                "log-loss": with_interval(member.log_loss, _LOG_LOSS),
                "log-loss against no SE": "" if member.name == "no SE" else against,
                "": member.name,
            }
        )
    return pd.DataFrame(rows)


def describe_excitation(analysis: Mapping[str, Any]) -> pd.DataFrame:
    """Return what an analysis of excitation has found in words, one row for each SE block.

    Args:
        analysis: The content of ``excitation.json``.
    """
    rows = []
    for block in analysis["blocks"]:
        shares = {
            word: percent_with_interval(*block[name], decimals=1)
            for name, word in (
                ("specificity", "specificity"),
                ("near_one", "near 1"),
                ("constant", "constant"),
                ("similarity", "similarity"),
            )
        }
        rows.append(
            {
                "block": block["block"],
                "stage": "–" if block["stage"] is None else str(block["stage"]),
                **shares,
                "log-loss change": with_interval(block["log_loss_change"], _LOG_LOSS, signed=True),
                "": block["verdict"],
            }
        )
    return pd.DataFrame(rows)


def describe_latency(measured: pd.DataFrame) -> pd.DataFrame:
    """Return what :func:`se_search.compare_latency` has measured in words.

    Args:
        measured: Its table.
    """
    latency = replace(_LATENCY, form="×{:.4f}", decimals=4)
    rows = [
        {
            "configuration": row["name"],
            "runtime": row["runtime"],
            **{column.heading: write_value(row[column.name], column) for column in _COSTS},
            "latency": with_interval(interval_of(row, latency), latency),
            "pairs": str(row["latency_pairs"]),
            "stopped by": row["latency_stopped"],
        }
        for row in measured.to_dict("records")
    ]
    return pd.DataFrame(rows)
