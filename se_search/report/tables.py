"""Tables of text for the terminal, notebooks and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ..results.record import RunRecord
from ..results.table import front_of
from ..results.verified import Schedule
from ..study.objectives import OBJECTIVES
from ..words import percent, percent_with_interval, points_with_interval
from .measures import interval_of, objectives_shown, value_in_words, with_interval, write_value

_ACCURACY, _LOG_LOSS, _LATENCY = (OBJECTIVES[name] for name in ("accuracy", "log_loss", "latency_ratio"))
_SHARES = {"specificity": "specificity", "near_one": "near 1", "constant": "constant", "similarity": "similarity"}
_CHANGE = replace(
    _LOG_LOSS,
    name="log_loss_change",
    interval=("log_loss_change_low", "log_loss_change_high"),
    form="{:.4f}",
    decimals=4,
)
_COSTS = (OBJECTIVES["parameter_overhead"], OBJECTIVES["flops_overhead"])


def describe_front(trials: pd.DataFrame, run: RunRecord) -> pd.DataFrame:
    """Return the search's front as text, one row for each member from the smallest network to the largest.

    Once there are verified networks, it has a column with the verified accuracy.
    """
    picks: dict[int, list[str]] = {}
    for pick, number in run.picks.items():
        picks.setdefault(number, []).append(pick)
    shown, rows = objectives_shown(run), []
    for row in front_of(trials).to_dict("records"):
        remarks = [*picks.get(row["number"], []), *([row["name"]] if row["name"] else [])]
        rows.append(
            {
                "trial": str(row["number"]),
                **{one.heading: value_in_words(row, one) for one in shown},
                **({"verified accuracy": _verified(row)} if run.verified else {}),
                f"{run.attention} blocks": str(row["se_blocks"]),
                "": ", ".join(remarks),
            }
        )
    return pd.DataFrame(rows)


def _verified(row: Mapping[Any, Any]) -> str:
    return with_interval(interval_of(row, _ACCURACY, "verified_"), _ACCURACY) if row["verified_seeds"] > 0 else "–"


def describe_verified(schedule: Schedule) -> pd.DataFrame:
    """Return the results of a schedule of verification as text, one row for each network."""
    rows, without = [], schedule.members[0]
    for member in schedule.members:
        against = with_interval(member.log_loss_difference, _LOG_LOSS, signed=True)
        rows.append(
            {
                "trial": "–" if member.number is None else str(member.number),
                "accuracy": with_interval(member.accuracy, _ACCURACY),
                "log-loss": with_interval(member.log_loss, _LOG_LOSS),
                f"log-loss against {without.name}": "" if member is without else against,
                "": ", ".join(filter(None, (member.name, member.failure))),
            }
        )
    return pd.DataFrame(rows)


def describe_excitation(analysis: Mapping[str, Any]) -> pd.DataFrame:
    """Return the results of an excitation analysis, the content of ``excitation.json``, as text, one row a block."""
    rows = []
    for block in analysis["blocks"]:
        rows.append(
            {
                "block": block["block"],
                "stage": "–" if block["stage"] is None else str(block["stage"]),
                **{word: percent_with_interval(*block[name], decimals=1) for name, word in _SHARES.items()},
                "log-loss change": with_interval(block["log_loss_change"], _LOG_LOSS, signed=True),
                "": block["verdict"],
            }
        )
    return pd.DataFrame(rows)


def describe_latency(measured: pd.DataFrame) -> pd.DataFrame:
    """Return a table of :func:`se_search.compare_latency` as text."""
    latency = replace(_LATENCY, form="×{:.4f}", decimals=4)
    return pd.DataFrame(
        {
            "configuration": row["name"],
            "runtime": row["runtime"],
            **{column.heading: write_value(row[column.name], column) for column in _COSTS},
            "latency": with_interval(interval_of(row, latency), latency),
            "pairs": str(row["latency_pairs"]),
            "stopped by": row["latency_stopped"],
        }
        for row in measured.to_dict("records")
    )


def describe_thinned_blocks(blocks: pd.DataFrame) -> pd.DataFrame:
    """Return the blocks of :class:`se_search.Thinning` as text, those that depend on the image least first."""
    return pd.DataFrame(
        {
            "block": block["block"],
            "stage": "–" if pd.isna(block["stage"]) else f"{block['stage']:.0f}",
            "spread": percent(block["spread"], 3),
            "log-loss change": with_interval(interval_of(block, _CHANGE), _CHANGE, signed=True),
        }
        for block in blocks.sort_values("spread", kind="stable").to_dict("records")
    )


def describe_thinning(networks: pd.DataFrame) -> pd.DataFrame:
    """Return the networks of :class:`se_search.Thinning` on the front, and the chosen one, as text by size."""
    shown = networks[networks["front"] | networks["chosen"]].sort_values("parameters", kind="stable")
    measured = {"latency": _LATENCY} if _LATENCY.name in networks else {}
    return pd.DataFrame(
        {
            "row": str(number),
            "constant": str(len(row["blocks"])),
            "parameters": percent(row["parameter_change"], sign="+"),
            **{heading: with_interval(interval_of(row, one), one) for heading, one in measured.items()},
            "accuracy change": points_with_interval(*(row[f"accuracy_change{end}"] for end in ("", "_low", "_high"))),
            "log-loss change": with_interval(interval_of(row, _CHANGE), _CHANGE, signed=True),
            "": "chosen" if row["chosen"] else "",
        }
        for number, row in zip(shown.index, shown.to_dict("records"), strict=True)
    )


def describe_sites(sites: pd.DataFrame) -> pd.DataFrame:
    """Return the sites of :func:`se_search.api.sites.list_sites` as text, one row each."""
    shown = [
        {
            "stage": str(row["stage"]),
            "block": row["block"],
            "position": row["position"],
            "layout": row["layout"],
            "grid": _grid_in_words(row["grid"]),
            "channels": f"{row['channels']:,}",
            "2C²/16": f"{row['formula']:,.0f}",
            "now": f"{row['weights']:,}, r={2 * row['channels'] ** 2 / row['weights']:.3g}" if row["weights"] else "",
        }
        for row in sites.to_dict("records")
    ]
    # Maps of pixels have a grid in all networks.
    gridded = any(row["grid"] is None or row["grid"][0] or "L" in row["layout"] for row in sites.to_dict("records"))
    table = pd.DataFrame(shown)
    return table if gridded or table.empty else table.drop(columns="grid")


def _grid_in_words(grid: Sequence[int] | None) -> str:
    if grid is None:
        return "unknown"
    prefix, rows, columns = grid
    return f"{prefix}+{rows}×{columns}" if prefix else f"{rows}×{columns}"
