"""Test the SENet paper's observations on excitation on the analysed network."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np

from ..statistics import Estimate, difference_in_words
from ..words import percent, percent_with_interval
from .gate_statistics import GateStatistics, Replicated
from .gates import ExcitedBlock

CLASS_SPECIFIC = 0.25
"""Blocks with a smaller share of variance between classes are class-agnostic, the others class-specific."""

SAME_PATTERN = 0.9
"""Classes have the same pattern if one factor per class explains at least this share of their differences."""

MOST = 0.5
"""A block is saturated if more than this share of its gates is constant near one."""

TOLERANCE = 0.01
"""Largest rise of the log-loss, in nats, under mean ablation of an idle block.

It lowers the probability of the correct class by less than 1 % in the geometric mean over images.
"""

Verdict = Literal["idle", "works", "cannot be told"]

Found = Literal["seen", "not seen", "cannot be told"]


@dataclass(frozen=True)
class GateChange:
    """Accuracy and log-loss with mean ablation minus those without, paired on the same images."""

    accuracy: Estimate
    log_loss: Estimate

    @property
    def verdict(self) -> Verdict:
        """The verdict on the block.

        ``"idle"``: the log-loss rises by significantly less than the tolerance. ``"works"``: it rises significantly,
        and the block is not idle. ``"cannot be told"``: too few images to decide.
        """
        if self.log_loss.high < TOLERANCE:
            return "idle"
        return "works" if self.log_loss.low > 0 else "cannot be told"

    def listed(self) -> dict[str, list[float]]:
        """Return both as JSON data."""
        return {"accuracy_change": listed(self.accuracy), "log_loss_change": listed(self.log_loss)}


def last_stage(blocks: Sequence[ExcitedBlock]) -> list[ExcitedBlock]:
    """Return the blocks of the last stage with any; an empty list if the stages are unknown."""
    known = [block.stage for block in blocks if block.stage is not None]
    return [block for block in blocks if block.stage == max(known)] if len(known) == len(blocks) else []


def find_observations(
    blocks: Sequence[ExcitedBlock],
    statistics: Sequence[GateStatistics],
    last: Sequence[ExcitedBlock],
    last_change: GateChange | None,
    guesses: bool,
) -> list[dict[str, str]]:
    """Return the paper's observations, each with the finding for this network and its evidence."""
    near_one, similarity = [one.near_one for one in statistics], [one.similarity for one in statistics]
    constant, alike = "of the gates are constant near 1", "of the difference between classes is one factor per class"
    return [
        {"paper": paper, "found": found, "evidence": evidence}
        for paper, (found, evidence) in (
            ("Shallow blocks are class-agnostic: classes share their gates.", _shallow(blocks, statistics)),
            ("Deeper blocks are class-specific.", _deep(blocks, statistics)),
            (
                "A block near the end is saturated: most of its gates stay near one.",
                _any_of_the_last_two(blocks, near_one, MOST, constant),
            ),
            (
                "A block near the end has nearly the same pattern for all classes, up to a scale.",
                _any_of_the_last_two(blocks, similarity, SAME_PATTERN, alike),
            ),
            ("The last stage can be removed at little cost.", _left_out(last, last_change, guesses)),
        )
    ]


def _shallow(blocks: Sequence[ExcitedBlock], statistics: Sequence[GateStatistics]) -> tuple[Found, str]:
    if len(blocks) == 1:
        return "cannot be told", "The network has only one block."
    first, others = map(_as_shown, _thirds([one.replicated_specificity for one in statistics]))
    named = _named(blocks[: _first_third(blocks)])
    share = f"{in_words(first.estimate())} of the variance lies between classes in the first third ({named})"
    difference = difference_in_words("accuracy", _less(first, others).estimate())
    found = _where_gates_vary(statistics, _is_agnostic_before_others)
    return found, (
        f"{share}, and {in_words(others.estimate())} in the other blocks; the difference is "
        f"{difference}{_constant_after(statistics)}."
    )


def _is_agnostic_before_others(first: Replicated, others: Replicated) -> Found:
    share, difference = first.estimate(), _less(first, others).estimate()
    if difference.high < 0 and share.high < CLASS_SPECIFIC:
        return "seen"
    return "not seen" if difference.low > 0 or share.low > CLASS_SPECIFIC else "cannot be told"


def _deep(blocks: Sequence[ExcitedBlock], statistics: Sequence[GateStatistics]) -> tuple[Found, str]:
    if len(blocks) == 1:
        return "cannot be told", "The network has only one block."
    _, others = _thirds([one.replicated_specificity for one in statistics])
    found = _where_gates_vary(statistics, lambda first, others: _compare(others.estimate(), CLASS_SPECIFIC))
    return found, (
        f"After the first third, {in_words(others.estimate())} of the variance lies between classes; class-specific "
        f"blocks have at least {percent(CLASS_SPECIFIC, 0)}{_constant_after(statistics)}."
    )


def _where_gates_vary(statistics: Sequence[GateStatistics], judge: Callable[[Replicated, Replicated], Found]) -> Found:
    """Judge the mean specificity of the first third and of the others, with 0 for blocks of mostly constant gates.

    Such blocks scale all images nearly alike, whatever causes the small rest of their variance. If it is uncertain
    whether most gates are constant, both assumptions must lead to the same result.
    """
    found = set()
    for mostly in ([one.constant.low >= MOST for one in statistics], [one.constant.high >= MOST for one in statistics]):
        first, others = _thirds(
            [
                Replicated(0.0, np.zeros_like(one.replicated_specificity.replicates))
                if constant
                else one.replicated_specificity
                for one, constant in zip(statistics, mostly, strict=True)
            ]
        )
        found.add(judge(first, others))
    return found.pop() if len(found) == 1 else "cannot be told"


def _constant_after(statistics: Sequence[GateStatistics]) -> str:
    """Return the addition to the evidence if blocks after the first third have mostly constant gates."""
    shares = [one.constant for one in statistics[_first_third(statistics) :]]
    if all(share.high < MOST for share in shares):
        return ""
    mean = np.mean([astuple(share) for share in shares], axis=0)
    return (
        f"; but {in_words(Estimate(*map(float, mean)))} of these gates are constant, and a block of mostly constant "
        "gates does not count as class-specific"
    )


def _less(one: Replicated, other: Replicated) -> Replicated:
    return Replicated(one.value - other.value, one.replicates - other.replicates)


def _as_shown(share: Replicated) -> Replicated:
    """Return an estimate of a share that is not negative, as :func:`in_words` and the page show it."""
    return Replicated(max(share.value, 0.0), np.maximum(share.replicates, 0.0))


def _first_third(blocks: Sequence[Any]) -> int:
    """Return the number of blocks in the first third, at least one."""
    return max(1, len(blocks) // 3)


def _thirds(shares: Sequence[Replicated]) -> tuple[Replicated, Replicated]:
    """Return the means over the first third of the blocks and over the others; needs at least two blocks."""
    cut = _first_third(shares)
    first, others = (
        Replicated(float(np.mean([one.value for one in some])), np.mean([one.replicates for one in some], axis=0))
        for some in (shares[:cut], shares[cut:])
    )
    return first, others


def _any_of_the_last_two(
    blocks: Sequence[ExcitedBlock], shares: Sequence[Estimate], limit: float, what: str
) -> tuple[Found, str]:
    found = [_compare(share, limit) for share in shares[-2:]]
    values = "; ".join(
        f"{block.block}: {in_words(share)} {what}" for block, share in zip(blocks[-2:], shares[-2:], strict=True)
    )
    evidence = f"{values} (threshold: {percent(limit, 0)})."
    if "seen" in found:
        return "seen", evidence
    return ("cannot be told" if "cannot be told" in found else "not seen"), evidence


def _left_out(last: Sequence[ExcitedBlock], change: GateChange | None, guesses: bool) -> tuple[Found, str]:
    if change is None:
        return "cannot be told", "The stages of this network are unknown."
    loss, accuracy = change.log_loss, change.accuracy
    evidence = (
        f"Mean ablation of stage {last[0].stage} ({_named(last)}) changes the log-loss by "
        f"{difference_in_words('log_loss', loss)} and the accuracy by {difference_in_words('accuracy', accuracy)}; "
        f"a rise of the log-loss below {TOLERANCE} counts as little."
    )
    if guesses:
        return "cannot be told", f"{evidence[:-1]}; the network performs at chance level."
    if loss.high < TOLERANCE:
        return "seen", evidence
    return ("not seen" if loss.low > TOLERANCE else "cannot be told"), evidence


def _compare(share: Estimate, limit: float) -> Found:
    if share.low > limit:
        return "seen"
    return "not seen" if share.high < limit else "cannot be told"


def _named(blocks: Sequence[ExcitedBlock]) -> str:
    return blocks[0].block if len(blocks) == 1 else f"{blocks[0].block} to {blocks[-1].block}"


def in_words(share: Estimate) -> str:
    """Format a share with its interval: 12.0 % [10.0, 14.0]. An unbiased estimate can be negative; a share is not."""
    return percent_with_interval(*(max(one, 0.0) for one in astuple(share)), decimals=1)


def listed(estimate: Estimate) -> list[float]:
    """Return a value and the ends of its interval as JSON data."""
    return [rounded(one) for one in astuple(estimate)]


def rounded(value: float) -> float:
    """Round to six significant digits."""
    return float(f"{value:.6g}")
