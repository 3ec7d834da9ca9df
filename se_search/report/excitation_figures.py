"""Figures of the excitation analysis: gate activations per block, and statistics by depth."""

from itertools import groupby
from typing import Any

import plotly.graph_objects as go

from .style import DASHES, INK, PALETTE, cut, style_figure

NEUTRAL = "#8b95a5"
_LONGEST_NAME = 40
VERDICTS = {
    "works": ("circle", PALETTE[0]),
    "idle": ("circle-open", PALETTE[1]),
    "cannot be told": ("diamond-open", NEUTRAL),
}
_CHANGES = {
    "accuracy": ("accuracy_change", 100.0, "accuracy change (points)", ".2f"),
    "log_loss": ("log_loss_change", 1.0, "log-loss change (nats)", ".4f"),
}


def block_activations(analysis: dict[str, Any], depth: int) -> go.Figure:
    """Draw a block's mean activation by channel, for all classes together and each chosen class.

    Args:
        analysis: Content of ``excitation.json``.
        depth: Number of the SE block, counted from 1 at the input.

    Raises:
        KeyError: If no block has that depth.
    """
    block = _block(analysis, depth)
    figure = go.Figure(
        go.Scatter(
            x=block["shown"],
            y=block["activation"]["all"],
            mode="lines",
            name="all classes",
            line={"color": NEUTRAL, "width": 6},
            hovertemplate="all classes: %{y:.4f}<extra></extra>",
        )
    )
    styles = class_styles(analysis)
    for one in analysis["classes"]:
        colour, dash = styles[one["index"]]
        name = cut(one["name"], _LONGEST_NAME)
        figure.add_trace(
            go.Scatter(
                x=block["shown"],
                y=block["activation"][str(one["index"])],
                mode="lines",
                name=name,
                line={"color": colour, "width": 1.6, "dash": dash},
                hovertemplate=f"{name}: %{{y:.4f}}<extra></extra>",
            )
        )
    return _by_channel(figure, analysis)


def block_spread(analysis: dict[str, Any], depth: int) -> go.Figure:
    """Draw a block's activation by channel for both classes of the pair: mean ± one standard deviation.

    Args:
        analysis: Content of ``excitation.json``.
        depth: Number of the SE block, counted from 1 at the input.

    Raises:
        KeyError: If no block has that depth.
    """
    block = _block(analysis, depth)
    styles = class_styles(analysis)
    figure = go.Figure()
    for index in analysis["pair"]:
        colour, dash = styles[index]
        name = cut(class_name(analysis, index), _LONGEST_NAME)
        values = block["pair"][str(index)]
        rows = list(zip(block["shown"], values["mean"], values["std"], strict=True))
        there = [(channel, mean + deviation) for channel, mean, deviation in rows]
        back = [(channel, mean - deviation) for channel, mean, deviation in reversed(rows)]
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in there + back],
                y=[y for _, y in there + back],
                mode="lines",
                fill="toself",
                fillcolor=_transparent(colour),
                line={"width": 0},
                name=name,
                legendgroup=str(index),
                showlegend=False,
                hoverinfo="skip",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=[row[0] for row in rows],
                y=[row[1] for row in rows],
                customdata=[[row[2]] for row in rows],
                mode="lines",
                name=f"{name}, mean ± standard deviation",
                legendgroup=str(index),
                line={"color": colour, "width": 1.8, "dash": dash},
                hovertemplate=f"{name}: %{{y:.4f}} ± %{{customdata[0]:.4f}}<extra></extra>",
            )
        )
    return _by_channel(figure, analysis)


def specificity_by_depth(analysis: dict[str, Any]) -> go.Figure:
    """Draw each block's class specificity: the share of the gate variance over images that lies between classes.

    Args:
        analysis: Content of ``excitation.json``.
    """
    points = _with_intervals(analysis["blocks"], "specificity", "class specificity", ("circle", PALETTE[0]))
    return _by_depth(go.Figure(points), analysis, "class specificity", shares=True).update_layout(showlegend=False)


def saturation_by_depth(analysis: dict[str, Any]) -> go.Figure:
    """Draw the shares of each block's gates that are constant near one, and constant at any level.

    Args:
        analysis: Content of ``excitation.json``.
    """
    blocks = analysis["blocks"]
    figure = go.Figure(
        [
            _with_intervals(blocks, "near_one", "constant near 1", ("diamond", PALETTE[1]), shift=-0.13),
            _with_intervals(blocks, "constant", "constant at any level", ("circle-open", PALETTE[0]), shift=0.13),
        ]
    )
    return _by_depth(figure, analysis, "share of gates", shares=True)


def similarity_by_depth(analysis: dict[str, Any]) -> go.Figure:
    """Draw the similarity of classes up to scale in each block: 1 if each class is a scaled copy of the mean.

    Args:
        analysis: Content of ``excitation.json``.
    """
    points = _with_intervals(analysis["blocks"], "similarity", "similarity up to scale", ("circle", PALETTE[2]))
    return _by_depth(go.Figure(points), analysis, "similarity up to scale", shares=True).update_layout(showlegend=False)


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
    for verdict, marker in VERDICTS.items():
        blocks = [block for block in analysis["blocks"] if block["verdict"] == verdict]
        if blocks:
            figure.add_trace(_with_intervals(blocks, column, verdict, marker, factor=factor, digits=digits))
    _by_depth(figure, analysis, title)
    figure.add_hline(y=0, line={"color": INK, "width": 1})
    if measure == "log_loss":
        figure.add_trace(
            go.Scatter(
                x=[0.5, len(analysis["blocks"]) + 0.5],
                y=[analysis["tolerance"]] * 2,
                mode="lines",
                name=f"tolerance {analysis['tolerance']:g}",
                line={"color": VERDICTS["idle"][1], "width": 1.5, "dash": "dash"},
                hoverinfo="skip",
            )
        )
    return figure


def class_styles(analysis: dict[str, Any]) -> dict[int, tuple[str, str]]:
    """Return the colour and the dash style of each chosen class.

    Args:
        analysis: Content of ``excitation.json``.
    """
    # When the colours repeat, the dash styles are shifted by one.
    return {
        one["index"]: (PALETTE[place % len(PALETTE)], DASHES[(place + place // len(PALETTE)) % len(DASHES)])
        for place, one in enumerate(analysis["classes"])
    }


def class_name(analysis: dict[str, Any], index: int) -> str:
    """Return the name of a chosen class.

    Args:
        analysis: Content of ``excitation.json``.
        index: Index of the class in the network's outputs.
    """
    return {one["index"]: str(one["name"]) for one in analysis["classes"]}[index]


def _block(analysis: dict[str, Any], depth: int) -> dict[str, Any]:
    return {block["depth"]: block for block in analysis["blocks"]}[depth]


def _transparent(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.22)"


def _by_channel(figure: go.Figure, analysis: dict[str, Any]) -> go.Figure:
    style_figure(figure, "channel", "activation")
    figure.update_layout(
        height=220,
        hovermode="x unified",
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis={"title": {"font": {"size": 12}}},
        yaxis={"title": {"font": {"size": 12}}, "range": activation_range(analysis)},
    )
    return figure


def activation_range(analysis: dict[str, Any]) -> tuple[float, float]:
    """Return an axis range that covers all blocks and spans at least 0.1.

    Args:
        analysis: Content of ``excitation.json``.
    """
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
    values, lows, highs = ([block[column][place] * factor for block in blocks] for place in range(3))
    symbol, colour = marker
    return go.Scatter(
        x=[block["depth"] + shift for block in blocks],
        y=values,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [high - value for value, high in zip(values, highs, strict=True)],
            "arrayminus": [value - low for value, low in zip(values, lows, strict=True)],
            "color": colour,
            "thickness": 1.4,
            "width": 3,
        },
        mode="markers",
        name=name,
        showlegend=True,
        marker={"symbol": symbol, "color": colour, "line": {"width": 2, "color": colour}},
        customdata=[[_title(block), low, high] for block, low, high in zip(blocks, lows, highs, strict=True)],
        hovertemplate=(
            "<b>%{customdata[0]}</b><br>"
            f"{name}: %{{y:{digits}}} [%{{customdata[1]:{digits}}}, %{{customdata[2]:{digits}}}]<extra></extra>"
        ),
    )


def _title(block: dict[str, Any]) -> str:
    stage = "" if block["stage"] is None else f", stage {block['stage']}"
    return f"{block['depth']}: {cut(block['block'], _LONGEST_NAME)}{stage}"


def _by_depth(figure: go.Figure, analysis: dict[str, Any], title: str, shares: bool = False) -> go.Figure:
    """Format a figure over block depth, with the stages in the background."""
    blocks = analysis["blocks"]
    staged = any(block["stage"] is not None for block in blocks)
    style_figure(figure, "SE block by depth" + (" (stage above)" if staged else ""), title)
    figure.update_layout(
        height=320,
        margin={"t": 50},
        legend={"y": 1.09},
        yaxis={"title": {"font": {"size": 13}}},
        xaxis={
            "title": {"font": {"size": 13}},
            "range": [0.4, len(blocks) + 0.6],
            "tickformat": "d",
            "dtick": 1 if len(blocks) <= 12 else None,
        },
    )
    figure.update_traces(marker_size=9 if len(blocks) <= 20 else 6, selector={"mode": "markers"})
    if shares:
        figure.update_layout(yaxis={"range": [-0.05, 1.05]})
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
    return figure
