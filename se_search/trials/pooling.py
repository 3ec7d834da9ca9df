"""Latencies of a run's trials, pooled over all of their measurements."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import FrozenTrial, TrialState

from ..latency.additive import MeasuredLatency, checked_ratio
from ..latency.meter import LatencyConditions, Ratio
from ..latency.pooled import LatencyPool, PooledLatency, combine_ratios
from ..network.config import read_config
from ..statistics import Estimate

LOOKS = "latency_looks:"
"""Prefix of study attributes; with a trial's number, the list of its latency measurements after the first."""


@dataclass(frozen=True, eq=False)
class PooledTrials:
    """Pooled latencies of the finished trials of a run.

    Attributes:
        measured: The measurements of each trial, by its number.
        pooled: Latencies of their configurations.
        places: Index of the configuration of each trial in these.
    """

    measured: Mapping[int, tuple[MeasuredLatency, ...]]
    pooled: PooledLatency
    places: tuple[int, ...]

    @property
    def measurements(self) -> list[MeasuredLatency]:
        """All measurements."""
        return list(itertools.chain(*self.measured.values()))

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the trials, in the order of :attr:`ratios` and :attr:`covariance`."""
        return tuple(self.measured)

    @property
    def ratios(self) -> npt.NDArray[np.float64]:
        """Latency ratio of each trial, of shape (trials,)."""
        return self.pooled.ratios[list(self.places)]

    @property
    def covariance(self) -> npt.NDArray[np.float64]:
        """Joint covariance of the ratios, of shape (trials, trials), for intervals by normal quantiles."""
        return self.pooled.covariance[np.ix_(self.places, self.places)]

    def notes(self) -> dict[int, dict[str, Any]]:
        """Return the attributes of each trial: its pooled latency, and its own measurements together."""
        estimates = self.pooled.estimates()
        return {
            number: pooled_columns(estimates[place]) | _measured_columns([one.ratio for one in measured])
            for (number, measured), place in zip(self.measured.items(), self.places, strict=True)
        }


def pooled_columns(estimate: Estimate) -> dict[str, float]:
    """Return a pooled latency by the names of a trial's attributes."""
    return {"latency_ratio": estimate.value, "latency_low": estimate.low, "latency_high": estimate.high}


def describe_look(ratio: Ratio) -> dict[str, Any]:
    """Return a measurement by the names of a trial's attributes, from which :func:`read_look` reads it."""
    look = asdict(ratio)
    del look["conditions"]
    return _measured_columns([ratio]) | {"latency_look": look, "latency_conditions": ratio.conditions.to_dict()}


def read_look(notes: Mapping[str, Any]) -> Ratio:
    """Read a measurement that :func:`describe_look` has described.

    Raises:
        ValueError: If it is none, or another exception of :data:`se_search.trials.notes.FOREIGN`.
    """
    ratio = Ratio(**notes["latency_look"], conditions=LatencyConditions.from_dict(notes["latency_conditions"]))
    if not isinstance(ratio.rounds, int):
        raise TypeError(f"rounds are not {ratio.rounds!r}")
    checked_ratio(ratio)
    if ratio.stopped not in ("target", "limit") or not isinstance(ratio.pairs, int):
        raise ValueError(f"a measurement of {ratio.pairs} pairs cannot stop by {ratio.stopped!r}")
    if not isinstance(ratio.interruptions, (int, float, type(None))):
        raise TypeError(f"interruptions are not {ratio.interruptions!r}")
    return ratio


def pooled_trials(study: optuna.Study) -> PooledTrials | None:
    """Pool the latencies of a study's finished trials; ``None`` if its latencies are not pooled.

    The result depends on the stored measurements only. It is kept until there are more: finished trials do not change.

    Raises:
        ValueError: If measurements were not written by se-search, or another exception of
            :data:`se_search.trials.notes.FOREIGN`.
    """
    looks = further_looks(study)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    stored = len(trials), sum(map(len, looks.values()))
    if study not in _kept or _kept[study][0] != stored:
        _kept[study] = stored, _pool(trials, looks)
    return _kept[study][1]


def keep_pooled(study: optuna.Study, other: optuna.Study) -> None:
    """Let :func:`pooled_trials` return the same for a copy of a study, which it has pooled before."""
    _kept[other] = _kept[study]


_kept: WeakKeyDictionary[optuna.Study, tuple[tuple[int, int], PooledTrials | None]] = WeakKeyDictionary()


def _pool(trials: Sequence[FrozenTrial], looks: Mapping[int, Sequence[Mapping[str, Any]]]) -> PooledTrials | None:
    pool, measured, places = LatencyPool(), {}, []
    for trial in trials:
        if "latency_look" in trial.user_attrs:
            config = read_config(trial.user_attrs["config"])
            notes = [trial.user_attrs, *looks.get(trial.number, ())]
            measured[trial.number] = tuple(MeasuredLatency(config, read_look(one)) for one in notes)
            (place,) = {pool.add(one) for one in measured[trial.number]}
            places.append(place)
    return PooledTrials(measured, pool.fit(), tuple(places)) if measured else None


def further_looks(study: optuna.Study) -> dict[int, list[dict[str, Any]]]:
    """Return the stored measurements of each trial after its first."""
    return {
        int(name.removeprefix(LOOKS)): list(notes) for name, notes in study.user_attrs.items() if name.startswith(LOOKS)
    }


def _measured_columns(ratios: Sequence[Ratio]) -> dict[str, Any]:
    together = combine_ratios(ratios)
    interruptions = [one.interruptions for one in ratios if one.interruptions is not None]
    return {
        "latency_measured": together.value,
        "latency_measured_low": together.low,
        "latency_measured_high": together.high,
        "latency_pairs": sum(one.pairs for one in ratios),
        "latency_stopped": ratios[-1].stopped,
        "latency_interruptions": max(interruptions, default=None),
    }
