"""Page of the excitation analysis: one self-contained HTML file."""

from collections import Counter
from itertools import groupby
from typing import Any

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
# With more blocks than this, the page initially shows a few per stage.
_SHOWN_AT_ONCE = 12
# SVG dash arrays for Plotly's dash styles at the length of a legend line.
_DASHES = {
    "solid": "",
    "dash": "9 5",
    "dot": "2.5 3.5",
    "dashdot": "9 4 2.5 4",
    "longdash": "16 5",
    "longdashdot": "16 4 2.5 4",
}


def render_excitation(analysis: dict[str, Any]) -> str:
    """Render the page of an analysis, the content of ``excitation.json``, as HTML."""
    blocks = analysis["blocks"]
    picked = pick_blocks(blocks)
    figures = {
        "specificity": specificity_by_depth(analysis),
        "similarity": similarity_by_depth(analysis),
        "saturation": saturation_by_depth(analysis),
        "log_loss": change_by_depth(analysis, "log_loss"),
        "accuracy": change_by_depth(analysis, "accuracy"),
    }
    for block in blocks:
        figures[f"activations-{block['depth']}"] = block_activations(analysis, block["depth"])
        figures[f"spread-{block['depth']}"] = block_spread(analysis, block["depth"])
    return render_page(
        "excitation.html.jinja",
        figures,
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
    """Return the depths of the blocks that the page initially shows.

    These are all of up to twelve blocks. Of more, they are the first, middle and last of each stage, and the last
    three, which the paper discusses individually.
    """
    depths = [block["depth"] for block in blocks]
    if len(depths) <= _SHOWN_AT_ONCE:
        return set(depths)
    picked = set(depths[-3:])
    for _, members in groupby(blocks, key=lambda block: block["stage"]):
        stage = [block["depth"] for block in members]
        picked |= {stage[0], stage[len(stage) // 2], stage[-1]}
    return picked


def is_class_specific(block: dict[str, Any], thresholds: dict[str, float]) -> bool:
    """Whether a block's specificity is significantly above the threshold and most of its gates are not constant."""
    return bool(block["specificity"][1] > thresholds["class_specific"] and block["constant"][2] < thresholds["most"])


def summarize_excitation(analysis: dict[str, Any]) -> list[str]:
    """Summarise in two sentences how many blocks are class-specific, and how many are idle."""
    return [_class_specific(analysis), _ablation(analysis)]


def _class_specific(analysis: dict[str, Any]) -> str:
    blocks, thresholds = analysis["blocks"], analysis["thresholds"]
    number = sum(is_class_specific(block, thresholds) for block in blocks)
    verb = "is" if number < 2 else "are"
    return (
        f"Of {counted(len(blocks), 'attention block')} in {analysis['model']}, {number or 'none'} {verb} "
        f"class-specific: significantly more than {percent(thresholds['class_specific'], 0)} of the gate variance "
        "lies between classes, and significantly fewer than "
        f"{percent(thresholds['most'], 0)} of the gates are constant."
    )


def _ablation(analysis: dict[str, Any]) -> str:
    blocks = analysis["blocks"]
    numbers = Counter(block["verdict"] for block in blocks)
    idle, works, open_ = numbers["idle"], numbers["works"], numbers["cannot be told"]
    parts = [f"{idle or 'none'} {'is' if idle == 1 else 'are'} idle"]
    if idle:
        most = max(block["log_loss_change"][2] for block in blocks if block["verdict"] == "idle")
        which = "its mean ablation" if idle == 1 else "mean ablation of any one of them"
        rise = f"raises the log-loss by at most {most:.4f}" if most > 0 else "does not raise the log-loss"
        parts[0] += f" ({which} {rise})"
    if works:
        parts.append(f"{works} {'works' if works == 1 else 'work'}")
    if open_:
        reason = "" if analysis["cautions"] else f" from {counted(analysis['data']['images'], 'image')}"
        parts.append(f"{open_} cannot be told{reason}")
    text = ", ".join(parts)
    last = analysis["last_stage"]
    if last is not None:
        change = points_with_interval(*last["accuracy_change"])
        text += f"; mean ablation of all of stage {last['stage']} changes the accuracy by {change}"
    return text[0].upper() + text[1:] + "."


def describe_criteria(analysis: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the terms of the analysis with their definitions."""
    limits = analysis["thresholds"]
    return [
        (
            "Class specificity",
            "share of the gate variance over images that lies between classes, summed over channels, without the noise "
            f"of the class means; only classes with at least {limits['least_images']:g} images count; class-specific: "
            f"at least {percent(limits['class_specific'], 0)}",
        ),
        (
            "Constant",
            f"a gate whose standard deviation over images is below {limits['constant']:g}, or below that share of its "
            "mean if the mean exceeds 1",
        ),
        (
            "Near 1",
            f"a constant gate whose mean is within {limits['near_one']:g} of 1; a block is saturated if more than "
            f"{percent(limits['most'], 0)} of its gates are near 1",
        ),
        (
            "Similarity up to scale",
            "share of the variance between classes that one factor per class explains; the same pattern: at least "
            f"{percent(limits['same_pattern'], 0)}",
        ),
        (
            "Mean ablation",
            "the block’s gates are replaced by their means over other images; differences are paired on the evaluated "
            f"images; intervals are {percent(limits['removal_confidence'], 4)} per block, so that they hold for all "
            f"blocks together at {percent(limits['confidence'], 0)} (Bonferroni)",
        ),
        (
            "Verdict",
            "idle: the interval of the log-loss change under mean ablation lies below the tolerance of "
            f"{analysis['tolerance']:g}; works: it lies above zero, and the block is not idle; cannot be told: all "
            "other cases; blocks that are idle one by one need not be idle together",
        ),
    ]


def _choices(blocks: list[dict[str, Any]], picked: set[int]) -> list[tuple[str, str]]:
    """Return value and label of each option in the menu of blocks."""
    choices = [("all", f"all {len(blocks)}")]
    if len(picked) < len(blocks):
        choices.insert(0, ("picked", f"first, middle and last of each stage ({len(picked)})"))
    stages = Counter(block["stage"] for block in blocks if block["stage"] is not None)
    if len(stages) > 1:
        choices += [(f"stage-{stage}", f"stage {stage} ({number})") for stage, number in stages.items()]
    return choices
