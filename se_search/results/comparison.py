"""Runs beside each other: the hypervolumes of their fronts against one reference point, and their ratio.

Whether the intervals hold is tested on simulated networks of known accuracy (``tests/search/test_comparison.py``).
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.study import StudyDirection

from ..errors import RunFolderError
from ..statistics import CONFIDENCE, Estimate, confidence_of_each, crossed_difference, normal_quantile
from ..study.definitions import StudyDefinition
from ..study.objectives import OBJECTIVES
from ..trials.folder import load_trials, read_definition
from ..trials.notes import unpack, with_measured_latency
from .hypervolume import Values, areas_of_the_best, hypervolume_history
from .record import RunRecord, read_results

MOST_RUNS = 8
"""How many runs can be compared, as many as there are colours and symbols that can be told apart."""

_DRAWS = 100


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs that are compared.

    Attributes:
        label: What it is called beside the others: the folder's name, or its path where names are equal.
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run.
        hypervolume: Of its front against the common reference point.
        history: The same after each complete trial.
        ratio: Of its hypervolume to the first run's, as :func:`hypervolume_ratio` has it; ``None`` for the first and
            where it cannot be told. Its ends are infinite where no interval can be told.
    """

    label: str
    trials: pd.DataFrame
    run: RunRecord
    hypervolume: float
    history: list[float]
    ratio: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """What a comparison of runs has found.

    Attributes:
        runs: The runs, in the order given.
        reference: The common reference point: for each objective the worst of the runs' own.
        paired: Whether all runs were judged on the same images, so that intervals are paired.
        cautions: Sentences about what the ratios do not show.
    """

    runs: tuple[ComparedRun, ...]
    reference: dict[str, float]
    paired: bool
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class FrontValue:
    """The hypervolume of a front, as the mean of what single images add to it.

    Attributes:
        value: The hypervolume.
        parts: Its parts, whose mean it is: one row for each training seed, one column for each image (or block of
            images); one value alone where no objective is judged on images.
        optimism: By how much choosing the best by these images makes the hypervolume larger, as a part of it.
        spread: Standard deviation of the hypervolume's logarithm that comes from measuring latency.
    """

    value: float
    parts: Values
    optimism: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True)
class _Source:
    folder: Path
    label: str
    definition: StudyDefinition
    study: optuna.Study
    trials: pd.DataFrame
    run: RunRecord


def compare_runs(runs: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Compare the fronts of runs with that of the first.

    Args:
        runs: Two to :data:`MOST_RUNS` run folders.

    Raises:
        RunFolderError: If one is no run folder, has no complete trial, or the runs have nothing to be compared by:
            their objectives or data differ.
    """
    folders = [Path(one) for one in runs]
    if not 2 <= len(folders) <= MOST_RUNS or len({folder.resolve() for folder in folders}) < len(folders):
        raise RunFolderError(f"{len(folders)} runs cannot be compared: give two to {MOST_RUNS} different run folders")
    definitions = [read_definition(folder) for folder in folders]
    for folder, definition in zip(folders, definitions, strict=True):
        _check_equal("their objectives", folders[0], _goals(definitions[0]), folder, _goals(definition))
    sources = [_read(*one) for one in zip(folders, _labels(folders), definitions, strict=True)]
    first = sources[0]
    for one in sources:
        _check_equal("the data they were judged on", first.folder, _task(first), one.folder, _task(one))
    names = first.definition.objectives
    signs = [1.0 if direction == "minimize" else -1.0 for direction in first.definition.directions]
    worst = {
        name: sign * max(sign * one.run.hypervolume_reference[name] for one in sources)
        for name, sign in zip(names, signs, strict=True)
    }
    values = [front_value(one.study, one.trials, worst) for one in sources]
    told = confidence_of_each(len(sources) - 1)
    paired = [_same_images(first, other) for other in sources[1:]]
    ratios = [hypervolume_ratio(value, values[0], one, told) for value, one in zip(values[1:], paired, strict=True)]
    compared = tuple(
        ComparedRun(
            one.label,
            one.trials,
            one.run,
            value.value,
            hypervolume_history(one.study, [worst[name] for name in one.definition.objectives]),
            ratio,
        )
        for one, value, ratio in zip(sources, values, [None, *ratios], strict=True)
    )
    return Comparison(compared, worst, all(paired), tuple(_cautions(sources, compared, all(paired))))


def front_value(study: optuna.Study, trials: pd.DataFrame, reference: dict[str, float]) -> FrontValue:
    """Return the hypervolume of a study's front and where its uncertainty comes from.

    Every combination of costs is worth what the best trial adds to the reference's accuracy that costs no more: the
    hypervolume is the sum of the trials' accuracies, each times the area of the costs at which it is the best one. With
    these areas it is a mean over images.

    Args:
        study: The study, with measured latencies in place.
        trials: Its table of trials.
        reference: Worst value of each objective that counts.
    """
    kept = trials[trials["feasible"]]
    signs = {
        name: 1.0 if direction == StudyDirection.MINIMIZE else -1.0
        for name, direction in zip(study.metric_names or (), study.directions, strict=True)
    }
    judged = [name for name in signs if name in OBJECTIVES and OBJECTIVES[name].outcomes]
    best = judged[0] if judged else next(iter(signs))
    costs = [name for name in signs if name != best]
    values = {name: sign * (reference[name] - kept[name].to_numpy(float)) for name, sign in signs.items()}
    room = np.column_stack([values[name] for name in costs])
    areas = areas_of_the_best(room, values[best])
    value = float(areas @ values[best])
    if value <= 0:
        return FrontValue(value, np.zeros((1, 1)))
    spread = (
        _latency_spread(kept, room, values[best], costs.index("latency_ratio")) if "latency_ratio" in costs else 0.0
    )
    if len(judged) != 1:
        return FrontValue(value, np.full((1, 1), value), 0.0, spread)
    by_number = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    note = OBJECTIVES[best].outcomes
    arrays = [
        signs[best] * (reference[best] - unpack(by_number[number].user_attrs[note]).astype(np.float32))
        for number in kept["number"]
    ]
    parts = np.tensordot(areas[areas > 0], np.stack([arrays[one] for one in np.flatnonzero(areas)]), 1)
    return FrontValue(value, parts, _optimism(room, arrays) / value, spread)


def _latency_spread(kept: pd.DataFrame, room: Values, gains: Values, column: int) -> float:
    """Return the standard deviation of the logarithm of a front's hypervolume where latencies are measured anew."""
    members = np.flatnonzero(areas_of_the_best(room, gains))
    errors = (kept["latency_high"] - kept["latency_low"]).to_numpy(float)[members] / (2 * normal_quantile(CONFIDENCE))
    random = np.random.default_rng(0)
    drawn = np.empty(_DRAWS)
    for index in range(_DRAWS):
        moved = room[members].copy()
        moved[:, column] += errors * random.standard_normal(len(members))
        drawn[index] = areas_of_the_best(moved, gains[members]) @ gains[members]
    return float(drawn.std(ddof=1) / drawn.mean()) if drawn.mean() > 0 else math.inf


def _optimism(room: Values, arrays: Sequence[npt.NDArray[Any]]) -> float:
    """Return how much larger a front's hypervolume is for the images that chose it than for all (Efron 1983).

    In a bootstrap sample of the images trials are chosen anew. Those have a larger mean there than on the images that
    the sample was drawn from.
    """
    images = arrays[0].shape[1]
    means = np.array([array.mean() for array in arrays])
    random = np.random.default_rng(0)
    weights = random.multinomial(images, np.full(images, 1 / images), _DRAWS).astype(np.float32) / images
    drawn = np.array([weights @ array.mean(axis=0) for array in arrays])
    return float(np.mean([areas_of_the_best(room, gains) @ (gains - means) for gains in drawn.T]))


def hypervolume_ratio(
    value: FrontValue, first: FrontValue, paired: bool, confidence: float = CONFIDENCE
) -> Estimate | None:
    """Return the ratio of two fronts' hypervolumes with its interval.

    The areas at which trials are the best are held fixed, so each hypervolume is a mean over images, and the logarithm
    of the ratio has the interval of :func:`~se_search.statistics.crossed_difference` between the images'
    relative parts. What measuring latency adds is added in squares.

    The best of many trials look better than they are, the more so the more trials there are. The interval reaches
    further to the side of the run with fewer by what a bootstrap shows of that. The bootstrap shows about half, as its
    trials differ more than they truly do; the rest is covered, as the interval is as wide as for fronts that were not
    chosen by these images, and those vary more than the best of many do. Taking it off the ratio instead would make the
    ratio vary more.

    In each of three cases with 60 simulated pairs of runs (``tests/search/test_comparison.py``) the interval holds the
    true ratio in 90 % or more: trials alike, trials that differ clearly, and 10 trials against 90.

    Args:
        value: The front that is compared.
        first: The front that it is compared with.
        paired: Whether both were judged on the same images; else these are two samples.
        confidence: Of the interval.

    Returns:
        The ratio; ``None`` where a front adds nothing to the reference that can be told from zero, and with infinite
        ends where a run has no or two objectives that are judged on images.
    """
    if value.value <= 0 or first.value <= 0:
        return None
    ratio = value.value / first.value
    if value.parts.size == 1 or first.parts.size == 1:
        return Estimate(ratio, 0.0, math.inf)
    one, other = value.parts / value.value, first.parts / first.value
    alone = [crossed_difference(parts, np.zeros_like(parts), confidence) for parts in (one, other)]
    if any(estimate.low <= 0 for estimate in alone):
        return None
    if paired:
        if len(one) != len(other):  # different seeds tell nothing of the same trainings
            one, other = one.mean(axis=0, keepdims=True), other.mean(axis=0, keepdims=True)
        difference = crossed_difference(one, other, confidence)
        below, above = difference.value - difference.low, difference.high - difference.value
    else:
        below = math.hypot(alone[0].value - alone[0].low, alone[1].high - alone[1].value)
        above = math.hypot(alone[0].high - alone[0].value, alone[1].value - alone[1].low)
    latency = normal_quantile(confidence) * math.hypot(value.spread, first.spread)
    flattered = value.optimism - first.optimism
    down = math.hypot(below, latency) + max(flattered, 0.0)
    up = math.hypot(above, latency) + max(-flattered, 0.0)
    return Estimate(ratio, ratio * math.exp(-down), ratio * math.exp(up))


def _read(folder: Path, label: str, definition: StudyDefinition) -> _Source:
    trials, run = read_results(folder)
    if not (trials["state"] == "complete").any():
        raise RunFolderError(f"{folder} has no complete trial yet: run the search first")
    return _Source(folder, label, definition, with_measured_latency(load_trials(folder)), trials, run)


def _labels(folders: Sequence[Path]) -> list[str]:
    names = [folder.resolve().name for folder in folders]
    return [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]


def _check_equal(what: str, folder: Path, its: str, other: Path, others: str) -> None:
    if its != others:
        raise RunFolderError(f"{folder} and {other} cannot be compared: {what} differ ({its}; {others})")


def _goals(definition: StudyDefinition) -> str:
    told = zip(definition.objectives, definition.directions, strict=True)
    return ", ".join(sorted(f"{direction} {name}" for name, direction in told))


def _task(source: _Source) -> str:
    return f"{source.run.data.name}, {source.run.data.classes} classes"


def _same_images(first: _Source, other: _Source) -> bool:
    given = [(one.definition.data, one.definition.splits) for one in (first, other)]
    return given[0] == given[1] and first.run.data == other.run.data


def _cautions(sources: Sequence[_Source], runs: Sequence[ComparedRun], paired: bool) -> list[str]:
    said = []
    backbones = _distinct(one.run.backbone for one in sources)
    if len(backbones) > 1:
        said.append(
            f"The backbones differ ({', '.join(backbones)}): overheads and latency ratios are relative to each one's "
            "own, so hypervolumes compare what SE adds to each, not the networks' sizes."
        )
    ways = _distinct(f"{one.run.evaluator.name}, epochs {one.run.evaluator.epochs}" for one in sources)
    if len(ways) > 1:
        said.append(
            f"Accuracies were estimated in different ways ({'; '.join(ways)}): what differs may be these, not the "
            "configurations."
        )
    if "latency_ratio" in sources[0].definition.objectives:
        conditions = _distinct(one.run.latency.description for one in sources if one.run.latency)
        if len(conditions) > 1:
            said.append(f"Latency was measured under different conditions: {'; '.join(conditions)}.")
    limits = _distinct(str(one.definition.constraints.model_dump()) for one in sources)
    if len(limits) > 1:
        said.append("The runs have different limits: a front may lack what another one may have.")
    if not paired:
        said.append(
            "Not all runs were judged on the same images as the first: their intervals are those of two samples, wider "
            "than paired ones."
        )
    said += [f"{one.label} is not finished: its front may still grow." for one in runs if not one.run.finished]
    for one in runs[1:]:
        if one.ratio is None:
            said.append(
                f"The ratio of {one.label} to {runs[0].label} cannot be told: a front is not measurably better than "
                "the reference point."
            )
        elif math.isinf(one.ratio.high):
            said.append(
                f"The ratio of {one.label} to {runs[0].label} has no interval: it needs exactly one objective of "
                "accuracy and log_loss."
            )
    return said


def _distinct(texts: Any) -> list[str]:
    return list(dict.fromkeys(texts))
