"""The report page: one HTML file that needs no network."""

import json
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from .figures import accuracy_against_latency, accuracy_against_overhead, describe_stages, hypervolume_figure

_EVALUATIONS = {
    "supernet": "weight sharing ({epochs} of the shared network)",
    "finetune": "finetuning each network ({epochs} from a common backbone)",
    "scratch": "training each network from scratch ({epochs})",
}

_PICK_TITLES = {
    "knee": "best trade of accuracy for parameters",
    "accurate": "highest accuracy",
    "small": "fewest parameters",
    "fast": "lowest latency ratio",
}


def render_report(trials: pd.DataFrame, run: dict[str, Any]) -> str:
    """Return the whole page.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run, as in ``run.json``.
    """
    complete = trials[trials["state"] == "complete"]
    front = complete[complete["on_front"]].sort_values(["parameter_overhead", "accuracy"], ascending=[True, False])
    limits = _limits(run["constraints"])
    figures = {}
    if len(complete):
        suffix = f" ({limits})" if limits else ""
        figures["overhead"] = _figure(accuracy_against_overhead(complete, run["sites"], suffix), "figure-overhead")
        figures["latency"] = _figure(accuracy_against_latency(complete, run["sites"], suffix), "figure-latency")
        figures["hypervolume"] = _figure(hypervolume_figure(run["hypervolume_history"]), "figure-hypervolume")
    environment = Environment(
        loader=PackageLoader("se_search.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        run=run,
        limits=limits,
        counts={
            "complete": len(complete),
            "stopped": int((trials["state"] == "stopped").sum()),
            "failed": int((trials["state"] == "failed").sum()),
            "front": len(front),
        },
        front=[_row(row, run) for row in front.to_dict("records")],
        trials=[_row(row, run) for row in trials.to_dict("records")],
        ratios=sorted({site["ratio"] for row in front["config"] for site in json.loads(row)["sites"]}),
        own=run.get("custom_objectives", []),
        keeps=any(site["position"] == "existing" for site in run["sites"]),
        shade=shade,
        counted=counted,
        how=describe_evaluation(run["evaluator"]),
        shipped=run["evaluator"]["name"] in _EVALUATIONS,
        pick_titles=_PICK_TITLES,
        figures=figures,
        plotly=Markup(get_plotlyjs()) if figures else "",
    )


def describe_evaluation(evaluator: dict[str, Any]) -> str:
    """Say how accuracies were estimated and after how much training.

    Args:
        evaluator: Of ``run.json``.
    """
    name = evaluator["name"]
    if name not in _EVALUATIONS:
        return f"the evaluator {name}"
    return _EVALUATIONS[name].format(epochs=counted(evaluator["epochs"], "epoch"))


def counted(number: int, word: str) -> str:
    """Return a number with its word: 1 epoch, 2 epochs."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def draw_configuration(config: dict[str, Any], sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what to draw of a configuration: one row for each stage, one cell for each block.

    Args:
        config: A configuration's plain data.
        sites: ``block``, ``stage``, ``position`` and ``channels`` of every site of the space, in forward order.

    Returns:
        Rows of ``stage``, ``label`` (its ratios) and ``cells``, one for each block; a cell has ``title``, ``ratio``
        (``None``: no SE block of the search) and ``kept`` (the backbone's own attention stays).
    """
    placed = {(site["block"], site["position"]): site for site in config["sites"]}
    removed = {(site["block"], site["position"]) for site in config["removed"]}
    rows: dict[int, dict[str, dict[str, Any]]] = {}
    for site in sites:
        key = site["block"], site["position"]
        cells = rows.setdefault(site["stage"], {})
        if key in placed:
            one = placed[key]
            kind = f"r={one['ratio']}, {one['gate']}, {site['position']}"
            cells[site["block"]] = _cell(site, kind, ratio=one["ratio"])
        elif site["position"] == "existing" and key not in removed:
            cells[site["block"]] = _cell(site, "kept as in the backbone", kept=True)
        else:
            cells.setdefault(site["block"], _cell(site, "no SE"))
    drawn = []
    for stage, cells in rows.items():
        used = [f"r={ratio}" for ratio in sorted({cell["ratio"] for cell in cells.values() if cell["ratio"]})]
        kept = ["kept"] if any(cell["kept"] for cell in cells.values()) else []
        drawn.append({"stage": stage, "label": ", ".join(used + kept) or "–", "cells": list(cells.values())})
    return drawn


def _cell(site: dict[str, Any], kind: str, ratio: int | None = None, kept: bool = False) -> dict[str, Any]:
    return {"title": f"{site['block']} ({site['channels']} channels): {kind}", "ratio": ratio, "kept": kept}


def shade(ratio: int) -> str:
    """Return the colour of a reduction ratio: the more parameters, the darker."""
    palette = ("#08306b", "#08519c", "#2171b5", "#4292c6", "#6baed6", "#9ecae1")
    return palette[min(max(ratio.bit_length() - 1, 0), len(palette) - 1)]


def _row(row: dict[Any, Any], run: dict[str, Any]) -> dict[str, Any]:
    config = json.loads(row["config"])
    picks = [name for name in _PICK_TITLES if run["picks"].get(name) == row["number"]]
    tied = None if pd.isna(row["tied_with"]) else int(row["tied_with"])
    return row | {
        "picks": picks,
        "tied_with": tied,
        "stages": describe_stages(config, run["sites"]),
        "drawing": draw_configuration(config, run["sites"]),
    }


def _limits(constraints: dict[str, Any]) -> str:
    parts = []
    if constraints["max_params"] is not None:
        parts.append(f"parameters at most +{constraints['max_params']:.2%}")
    if constraints["max_latency"] is not None:
        parts.append(f"latency at most ×{constraints['max_latency']:g}")
    return ", ".join(parts)


def _figure(figure: go.Figure, name: str) -> Markup:
    html = to_html(
        figure,
        full_html=False,
        include_plotlyjs=False,
        include_mathjax=False,
        div_id=name,
        config={"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )
    return Markup(html)
