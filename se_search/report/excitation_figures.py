"""Figures of the excitation analysis: gate activations per block, and statistics by depth.

Each function takes the content of ``excitation.json``; ``depth`` is the number of a block, counted from 1 at the
input.
"""

from itertools import groupby
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .style import DASHES, INK, PALETTE, cut, error_bars, style_figure

NEUTRAL = "#8b95a5"
_LONGEST_NAME = 40
_VERDICTS = {
    "works": ("circle", PALETTE[0]),
    "idle": ("circle-open", PALETTE[1]),
    "cannot be told": ("diamond-open", NEUTRAL),
}
_CHANGES = {
    "accuracy": ("accuracy_change", 100.0, "accuracy change (points)", ".2f"),
    "log_loss": ("log_loss_change", 1.0, "log-loss change (nats)", ".4f"),
}


def block_activations(analysis: dict[str, Any], depth: int) -> go.Figure:
    """Draw the mean activation by channel of the block at a depth, for all classes and each chosen class.

    Raises:
        KeyError: If no block has that depth.
    """
    block = _block(analysis, depth)
    styles = class_styles(analysis)
    lines = [("all", "all classes", {"color": NEUTRAL, "width": 6})]
    for one in analysis["classes"]:
        colour, dash = styles[one["index"]]
        lines.append(
            (str(one["index"]), cut(one["name"], _LONGEST_NAME), {"color": colour, "width": 1.6, "dash": dash})
        )
    figure = go.Figure()
    for key, name, line in lines:
        figure.add_scatter(
            x=block["shown"],
            y=block["activation"][key],
            mode="lines",
            name=name,
            line=line,
            hovertemplate=f"{name}: %{{y:.4f}}<extra></extra>",
        )
    return _by_channel(figure, analysis)


def block_spread(analysis: dict[str, Any], depth: int) -> go.Figure:
    """Draw the activation by channel of the block at a depth for the pair of classes: mean ± standard deviation.

    Raises:
        KeyError: If no block has that depth.
    """
    block = _block(analysis, depth)
    styles = class_styles(analysis)
    figure = go.Figure()
    for index in analysis["pair"]:
        colour, dash = styles[index]
        name = cut(class_name(analysis, index), _LONGEST_NAME)
        channels = block["shown"]
        mean, deviation = (np.array(block["pair"][str(index)][key]) for key in ("mean", "std"))
        red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
        figure.add_scatter(
            x=[*channels, *channels[::-1]],
            y=[*(mean + deviation).tolist(), *(mean - deviation)[::-1].tolist()],
            mode="lines",
            fill="toself",
            fillcolor=f"rgba({red},{green},{blue},0.22)",
            line={"width": 0},
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=channels,
            y=mean.tolist(),
            customdata=[[one] for one in deviation.tolist()],
            mode="lines",
            line={"color": colour, "width": 1.8, "dash": dash},
            hovertemplate=f"{name}: %{{y:.4f}} ± %{{customdata[0]:.4f}}<extra></extra>",
        )
    return _by_channel(figure, analysis)


def specificity_by_depth(analysis: dict[str, Any]) -> go.Figure:
    """Draw each block's class specificity: the share of the gate variance over images that lies between classes."""
    return _shares_by_depth(analysis, "class specificity", {"specificity": ("circle", PALETTE[0], "class specificity")})


def saturation_by_depth(analysis: dict[str, Any]) -> go.Figure:
    """Draw the shares of each block's gates that are constant near one, and constant at any level."""
    columns = {
        "near_one": ("diamond", PALETTE[1], "constant near 1"),
        "constant": ("circle-open", PALETTE[0], "constant at any level"),
    }
    return _shares_by_depth(analysis, "share of gates", columns)


def similarity_by_depth(analysis: dict[str, Any]) -> go.Figure:
    """Draw the similarity of classes up to scale in each block: 1 if each class is a scaled copy of the mean."""
    columns = {"similarity": ("circle", PALETTE[2], "similarity up to scale")}
    return _shares_by_depth(analysis, "similarity up to scale", columns)


def change_by_depth(analysis: dict[str, Any], measure: str = "accuracy") -> go.Figure:
    """Draw the effect of mean ablation of each block, with its verdict as the symbol.

    Args:
        analysis: Content of ``excitation.json``.
        measure: ``accuracy`` (in percentage points) or ``log_loss`` (in nats).

    Raises:
        KeyError: If the measure is unknown.
    """
    column, factor, title, digits = _CHANGES[measure]
    figure = go.Figure()
    for verdict, marker in _VERDICTS.items():
        blocks = [block for block in analysis["blocks"] if block["verdict"] == verdict]
        if blocks:
            figure.add_trace(_with_intervals(blocks, column, verdict, marker, factor=factor, digits=digits))
    _by_depth(figure, analysis, title)
    figure.add_hline(y=0, line={"color": INK, "width": 1})
    if measure == "log_loss":
        figure.add_scatter(
            x=[0.5, len(analysis["blocks"]) + 0.5],
            y=[analysis["tolerance"]] * 2,
            mode="lines",
            name=f"tolerance {analysis['tolerance']:g}",
            line={"color": _VERDICTS["idle"][1], "width": 1.5, "dash": "dash"},
            hoverinfo="skip",
        )
    return figure


def class_styles(analysis: dict[str, Any]) -> dict[int, tuple[str, str]]:
    """Return the colour and the dash style of each chosen class by its index."""
    # When the colours repeat, the dash styles are shifted by one.
    return {
        one["index"]: (PALETTE[place % len(PALETTE)], DASHES[(place + place // len(PALETTE)) % len(DASHES)])
        for place, one in enumerate(analysis["classes"])
    }


def class_name(analysis: dict[str, Any], index: int) -> str:
    """Return the name of a chosen class; ``index`` is that of the network's outputs."""
    return {one["index"]: str(one["name"]) for one in analysis["classes"]}[index]


def activation_range(analysis: dict[str, Any]) -> tuple[float, float]:
    """Return an axis range that covers the activations of all blocks and spans at least 0.1."""
    values: list[float] = []
    for block in analysis["blocks"]:
        for line in block["activation"].values():
            values += line
        for one in block["pair"].values():
            pairs = list(zip(one["mean"], one["std"], strict=True))
            values += [mean + sign * deviation for mean, deviation in pairs for sign in (-1, 1)]
    low, high = min(values), max(values)
    margin = max(0.03 * (high - low), (0.1 - (high - low)) / 2)
    return low - margin, high + margin


def _block(analysis: dict[str, Any], depth: int) -> dict[str, Any]:
    return {block["depth"]: block for block in analysis["blocks"]}[depth]


def _by_channel(figure: go.Figure, analysis: dict[str, Any]) -> go.Figure:
    """Format a figure over channels, without a legend: the page has one for all blocks."""
    style_figure(figure, "channel", "activation")
    return figure.update_layout(
        height=220,
        showlegend=False,
        hovermode="x unified",
        margin={"t": 10},
        xaxis={"title": {"font": {"size": 12}}},
        yaxis={"title": {"font": {"size": 12}}, "range": activation_range(analysis)},
    )


def _with_intervals(
    blocks: list[dict[str, Any]],
    column: str,
    name: str,
    marker: tuple[str, str],
    shift: float = 0.0,
    factor: float = 1.0,
    digits: str = ".3f",
) -> go.Scatter:
    """Return a trace with one value per block over its depth, with intervals."""
    values, lows, highs = np.transpose([block[column] for block in blocks]) * factor
    symbol, colour = marker
    titles = []
    for block in blocks:
        stage = "" if block["stage"] is None else f", stage {block['stage']}"
        titles.append(f"{block['depth']}: {cut(block['block'], _LONGEST_NAME)}{stage}")
    return go.Scatter(
        x=[block["depth"] + shift for block in blocks],
        y=values.tolist(),
        error_y=error_bars(colour, values, lows, highs, digits=15),
        mode="markers",
        name=name,
        showlegend=True,
        marker={"symbol": symbol, "color": colour, "line": {"width": 2, "color": colour}},
        customdata=list(zip(titles, lows.tolist(), highs.tolist(), strict=True)),
        hovertemplate=(
            "<b>%{customdata[0]}</b><br>"
            f"{name}: %{{y:{digits}}} [%{{customdata[1]:{digits}}}, %{{customdata[2]:{digits}}}]<extra></extra>"
        ),
    )


def _shares_by_depth(analysis: dict[str, Any], title: str, columns: dict[str, tuple[str, str, str]]) -> go.Figure:
    """Draw one or two shares, each with its symbol, colour and name."""
    figure = go.Figure()
    for place, (column, (symbol, colour, name)) in enumerate(columns.items()):
        shift = 0.26 * place - 0.13 * (len(columns) - 1)
        figure.add_trace(_with_intervals(analysis["blocks"], column, name, (symbol, colour), shift=shift))
    _by_depth(figure, analysis, title)
    return figure.update_layout(showlegend=len(columns) > 1, yaxis={"range": [-0.05, 1.05]})


def _by_depth(figure: go.Figure, analysis: dict[str, Any], title: str) -> None:
    """Format a figure over block depth, with the stages in the background."""
    blocks = analysis["blocks"]
    staged = any(block["stage"] is not None for block in blocks)
    style_figure(figure, "attention block by depth" + (" (stage above)" if staged else ""), title)
    figure.update_layout(
        height=320,
        margin={"t": 50},
        legend={"y": 1.09},
        xaxis={
            "range": [0.4, len(blocks) + 0.6],
            "tickformat": "d",
            "dtick": 1 if len(blocks) <= 12 else None,
        },
    )
    figure.update_traces(marker_size=9 if len(blocks) <= 20 else 6, selector={"mode": "markers"})
    for place, (stage, members) in enumerate(groupby(blocks, key=lambda block: block["stage"])):
        depths = [block["depth"] for block in members]
        if stage is None:
            continue
        if place % 2 == 0:
            figure.add_vrect(
                x0=depths[0] - 0.5, x1=depths[-1] + 0.5, fillcolor=NEUTRAL, opacity=0.1, line_width=0, layer="below"
            )
        figure.add_annotation(
            x=(depths[0] + depths[-1]) / 2, y=1, yref="paper", yanchor="bottom", text=str(stage), showarrow=False
        )
