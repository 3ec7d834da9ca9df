"""The table of objectives and what derives from it."""

import numpy as np
import pytest

from se_search.sampling.exact import EXACT
from se_search.study.definitions import ConstraintsDefinition, StudyDefinition
from se_search.study.objectives import (
    COLUMNS,
    JUDGED,
    OBJECTIVES,
    RESERVED,
    VERIFIED_COLUMNS,
    custom_objective,
    quality_among,
)


def test_every_exact_objective_has_a_function_and_no_other_one():
    assert {name for name, one in OBJECTIVES.items() if one.exact} == set(EXACT)


@pytest.mark.parametrize("one", OBJECTIVES.values(), ids=OBJECTIVES)
def test_an_objective_has_columns_and_a_name_that_no_users_one_takes(one):
    assert set(one.columns) <= set(COLUMNS)
    assert {*one.columns, *filter(None, [one.outcomes])} <= RESERVED
    assert all(f"verified_{column}" in VERIFIED_COLUMNS for column in one.columns) == (one in JUDGED)
    assert one.limit in ("", *ConstraintsDefinition.model_fields)
    assert one.form.format(0.5 * one.factor)


def test_the_worst_value_that_counts():
    worst = {name: one.worst(10, 0.07) for name, one in OBJECTIVES.items()}
    assert worst == {
        "accuracy": 0.1,
        "log_loss": 10.0,
        "parameter_overhead": 0.07,
        "flops_overhead": 0.07,
        "latency_ratio": 2.0,
    }
    # Where a space only removes SE blocks, its largest configuration may cost less than the backbone.
    assert OBJECTIVES["parameter_overhead"].worst(10, -0.2) == 0
    assert custom_objective("energy", "minimize").worst(10, 7.5) == 7.5


@pytest.mark.parametrize(
    ("names", "quality"),
    [
        (["accuracy", "log_loss"], "accuracy"),
        (["log_loss", "accuracy"], "accuracy"),
        (["log_loss", "latency_ratio"], "log_loss"),
        (["parameter_overhead", "latency_ratio"], "accuracy"),
    ],
)
def test_a_study_is_judged_by_accuracy_or_where_that_is_no_objective_by_log_loss(names, quality):
    assert quality_among(names) is OBJECTIVES[quality]


def test_a_study_has_objectives_of_both_kinds_with_their_directions_and_limits():
    study = StudyDefinition(
        backbone="resnet18",
        custom_objectives={"chip_energy": "minimize", "trial": "maximize"},
        objectives=("accuracy", "chip_energy", "trial"),
        constraints={"max_params": "5%"},
    )
    assert study.directions == ("maximize", "minimize", "maximize")
    assert [one.heading for one in study.goals] == ["accuracy", "chip energy", "own trial"]
    assert [study.constraints.most_of(one) for one in OBJECTIVES.values()] == [None, None, 0.05, None, None]
    assert np.sign([one.sign for one in study.goals]).tolist() == [1, -1, 1]
