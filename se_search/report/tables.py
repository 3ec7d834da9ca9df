"""Tables in words, as a terminal, a notebook and Markdown show them."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..search.definitions import OBJECTIVES
from ..search.results import PREDICTED, front_of


def describe_front(trials: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    """Return the Pareto front in words, one row for each member from the smallest network to the largest.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run, as in ``run.json``.
    """
    picks: dict[int, list[str]] = {}
    for pick, number in run["picks"].items():
        picks.setdefault(number, []).append(pick)
    rows = []
    for row in front_of(trials).to_dict("records"):
        remarks = [*picks.get(row["number"], []), *([row["name"]] if row["name"] else [])]
        if not pd.isna(row["tied_with"]):
            remarks.append(f"{run['quality']} not distinguishable from trial {row['tied_with']}'s")
        latency = f"×{row['latency_ratio']:.3f} [{row['latency_low']:.3f}, {row['latency_high']:.3f}]"
        rows.append(
            {
                "trial": str(row["number"]),
                "accuracy": f"{row['accuracy']:.1%} [{row['accuracy_low']:.1%}, {row['accuracy_high']:.1%}]",
                **({"log-loss": _log_loss(row)} if run["quality"] == "log-loss" else {}),
                "parameters": f"{row['parameter_overhead']:+.2%}",
                "latency": latency + (" predicted" if row["latency_stopped"] == PREDICTED else ""),
                **{name: f"{row[name]:.4g}" for name in run["objectives"] if name not in OBJECTIVES},
                "SE blocks": str(row["se_blocks"]),
                "": ", ".join(remarks),
            }
        )
    return pd.DataFrame(rows)


def _log_loss(row: Mapping[Any, Any]) -> str:
    return f"{row['log_loss']:.4f} [{row['log_loss_low']:.4f}, {row['log_loss_high']:.4f}]"


def describe_verified(schedule: Mapping[str, Any]) -> pd.DataFrame:
    """Return what one schedule of verification has found in words, one row for each network.

    Args:
        schedule: One of ``verified`` of ``run.json``.
    """
    rows = []
    for member in schedule["members"]:
        (accuracy, low, high), (loss, loss_low, loss_high) = member["accuracy"], member["log_loss"]
        difference, below, above = member["log_loss_difference"]
        against = f"{difference:+.4f} [{below:+.4f}, {above:+.4f}]" if member["name"] != "no SE" else ""
        rows.append(
            {
                "trial": "–" if member["number"] is None else str(member["number"]),
                "accuracy": f"{accuracy:.1%} [{low:.1%}, {high:.1%}]",
                "log-loss": f"{loss:.4f} [{loss_low:.4f}, {loss_high:.4f}]",
                "log-loss against no SE": against,
                "": member["name"],
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
        loss, low, high = block["log_loss_change"]
        shares = {
            word: f"{block[name][0]:.1%} [{block[name][1]:.1%}, {block[name][2]:.1%}]"
            for name, word in (
                ("specificity", "class-specific"),
                ("near_one", "near one"),
                ("constant", "constant"),
                ("similarity", "alike up to scale"),
            )
        }
        rows.append(
            {
                "block": block["block"],
                "stage": "–" if block["stage"] is None else str(block["stage"]),
                **shares,
                "log-loss without": f"{loss:+.4f} [{low:+.4f}, {high:+.4f}]",
                "": block["verdict"],
            }
        )
    return pd.DataFrame(rows)


def describe_latency(measured: pd.DataFrame) -> pd.DataFrame:
    """Return what :func:`se_search.compare_latency` has measured in words.

    Args:
        measured: Its table.
    """
    rows = [
        {
            "configuration": row["name"],
            "runtime": row["runtime"],
            "parameters": f"{row['parameter_overhead']:+.2%}",
            "FLOPs": f"{row['flops_overhead']:+.2%}",
            "latency": f"×{row['latency_ratio']:.4f} [{row['latency_low']:.4f}, {row['latency_high']:.4f}]",
            "pairs": str(row["latency_pairs"]),
            "stopped by": row["latency_stopped"],
        }
        for row in measured.to_dict("records")
    ]
    return pd.DataFrame(rows)
