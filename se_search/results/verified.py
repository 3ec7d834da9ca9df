"""Results of verification: values of retrained networks, paired differences and rank agreement."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from ..statistics import (
    CONFIDENCE,
    Interval,
    accuracy_estimate,
    confidence_of_each,
    crossed_difference,
    crossed_mean,
    mean_estimate,
    noise_ceiling,
    rank_agreement,
)
from ..study.objectives import VERIFIED_COLUMNS, Objective, quality_among
from ..study.space import SearchSpace
from ..words import percent, percent_with_interval, upper_first
from .focus import Focused, compare_focus
from .front import Judged
from .learned import which_learned
from .table import Advantage, Gain, describe_gain, read_config
from .trainings import Outcomes, read_outcomes, seed_to_export
from .verified_front import front_of_verified

VERIFIED = "verified"
"""Value of ``--members`` for the networks that have been verified."""

_FEWEST_TO_RANK = 3


@dataclass(frozen=True)
class Retraining:
    """One training of a verified network and its values on the test images.

    Attributes:
        accuracy: Accuracy with its interval, which covers the choice of images.
        log_loss: Log-loss with its interval.
        learned: Whether it has learned, by :func:`~se_search.results.learned.which_learned`.
        validation: Accuracy and log-loss on the validation images by name; ``None`` for a training of version 0.1.0 or
            one that diverged.
        error: Why it diverged; empty if it did not.
    """

    seed: int
    accuracy: Interval
    log_loss: Interval
    learned: bool
    validation: Mapping[str, float] | None
    error: str = ""


@dataclass(frozen=True)
class Member:
    """A verified network and its values on the test images.

    Accuracy and log-loss are means over all trainings, those that have not learned among them: what a user gets from a
    training on average.

    Attributes:
        config_id: Id of its configuration.
        number: Number of its trial; ``None`` for a baseline that the search did not evaluate.
        name: Name of a baseline; empty for others.
        accuracy_difference: Paired difference of accuracy to the network without attention.
        log_loss_difference: Paired difference of log-loss to the network without attention.
        trainings: Its trainings with the schedule's seeds.
        exported: The training whose weights an export has: the best one on the validation images.
        learned: Number of trainings that have learned.
        probability: Probability that a training learns, with Clopper and Pearson's interval.
        accuracy_learned: Accuracy of the trainings that have learned; ``None`` if none has.
        log_loss_learned: Log-loss of the trainings that have learned; ``None`` if none has.
        better_than: Ids of the members that it is significantly better than in the run's quality, failed trainings
            included, with Bonferroni's correction for the number of other members.
    """

    config_id: str
    number: int | None
    name: str
    accuracy: Interval
    log_loss: Interval
    accuracy_difference: Interval
    log_loss_difference: Interval
    trainings: tuple[Retraining, ...]
    exported: Retraining
    learned: int
    probability: Interval
    accuracy_learned: Interval | None
    log_loss_learned: Interval | None
    better_than: tuple[str, ...]

    @property
    def label(self) -> str:
        """Return its name in sentences: trial 1 (uniform r=16)."""
        if self.number is None:
            return self.name
        return f"trial {self.number}" + (f" ({self.name})" if self.name else "")

    @property
    def failure(self) -> str:
        """Say how many trainings did not learn: 1 of 3 trainings did not learn; empty if all have."""
        trained = len(self.trainings)
        return f"{trained - self.learned} of {trained} trainings did not learn" if self.learned < trained else ""


@dataclass(frozen=True)
class Schedule:
    """Results of verification with one number of epochs.

    Attributes:
        epochs: Epochs of each training.
        seeds: Training seeds of each network.
        images: Number of test images.
        members: The networks, the one without attention first.
        agreement: Kendall's τ between this ranking and the search's; ``None`` for fewer than three members.
        ceiling: Maximum τ under the noise of the seeds; ``None`` if unknown.
        helps: Whether attention is significantly better than none.
        finding: The same in words.
        held: Kendall's τ between this ranking and that of the previous schedule; ``None`` for the first.
        ranking: Sentences about these rank agreements.
        networks: Advantages of the networks with attention over the one without, the best one first.
        failures: Sentences about networks whose trainings have not all learned.
        front: Numbers of the trials on the front of verified networks, the smallest first. Only the networks whose
            trainings learned most often are considered, and others that are significantly better than each of these.
        focus: Whether local focus helps, from :func:`~se_search.results.focus.compare_focus`; empty without both kinds.
    """

    epochs: int
    seeds: tuple[int, ...]
    images: int
    members: tuple[Member, ...]
    agreement: Interval | None
    ceiling: Interval | None
    helps: bool
    finding: str
    held: Interval | None
    ranking: tuple[str, ...]
    networks: tuple[Advantage, ...] = ()
    failures: tuple[str, ...] = ()
    focus: str = ""
    front: tuple[int, ...] = ()


def read_verified(
    folder: Path, trials: pd.DataFrame, space: SearchSpace, objectives: Sequence[Objective], chance: float
) -> tuple[Schedule, ...]:
    """Return the results of each schedule of verification, the shortest first; empty before any.

    Args:
        folder: A run folder.
        trials: Its table of trials.
        space: The search space; the first of its baselines is the baseline of all differences.
        objectives: The study's objectives; networks are judged by its accuracy or log-loss.
        chance: Accuracy at chance level.

    Raises:
        RunFolderError: If a result is damaged.
    """
    baselines, quality = space.baselines(), quality_among(one.name for one in objectives)
    names = {config.id: name for name, config in baselines.items()}
    configured = {config.id: config for config in baselines.values()}
    without_se = next(iter(names))
    known = {row["config_id"]: row for row in trials.to_dict("records")}
    estimates = {config: row["log_loss"] for config, row in known.items() if np.isfinite(row["log_loss"])}
    schedules: list[Schedule] = []
    before: dict[str, float] = {}
    for epochs, results in sorted(read_outcomes(folder).items()):
        seeds, configs = without_gaps(results, without_se)
        if not configs:
            continue
        configs.sort(key=lambda config: (config != without_se, known.get(config, {}).get("number", -1)))
        correct = {config: np.concatenate([results[config][seed].correct for seed in seeds]) for config in configs}
        losses = {config: np.concatenate([results[config][seed].losses for seed in seeds]) for config in configs}
        better = _better_than(losses if quality.name == "log_loss" else correct, quality)
        trainings = _retrainings({config: results[config] for config in configs}, chance)
        members = []
        for config in configs:
            common = tuple(trainings[config][seed] for seed in seeds)
            learned = np.array([one.learned for one in common])
            some = bool(learned.any())
            members.append(
                Member(
                    config,
                    known[config]["number"] if config in known else None,
                    names.get(config) or known.get(config, {}).get("name", ""),
                    astuple(crossed_mean(correct[config])),
                    astuple(crossed_mean(losses[config])),
                    astuple(crossed_difference(correct[config], correct[without_se])),
                    astuple(crossed_difference(losses[config], losses[without_se])),
                    common,
                    trainings[config][seed_to_export(results[config], quality)],
                    int(learned.sum()),
                    _share(int(learned.sum()), len(seeds)),
                    astuple(crossed_mean(correct[config][learned])) if some else None,
                    astuple(crossed_mean(losses[config][learned])) if some else None,
                    better[config],
                )
            )
        by_seed = {config: values.mean(1) for config, values in losses.items()}
        means = {config: float(values.mean()) for config, values in by_seed.items()}
        agreement, held = _agreement(estimates, means), _agreement(before, means)
        ranked = [by_seed[config] for config in configs if config in estimates]
        ceiling = None
        if len(ranked) >= _FEWEST_TO_RANK and len(seeds) > 1:
            ceiling = astuple(noise_ceiling(np.stack(ranked, axis=1)))
        ranking = _describe_ranking(agreement, ceiling)
        if held is not None:
            ranking += (
                f"Rank agreement of {schedules[-1].epochs} and {epochs} epochs: Kendall's τ = {_interval(held)}.",
            )
        focused = [
            Focused(
                one.label,
                configured.get(one.config_id) or read_config(known[one.config_id]["config"]),
                (losses if quality.name == "log_loss" else correct)[one.config_id],
            )
            for one in members
            if one.config_id in configured or one.config_id in known
        ]
        gain = _gain(members, correct, losses, len(seeds), quality, space.attention)
        schedules.append(
            Schedule(
                epochs=epochs,
                seeds=tuple(seeds),
                images=correct[without_se].shape[1],
                members=tuple(members),
                agreement=agreement,
                ceiling=ceiling,
                helps=gain.measurable,
                finding=gain.sentence,
                held=held,
                ranking=ranking,
                networks=gain.networks,
                front=_front(members, {"accuracy": correct, "log_loss": losses}, trials, objectives),
                focus=compare_focus(focused, quality, "test image and seed"),
                failures=tuple(_describe_failure(one) for one in members if one.failure),
            )
        )
        before = means
    return tuple(schedules)


def add_verified(trials: pd.DataFrame, schedules: Sequence[Schedule]) -> pd.DataFrame:
    """Return the table of trials with :data:`VERIFIED_COLUMNS`, from the longest schedule of each trial."""
    values = {
        one.config_id: [
            *one.accuracy,
            *one.log_loss,
            *one.log_loss_difference,
            schedule.epochs,
            len(schedule.seeds),
            one.learned,
        ]
        for schedule in schedules
        for one in schedule.members
    }
    added = pd.DataFrame.from_dict(values, orient="index", columns=list(VERIFIED_COLUMNS), dtype="float64")
    added.index = added.index.astype("str")  # without members its type would be that of numbers, not of ids
    return trials.join(added, on="config_id")


def command_for_seeds(schedule: Schedule, folder: str, usual_epochs: int) -> tuple[str, ...]:
    """Return the arguments of ``se-search`` that train the networks of a schedule with two more seeds.

    Args:
        schedule: A schedule of verification.
        folder: The run folder.
        usual_epochs: Epochs of the study, which ``se-search verify`` uses by default.
    """
    epochs = () if schedule.epochs == usual_epochs else ("--epochs", str(schedule.epochs))
    return ("verify", folder, "--members", VERIFIED, "--seeds", str(len(schedule.seeds) + 2), *epochs)


@dataclass(frozen=True)
class VerifiedWeights:
    """A verified network whose weights are exported: those of ``member.exported``, trained for ``epochs``."""

    epochs: int
    member: Member


def find_weights(schedules: Sequence[Schedule], config_id: str) -> VerifiedWeights | None:
    """Return a network of the longest schedule that has it; ``None`` if it has not been verified."""
    found = (
        VerifiedWeights(schedule.epochs, one)
        for schedule in reversed(schedules)
        for one in schedule.members
        if one.config_id == config_id
    )
    return next(found, None)


def without_gaps(results: Mapping[str, Mapping[int, Outcomes]], without_se: str) -> tuple[list[int], list[str]]:
    """Return seeds and configurations such that each configuration has a result for each seed.

    The seeds are the first ones of the network without attention, as many as give the most results. Seeds that were
    only begun therefore hide nothing.
    """
    first = sorted(results.get(without_se, ()))
    candidates = [
        (first[:count], [config for config, seeds in results.items() if seeds.keys() >= set(first[:count])])
        for count in range(1, len(first) + 1)
    ]
    return max(candidates, key=lambda one: (len(one[0]) * len(one[1]), len(one[1])), default=([], []))


def _retrainings(results: Mapping[str, Mapping[int, Outcomes]], chance: float) -> dict[str, dict[int, Retraining]]:
    """Return the trainings by configuration and seed."""
    learned = which_learned(
        [np.concatenate([one.correct for one in seeds.values()]) for seeds in results.values()], chance
    )
    return {
        config: {
            seed: Retraining(
                seed,
                astuple(accuracy_estimate(one.correct[0])),
                astuple(mean_estimate(one.losses[0])),
                bool(has),
                one.validation,
                one.error,
            )
            for (seed, one), has in zip(seeds.items(), flags, strict=True)
        }
        for (config, seeds), flags in zip(results.items(), learned, strict=True)
    }


def _front(
    members: Sequence[Member],
    outcomes: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    trials: pd.DataFrame,
    objectives: Sequence[Objective],
) -> tuple[int, ...]:
    """Return the trials on the front of the networks that learned most often, and of those better than all of these."""
    most = max(one.learned for one in members)
    often = {one.config_id for one in members if one.learned == most}
    within = set(trials["number"][trials["feasible"]])
    kept = [
        one
        for one in members
        if (one.config_id in often or often <= set(one.better_than)) and (one.number in within or one is members[0])
    ]
    return front_of_verified(
        [one.number for one in kept],
        {name: [values[one.config_id] for one in kept] for name, values in outcomes.items()},
        trials,
        objectives,
    )


def _better_than(outcomes: Mapping[str, npt.NDArray[Any]], quality: Objective) -> dict[str, tuple[str, ...]]:
    """Return for each network the others that it is significantly better than."""
    confidence = confidence_of_each(max(len(outcomes) - 1, 1))

    judged, names = Judged(list(outcomes.values()), quality.sign), list(outcomes)

    def better(one: int) -> tuple[str, ...]:
        return tuple(name for other, name in enumerate(names) if judged.is_better(one, other, confidence))

    return {name: better(place) for place, name in enumerate(names)}


def _share(part: int, of: int) -> Interval:
    """Return a share of trainings with its exact interval (Clopper and Pearson 1934)."""
    tail = (1 - CONFIDENCE) / 2
    low = special.betaincinv(part, of - part + 1, tail) if part else 0.0
    high = special.betaincinv(part + 1, of - part, 1 - tail) if part < of else 1.0
    return part / of, float(low), float(high)


def _describe_failure(member: Member) -> str:
    failed = [one for one in member.trainings if not one.learned]
    reached = ", ".join(percent(one.accuracy[0]) for one in failed if not one.error)
    reasons = [f"accuracy {reached}"] * bool(reached) + list(dict.fromkeys(one.error for one in failed if one.error))
    said = f"{upper_first(member.label)}: {member.failure} ({'; '.join(reasons)})."
    if member.accuracy_learned is None:
        return said
    chance = percent_with_interval(*member.probability, decimals=0)
    return (
        f"{said} A training learns with a probability of {chance}; the accuracy is then "
        f"{percent_with_interval(*member.accuracy_learned)}."
    )


def _agreement(first: Mapping[str, float], second: Mapping[str, float]) -> Interval | None:
    common = [config for config in first if config in second]
    if len(common) < _FEWEST_TO_RANK:
        return None
    one, other = (np.array([scores[config] for config in common]) for scores in (first, second))
    return astuple(rank_agreement(one, other))


def _describe_ranking(agreement: Interval | None, ceiling: Interval | None) -> tuple[str, ...]:
    if agreement is None:
        return ("The search's ranking cannot be assessed: fewer than three of these networks are its trials.",)
    limit = "" if ceiling is None else f"; seed noise allows at most {_interval(ceiling)}"
    return (f"Rank agreement of search and verification: Kendall's τ = {_interval(agreement)}{limit}.",)


def _interval(values: Interval) -> str:
    value, low, high = values
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _gain(
    members: Sequence[Member],
    correct: Mapping[str, npt.NDArray[Any]],
    losses: Mapping[str, npt.NDArray[Any]],
    seeds: int,
    quality: Objective,
    attention: str,
) -> Gain:
    none, *others = members
    if not others:
        return Gain(False, f"Only the network without {attention} has been verified.")
    deciding = losses if quality.name == "log_loss" else correct
    others.sort(key=lambda one: -quality.sign * float(deciding[one.config_id].mean()))
    confidence = confidence_of_each(len(others))

    def difference(values: Mapping[str, npt.NDArray[Any]], one: Member) -> Interval:
        return astuple(crossed_difference(values[one.config_id], values[none.config_id], confidence))

    networks = tuple(
        Advantage(
            one.config_id, one.number, one.name, difference(correct, one), difference(deciding, one), quality.name
        )
        for one in others
    )
    best = others[0]
    gain = describe_gain(best.label, networks, len(others), "test image and seed", attention)
    if seeds > 1:
        return gain
    return replace(gain, sentence=f"{gain.sentence} With one seed, the interval excludes the randomness of training.")
