"""What the SENet paper observed of excitation, and whether it is so here."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np

from ..statistics import Estimate, difference_in_words
from ..words import percent, percent_with_interval
from .gate_statistics import GateStatistics, Replicated
from .gates import ExcitedBlock

CLASS_SPECIFIC = 0.25
"""Blocks are called class-agnostic where a smaller share of the variance lies between classes, else class-specific."""

SAME_PATTERN = 0.9
"""Classes have the same pattern where one factor per class explains at least this share of their differences."""

MOST = 0.5
"""A block is saturated where more than this share of its gates is constant near one."""

TOLERANCE = 0.01
"""Log-loss in nats by which a network may be worse without what is called idle.

The probability that it gives to the right class then falls by less than 1 % in the geometric mean over images.
"""

Verdict = Literal["idle", "works", "cannot be told"]

Found = Literal["seen", "not seen", "cannot be told"]


@dataclass(frozen=True)
class GateChange:
    """What replacing gates by their means does to a network, paired on the same images.

    Attributes:
        accuracy: Accuracy with the means less that of the network as it is.
        log_loss: The same of the log-loss; above 0 the network is worse.
    """

    accuracy: Estimate
    log_loss: Estimate

    @property
    def verdict(self) -> Verdict:
        """``"idle"`` where the log-loss surely rises by less than the tolerance, ``"works"`` where it rises measurably.

        What rises measurably but surely by less is idle. With few images neither can be told.
        """
        if self.log_loss.high < TOLERANCE:
            return "idle"
        return "works" if self.log_loss.low > 0 else "cannot be told"

    def listed(self) -> dict[str, list[float]]:
        """Return both as plain data."""
        return {"accuracy_change": listed(self.accuracy), "log_loss_change": listed(self.log_loss)}


def last_stage(blocks: Sequence[ExcitedBlock]) -> list[ExcitedBlock]:
    """Return the blocks of the last stage that has any; none where stages cannot be told."""
    stages = [block.stage for block in blocks]
    known = [stage for stage in stages if stage is not None]
    if len(known) < len(stages):
        return []
    return [block for block in blocks if block.stage == max(known)]


def find_observations(
    blocks: Sequence[ExcitedBlock],
    statistics: Sequence[GateStatistics],
    last: Sequence[ExcitedBlock],
    last_change: GateChange | None,
    guesses: bool,
) -> list[dict[str, str]]:
    """Return what the paper observed and whether it is so here."""
    return [
        {"paper": paper, "found": found, "evidence": evidence}
        for paper, (found, evidence) in (
            ("Shallow blocks are class-agnostic: classes share their gates.", _shallow(blocks, statistics)),
            ("Deeper blocks are class-specific.", _deep(blocks, statistics)),
            ("A block near the end is saturated: most of its gates stay near one.", _saturated(blocks, statistics)),
            (
                "A block near the end has nearly the same pattern for all classes, up to a scale.",
                _alike(blocks, statistics),
            ),
            ("The last stage can be left out at little cost.", _left_out(last, last_change, guesses)),
        )
    ]


def _shallow(blocks: Sequence[ExcitedBlock], statistics: Sequence[GateStatistics]) -> tuple[Found, str]:
    if len(blocks) == 1:
        return "cannot be told", "The network has one block only."
    first, others = _thirds([one.replicated_specificity for one in statistics])
    named = _named(blocks[: _first_third(blocks)])
    told = f"{in_words(first.estimate())} of the variance lies between classes in the first third ({named})"
    found = _where_gates_vary(statistics, _is_agnostic_before_others)
    return found, (
        f"{told}, and {in_words(others.estimate())} behind it; the difference is "
        f"{in_words(_less(first, others).estimate(), '+')}{_constant_behind(statistics)}."
    )


def _is_agnostic_before_others(first: Replicated, others: Replicated) -> Found:
    share, difference = first.estimate(), _less(first, others).estimate()
    if difference.high < 0 and share.high < CLASS_SPECIFIC:
        return "seen"
    return "not seen" if difference.low > 0 or share.low > CLASS_SPECIFIC else "cannot be told"


def _deep(blocks: Sequence[ExcitedBlock], statistics: Sequence[GateStatistics]) -> tuple[Found, str]:
    if len(blocks) == 1:
        return "cannot be told", "The network has one block only."
    _, others = _thirds([one.replicated_specificity for one in statistics])
    found = _where_gates_vary(statistics, lambda first, others: _compare(others.estimate(), CLASS_SPECIFIC))
    return found, (
        f"Behind the first third, {in_words(others.estimate())} of the variance lies between classes; blocks are "
        f"called class-specific from {percent(CLASS_SPECIFIC, 0)} on{_constant_behind(statistics)}."
    )


def _where_gates_vary(statistics: Sequence[GateStatistics], judge: Callable[[Replicated, Replicated], Found]) -> Found:
    """Judge the mean specificity of the first third and of the others, where blocks of mostly constant gates have 0.

    They scale all images alike, whatever the little that is left goes by. Where it is not sure whether most are
    constant, both must come to the same.
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


def _constant_behind(statistics: Sequence[GateStatistics]) -> str:
    """Return what to add to evidence where blocks behind the first third do not count as class-specific."""
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


def _first_third(blocks: Sequence[Any]) -> int:
    """Return how many blocks are the first third: at least one."""
    return max(1, len(blocks) // 3)


def _thirds(shares: Sequence[Replicated]) -> tuple[Replicated, Replicated]:
    """Return the mean of the first third of the blocks and of the others, of two blocks or more."""
    first = _first_third(shares)

    def mean(some: Sequence[Replicated]) -> Replicated:
        return Replicated(
            float(np.mean([one.value for one in some])), np.mean([one.replicates for one in some], axis=0)
        )

    return mean(shares[:first]), mean(shares[first:])


def _saturated(blocks: Sequence[ExcitedBlock], statistics: Sequence[GateStatistics]) -> tuple[Found, str]:
    return _any_of_the_last_two(blocks, [one.near_one for one in statistics], MOST, "of the gates are constant near 1")


def _alike(blocks: Sequence[ExcitedBlock], statistics: Sequence[GateStatistics]) -> tuple[Found, str]:
    return _any_of_the_last_two(
        blocks,
        [one.similarity for one in statistics],
        SAME_PATTERN,
        "of what differs between classes is one factor per class",
    )


def _any_of_the_last_two(
    blocks: Sequence[ExcitedBlock], shares: Sequence[Estimate], limit: float, what: str
) -> tuple[Found, str]:
    found = [_compare(share, limit) for share in shares[-2:]]
    told = "; ".join(
        f"{block.block}: {in_words(share)} {what}" for block, share in zip(blocks[-2:], shares[-2:], strict=True)
    )
    evidence = f"{told} (from {percent(limit, 0)} on it is called so)."
    if "seen" in found:
        return "seen", evidence
    return ("cannot be told" if "cannot be told" in found else "not seen"), evidence


def _left_out(last: Sequence[ExcitedBlock], change: GateChange | None, guesses: bool) -> tuple[Found, str]:
    if change is None:
        return "cannot be told", "Which blocks are of one stage cannot be told in this network."
    loss, accuracy = change.log_loss, change.accuracy
    evidence = (
        f"With the gates of stage {last[0].stage} ({_named(last)}) replaced by their means, the log-loss changes by "
        f"{difference_in_words('log_loss', loss)} and the accuracy by {difference_in_words('accuracy', accuracy)}; "
        f"a rise of the log-loss below {TOLERANCE} is called little."
    )
    if guesses:
        return "cannot be told", f"{evidence[:-1]}; the network as it is only guesses."
    if loss.high < TOLERANCE:
        return "seen", evidence
    return ("not seen" if loss.low > TOLERANCE else "cannot be told"), evidence


def _compare(share: Estimate, limit: float) -> Found:
    if share.low > limit:
        return "seen"
    return "not seen" if share.high < limit else "cannot be told"


def _named(blocks: Sequence[ExcitedBlock]) -> str:
    return blocks[0].block if len(blocks) == 1 else f"{blocks[0].block} to {blocks[-1].block}"


def in_words(share: Estimate, sign: str = "") -> str:
    """Return a share with its interval: 12.0 % [10.0, 14.0]."""
    return percent_with_interval(share.value, share.low, share.high, decimals=1, sign=sign)


def listed(estimate: Estimate) -> list[float]:
    """Return a value and the ends of its interval as plain data."""
    return [rounded(one) for one in astuple(estimate)]


def rounded(value: float) -> float:
    """Return a number with six digits, which is all that any of them tells."""
    return float(f"{value:.6g}")
