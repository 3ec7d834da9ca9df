"""Results of verification: values of retrained networks, paired differences and rank agreement."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
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
    noise_ceiling,
    rank_agreement,
)
from ..study.objectives import VERIFIED_COLUMNS
from ..trials.notes import unpack
from .table import Advantage, Gain, describe_gain

VERIFICATION = "verification"

_FEWEST_TO_RANK = 3

_Outcomes = tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]
"""Correctness and log-loss of one network: a row for each seed, a column for each test image."""


def result_file(folder: Path, config: SEConfig, epochs: int, seed: int) -> Path:
    """Return the file with the result of one training."""
    return folder / VERIFICATION / f"{config.id}-epochs{epochs}-seed{seed}.json"


def weights_file(folder: Path, config: SEConfig, epochs: int) -> Path:
    """Return the file with the weights of a network's first training."""
    return folder / VERIFICATION / f"{config.id}-epochs{epochs}.safetensors"


@dataclass(frozen=True)
class Member:
    """A verified network and its values on the test images.

    Attributes:
        config_id: Id of its configuration.
        number: Number of its trial; ``None`` for a baseline that the search did not evaluate.
        name: Name of a baseline; empty for others.
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
    """Results of verification with one number of epochs.

    Attributes:
        epochs: Epochs of each training.
        seeds: Training seeds of each network.
        images: Number of test images.
        members: The networks, the one without SE first.
        agreement: Kendall's τ between this ranking and the search's; ``None`` for fewer than three members.
        ceiling: Maximum τ under the noise of the seeds; ``None`` if unknown.
        helps: Whether SE is significantly better than no SE.
        finding: The same in words.
        held: Kendall's τ between this ranking and that of the previous schedule; ``None`` for the first.
        ranking: Sentences about these rank agreements.
        networks: Advantages of the networks with SE over no SE, the best one first.
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


def read_verified(folder: Path, trials: pd.DataFrame, without_se: str) -> tuple[Schedule, ...]:
    """Return the results of each schedule of verification, the shortest first; empty before any.

    Args:
        folder: A run folder.
        trials: Its table of trials.
        without_se: Id of the configuration without SE, the baseline of all differences.

    Raises:
        RunFolderError: If a result is damaged.
    """
    known = {row["config_id"]: row for row in trials.to_dict("records")}
    estimates = {config: row["log_loss"] for config, row in known.items() if np.isfinite(row["log_loss"])}
    schedules: list[Schedule] = []
    before: dict[str, float] = {}
    for epochs, results in sorted(_read(folder).items()):
        seeds, configs = _without_gaps(results, without_se)
        if not configs:
            continue
        configs.sort(key=lambda config: (config != without_se, known.get(config, {}).get("number", -1)))
        correct, losses = (
            {config: np.concatenate([results[config][seed][kind] for seed in seeds]) for config in configs}
            for kind in (0, 1)
        )
        members = tuple(
            Member(
                config,
                known[config]["number"] if config in known else None,
                "no SE" if config == without_se else known.get(config, {}).get("name", "uniform r=16"),
                astuple(crossed_mean(correct[config])),
                astuple(crossed_mean(losses[config])),
                astuple(crossed_difference(correct[config], correct[without_se])),
                astuple(crossed_difference(losses[config], losses[without_se])),
            )
            for config in configs
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
        images = correct[without_se].shape[1]
        gain = _gain(members, correct, losses, len(seeds))
        schedules.append(
            Schedule(
                epochs=epochs,
                seeds=tuple(seeds),
                images=images,
                members=members,
                agreement=agreement,
                ceiling=ceiling,
                helps=gain.measurable,
                finding=gain.sentence,
                held=held,
                ranking=ranking,
                networks=gain.networks,
            )
        )
        before = means
    return tuple(schedules)


def add_verified(trials: pd.DataFrame, schedules: Sequence[Schedule]) -> pd.DataFrame:
    """Return the table of trials with :data:`VERIFIED_COLUMNS`, from the longest schedule of each trial."""
    values = {
        one.config_id: [*one.accuracy, *one.log_loss, *one.log_loss_difference, schedule.epochs, len(schedule.seeds)]
        for schedule in schedules
        for one in schedule.members
    }
    added = pd.DataFrame.from_dict(values, orient="index", columns=list(VERIFIED_COLUMNS), dtype="float64")
    return trials.join(added, on="config_id")


def _read(folder: Path) -> dict[int, dict[str, dict[int, _Outcomes]]]:
    """Return the outcomes by epochs, configuration and seed."""
    found: dict[int, dict[str, dict[int, _Outcomes]]] = {}
    images: dict[int, int] = {}
    for file in sorted((folder / VERIFICATION).glob("*.json")):
        name = re.fullmatch(r"(\w+)-epochs(\d+)-seed(\d+)", file.stem)
        if name is None:
            continue
        config, epochs, seed = name[1], int(name[2]), int(name[3])
        try:
            content = json.loads(read_text(file))
            correct, losses = unpack(content["correct"]), unpack(content["losses"])
        except Exception as error:  # a damaged file can raise anything on its way through JSON, base64, zlib and NumPy
            raise RunFolderError(f"{file} is damaged ({type(error).__name__}): delete it and verify again") from error
        if correct.shape[1] != images.setdefault(epochs, correct.shape[1]):
            raise RunFolderError(f"{file} has other images than the results beside it: delete it and verify again")
        found.setdefault(epochs, {}).setdefault(config, {})[seed] = correct, losses
    return found


def _without_gaps(results: Mapping[str, Mapping[int, _Outcomes]], without_se: str) -> tuple[list[int], list[str]]:
    """Return seeds and configurations such that each configuration has a result for each seed.

    The seeds are the first ones of the network without SE, as many as give the most results. Seeds that were only begun
    therefore hide nothing.
    """
    first = sorted(results.get(without_se, ()))
    candidates = [
        (first[:count], [config for config, seeds in results.items() if seeds.keys() >= set(first[:count])])
        for count in range(1, len(first) + 1)
    ]
    return max(candidates, key=lambda one: (len(one[0]) * len(one[1]), len(one[1])), default=([], []))


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
) -> Gain:
    none, *others = members
    if not others:
        return Gain(False, "Only the network without SE has been verified.")
    others.sort(key=lambda one: float(losses[one.config_id].mean()))
    confidence = confidence_of_each(len(others))

    def difference(values: Mapping[str, npt.NDArray[Any]], one: Member) -> Interval:
        return astuple(crossed_difference(values[one.config_id], values[none.config_id], confidence))

    networks = tuple(
        Advantage(one.config_id, one.number, one.name, difference(correct, one), difference(losses, one), "log_loss")
        for one in others
    )
    best = others[0]
    trial = f"trial {best.number}" + (f" ({best.name})" if best.name else "")
    name = best.name if best.number is None else trial
    gain = describe_gain(name, networks, len(others), "test image and seed")
    if seeds > 1:
        return gain
    return replace(gain, sentence=f"{gain.sentence} With one seed, the interval excludes the randomness of training.")
