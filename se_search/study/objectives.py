"""Objectives of a study, and the columns that they have in the table of trials."""

from collections.abc import Mapping
from typing import Literal

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
    "latency_interruptions",
)


COLUMNS = {
    "number": "int64",
    "state": "str",
    "name": "str",
    "config_id": "str",
    **dict.fromkeys(_MEASURED, "float64"),
    "counted_parameters": "Int64",
    "total_parameters": "Int64",
    "latency_pairs": "Int64",
    "latency_stopped": "str",
    "feasible": "bool",
    "on_front": "bool",
    "tied_with": "Int64",
    "gate": "str",
    "se_blocks": "int64",
    "epochs": "Int64",
    "config": "str",
    "error": "str",
    "seconds": "float64",
}
"""Columns of the table of trials with their types; :mod:`se_search.results.verified` adds its own."""

VERIFIED_COLUMNS = (
    "verified_accuracy",
    "verified_accuracy_low",
    "verified_accuracy_high",
    "verified_log_loss",
    "verified_log_loss_low",
    "verified_log_loss_high",
    "verified_log_loss_difference",
    "verified_log_loss_difference_low",
    "verified_log_loss_difference_high",
    "verified_epochs",
    "verified_seeds",
)
"""What verification adds to the table of trials; differences are to the network without SE."""

Direction = Literal["maximize", "minimize"]


OBJECTIVES: Mapping[str, Direction] = {
    "accuracy": "maximize",
    "log_loss": "minimize",
    "parameter_overhead": "minimize",
    "flops_overhead": "minimize",
    "latency_ratio": "minimize",
}
"""Objectives that are always measured, with their directions."""


RESERVED = frozenset(
    {*COLUMNS, *VERIFIED_COLUMNS, "correct", "losses", "latency_conditions", "rungs", "task", "answer", "killed"}
)
"""Names in the table of trials and in what a trial holds, which no objective of the user's may have."""
