"""The front of verified networks: the rule of the search's front, with the outcomes of verification."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..statistics import CONFIDENCE, normal_quantile
from ..study.objectives import Objective
from .front import Judged, Measured, TrialValues, Uncertain, find_front


def front_of_verified(
    numbers: Sequence[int | None],
    outcomes: Mapping[str, Sequence[npt.NDArray[Any]]],
    table: pd.DataFrame,
    objectives: Sequence[Objective],
) -> tuple[int, ...]:
    """Return the numbers of the trials on the front, the smallest network first.

    The front is that of :func:`~se_search.results.front.find_front` by the study's objectives. Accuracy and log-loss
    are compared by image and seed, failed trainings included. Other values are the search's, which are the same after
    verification. A network without a trial within the limits, such as the one without attention, competes with the
    lowest costs, and is not listed.

    Args:
        numbers: The trial of each network; ``None`` without one.
        outcomes: Correctness and log-loss of each network, by name of the objective: seeds x images.
        table: From :func:`~se_search.results.table.trials_table`.
        objectives: The study's objectives.
    """
    within = {row["number"]: row for row in table[table["feasible"]].to_dict("records")}
    rows = [within.get(number) for number in numbers]
    values = np.empty((len(rows), len(objectives)))
    uncertain: dict[int, Uncertain] = {}
    for column, one in enumerate(objectives):
        if one.name in outcomes:
            values[:, column] = [-one.sign * float(np.mean(seen)) for seen in outcomes[one.name]]
            uncertain[column] = Judged(outcomes[one.name], one.sign)
            continue
        values[:, column] = [-math.inf if row is None else -one.sign * row[one.name] for row in rows]
        if one.interval is not None:
            low, high = one.interval
            widths = np.array([0.0 if row is None else row[high] - row[low] for row in rows])
            uncertain[column] = Measured(values[:, column], np.diag((widths / (2 * normal_quantile(CONFIDENCE))) ** 2))
    parameters = np.array([-math.inf if row is None else float(row["counted_parameters"]) for row in rows])
    members = find_front(TrialValues(values, uncertain, parameters)).members
    front = [row for row, is_member in zip(rows, members, strict=True) if is_member and row is not None]
    return tuple(int(row["number"]) for row in sorted(front, key=lambda row: row["parameter_overhead"]))
