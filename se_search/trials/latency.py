"""Latency of a study's configurations relative to the backbone, measured or predicted."""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from ..data.load import EMBEDDED
from ..deployment.deployment import Deployment
from ..deployment.prepare import runtime_of
from ..errors import ClusterError, ConfigurationError, DefinitionError, EvaluationError, RunFolderError, first_reason
from ..files import read_text, write_text
from ..latency.additive import (
    MeasuredLatency,
    SiteGroup,
    group_of,
    measurements_from_json,
    measurements_to_json,
)
from ..latency.comparable import check_same_conditions
from ..latency.isolated import IsolatedMeter
from ..latency.meter import LatencyConditions, LatencyMeter, Ratio
from ..latency.other_device import OtherDevice
from ..latency.pooled import LatencyPool, PooledLatency, pool_latencies
from ..network.backbones import backbone_input_size, network_options
from ..network.config import SEConfig
from ..network.insertion import copy_with_blocks, create_model
from ..network.sites import Site
from ..progress import Phase, progress_bar
from ..study.definitions import StudyDefinition
from ..study.space import SearchSpace
from ..time_limit import time_limit
from .notes import (
    MEASURED_LATENCY,
    PREDICTED,
    converting_foreign_trial_errors,
    latency_conditions,
    with_measured_latency,
)
from .pooling import LOOKS, describe_look, further_looks, pooled_columns, pooled_trials, read_look

LATENCY_MODEL_FILE = "latency_model.json"

_FOR_MODEL = "Measuring for the latency model"
_FRONT = "Measuring the latency of the front"
_AGAIN = "Measuring the latency of the front and its rivals again"
_FRONT_SHARE = 0.3  # of trials: the front is known only after them

_MIN_DRAWN = 8
_REMEDY = "resume the run there, or choose another folder with --out"


def latency_size(definition: StudyDefinition, input_size: Sequence[int]) -> tuple[int, int, int]:
    """Return the input size ``(channels, height, width)`` for latency and FLOPs; ``input_size`` is that of the data."""
    channels, height, width = input_size
    match _explicit_size(definition):
        case "backbone":
            _, height, width = backbone_input_size(definition.backbone)
        case int(side):
            height = width = side
    return channels, height, width


def resolve_latency(definition: StudyDefinition) -> StudyDefinition:
    """Return a study whose size of images for latency is explicit."""
    latency = definition.latency.model_copy(update={"size": _explicit_size(definition)})
    return definition.model_copy(update={"latency": latency})


class StudyLatency:
    """Latencies of a study's configurations: pooled over all measurements, measured, or predicted by an additive model.

    A runtime that can crash runs in a separate process, which :meth:`close` ends.

    Args:
        definition: The study.
        space: Its space.
        input_size: Input size of the data, ``(channels, height, width)``.
        classes: Number of classes.
        folder: The run folder, whose copy of another device's measurements serves if the file is gone.

    Attributes:
        size: Input size for latency and FLOPs, ``(channels, height, width)``.

    Raises:
        SeSearchError: If the study's runtime cannot run the backbone on this machine.
    """

    def __init__(
        self,
        definition: StudyDefinition,
        space: SearchSpace,
        input_size: Sequence[int],
        classes: int,
        folder: Path | None = None,
    ) -> None:
        self._definition = definition
        self._space = space
        self.size = latency_size(definition, input_size)
        self._options = network_options(definition.backbone, self.size) | {"num_classes": classes}
        latency = definition.latency
        self._model: PooledLatency | None = None
        self._meter: LatencyMeter | IsolatedMeter | OtherDevice
        if latency.model_file is None:
            settings = latency.model_dump(exclude={"source", "target", "limit", "look", "size", "model_file"})
            deployment = Deployment(**settings, device=definition.device, size=self.size)
            kind = LatencyMeter if runtime_of(deployment).in_process else IsolatedMeter
            self._meter = kind(self._backbone, deployment, latency.target, latency.limit, definition.seed)
        else:
            file, copied = Path(latency.model_file), (folder or Path()) / LATENCY_MODEL_FILE
            found = copied if folder and copied.is_file() and not file.exists() else file
            self._meter = OtherDevice(found, definition.backbone, self.size)
            self._model = _model_of(self._meter, space, definition.seed)
        self._pool = LatencyPool()
        self._first: Mapping[str, Any] = {}

    def close(self) -> None:
        """End the separate process, if any."""
        if isinstance(self._meter, IsolatedMeter):
            self._meter.close()

    @cached_property
    def _backbone(self) -> nn.Module:
        return create_model(SEConfig(self._definition.backbone), **self._options)

    @property
    def _is_pooled(self) -> bool:
        return self._definition.latency.source == "pooled"

    @property
    def is_predicted(self) -> bool:
        """Whether latencies come from the additive model."""
        return self._definition.latency.source == "model"

    def check_comparable(self, conditions: Mapping[str, Any]) -> None:
        """Check that a latency measured under ``conditions`` is comparable with those of earlier trials.

        Raises:
            EvaluationError: If the conditions differ from those of the first trial.
        """
        self._first = self._first or conditions
        check_same_conditions(self._first, conditions)

    def resume(self, folder: Path, study: optuna.Study, elsewhere: bool = False) -> None:
        """Check that new latencies are comparable with those of a run's trials.

        If another machine measures (``elsewhere``), :meth:`check_comparable` checks each of its values instead.

        Raises:
            RunFolderError: If the run measured latency under other conditions.
        """
        first = latency_conditions(study)
        if first is None:
            return
        with converting_foreign_trial_errors():
            before = pooled_trials(study)
        for one in before.measurements if before else ():
            self._pool.add(one)
        self._first = first.to_dict()
        if not elsewhere:
            try:
                self.check_comparable(self._meter.conditions.to_dict())
            except EvaluationError as error:
                raise RunFolderError(f"{folder} was started on another device: {error}; {_REMEDY}") from error

    def fit_model(self, folder: Path) -> None:
        """Fit the additive model if the study uses it; call this before :meth:`measure_or_predict`.

        The run folder stores the measurements. A resumed run makes only the missing ones, and none if they are those of
        another device.

        Raises:
            RunFolderError: If the stored measurements are damaged or were made under other conditions.
            EvaluationError: If a configuration cannot be timed.
        """
        if isinstance(self._meter, OtherDevice):
            self._keep(self._meter, folder / LATENCY_MODEL_FILE)
        elif self.is_predicted:
            wanted = configurations_to_measure(self._space, self._definition.seed)
            self._model = pool_latencies(
                measure_for_model(folder / LATENCY_MODEL_FILE, wanted, self._meter.conditions, self._measure)
            )

    def measure_or_predict(self, config: SEConfig) -> dict[str, Any]:
        """Return a trial's latency attributes, predicted if :meth:`fit_model` has fitted a model, else measured."""
        if self._model is None:
            return self.pooled(config, self.measured(config))
        predicted = self._model.predict(config)
        return {
            "latency_ratio": predicted.value,
            "latency_low": predicted.low,
            "latency_high": predicted.high,
            "latency_stopped": PREDICTED,
            "latency_conditions": self._meter.conditions.to_dict(),
        }

    def measured(self, config: SEConfig) -> dict[str, Any]:
        """Measure a configuration and return the trial's latency attributes, for :meth:`pooled` to complete."""
        if self._is_pooled:
            return describe_look(self._meter.measure(self._network(config), self._definition.latency.look))
        ratio = self._measure(config)
        return ratio.to_columns() | {"latency_conditions": ratio.conditions.to_dict()}

    def pooled(self, config: SEConfig, measured: dict[str, Any]) -> dict[str, Any]:
        """Return the attributes of :meth:`measured`; a ratio that is pooled is the one that all measurements give."""
        if not self._is_pooled:
            return measured
        index = self._pool.add(MeasuredLatency(config, read_look(measured)))
        return measured | pooled_columns(self._pool.fit().estimate(index))

    def looks_left(self, study: optuna.Study) -> int:
        """Return how many further measurements a study with pooled latencies may have."""
        return _looks_left(study) if self._is_pooled else 0

    def measure_again(
        self,
        study: optuna.Study,
        uncertain_trials: Callable[[optuna.Study, float], Sequence[FrozenTrial]],
        measure: Callable[[SEConfig], dict[str, Any]] | None = None,
    ) -> None:
        """Measure trials again until their pooled intervals reach the target.

        There are at most two further measurements for three trials, and each is stored at once.

        Args:
            study: The study, with pooled latencies.
            uncertain_trials: Returns the trials whose intervals are wider than the target; the first comes next.
            measure: Measures a configuration as :meth:`measured`, which is the default.
        """
        failed: set[int] = set()
        left = self.looks_left(study)
        with progress_bar(_AGAIN, left) as advance:
            while left > 0 and (
                uncertain := [one for one in uncertain_trials(study, self.target) if one.number not in failed]
            ):
                number, config = uncertain[0].number, SEConfig.from_json(uncertain[0].user_attrs["config"])
                try:
                    with time_limit(self._definition.trial_limit):
                        look = (measure or self.measured)(config)
                except ClusterError:
                    raise
                except Exception as error:  # continue with the others
                    failed.add(number)
                    advance(0, f"trial {number} cannot be measured: {type(error).__name__}: {error}")
                    continue
                study.set_user_attr(f"{LOOKS}{number}", [*further_looks(study).get(number, []), look])
                left -= 1
                advance(1)

    def measure_front(self, study: optuna.Study) -> None:
        """Measure the latency of front members until none is predicted, unless they are those of another device.

        Measured values replace predicted ones (:func:`se_search.trials.notes.with_measured_latency`), which can change
        the front. A member that cannot be measured stays predicted.
        """
        if self._model is None or isinstance(self._meter, OtherDevice):
            return
        failed: set[int] = set()
        while predicted := [
            trial
            for trial in with_measured_latency(study).best_trials
            if trial.user_attrs["latency_stopped"] == PREDICTED and trial.number not in failed
        ]:
            with progress_bar(_FRONT, len(predicted)) as advance:
                for trial in predicted:
                    try:
                        measured = self.measured(SEConfig.from_json(trial.user_attrs["config"]))
                    except Exception as error:  # continue with the other members
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

    def phases(self, trials: int) -> tuple[float, tuple[Phase, ...], tuple[Phase, ...]]:
        """Estimate the seconds of a trial, the phases before trials and those after, from the limits of measurements.

        Args:
            trials: Number of trials to come.
        """
        if isinstance(self._meter, OtherDevice):
            return 0.0, (), ()
        latency = self._definition.latency
        begun = time.perf_counter()
        self._network(self._space.largest())
        created = time.perf_counter() - begun
        if self.is_predicted:
            wanted = len(configurations_to_measure(self._space, self._definition.seed))
            front = Phase(_FRONT, math.ceil(_FRONT_SHARE * trials), created + latency.limit)
            return 0.0, (Phase(_FOR_MODEL, wanted, created + latency.limit),), (front,)
        if not self._is_pooled:
            return created + latency.limit, (), ()
        seconds = created + min(latency.look, latency.limit)
        return seconds, (), (Phase(_AGAIN, _most_looks(trials), seconds),)

    @property
    def target(self) -> float:
        """Half-width of the interval at which a measurement stops, as a share of the ratio."""
        return self._definition.latency.target

    def _measure(self, config: SEConfig) -> Ratio:
        return self._meter.measure(self._network(config))

    def _network(self, config: SEConfig) -> nn.Module:
        """Return a network to time, with the backbone's random weights."""
        return copy_with_blocks(self._backbone, config, **self._options)

    def _keep(self, other: OtherDevice, file: Path) -> None:
        """Copy the measurements of another device into the run folder, or check that it has the same."""
        before = read_latency_measurements(file.parent)
        if before and before != other.measurements:
            raise RunFolderError(
                f"{file.parent} was started with other measurements than {self._definition.latency.model_file}; "
                f"{_REMEDY}"
            )
        write_text(file, measurements_to_json(other.measurements))


def _model_of(other: OtherDevice, space: SearchSpace, seed: int) -> PooledLatency:
    """Fit the additive model of another device, and check that it tells the costs of a space.

    Raises:
        DefinitionError: If it does not.
    """
    model = pool_latencies(other.measurements)
    try:
        for config in configurations_to_measure(space, seed):
            model.predict(config)
    except ConfigurationError as error:
        raise DefinitionError(
            f"the measurements of {other.conditions.processor} do not determine the latencies of this space: {error}; "
            "measure there with `se-search latency BACKBONE --model FILE --space SPACE`"
        ) from error
    return model


def measure_for_model(
    file: Path, wanted: Sequence[SEConfig], conditions: LatencyConditions, measure: Callable[[SEConfig], Ratio]
) -> list[MeasuredLatency]:
    """Measure the configurations that determine an additive model, and store each measurement at once.

    Args:
        file: File of the measurements; those that it has are not made again.
        wanted: The configurations.
        conditions: How latency is measured here.
        measure: Measures a configuration.

    Raises:
        RunFolderError: If the file is damaged, belongs to another space, or was measured under other conditions.
        EvaluationError: If a configuration cannot be timed.
    """
    measured = _read_measurements(file)
    if [one.config for one in measured] != list(wanted[: len(measured)]):
        raise RunFolderError(f"{file} belongs to another space: remove it to measure again")
    for one in measured:
        try:
            check_same_conditions(one.ratio.conditions.to_dict(), conditions.to_dict())
        except EvaluationError as error:
            raise RunFolderError(f"{file} cannot be used: {error}; {_REMEDY}") from error
    with progress_bar(_FOR_MODEL, len(wanted), len(measured)) as advance:
        for config in wanted[len(measured) :]:
            try:
                measured.append(MeasuredLatency(config, measure(config)))
            except Exception as error:  # a runtime can raise anything
                raise EvaluationError(f"configuration {config.id} cannot be timed: {first_reason(error)}") from error
            write_text(file, measurements_to_json(measured))
            ratio, done = measured[-1].ratio, f"{len(measured)}/{len(wanted)}"
            advance(1, f"{done} latency ×{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]")
    return measured


def _most_looks(trials: int) -> int:
    return 2 * trials // 3


def _looks_left(study: optuna.Study) -> int:
    """Return how many further measurements a pooled study may make: two for three trials in all."""
    finished = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))
    return _most_looks(finished) - sum(map(len, further_looks(study).values()))


def _explicit_size(definition: StudyDefinition) -> int | Literal["auto", "backbone", "data"]:
    if definition.latency.size != "auto":
        return definition.latency.size
    return "backbone" if definition.data in EMBEDDED else "data"


def configurations_to_measure(space: SearchSpace, seed: int) -> list[SEConfig]:
    """Return the configurations to which the additive model of a space is fitted.

    Each group of sites contributes the blocks that determine its costs, such as its widest and its narrowest ones, and,
    for a backbone's own attention, its removal. As many configurations, at least eight, are drawn at random: they show
    how far the latency of whole networks deviates from the sum. A small space can repeat a configuration, which shows
    the noise.
    """
    groups: dict[SiteGroup, list[Site]] = {}
    for site in space.sites:
        groups.setdefault(group_of(site), []).append(site)
    single = [space.uniform(block, sites) for sites in groups.values() for block in space.timed_blocks()]
    single += [
        SEConfig(space.backbone, removed=tuple(sites))
        for group, sites in groups.items()
        if group.position == "existing"
    ]
    different = {config.structure: config for config in single}
    rng = random.Random(seed)
    drawn: list[SEConfig] = []
    while len(drawn) < max(len(different), _MIN_DRAWN):
        config = space.draw(rng)
        if config != SEConfig(space.backbone):
            drawn.append(config)
    return [*different.values(), *drawn]


def read_latency_measurements(folder: Path) -> list[MeasuredLatency]:
    """Read a run folder's measurements for the additive model; empty without the file.

    Raises:
        RunFolderError: If the file is damaged.
    """
    return _read_measurements(folder / LATENCY_MODEL_FILE)


def _read_measurements(file: Path) -> list[MeasuredLatency]:
    try:
        return measurements_from_json(read_text(file))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:  # ConfigurationError is a ValueError
        raise RunFolderError(f"{file} is damaged: remove it to measure again") from error
