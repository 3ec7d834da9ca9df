"""The page of the excitation analysis: one HTML file that needs no network."""

from collections import Counter
from itertools import groupby
from typing import Any

import plotly.graph_objects as go

from ..words import counted, percent, points_with_interval
from .excitation_figures import (
    NEUTRAL,
    activation_range,
    block_activations,
    block_spread,
    change_by_depth,
    class_name,
    class_styles,
    saturation_by_depth,
    similarity_by_depth,
    specificity_by_depth,
)
from .html import render_page

_VERDICTS = {"works": "●", "idle": "○", "cannot be told": "◇"}
_FOUND = {"seen": "✓", "not seen": "✗", "cannot be told": "?"}
# Up to so many blocks are shown at once; of more, the page first shows a few of each stage.
_SHOWN_AT_ONCE = 12
# Plotly's line styles as SVG draws them in a line of the legend's length.
_DASHES = {
    "solid": "",
    "dash": "9 5",
    "dot": "2.5 3.5",
    "dashdot": "9 4 2.5 4",
    "longdash": "16 5",
    "longdashdot": "16 4 2.5 4",
}


def render_excitation(analysis: dict[str, Any]) -> str:
    """Return the whole page.

    Args:
        analysis: The content of ``excitation.json``.
    """
    blocks = analysis["blocks"]
    picked = pick_blocks(blocks)
    return render_page(
        "excitation.html.jinja",
        _figures(analysis),
        ("excitation.js",),
        analysis=analysis,
        blocks=blocks,
        picked=picked,
        choices=_choices(blocks, picked),
        most_shown=max(len(block["shown"]) for block in blocks),
        summary=summarize_excitation(analysis),
        criteria=describe_criteria(analysis),
        styles={index: (colour, _DASHES[dash]) for index, (colour, dash) in class_styles(analysis).items()},
        neutral=NEUTRAL,
        verdicts=_VERDICTS,
        found=_FOUND,
        class_name=class_name,
        counted=counted,
        page={"range": activation_range(analysis)},
    )


def pick_blocks(blocks: list[dict[str, Any]]) -> set[int]:
    """Return the depths of the blocks that the page shows first.

    All of a few; of many, the first, middle and last of each stage, and the last three, at which the paper looks one
    by one.

    Args:
        blocks: Of ``excitation.json``.
    """
    depths = [block["depth"] for block in blocks]
    if len(depths) <= _SHOWN_AT_ONCE:
        return set(depths)
    picked = set(depths[-3:])
    for _, members in groupby(blocks, key=lambda block: block["stage"]):
        stage = [block["depth"] for block in members]
        picked |= {stage[0], stage[len(stage) // 2], stage[-1]}
    return picked


def recalibrates_by_class(block: dict[str, Any], thresholds: dict[str, float]) -> bool:
    """Return whether a block surely scales classes differently, and does not merely repeat one scale.

    Args:
        block: Of ``excitation.json``.
        thresholds: Of ``excitation.json``.
    """
    return bool(block["specificity"][1] > thresholds["class_specific"] and block["constant"][2] < thresholds["most"])


def summarize_excitation(analysis: dict[str, Any]) -> list[str]:
    """Say in two plain sentences what the blocks do, which could be left out, and how sure that is.

    Args:
        analysis: The content of ``excitation.json``.
    """
    return [_by_class(analysis), _without(analysis)]


def _by_class(analysis: dict[str, Any]) -> str:
    blocks, thresholds = analysis["blocks"], analysis["thresholds"]
    number = sum(recalibrates_by_class(block, thresholds) for block in blocks)
    verb = "recalibrates" if number < 2 else "recalibrate"
    return (
        f"Of {counted(len(blocks), 'SE block')} in {analysis['model']}, {number or 'none'} surely {verb} by class "
        f"(at least {percent(thresholds['class_specific'], 0)} of the gates’ variance between classes, "
        f"and at most {percent(thresholds['most'], 0)} of the gates constant)."
    )


def _without(analysis: dict[str, Any]) -> str:
    blocks = analysis["blocks"]
    numbers = Counter(block["verdict"] for block in blocks)
    idle, works, open_ = numbers["idle"], numbers["works"], numbers["cannot be told"]
    parts = [f"{idle or 'none'} {'is' if idle == 1 else 'are'} idle"]
    if idle:
        most = max(block["log_loss_change"][2] for block in blocks if block["verdict"] == "idle")
        whose = "its recalibration" if idle == 1 else "the recalibration of any one of them"
        rise = f"rises by at most {most:.4f}" if most > 0 else "does not rise"
        parts[0] += f" (without {whose} the log-loss {rise})"
    if works:
        parts.append(f"{works} {'works' if works == 1 else 'work'}")
    if open_:
        reason = "" if analysis["cautions"] else f" with {counted(analysis['data']['images'], 'image')}"
        parts.append(f"for {open_} it cannot be told{reason}")
    text = ", ".join(parts)
    last = analysis["last_stage"]
    if last is not None:
        change = points_with_interval(*last["accuracy_change"])
        text += f"; without the recalibration of all of stage {last['stage']} the accuracy changes by {change}"
    return text[0].upper() + text[1:] + "."


def describe_criteria(analysis: dict[str, Any]) -> list[tuple[str, str]]:
    """Say what the words of the analysis mean: each word with its criterion.

    Args:
        analysis: The content of ``excitation.json``.
    """
    limits = analysis["thresholds"]
    return [
        (
            "Class specificity",
            "variance between class means over all variance, summed over channels, the noise of the class means taken "
            f"out; classes with {limits['least_images']:g} images or more count; class-specific from "
            f"{percent(limits['class_specific'], 0)} on",
        ),
        (
            "Constant",
            f"a gate whose standard deviation over images is below {limits['constant']:g} (above 1: below that share "
            "of its mean)",
        ),
        (
            "Near 1",
            f"a constant gate whose mean is at most {limits['near_one']:g} from 1; a block is saturated with more "
            f"than {percent(limits['most'], 0)} of such gates",
        ),
        (
            "Similarity up to scale",
            "share of the variance between classes that is one factor per class; the same pattern from "
            f"{percent(limits['same_pattern'], 0)} on",
        ),
        (
            "Without recalibration",
            "the block’s gates replaced by their means over images that were not judged; differences are paired on "
            f"the same images, their intervals hold at {percent(limits['removal_confidence'], 4)} for each block and "
            f"so at {percent(limits['confidence'], 0)} for all together",
        ),
        (
            "Idle",
            f"the whole interval of the log-loss change is below the tolerance of {analysis['tolerance']:g}; a block "
            "works where the whole interval is above zero and it is not idle; otherwise it cannot be told; blocks that "
            "are idle one by one need not be idle together",
        ),
    ]


def _figures(analysis: dict[str, Any]) -> dict[str, go.Figure]:
    figures = {
        "specificity": specificity_by_depth(analysis),
        "similarity": similarity_by_depth(analysis),
        "saturation": saturation_by_depth(analysis),
        "log_loss": change_by_depth(analysis, "log_loss"),
        "accuracy": change_by_depth(analysis, "accuracy"),
    }
    for block in analysis["blocks"]:
        depth = block["depth"]
        # One legend for all blocks stands above them.
        figures[f"activations-{depth}"] = block_activations(analysis, depth).update_layout(showlegend=False)
        figures[f"spread-{depth}"] = block_spread(analysis, depth).update_layout(showlegend=False)
    return figures


def _choices(blocks: list[dict[str, Any]], picked: set[int]) -> list[tuple[str, str]]:
    """Return which blocks the page can show: value and label of each choice."""
    choices = [("all", f"all {len(blocks)}")]
    if len(picked) < len(blocks):
        choices.insert(0, ("picked", f"first, middle and last of each stage ({len(picked)})"))
    stages = Counter(block["stage"] for block in blocks if block["stage"] is not None)
    if len(stages) > 1:
        choices += [(f"stage-{stage}", f"stage {stage} ({number})") for stage, number in stages.items()]
    return choices
