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
        figures["overhead"] = _figure(accuracy_against_overhead(complete, suffix), "figure-overhead")
        figures["latency"] = _figure(accuracy_against_latency(complete, suffix), "figure-latency")
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
            "failed": int((trials["state"] == "failed").sum()),
            "front": len(front),
        },
        front=[_row(row, run) for row in front.to_dict("records")],
        trials=[_row(row, run) for row in trials.to_dict("records")],
        ratios=sorted({site["ratio"] for row in front["config"] for site in json.loads(row)["sites"]}),
        shade=shade,
        pick_titles=_PICK_TITLES,
        figures=figures,
        plotly=Markup(get_plotlyjs()) if figures else "",
    )


def draw_configuration(config: dict[str, Any], sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what to draw of a configuration: one row for each stage, one cell for each block.

    Args:
        config: A configuration's plain data.
        sites: ``block``, ``stage`` and ``channels`` of every site of the backbone, in forward order.

    Returns:
        Rows of ``stage``, ``label`` (its ratios) and ``cells``; a cell has ``title`` and ``ratio`` (``None``: no SE).
    """
    placed = {site["block"]: site for site in config["sites"]}
    rows: dict[int, dict[str, Any]] = {}
    for site in sites:
        row = rows.setdefault(site["stage"], {"stage": site["stage"], "cells": []})
        here = placed.get(site["block"])
        kind = f"r={here['ratio']}, {here['gate']}" if here else "no SE"
        title = f"{site['block']} ({site['channels']} channels): {kind}"
        row["cells"].append({"ratio": here["ratio"] if here else None, "title": title})
    for row in rows.values():
        used = sorted({cell["ratio"] for cell in row["cells"] if cell["ratio"] is not None})
        row["label"] = f"r={', '.join(map(str, used))}" if used else "–"
    return list(rows.values())


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
        "stages": describe_stages(config),
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
