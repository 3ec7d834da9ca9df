"""What verification has found: values of networks trained by themselves, with differences and rank agreement."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..errors import RunFolderError
from ..files import read_text
from ..network.config import SEConfig
from ..statistics import (
    Interval,
    confidence_of_each,
    crossed_difference,
    crossed_mean,
    difference_in_words,
    noise_ceiling,
    rank_agreement,
)
from ..study.objectives import VERIFIED_COLUMNS
from ..trials.notes import unpack
from ..words import counted

VERIFICATION = "verification"

_FEWEST_TO_RANK = 3


def result_file(folder: Path, config: SEConfig, epochs: int, seed: int) -> Path:
    """Where the result of one training is kept."""
    return folder / VERIFICATION / f"{config.id}-epochs{epochs}-seed{seed}.json"


def weights_file(folder: Path, config: SEConfig, epochs: int) -> Path:
    """Where the weights of a network's first training are kept."""
    return folder / VERIFICATION / f"{config.id}-epochs{epochs}.safetensors"


@dataclass(frozen=True)
class Member:
    """A network that was verified.

    Attributes:
        config_id: Id of its configuration.
        number: Number of its trial; ``None`` for a baseline that the search did not try.
        name: Name of a baseline; empty for others.
        accuracy: Accuracy on the test images.
        log_loss: Log-loss on the test images.
        accuracy_difference: Paired difference of accuracy to the network without SE.
        log_loss_difference: Paired difference of log-loss to the network without SE.
    """

    config_id: str
    number: int | None
    name: str
    accuracy: Interval
    log_loss: Interval
    accuracy_difference: Interval
    log_loss_difference: Interval


@dataclass(frozen=True)
class Schedule:
    """What verification has found with one number of epochs.

    Attributes:
        epochs: Epochs of each training.
        seeds: Training seeds of each network.
        images: Number of test images.
        members: The networks, the one without SE first.
        agreement: Kendall's τ between this ranking and the search's; ``None`` for fewer than three members.
        ceiling: Greatest τ that the seeds' noise allows; ``None`` if unknown.
        helps: Whether SE is measurably better than no SE.
        finding: The same in one sentence.
        held: Kendall's τ between this ranking and that of the previous schedule; ``None`` for the first.
        ranking: Sentences about these rank agreements.
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


@dataclass(frozen=True)
class _Result:
    correct: npt.NDArray[np.bool_]
    losses: npt.NDArray[np.float32]


def read_verified(folder: Path, trials: pd.DataFrame, without_se: str) -> tuple[Schedule, ...]:
    """Return what each schedule of verification has found, the shortest first; empty before any.

    Args:
        folder: A run folder.
        trials: Its table of trials.
        without_se: Id of the configuration without SE, which the others are compared with.

    Raises:
        RunFolderError: If a result is damaged.
    """
    numbers = dict(zip(trials["config_id"], trials["number"], strict=True))
    names = dict(zip(trials["config_id"], trials["name"], strict=True))
    estimates = dict(zip(trials["config_id"], trials["log_loss"], strict=True))
    schedules: list[Schedule] = []
    before: dict[str, npt.NDArray[Any]] | None = None
    for epochs, results in sorted(_read(folder).items()):
        seeds, configs = _whole(results, without_se)
        if not configs:
            continue
        correct = {config: np.concatenate([results[config, seed].correct for seed in seeds]) for config in configs}
        losses = {config: np.concatenate([results[config, seed].losses for seed in seeds]) for config in configs}
        configs.sort(key=lambda config: (config != without_se, numbers.get(config, -1)))
        members = tuple(
            Member(
                config,
                int(numbers[config]) if config in numbers else None,
                "no SE" if config == without_se else names.get(config, "uniform r=16"),
                astuple(crossed_mean(correct[config])),
                astuple(crossed_mean(losses[config])),
                astuple(crossed_difference(correct[config], correct[without_se])),
                astuple(crossed_difference(losses[config], losses[without_se])),
            )
            for config in configs
        )
        means = {config: losses[config].mean(1) for config in configs}
        ranked = [config for config in configs if config in estimates and np.isfinite(estimates[config])]
        called = {one.config_id: _called(one) for one in members}
        agreement = _agreement({config: estimates[config] for config in ranked}, means)
        ceiling = _ceiling([means[config] for config in ranked])
        held = None
        if before is not None:
            held = _agreement({one: float(values.mean()) for one, values in before.items()}, means)
        helps, finding = _finding(losses, without_se, called, len(seeds))
        ranking = list(_say_ranking(agreement, ceiling))
        if held is not None:
            ranking.append(
                f"Against {schedules[-1].epochs} epochs, the order after {epochs} has held with τ = {_interval(held)}."
            )
        images = int(correct[configs[0]].shape[1])
        schedules.append(
            Schedule(epochs, tuple(seeds), images, members, agreement, ceiling, helps, finding, held, tuple(ranking))
        )
        before = means
    return tuple(schedules)


def _say_ranking(agreement: Interval | None, ceiling: Interval | None) -> Iterator[str]:
    if agreement is None:
        yield "Fewer than three of these networks are trials of the search: its ranking cannot be judged."
    else:
        yield (
            f"The search ranks them as training by itself does with Kendall's τ = {_interval(agreement)}"
            + ("" if ceiling is None else f"; the seeds' noise allows at most {_interval(ceiling)}")
            + "."
        )


def _interval(values: Interval) -> str:
    value, low, high = values
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def add_verified(trials: pd.DataFrame, schedules: Sequence[Schedule]) -> pd.DataFrame:
    """Return the table of trials with :data:`VERIFIED_COLUMNS`, those of the longest schedule that has each trial."""
    values: dict[str, dict[str, float]] = {}
    for schedule in schedules:
        for member in schedule.members:
            row = [*member.accuracy, *member.log_loss, *member.log_loss_difference]
            row += [schedule.epochs, len(schedule.seeds)]
            values[member.config_id] = dict(zip(VERIFIED_COLUMNS, row, strict=True))
    rows = [values.get(config, {}) for config in trials["config_id"]]
    added = pd.DataFrame(rows, columns=list(VERIFIED_COLUMNS), index=trials.index).astype("float64")
    return pd.concat([trials, added], axis=1)


def _read(folder: Path) -> dict[int, dict[tuple[str, int], _Result]]:
    found: dict[int, dict[tuple[str, int], _Result]] = {}
    images: dict[int, int] = {}
    for file in sorted((folder / VERIFICATION).glob("*.json")):
        name = re.fullmatch(r"(\w+)-epochs(\d+)-seed(\d+)", file.stem)
        if name is None:
            continue
        try:
            content = json.loads(read_text(file))
            result = _Result(unpack(content["correct"]), unpack(content["losses"]))
        except Exception as error:  # a damaged file can raise anything on its way through JSON, base64, zlib and NumPy
            raise RunFolderError(f"{file} is damaged ({type(error).__name__}): delete it and verify again") from error
        if result.correct.shape[1] != images.setdefault(int(name[2]), result.correct.shape[1]):
            raise RunFolderError(f"{file} was judged on other images than those beside it: delete it and verify again")
        found.setdefault(int(name[2]), {})[name[1], int(name[3])] = result
    return found


def _whole(results: dict[tuple[str, int], _Result], without_se: str) -> tuple[list[int], list[str]]:
    """Return the seeds and configurations that differences are taken of: a part of the results without gaps.

    Of the first seeds of the network without SE it takes as many as give the most results, so that seeds that are only
    begun hide nothing.
    """
    have: dict[str, set[int]] = {}
    for config, seed in results:
        have.setdefault(config, set()).add(seed)
    first = sorted(have.get(without_se, ()))
    candidates = [
        (first[:count], [config for config, seeds in have.items() if seeds >= set(first[:count])])
        for count in range(1, len(first) + 1)
    ]
    return max(candidates, key=lambda one: (len(one[0]) * len(one[1]), len(one[1])), default=([], []))


def _agreement(first: dict[str, float], means: dict[str, npt.NDArray[Any]]) -> Interval | None:
    common = [config for config in first if config in means]
    if len(common) < _FEWEST_TO_RANK:
        return None
    return astuple(
        rank_agreement(np.array([first[one] for one in common]), np.array([means[one].mean() for one in common]))
    )


def _ceiling(means: list[npt.NDArray[Any]]) -> Interval | None:
    if len(means) < _FEWEST_TO_RANK or len(means[0]) < 2:
        return None
    return astuple(noise_ceiling(np.stack(means, axis=1)))


def _finding(
    losses: dict[str, npt.NDArray[Any]], without_se: str, called: dict[str, str], seeds: int
) -> tuple[bool, str]:
    others = [config for config in losses if config != without_se]
    if not others:
        return False, "Only the network without SE has been verified."
    best = min(others, key=lambda config: float(losses[config].mean()))
    difference = crossed_difference(losses[best], losses[without_se], confidence_of_each(len(others)))
    comparisons = counted(len(others), "comparison")
    told = (
        f"{called[best]} has a log-loss {difference_in_words('log_loss', difference)} "
        f"against the network without SE (paired on test images and seeds, corrected for {comparisons})"
    )
    if seeds == 1:
        told += "; with one seed the interval leaves out the chance of training"
    if difference.high < 0:
        return True, f"SE helps, verified: {told}."
    return False, f"No measurable gain from SE, verified: the best of {len(others)}, {told}."


def _called(member: Member) -> str:
    trial = "" if member.number is None else f"trial {member.number}"
    return " – ".join(part for part in (trial, member.name) if part)
