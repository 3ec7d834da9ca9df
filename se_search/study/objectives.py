"""The objectives that a study can optimise, and the columns of the table of trials."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Objective:
    """A value of each trial that a study can optimise, and its format.

    Attributes:
        name: Name in study files, and column in the table of trials.
        direction: Direction of improvement.
        words: Name in sentences.
        heading: Heading of table columns.
        short_title: Title of a narrow axis, with the unit.
        unit: Unit of axes; empty without one.
        form: Format of a value, after multiplication by ``factor``.
        factor: Factor from the table's unit to the displayed one.
        decimals: Decimals of the ends of its interval.
        interval: Columns of the ends of its interval; ``None`` without one.
        outcomes: Name of a trial's attribute with the values of single images, whose mean is the objective; or empty.
        exact: Whether :data:`se_search.sampling.exact.EXACT` computes it from the configuration.
        limit: Name of the study's constraint on it; empty for none.
        worst: Reference value for hypervolumes, from the number of classes and the worst value: for an exact objective
            that of the space's largest configuration, else that of the complete trials.
    """

    name: str
    direction: Direction
    words: str
    heading: str
    short_title: str
    unit: str = ""
    form: str = "{:.4g}"
    factor: float = 1.0
    decimals: int = 3
    interval: tuple[str, str] | None = None
    outcomes: str = ""
    exact: bool = False
    limit: Literal["", "max_params", "max_latency"] = ""
    worst: Callable[[int, float], float] = lambda classes, worst: worst

    @property
    def title(self) -> str:
        """Title of an axis, with its unit."""
        return f"{self.words} ({self.unit})" if self.unit else self.words

    @property
    def sign(self) -> int:
        """1 if higher is better, else -1."""
        return 1 if self.direction == "maximize" else -1

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns in the table of trials: the value and the ends of its interval."""
        return self.name, *(self.interval or ())


OBJECTIVES = {
    one.name: one
    for one in (
        Objective(
            "accuracy",
            "maximize",
            words="accuracy",
            heading="accuracy",
            short_title="accuracy %",
            unit="%",
            form="{:.2f} %",
            factor=100.0,
            decimals=2,
            interval=("accuracy_low", "accuracy_high"),
            outcomes="correct",
            worst=lambda classes, _: 1 / classes,
        ),
        Objective(
            "log_loss",
            "minimize",
            words="log-loss",
            heading="log-loss",
            short_title="log-loss",
            unit="lower is better",
            form="{:.4f}",
            decimals=4,
            interval=("log_loss_low", "log_loss_high"),
            outcomes="losses",
            worst=lambda *_: 10.0,
        ),
        Objective(
            "parameter_overhead",
            "minimize",
            words="parameter overhead",
            heading="parameters",
            short_title="params %",
            unit="%",
            form="{:+.2f} %",
            factor=100.0,
            decimals=2,
            exact=True,
            limit="max_params",
            worst=lambda _, largest: max(0.0, largest),
        ),
        Objective(
            "flops_overhead",
            "minimize",
            words="FLOPs overhead",
            heading="FLOPs",
            short_title="FLOPs %",
            unit="%",
            form="{:+.2f} %",
            factor=100.0,
            decimals=2,
            exact=True,
            worst=lambda _, largest: max(0.0, largest),
        ),
        Objective(
            "latency_ratio",
            "minimize",
            words="latency ratio",
            heading="latency",
            short_title="latency",
            form="×{:.3f}",
            interval=("latency_low", "latency_high"),
            limit="max_latency",
            worst=lambda *_: 2.0,
        ),
    )
}
"""Built-in objectives, which every trial measures, in the order of tables."""

JUDGED = tuple(one for one in OBJECTIVES.values() if one.outcomes)
"""Objectives that are evaluated on images."""


def quality_among(names: Iterable[str]) -> Objective:
    """Return the quality objective of a study: the first of :data:`JUDGED` among ``names``, else accuracy."""
    names = tuple(names)
    return next((one for one in JUDGED if one.name in names), OBJECTIVES["accuracy"])


def custom_objective(name: str, direction: Direction) -> Objective:
    """Return a custom objective, which a Python function measures in an unknown unit."""
    words = name.replace("_", " ").replace("flops", "FLOPs")
    taken = {"trial", "SE blocks", *(one.heading for one in OBJECTIVES.values())}
    return Objective(name, direction, words, f"own {words}" if words in taken else words, words)


def _columns(*, judged: bool) -> tuple[str, ...]:
    return tuple(column for one in OBJECTIVES.values() if (one in JUDGED) == judged for column in one.columns)


COLUMNS = {
    "number": "int64",
    "state": "str",
    "name": "str",
    "config_id": "str",
    **dict.fromkeys(_columns(judged=True), "float64"),
    "formula_parameters": "float64",
    "counted_parameters": "Int64",
    "total_parameters": "Int64",
    **dict.fromkeys(_columns(judged=False), "float64"),
    **dict.fromkeys(("latency_measured", "latency_measured_low", "latency_measured_high"), "float64"),
    "latency_interruptions": "float64",
    "latency_pairs": "Int64",
    "latency_stopped": "str",
    "feasible": "bool",
    "on_front": "bool",
    "tied_with": "Int64",
    "front_probability": "float64",
    "gate": "str",
    "se_blocks": "int64",
    "epochs": "Int64",
    "config": "str",
    "error": "str",
    "seconds": "float64",
}
"""Columns of the table of trials with their types; :mod:`se_search.results.verified` adds its own."""

VERIFIED_COLUMNS = (
    *(f"verified_{column}" for column in _columns(judged=True)),
    "verified_log_loss_difference",
    "verified_log_loss_difference_low",
    "verified_log_loss_difference_high",
    "verified_epochs",
    "verified_seeds",
    "verified_learned",
)
"""Columns that verification adds to the table of trials; differences are to the network without SE."""

RESERVED = frozenset(
    {
        *COLUMNS,
        *VERIFIED_COLUMNS,
        *(one.outcomes for one in JUDGED),
        *("latency_conditions", "latency_look", "rungs", "task", "answer", "killed"),
    }
)
"""Names of columns and trial attributes, which custom objectives must not use."""
