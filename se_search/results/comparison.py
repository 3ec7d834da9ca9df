"""Runs beside each other: the hypervolumes of their fronts against one reference point, and their ratios.

The coverage of the intervals is tested on simulated networks of known accuracy (``tests/results/test_comparison.py``).
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.study import StudyDirection

from ..data.fingerprint import describe_difference
from ..data.load import absolute_name
from ..errors import RunFolderError
from ..statistics import CONFIDENCE, Estimate, confidence_of_each, crossed_difference, normal_quantile
from ..study.definitions import StudyDefinition
from ..study.objectives import JUDGED, OBJECTIVES
from ..trials.folder import load_trials, read_definition
from ..trials.notes import unpack, with_measured_latency
from .hypervolume import Values, areas_of_the_best, hypervolume_history
from .record import RunRecord, read_results

MOST_RUNS = 8
"""Maximum number of compared runs. There are as many distinct colours and symbols."""

_DRAWS = 100


@dataclass(frozen=True)
class ComparedRun:
    """A run in a comparison.

    Attributes:
        label: Name of the run folder, or its path if several have that name.
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run.
        hypervolume: Hypervolume of its front relative to the common reference point.
        history: The hypervolume after each complete trial.
        ratio: Ratio of its hypervolume to the first run's, from :func:`hypervolume_ratio`; ``None`` for the first run.
    """

    label: str
    trials: pd.DataFrame
    run: RunRecord
    hypervolume: float
    history: list[float]
    ratio: Estimate | None


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison of runs.

    Attributes:
        runs: The runs, in the given order.
        reference: The common reference point: for each objective the worst of the runs' own.
        paired: Whether all runs were evaluated on the same images, so that intervals are paired.
        cautions: Sentences about the limits of the ratios.
    """

    runs: tuple[ComparedRun, ...]
    reference: dict[str, float]
    paired: bool
    cautions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON, without trials."""
        runs = [
            {
                "label": one.label,
                "folder": one.run.folder,
                "hypervolume": one.hypervolume,
                "ratio": one.ratio and [one.ratio.value, one.ratio.low, one.ratio.high],
            }
            for one in self.runs
        ]
        return {
            "runs": runs,
            "reference": self.reference,
            "paired": self.paired,
            "cautions": list(self.cautions),
        }


@dataclass(frozen=True)
class FrontValue:
    """The hypervolume of a front, as a mean over images.

    Attributes:
        value: The hypervolume.
        parts: Values whose mean is the hypervolume: one row for each training seed, one column for each image (or block
            of images); a single value if not exactly one objective is evaluated on images.
        optimism: Selection bias: how much larger the hypervolume is on the images that selected the front, as a share.
        spread: Standard deviation of the hypervolume's logarithm from the noise of latency measurements.
    """

    value: float
    parts: Values
    optimism: float = 0.0
    spread: float = 0.0


@dataclass(frozen=True)
class _Source:
    definition: StudyDefinition
    study: optuna.Study
    trials: pd.DataFrame
    run: RunRecord


def compare_runs(runs: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Compare the fronts of runs with that of the first.

    Args:
        runs: Two to :data:`MOST_RUNS` run folders.

    Raises:
        RunFolderError: If one is not a run folder or has no complete trial, or the runs differ in objectives or data.
    """
    folders = [Path(one) for one in runs]
    if not 2 <= len(folders) <= MOST_RUNS or len({folder.resolve() for folder in folders}) < len(folders):
        raise RunFolderError(f"{len(folders)} runs cannot be compared: give two to {MOST_RUNS} different run folders")
    definitions = [read_definition(folder) for folder in folders]
    goals = [", ".join(sorted(f"{goal.direction} {goal.name}" for goal in one.goals)) for one in definitions]
    _check_equal("their objectives", folders, goals)
    sources = [_read(folder, definition) for folder, definition in zip(folders, definitions, strict=True)]
    _check_data(folders, sources)
    worst = {
        goal.name: goal.sign * min(goal.sign * one.run.hypervolume_reference[goal.name] for one in sources)
        for goal in definitions[0].goals
    }
    values = [front_value(one.study, one.trials, worst) for one in sources]
    paired = [_same_images(sources[0], one) for one in sources]
    confidence = confidence_of_each(len(sources) - 1)
    others = [
        hypervolume_ratio(value, values[0], same, confidence)
        for value, same in zip(values[1:], paired[1:], strict=True)
    ]
    names = [folder.resolve().name for folder in folders]
    compared = tuple(
        ComparedRun(
            str(folder) if names.count(name) > 1 else name,
            one.trials,
            one.run,
            value.value,
            hypervolume_history(one.study, [worst[name] for name in one.definition.objectives]),
            ratio,
        )
        for folder, name, one, value, ratio in zip(folders, names, sources, values, [None, *others], strict=True)
    )
    return Comparison(compared, worst, all(paired), tuple(_cautions(compared, all(paired))))


def front_value(study: optuna.Study, trials: pd.DataFrame, reference: dict[str, float]) -> FrontValue:
    """Return the hypervolume of a study's front and the sources of its uncertainty.

    The hypervolume is the sum over trials of the gain in accuracy over the reference, times the area of the costs at
    which the trial is the best affordable one. With fixed areas it is a mean over images.

    Args:
        study: The study, with measured latencies in place.
        trials: Its table of trials.
        reference: Reference value of each objective.
    """
    kept = trials[trials["feasible"]]
    signs = {
        name: 1.0 if direction == StudyDirection.MINIMIZE else -1.0
        for name, direction in zip(study.metric_names or (), study.directions, strict=True)
    }
    judged = [name for name in signs if name in {one.name for one in JUDGED}]
    best = (judged or list(signs))[0]
    costs = [name for name in signs if name != best]
    values = {name: sign * (reference[name] - kept[name].to_numpy(float)) for name, sign in signs.items()}
    room = np.column_stack([values[name] for name in costs])
    areas = areas_of_the_best(room, values[best])
    value = float(areas @ values[best])
    if value <= 0:
        return FrontValue(value, np.zeros((1, 1)))
    spread = 0.0
    if "latency_ratio" in costs:
        spread = _latency_spread(kept, room, values[best], costs.index("latency_ratio"))
    if len(judged) != 1:
        return FrontValue(value, np.full((1, 1), value), 0.0, spread)
    notes = {trial.number: trial.user_attrs for trial in study.get_trials(deepcopy=False)}
    outcomes = [unpack(notes[number][OBJECTIVES[best].outcomes]) for number in kept["number"]]
    arrays = [signs[best] * (reference[best] - one.astype(np.float32)) for one in outcomes]
    parts = np.tensordot(areas[areas > 0], np.stack([arrays[one] for one in np.flatnonzero(areas)]), 1)
    return FrontValue(value, parts, _optimism(room, arrays) / value, spread)


def _latency_spread(kept: pd.DataFrame, room: Values, gains: Values, column: int) -> float:
    """Return the standard deviation of the hypervolume's logarithm under repeated latency measurements."""
    members = np.flatnonzero(areas_of_the_best(room, gains))
    errors = (kept["latency_high"] - kept["latency_low"]).to_numpy(float)[members] / (2 * normal_quantile(CONFIDENCE))
    values = []
    for noise in np.random.default_rng(0).standard_normal((_DRAWS, len(members))):
        moved = room[members]
        moved[:, column] += errors * noise
        values.append(areas_of_the_best(moved, gains[members]) @ gains[members])
    drawn = np.array(values)
    return float(drawn.std(ddof=1) / drawn.mean()) if drawn.mean() > 0 else math.inf


def _optimism(room: Values, arrays: Sequence[npt.NDArray[Any]]) -> float:
    """Return the bootstrap estimate of a front's selection bias: its excess hypervolume on its own images (Efron 1983).

    Trials are selected in each bootstrap sample of the images and compared with their values on all images.
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

    The areas at which trials are the best are held fixed, so each hypervolume is a mean over images. The logarithm of
    the ratio has the interval of :func:`~se_search.statistics.crossed_difference` between the relative parts; the
    margin from latency measurements is added in quadrature.

    The best of many trials have a selection bias that grows with their number. The interval extends further towards the
    run with fewer trials, by a bootstrap estimate of the difference in bias. The bootstrap finds about half of it,
    because its trials differ more than the real ones. The rest is covered: the interval is as wide as for fronts that
    were not selected on these images, and their hypervolumes vary more. A correction of the ratio itself would increase
    its variance.

    In three cases of 60 simulated pairs of runs (``tests/results/test_comparison.py``) the interval contains the true
    ratio in 90 % or more: similar trials, clearly different trials, and 10 trials against 90.

    Args:
        value: The front that is compared.
        first: The front that it is compared with.
        paired: Whether both were evaluated on the same images.
        confidence: Confidence of the interval.

    Returns:
        The ratio; ``None`` if a front is not significantly better than the reference. Its bounds are 0 and infinity if
        a run has no objective that is evaluated on images, or two.
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
        if len(one) != len(other):  # numbers of seeds differ, so seeds are not paired
            one, other = one.mean(axis=0, keepdims=True), other.mean(axis=0, keepdims=True)
        difference = crossed_difference(one, other, confidence)
        below, above = difference.value - difference.low, difference.high - difference.value
    else:
        below = math.hypot(alone[0].value - alone[0].low, alone[1].high - alone[1].value)
        above = math.hypot(alone[0].high - alone[0].value, alone[1].value - alone[1].low)
    latency = normal_quantile(confidence) * math.hypot(value.spread, first.spread)
    bias = value.optimism - first.optimism
    down = math.hypot(below, latency) + max(bias, 0.0)
    up = math.hypot(above, latency) + max(-bias, 0.0)
    return Estimate(ratio, ratio * math.exp(-down), ratio * math.exp(up))


def _read(folder: Path, definition: StudyDefinition) -> _Source:
    trials, run = read_results(folder)
    if not (trials["state"] == "complete").any():
        raise RunFolderError(f"{folder} has no complete trial yet: run the search first")
    return _Source(definition, with_measured_latency(load_trials(folder)), trials, run)


def _check_equal(what: str, folders: Sequence[Path], given: Sequence[str]) -> None:
    for folder, one in zip(folders, given, strict=True):
        if one != given[0]:
            raise RunFolderError(f"{folders[0]} and {folder} cannot be compared: {what} differ ({given[0]}; {one})")


def _check_data(folders: Sequence[Path], sources: Sequence[_Source]) -> None:
    """Check that runs have the same data. Folders with the same fingerprint are, wherever they lie."""
    known = sources[0].run.data.fingerprint
    for folder, source in zip(folders, sources, strict=True):
        found = source.run.data.fingerprint
        if known is not None and found is not None and (difference := describe_difference(known, found)):
            raise RunFolderError(f"{folders[0]} and {folder} cannot be compared: their data differ ({difference})")
    if known is None or any(one.run.data.fingerprint is None for one in sources):
        names = [f"{one.run.data.name}, {one.run.data.classes} classes" for one in sources]
        _check_equal("their data", folders, names)


def _same_images(first: _Source, other: _Source) -> bool:
    if first.run.data.fingerprint is None or other.run.data.fingerprint is None:
        named = [absolute_name(one.definition.data) for one in (first, other)]
        if named[0] != named[1]:
            return False
    splits = [one.definition.splits for one in (first, other)]
    return splits[0] == splits[1] and replace(first.run.data, name="") == replace(other.run.data, name="")


def _cautions(compared: Sequence[ComparedRun], paired: bool) -> Iterator[str]:
    runs = [one.run for one in compared]
    backbones = dict.fromkeys(one.backbone for one in runs)
    if len(backbones) > 1:
        yield (
            f"The backbones differ ({', '.join(backbones)}): overheads and latency ratios are relative to each run's "
            "own backbone, so hypervolumes compare the gain from attention, not the sizes of the networks."
        )
    methods = dict.fromkeys(f"{one.evaluator.name}, epochs {one.evaluator.epochs}" for one in runs)
    if len(methods) > 1:
        yield (
            f"Accuracies were estimated in different ways ({'; '.join(methods)}): differences may come from these, not "
            "from the configurations."
        )
    conditions = dict.fromkeys(one.latency.description for one in runs if one.latency)
    if len(conditions) > 1 and "latency_ratio" in {goal.name for goal in runs[0].objectives}:
        yield f"Latency was measured under different conditions: {'; '.join(conditions)}."
    if any(one.constraints != runs[0].constraints for one in runs):
        yield "The runs have different limits: a front may contain what the limits of another run exclude."
    if not paired:
        yield (
            "Not all runs were evaluated on the same images as the first: intervals are unpaired, and wider than "
            "paired ones."
        )
    verified = [one.label for one in compared if one.run.verified]
    if verified:
        yield f"The fronts are those of the searches' estimates, also of verified runs ({', '.join(verified)})."
    yield from (f"{one.label} is not finished: its front may still grow." for one in compared if not one.run.finished)
    for one in compared[1:]:
        ratio = f"The ratio of {one.label} to {compared[0].label}"
        if one.ratio is None:
            yield f"{ratio} cannot be estimated: a front is not significantly better than the reference point."
        elif math.isinf(one.ratio.high):
            yield f"{ratio} has no interval: that requires exactly one of the objectives accuracy and log_loss."
