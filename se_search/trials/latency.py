"""Latency of a study's configurations, measured against one backbone or predicted."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna

from ..deployment.deployment import Deployment
from ..deployment.prepare import runtime_of
from ..errors import EvaluationError, RunFolderError, first_reason
from ..files import read_text, write_text
from ..latency.additive import (
    LatencyModel,
    MeasuredLatency,
    SiteGroup,
    fit_latency_model,
    group_of,
    measurements_from_json,
    measurements_to_json,
)
from ..latency.isolated import IsolatedMeter
from ..latency.meter import LatencyConditions, LatencyMeter, Ratio
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.insertion import create_model
from ..network.sites import Site
from ..progress import progress_bar
from ..study.definitions import StudyDefinition
from ..study.space import SearchSpace
from .notes import MEASURED_LATENCY, PREDICTED, latency_conditions, with_measured_latency

LATENCY_MODEL_FILE = "latency_model.json"

_FEWEST_DRAWN = 8
_REMEDY = "resume the run there, or choose another folder with --out"
# Conditions that must be equal for values to be comparable. The CPUs in use and the time limit may differ.
_COMPARABLE = ("processor", *(one.name for one in fields(Deployment)))


def latency_size(definition: StudyDefinition, input_size: Sequence[int]) -> tuple[int, int, int]:
    """Input size ``(channels, height, width)`` at which the study measures latency and counts FLOPs.

    Args:
        definition: The study.
        input_size: That of the data.
    """
    channels, height, width = input_size
    side = definition.latency.size
    return (channels, height, width) if side is None else (channels, side, side)


def deployment_of(definition: StudyDefinition, input_size: Sequence[int]) -> Deployment:
    """Return the deployment in which the study measures latency.

    Args:
        definition: The study.
        input_size: That of the data.
    """
    named = definition.latency.model_dump(exclude={"source", "target", "limit", "size"})
    return Deployment(**named, device=definition.device, size=latency_size(definition, input_size))


class StudyLatency:
    """Latencies of a study's configurations: measured, or predicted by an additive model.

    A runtime that may crash runs in a process of its own, which :meth:`close` ends.

    Args:
        definition: The study.
        space: Its space.
        input_size: That of the data.
        classes: Outputs of the networks.

    Attributes:
        size: ``(channels, height, width)`` of the images.

    Raises:
        SeSearchError: If the backbone cannot be run in the way of the study here.
    """

    def __init__(
        self, definition: StudyDefinition, space: SearchSpace, input_size: Sequence[int], classes: int
    ) -> None:
        self._definition = definition
        self._space = space
        deployment = deployment_of(definition, input_size)
        self.size = deployment.size
        self._options = network_options(definition.backbone, self.size) | {"num_classes": classes}
        latency = definition.latency
        kind = LatencyMeter if runtime_of(deployment).in_process else IsolatedMeter
        self._meter = kind(
            create_model(SEConfig(definition.backbone), **self._options),
            deployment,
            latency.target,
            latency.limit,
            definition.seed,
        )
        self._model: LatencyModel | None = None
        self._first: Mapping[str, Any] = {}

    def close(self) -> None:
        """End the separate process, if there is one."""
        if isinstance(self._meter, IsolatedMeter):
            self._meter.close()

    @property
    def is_predicted(self) -> bool:
        """Whether latencies come from the additive model."""
        return self._definition.latency.source == "model"

    def check_comparable(self, conditions: Mapping[str, Any]) -> None:
        """Check that a latency can be compared with those of earlier trials.

        Args:
            conditions: How it was measured, as a trial records it. All others are compared with the first ones.

        Raises:
            EvaluationError: If it was measured on another device or in another way.
        """
        self._first = self._first or conditions
        _check_same(self._first, conditions)

    def go_on_from(self, folder: Path, study: optuna.Study, elsewhere: bool = False) -> None:
        """Check that new latencies can be compared with those of a run.

        Args:
            folder: The run folder.
            study: Its trials.
            elsewhere: Whether another machine measures: :meth:`check_comparable` then checks each of its values.

        Raises:
            RunFolderError: If the run was started on another device or in another way.
        """
        there = latency_conditions(study)
        if there is None:
            return
        self._first = there.to_dict()
        if not elsewhere:
            try:
                self.check_comparable(self._meter.conditions.to_dict())
            except EvaluationError as error:
                raise RunFolderError(f"{folder} was started elsewhere: {error}; {_REMEDY}") from error

    def learn(self, folder: Path) -> None:
        """Fit the additive model, if the study uses it; call it before :meth:`of`.

        Args:
            folder: The run folder. It keeps the measurements: a resumed run makes only those that are missing.

        Raises:
            RunFolderError: If the measurements there are damaged or were made under other conditions.
            EvaluationError: If a configuration cannot be timed.
        """
        if self._definition.latency.source == "model":
            self._model = fit_latency_model(self._measure_once(folder / LATENCY_MODEL_FILE))

    def of(self, config: SEConfig) -> dict[str, Any]:
        """Return the attributes of a trial's latency, predicted if there is a model, else measured now."""
        if self._model is None:
            return self.measured(config)
        predicted = self._model.predict(config)
        return {
            "latency_ratio": predicted.value,
            "latency_low": predicted.low,
            "latency_high": predicted.high,
            "latency_stopped": PREDICTED,
            "latency_conditions": self._meter.conditions.to_dict(),
        }

    def measured(self, config: SEConfig) -> dict[str, Any]:
        """Return the attributes of a trial's latency, measured now."""
        ratio = self._measure(config)
        return ratio.to_columns() | {"latency_conditions": ratio.conditions.to_dict()}

    def measure_front(self, study: optuna.Study) -> None:
        """Measure predicted members of the front until every member is measured.

        A measured value replaces the predicted one (:func:`se_search.trials.notes.with_measured_latency`), so that
        members can leave the front and others can join it. One that cannot be measured stays predicted.
        """
        if self._model is None:
            return
        failed: set[int] = set()
        while predicted := [
            trial
            for trial in with_measured_latency(study).best_trials
            if trial.user_attrs["latency_stopped"] == PREDICTED and trial.number not in failed
        ]:
            with progress_bar("Measuring the latency of the front", len(predicted)) as advance:
                for trial in predicted:
                    try:
                        measured = self.measured(SEConfig.from_json(trial.user_attrs["config"]))
                    except Exception as error:  # of one network: measure the others
                        failed.add(trial.number)
                        advance(1, f"trial {trial.number} cannot be measured: {type(error).__name__}: {error}")
                        continue
                    study.set_user_attr(f"{MEASURED_LATENCY}{trial.number}", measured)
                    advance(
                        1,
                        f"trial {trial.number}: latency ×{measured['latency_ratio']:.3f} "
                        f"[{measured['latency_low']:.3f}, {measured['latency_high']:.3f}] measured, "
                        f"×{trial.user_attrs['latency_ratio']:.3f} [{trial.user_attrs['latency_low']:.3f}, "
                        f"{trial.user_attrs['latency_high']:.3f}] predicted",
                    )

    def _measure(self, config: SEConfig) -> Ratio:
        return self._meter.measure(create_model(config, **self._options))

    def _measure_once(self, file: Path) -> list[MeasuredLatency]:
        wanted = configurations_to_measure(self._space, self._definition.seed)
        measured = learned_latencies(file.parent)
        _check_learned(measured, file, wanted, self._meter.conditions)
        with progress_bar("Measuring for the latency model", len(wanted), len(measured)) as advance:
            for config in wanted[len(measured) :]:
                try:
                    measured.append(MeasuredLatency(config, self._measure(config)))
                except Exception as error:  # a network may fail in any way in a runtime
                    reason = first_reason(error)
                    raise EvaluationError(f"configuration {config.id} cannot be timed: {reason}") from error
                write_text(file, measurements_to_json(measured))
                advance()
        return measured


def configurations_to_measure(space: SearchSpace, seed: int) -> list[SEConfig]:
    """Return the configurations to which the additive model of a space is fitted.

    For each group of sites they are the widest and the narrowest blocks of the space at all of them, and for a
    backbone's own attention its removal. The same number, but at least eight, is drawn from the space: these show by
    how much the costs of whole networks differ from the sums. In a small space a configuration may be drawn twice; its
    second measurement shows the noise.

    Args:
        space: The space.
        seed: Fixes the draws.
    """
    groups: dict[SiteGroup, list[Site]] = {}
    for site in space.sites:
        groups.setdefault(group_of(site), []).append(site)
    extremes = (space.choices.widest, space.choices.narrowest)
    alone = [space.uniform(options, sites) for sites in groups.values() for options in extremes]
    alone += [
        SEConfig(space.backbone, removed=tuple(sites))
        for group, sites in groups.items()
        if group.position == "existing"
    ]
    different = {config.structure: config for config in alone}
    rng = random.Random(seed)
    drawn: list[SEConfig] = []
    while len(drawn) < max(len(different), _FEWEST_DRAWN):
        config = space.draw(rng)
        if config != SEConfig(space.backbone):
            drawn.append(config)
    return [*different.values(), *drawn]


def learned_latencies(folder: Path) -> list[MeasuredLatency]:
    """Return the measurements in a run folder for the additive model; empty if there are none.

    Raises:
        RunFolderError: If the file is damaged.
    """
    file = folder / LATENCY_MODEL_FILE
    try:
        return measurements_from_json(read_text(file))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:  # a ConfigurationError is one too
        raise RunFolderError(f"{file} is damaged: remove it to measure again") from error


def _check_learned(
    measured: Sequence[MeasuredLatency], file: Path, wanted: Sequence[SEConfig], conditions: LatencyConditions
) -> None:
    if [one.config for one in measured] != wanted[: len(measured)]:
        raise RunFolderError(f"{file} belongs to another space: remove it to measure again")
    for one in measured:
        try:
            _check_same(one.ratio.conditions.to_dict(), conditions.to_dict())
        except EvaluationError as error:
            raise RunFolderError(f"{file} cannot be used: {error}; {_REMEDY}") from error


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in _COMPARABLE:
        if now[name] != before[name]:
            raise EvaluationError(f"latency was measured with {name} {before[name]!r} before and {now[name]!r} now")
