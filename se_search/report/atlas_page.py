"""The atlas as one page: what SE costs in every architecture of timm, with two figures."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..evidence.atlas import RATIOS, ArchitectureCosts, architectures, atlas
from ..evidence.latencies import UNIFORM, LatencyRow, atlas_latencies
from ..words import by, counted
from .html import render_page, write_page
from .style import PALETTE, SOFT, error_bars, short_numbers, style_figure

MARK = 'data-page="se-search atlas"'
"""Mark of the pages that :func:`render_atlas` writes."""

_SYMBOLS = ("circle", "square")
_RATIO = 16


def cost_figure(costs: Mapping[str, ArchitectureCosts]) -> go.Figure:
    """Draw the parameters of SE with r=16 as a share of the backbone's, against the backbone's size.

    The largest families have a colour and symbol each.

    Args:
        costs: Costs by the name of the architecture.
    """
    families: dict[str, list[str]] = {}
    for name, one in costs.items():
        families.setdefault(one.family, []).append(name)
    largest = sorted(families, key=lambda family: -len(families[family]))[: len(PALETTE) * len(_SYMBOLS)]
    figure = go.Figure()
    others = [name for family, names in families.items() if family not in largest for name in names]
    if others:
        _add_points(figure, f"{len(families) - len(largest)} other families", others, costs, SOFT, "circle-open")
    for number, family in enumerate(largest):
        symbol = _SYMBOLS[number // len(PALETTE)]
        _add_points(figure, family, families[family], costs, PALETTE[number % len(PALETTE)], symbol)
    style_figure(figure, "parameters of the backbone (millions)", "parameters of SE with r=16 (% of the backbone)")
    return figure.update_layout(height=520, xaxis={"type": "log", "dtick": 1}, yaxis={"type": "log", "dtick": 1})


def _add_points(
    figure: go.Figure,
    label: str,
    names: Iterable[str],
    costs: Mapping[str, ArchitectureCosts],
    colour: str,
    symbol: str,
) -> None:
    shown = {name: costs[name] for name in names}
    shares = [100 * one.uniform(_RATIO)[0] / one.parameters for one in shown.values()]
    figure.add_scatter(
        x=short_numbers(one.parameters / 1e6 for one in shown.values()),
        y=short_numbers(shares),
        mode="markers",
        name=label,
        marker={"color": colour, "symbol": symbol, "size": 6, "opacity": 0.7},
        text=[
            f"<b>{escape(name)}</b> ({escape(one.family)})<br>{one.parameters / 1e6:.3g} M parameters, SE {share:.2f} %"
            for (name, one), share in zip(shown.items(), shares, strict=True)
        ],
        hovertemplate="%{text}<extra></extra>",
    )


def latency_figure(latencies: Iterable[LatencyRow]) -> go.Figure:
    """Draw measured latency ratios of uniform r=16 against the multiply-additions that it adds.

    Args:
        latencies: Rows of the atlas's latencies.
    """
    table = pd.DataFrame([asdict(row) for row in latencies if row.configuration == UNIFORM])
    figure = go.Figure()
    for number, ((runtime, batch), rows) in enumerate(table.groupby(["runtime", "batch"], sort=False)):
        colour = PALETTE[number % len(PALETTE)]
        value, low, high = (100 * (rows[f"latency_{end}"] - 1) for end in ("ratio", "low", "high"))
        texts = zip(rows["backbone"], value, low, high, 100 * rows["flops_overhead"], rows["size"], strict=True)
        figure.add_scatter(
            x=short_numbers(100 * rows["flops_overhead"]),
            y=short_numbers(value),
            error_y=error_bars(colour, value, low, high),
            mode="markers",
            name=f"{runtime}, batch {batch}",
            marker={"color": colour, "symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 7},
            text=[
                f"<b>{escape(name)}</b>, {by(size)}<br>latency {ratio:+.1f} % [{start:+.1f}, {end:+.1f}]"
                f"<br>FLOPs {flops:+.2f} %"
                for name, ratio, start, end, flops, size in texts
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    style_figure(figure, "FLOPs that SE with r=16 adds (%)", "latency that it adds (%)")
    # The few widest intervals would squeeze all others: the axis shows every value, not every interval.
    values = 100 * (table["latency_ratio"] - 1)
    margin = max(1.0, 0.15 * (values.max() - values.min()))
    return figure.update_layout(height=480, yaxis={"range": [values.min() - margin, values.max() + margin]})


def render_atlas() -> str:
    """Return the page of the atlas that the package ships."""
    found = architectures()
    known = {name: costs for name, costs in found.items() if costs}
    latencies = atlas_latencies()
    figures = {"costs": cost_figure(known)} | ({"latencies": latency_figure(latencies)} if latencies else {})
    return render_page(
        "atlas.html.jinja",
        figures,
        mark=MARK,
        timm=atlas().timm,
        rows=[_row(name, costs, latencies) for name, costs in known.items()],
        reasons={name: atlas().reason(name) for name, costs in found.items() if costs is None},
        conditions=list(dict.fromkeys(_conditions(row) for row in latencies)),
        backbones=len({row.backbone for row in latencies}),
        ratios=RATIOS,
        counted=counted,
        short=lambda number: f"{number:,.0f}" if number >= 1000 else f"{number:.3g}",
    )


def write_atlas(to: str | os.PathLike[str]) -> Path:
    """Write the page of the atlas.

    Args:
        to: A new file, or an earlier page of the atlas.

    Raises:
        RunFolderError: If the file exists and is something else, or cannot be written.
    """
    write_page(Path(to), render_atlas, MARK, "a page of the atlas", "--html")
    return Path(to)


def _row(name: str, costs: ArchitectureCosts, latencies: Iterable[LatencyRow]) -> dict[str, Any]:
    parameters, flops = costs.parameters, costs.flops
    shown = (name, UNIFORM, "eager", 1)
    measured = (row for row in latencies if (row.backbone, row.configuration, row.runtime, row.batch) == shown)
    return {
        "name": name,
        "family": costs.family,
        "parameters": parameters,
        "flops": flops,
        "size": by(costs.input_size[1:]),
        "position": costs.default_position,
        "sites": sum(group.sites for group in costs.at(costs.default_position)),
        "shares": [costs.uniform(ratio)[0] / parameters for ratio in RATIOS],
        "flops_share": costs.uniform(_RATIO)[1] / flops,
        "rest": costs.uniform(_RATIO, last_stage=False)[0] / parameters,
        "own": costs.attention_parameters / parameters if costs.attention_sites else None,
        "latency": next(measured, None),
    }


def _conditions(row: LatencyRow) -> str:
    return f"{row.processor}, {counted(row.threads, 'thread')}, {row.dtype}, {row.version}, {row.date}"
