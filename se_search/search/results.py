"""What a study has found: one table of trials, its Pareto front, and the members worth a name."""

import base64
import json
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from ..errors import RunFolderError
from ..evaluation.statistics import paired_accuracy_difference

PICKS = ("knee", "accurate", "small", "fast")

_MEASURED = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "log_loss",
    "log_loss_low",
    "log_loss_high",
    "formula_parameters",
    "counted_parameters",
    "total_parameters",
    "parameter_overhead",
    "flops_overhead",
    "latency_ratio",
    "latency_low",
    "latency_high",
)


def pack_correct(correct: npt.NDArray[np.bool_]) -> str:
    """Pack which images were classified correctly into a short text; :func:`unpack_correct` undoes it."""
    return f"{correct.size}:{base64.b64encode(np.packbits(correct).tobytes()).decode()}"


def unpack_correct(text: str) -> npt.NDArray[np.bool_]:
    """Undo :func:`pack_correct`."""
    size, _, packed = text.partition(":")
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8), count=int(size)).astype(bool)


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """Return one row for each trial that is complete or has failed for a reason of its own.

    Values that a failed trial lacks are missing; objectives of the user's own are the last columns. ``on_front`` marks
    the trials that no other one dominates in the study's objectives, among those that keep its limits. ``tied_with``
    holds, for a member of the front, the cheapest other member (fewest parameters) from which its accuracy on the same
    images cannot be told apart.
    """
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state == TrialState.COMPLETE or (trial.state == TrialState.FAIL and "error" in trial.user_attrs)
    ]
    columns = _COLUMNS | {name: "float64" for name in study.metric_names or () if name not in _COLUMNS}
    try:
        members = sorted(study.best_trials, key=_cost)
        tied = {
            trial.number: next((other.number for other in members if _is_tied(other, trial)), None) for trial in members
        }
        rows = [_row(trial, columns, trial.number in tied, tied.get(trial.number)) for trial in trials]
        return pd.DataFrame(rows, columns=list(columns)).astype(columns)
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"the study's trials were not written by se-search: {error!r}") from error


def front_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows on the Pareto front, from the smallest network to the largest."""
    return table[table["on_front"]].sort_values(["parameter_overhead", "accuracy"], ascending=[True, False])


def pick_trials(table: pd.DataFrame) -> dict[str, int]:
    """Name the members of the front that most users want; empty without a front.

    ``accurate`` has the highest accuracy, ``small`` the fewest parameters, ``fast`` the lowest latency ratio; the
    fewest parameters break ties. ``knee`` is the member that lies highest above the straight line from the smallest
    member to the most accurate one, both axes scaled to their range: beyond it accuracy is bought ever more dearly.
    For the knee, members whose accuracy cannot be told apart from a cheaper one's are left out.
    """
    front = front_of(table)
    if front.empty:
        return {}
    distinct = front[front["tied_with"].isna()]
    height = _scaled(distinct["accuracy"]) - _scaled(distinct["parameter_overhead"])
    return {
        "knee": int(distinct["number"].iloc[int(height.argmax())]),
        "accurate": int(front["number"].iloc[int(front["accuracy"].argmax())]),
        "small": int(front["number"].iloc[0]),
        "fast": int(front["number"].iloc[int(front["latency_ratio"].argmin())]),
    }


def cautions(table: pd.DataFrame, chance: float) -> list[str]:
    """Say in sentences what the front does not show; empty where there is nothing to be careful about.

    Args:
        table: From :func:`trials_table`.
        chance: Accuracy of guessing.
    """
    front = front_of(table)
    if not (table["state"] == "complete").any():
        return ["No configuration has been evaluated yet."]
    if front.empty:
        return ["No evaluated configuration keeps the limits, so the Pareto front is empty."]
    said = []
    if front["accuracy_low"].max() <= chance:
        said.append(
            f"No member of the front is better than guessing ({chance:.0%}): the shared network has not learned. "
            "Train it for more epochs or with a lower learning_rate."
        )
    tied = int(front["tied_with"].notna().sum())
    if tied:
        members = "One member of the front" if tied == 1 else f"{tied} members of the front"
        said.append(
            f"{members} cannot be told apart in accuracy from a smaller one, image by image: "
            "what looks like a gain there may be noise."
        )
    if front["se_blocks"].max() == 0:
        said.append(
            "No configuration with SE is on the front: none was more accurate on these images than the network without."
        )
    elif front["counted_parameters"].nunique() == 1:
        said.append("All of the front has one cost: no larger network was more accurate on these images.")
    return said


def hypervolume_history(study: optuna.Study, reference: Sequence[float]) -> list[float]:
    """Return the front's hypervolume after each complete trial.

    Args:
        study: The study.
        reference: Worst value of each objective that counts.
    """
    if not any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        figure = optuna.visualization.plot_hypervolume_history(study, reference)
    return [float(value) for value in figure.data[0].y]


def _row(trial: FrozenTrial, columns: Iterable[str], on_front: bool, tied_with: int | None) -> dict[str, Any]:
    attributes = trial.user_attrs
    row: dict[str, Any] = {name: attributes.get(name, math.nan) for name in columns}
    placed = json.loads(attributes["config"])["sites"]
    return row | {
        "number": trial.number,
        "state": "complete" if trial.state == TrialState.COMPLETE else "failed",
        "name": attributes.get("name", ""),
        "config_id": attributes["config_id"],
        "feasible": trial.state == TrialState.COMPLETE and all(value <= 0 for value in trial.constraints.values()),
        "on_front": on_front,
        "tied_with": tied_with,
        "gate": placed[0]["gate"] if placed else "",
        "se_blocks": int(attributes["se_blocks"]),
        "config": attributes["config"],
        "error": attributes.get("error", ""),
        "seconds": trial.duration.total_seconds() if trial.duration else math.nan,
    }


def _cost(trial: FrozenTrial) -> tuple[float, float]:
    return trial.user_attrs["parameter_overhead"], trial.user_attrs["latency_ratio"]


def _is_tied(cheaper: FrozenTrial, trial: FrozenTrial) -> bool:
    if cheaper.user_attrs["counted_parameters"] >= trial.user_attrs["counted_parameters"]:
        return False
    difference = paired_accuracy_difference(
        unpack_correct(trial.user_attrs["correct"]), unpack_correct(cheaper.user_attrs["correct"])
    )
    return difference.low <= 0 <= difference.high


def _scaled(values: "pd.Series[float]") -> "pd.Series[float]":
    width = values.max() - values.min()
    return (values - values.min()) / width if width > 0 else values * 0.0


_COLUMNS = {
    "number": "int64",
    "state": "str",
    "name": "str",
    "config_id": "str",
    **dict.fromkeys(_MEASURED, "float64"),
    "counted_parameters": "Int64",
    "total_parameters": "Int64",
    "feasible": "bool",
    "on_front": "bool",
    "tied_with": "Int64",
    "gate": "str",
    "se_blocks": "int64",
    "config": "str",
    "error": "str",
    "seconds": "float64",
}
