"""The decision that a run's results support: a verdict, three numbers, and the command to type next."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ..evidence.known import known_in_brief
from ..statistics import Estimate, Interval, difference_in_words
from ..study.objectives import OBJECTIVES
from ..trials.folder import STUDY_FILE
from ..words import counted, percent, upper_first
from .table import Advantage, candidates_of
from .verified import command_for_seeds

if TYPE_CHECKING:  # record.py writes the decision into run.json
    from .record import RunRecord

Verdict = Literal["helps", "no measurable difference", "worse", "not verified yet", "no result yet"]

_TITLES: Mapping[Verdict, str] = {
    "helps": "{} helps",
    "no measurable difference": "No measurable difference",
    "worse": "{} does not help",
    "not verified yet": "Not verified yet",
    "no result yet": "No result yet",
}
"""What a person reads for each verdict on a kind of attention."""

_SEEDS = 3
"""Seeds that a proposed verification has at least: its command's default."""


@dataclass(frozen=True)
class Figure:
    """A value of the network relative to the one without attention.

    Attributes:
        name: What it measures.
        values: The value with the ends of its interval; an exact value three times.
        text: The value with its unit.
        interval: The interval in the same unit, or that the value is exact.
    """

    name: str
    values: Interval
    text: str
    interval: str


@dataclass(frozen=True)
class Step:
    """What to do next.

    Attributes:
        reason: One sentence.
        command: The complete command; empty for what no single command does.
    """

    reason: str
    command: str = ""


@dataclass(frozen=True)
class Decision:
    """What a run found, and what to do next.

    Attributes:
        verdict: ``helps`` and ``worse`` only after verification; ``no measurable difference`` also before.
        title: The verdict in words.
        headline: The result in one sentence.
        network: Name of the network that the verdict speaks of; empty without one.
        trial: Number of its trial; ``None`` without one.
        config: Its configuration's JSON; empty without a trial.
        verified: Whether the accuracy is that of verification, not the search's estimate.
        figures: Accuracy, parameters and latency against the network without attention, with 95 % intervals.
        next: What to do next, the most useful first.
        known: What is published about SE in the backbone, in one sentence.
    """

    verdict: Verdict
    title: str
    headline: str
    network: str
    trial: int | None
    config: str
    verified: bool
    figures: tuple[Figure, ...]
    next: tuple[Step, ...]
    known: str


def decide(trials: pd.DataFrame, run: "RunRecord") -> Decision:
    """Return what a run found and what to do next.

    The verdict speaks of the knee if that is significantly better than the network without attention, else of the best
    network with attention within the limits. Verified values decide as soon as there are some. The interval of the
    accuracy is corrected for the number of networks.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run.
    """
    known = known_in_brief(run.backbone)
    verified = bool(run.verified and run.verified[-1].networks)
    networks = run.verified[-1].networks if verified else run.gain.networks if run.gain else ()
    if _baseline_diverged(run):
        networks = ()
    beyond = set(trials["number"][(trials["state"] == "complete") & ~trials["feasible"]])
    networks = tuple(one for one in networks if one.number not in beyond)
    if not networks or not run.picks:
        steps = tuple(_after_nothing(trials, run))
        headline = _missing(trials, run)
        return Decision("no result yet", _TITLES["no result yet"], headline, "", None, "", verified, (), steps, known)
    subject = _subject(networks, run.picks)
    verdict = _verdict(subject, verified)
    row, failure = _row_of(trials, subject), _failure(run, subject)
    return Decision(
        verdict,
        upper_first(_TITLES[verdict].format(run.attention)),
        _headline(subject, verdict, verified, run.attention) + (f"; {failure}" if failure else ""),
        _name(subject),
        subject.number if row else None,
        str(row.get("config", "")),
        verified,
        (_accuracy(subject), *_costs(row, trials, run)),
        tuple(_next(trials, run, subject, verdict)),
        known,
    )


def _subject(networks: Sequence[Advantage], picks: Mapping[str, int]) -> Advantage:
    knee = next((one for one in networks if one.number is not None and one.number == picks.get("knee")), None)
    if knee is not None and knee.measurable:
        return knee
    return max(networks, key=lambda one: OBJECTIVES[one.quality].sign * one.judged[0])


def _verdict(subject: Advantage, verified: bool) -> Verdict:
    if subject.measurable:
        return "helps" if verified else "not verified yet"
    return "worse" if verified and subject.harmful else "no measurable difference"


def _row_of(trials: pd.DataFrame, subject: Advantage) -> dict[str, Any]:
    """Return the row of the network's complete trial; empty without one."""
    rows = trials[(trials["number"] == subject.number) & (trials["state"] == "complete")].to_dict("records")
    return {str(key): value for key, value in rows[0].items()} if rows else {}


def _name(network: Advantage) -> str:
    return network.name or f"trial {network.number}"


def _headline(subject: Advantage, verdict: Verdict, verified: bool, attention: str) -> str:
    start = f"{'Verified' if verified else 'Estimated'}: "
    name = _name(subject)
    if verdict == "no measurable difference":
        return f"{start}no measurable difference between {name} and no {attention} ({_change(subject)})"
    value, low, high = subject.accuracy
    digits = _decimals(subject.accuracy)
    if low > 0 and verdict != "worse":
        interval = f"[{100 * low:.{digits}f}, {100 * high:.{digits}f}]"
        return f"{start}{name} gains {100 * value:.{digits}f} points over no {attention} {interval}"
    if high < 0 and verdict == "worse":
        interval = f"[{-100 * high:.{digits}f}, {-100 * low:.{digits}f}]"
        return f"{start}{name} loses {-100 * value:.{digits}f} points against no {attention} {interval}"
    return f"{start}{name} changes {_change(subject, ' by ')} relative to no {attention}"


def _change(subject: Advantage, by: str = " ") -> str:
    """Describe the difference that decides, with its interval."""
    if subject.quality == "accuracy":
        figure = _accuracy(subject)
        return f"accuracy{by}{figure.text} {figure.interval}"
    return f"log-loss{by}{difference_in_words(subject.quality, Estimate(*subject.judged))}"


def _decimals(shares: Interval) -> int:
    """Return the decimals of percentage points that an interval of this width deserves."""
    return 1 if shares[2] - shares[1] >= 0.01 else 2


def _accuracy(subject: Advantage) -> Figure:
    digits = _decimals(subject.accuracy)
    value, low, high = (f"{100 * one:+.{digits}f}" for one in subject.accuracy)
    return Figure("accuracy", subject.accuracy, f"{value} points", f"[{low}, {high}]")


def _costs(row: Mapping[str, Any], trials: pd.DataFrame, run: "RunRecord") -> Iterator[Figure]:
    """Return the parameters and the latency of a trial against no attention.

    The values of trials are relative to the backbone, which may have attention of its own.
    """
    without = trials[(trials["state"] == "complete") & (trials["se_blocks"] == 0)].to_dict("records")
    if not row or not (without or all(site.position != "existing" for site in run.sites)):
        return
    share, added = float(row["parameter_overhead"]), int(row["counted_parameters"])
    ratio, low, high = (float(row[name]) for name in OBJECTIVES["latency_ratio"].columns)
    if without and without[0]["counted_parameters"] != 0:
        bare = without[0]
        share = (1 + share) / (1 + bare["parameter_overhead"]) - 1
        added -= int(bare["counted_parameters"])
        # The quotient of two measured ratios, with their margins in quadrature.
        other, other_low, other_high = (float(bare[name]) for name in OBJECTIVES["latency_ratio"].columns)
        if min(ratio, low, high, other, other_low, other_high) <= 0:  # a foreign run
            return
        below = math.hypot(math.log(ratio / low), math.log(other_high / other))
        above = math.hypot(math.log(high / ratio), math.log(other / other_low))
        ratio /= other
        low, high = ratio * math.exp(-below), ratio * math.exp(above)
    yield Figure("parameters", (share,) * 3, percent(share, sign="+"), f"({added:+,})")
    yield Figure("latency", (ratio, low, high), f"×{ratio:.3f}", f"[{low:.3f}, {high:.3f}]")


def _baseline_diverged(run: "RunRecord") -> bool:
    """Return whether all verified trainings of the network without attention diverged."""
    members = run.verified[-1].members if run.verified else ()
    return bool(members) and all(one.error for one in members[0].trainings)


def _missing(trials: pd.DataFrame, run: "RunRecord") -> str:
    """Say why there is no comparison with the network without attention."""
    if _baseline_diverged(run):
        return f"Unknown whether {run.attention} helps: all trainings of the network without {run.attention} diverged"
    complete = trials[trials["state"] == "complete"]
    if complete.empty:
        return "No configuration has been evaluated yet"
    if not run.picks:
        return "No evaluated configuration keeps the limits"
    if (complete["se_blocks"] > 0).all():
        return f"Unknown whether {run.attention} helps: the network without {run.attention} was not evaluated"
    return f"Unknown whether {run.attention} helps: no network with {run.attention} within the limits was evaluated"


def _after_nothing(trials: pd.DataFrame, run: "RunRecord") -> Iterator[Step]:
    if not run.finished:
        yield _resume(run)
    elif _baseline_diverged(run):
        yield Step(f"Lower the learning_rate of {run.folder}/{STUDY_FILE} or set its clip_gradient, in a new run.")
    elif (trials["state"] == "complete").any():
        yield _search(run, "Evaluate more configurations.", "--budget", str(2 * run.budget), "--out", run.folder)


def _next(trials: pd.DataFrame, run: "RunRecord", subject: Advantage, verdict: Verdict) -> Iterator[Step]:
    if not run.finished:
        yield _resume(run)
    after = {
        "helps": _after_gain,
        "not verified yet": _after_estimate,
        "no measurable difference": _after_no_difference,
        "worse": _after_loss,
    }
    yield from after[verdict](trials, run, subject)


def _after_gain(trials: pd.DataFrame, run: "RunRecord", subject: Advantage) -> Iterator[Step]:
    yield from _more_seeds(run, subject)
    if _row_of(trials, subject):
        yield _export(run, subject, f"Export {_name(subject)} with its verified weights.", "--verified")
    if run.placement == "stage":
        folder = f"runs/{run.name}-blocks"
        yield _search(run, "Search block by block: fewer blocks may suffice.", "--space", "blocks", "--out", folder)


def _after_estimate(trials: pd.DataFrame, run: "RunRecord", subject: Advantage) -> Iterator[Step]:
    yield _verify(run)
    if not run.evaluator.function:
        weights = "slice of the shared weights" if run.evaluator.shares_weights else "evaluated weights"
        yield _export(run, subject, f"Or export {_name(subject)} unverified, with its {weights}.")


def _after_no_difference(trials: pd.DataFrame, run: "RunRecord", subject: Advantage) -> Iterator[Step]:
    with_se = (candidates_of(trials)["se_blocks"] > 0).any()
    verified = run.verified and run.verified[-1].networks
    if not verified and (with_se or trials["name"].isin(run.baselines[1:]).any()):
        yield _verify(run)
    elif verified:
        yield from _more_seeds(run, subject)
    reason = (
        f"Use {run.backbone} without {run.attention}, or more images: on these data no network with {run.attention} is "
        "measurably better."
    )
    yield Step(" ".join([reason, *_what_would_tell(run)]))


def _what_would_tell(run: "RunRecord") -> Iterator[str]:
    """Say which gain the data can tell, and how many images or seeds would tell it."""
    if run.power is not None:
        said = run.power.sentences[-1].removeprefix("So ")
        yield upper_first(said)


def _after_loss(trials: pd.DataFrame, run: "RunRecord", subject: Advantage) -> Iterator[Step]:
    yield from _more_seeds(run, subject)
    yield Step(f"Use {run.backbone} without {run.attention}: on these data it is better.")


def _verify(run: "RunRecord") -> Step:
    images = f"{counted(run.data.test, 'test image')} that the search did not use"
    reason = f"Verify: retrain independently with {_SEEDS} seeds and evaluate on {images}."
    return Step(reason, _command("verify", run.folder))


def _more_seeds(run: "RunRecord", subject: Advantage) -> Iterator[Step]:
    """Propose more seeds if there are few, or if a training did not learn."""
    last, failure = run.verified[-1], _failure(run, subject)
    if not failure and last.failures:
        failure = "some trainings of other networks did not learn"
    if failure:
        reason = f"Train more seeds: {failure}."
    elif len(last.seeds) < _SEEDS:
        reason = f"Train more seeds: {counted(len(last.seeds), 'seed')} cannot show how much training varies."
    else:
        return
    yield Step(reason, _command(*command_for_seeds(last, run.folder, run.evaluator.epochs)))


def _failure(run: "RunRecord", subject: Advantage) -> str:
    """Say how many trainings of a verified network did not learn; empty if all have."""
    members = run.verified[-1].members if run.verified else ()
    return next((one.failure for one in members if one.config_id == subject.config_id), "")


def _export(run: "RunRecord", subject: Advantage, reason: str, *options: str) -> Step:
    return Step(reason, _command("export", run.folder, "--trial", str(subject.number), *options, "--to", "exported"))


def _resume(run: "RunRecord") -> Step:
    return _search(run, "The search is not finished: resume it if it was interrupted.", "--out", run.folder)


def _search(run: "RunRecord", reason: str, *options: str) -> Step:
    if run.evaluator.function or any(one.name not in OBJECTIVES for one in run.objectives):
        return Step(f"{reason} Call se_search.search again: the run uses functions of Python.")
    return Step(reason, _command("run", "--study", f"{run.folder}/{STUDY_FILE}", *options))


def _command(*words: str) -> str:
    return shlex.join(("se-search", *words))
