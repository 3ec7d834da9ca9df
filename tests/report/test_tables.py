"""Values of trials in words: everything that was searched for, in one form in tables and under the pointer."""

from dataclasses import replace

import pytest
from made_up_results import made_up_results

from se_search.report.measures import hover_text
from se_search.report.tables import describe_front, describe_latency
from se_search.results.table import front_of
from se_search.study.objectives import OBJECTIVES

SHOWN = ["accuracy", "parameters", "latency"]


@pytest.mark.parametrize(
    ("objectives", "headings"),
    [
        (["accuracy", "parameter_overhead"], SHOWN),
        (["accuracy", "flops_overhead", "latency_ratio"], ["accuracy", "parameters", "FLOPs", "latency"]),
        (["accuracy", "log_loss", "parameter_overhead"], ["accuracy", "log-loss", "parameters", "latency"]),
        (["log_loss", "latency_ratio"], ["accuracy", "log-loss", "parameters", "latency"]),
        (["accuracy", "chip_energy"], [*SHOWN, "chip energy"]),
        (["accuracy", "latency"], [*SHOWN, "own latency"]),
    ],
)
def test_what_was_searched_for_is_a_column_of_the_front_and_a_line_under_the_pointer(objectives, headings):
    trials, run = made_up_results(10, objectives=objectives)
    run = replace(run, quality=OBJECTIVES["log_loss" if "accuracy" not in objectives else "accuracy"])
    trials = trials.assign(chip_energy=12345.678, latency=0.25)
    front = describe_front(trials, run)
    assert list(front.columns) == ["trial", *headings, "SE blocks", ""]
    lines = hover_text(front_of(trials).iloc[0].to_dict(), run).split("<br>")
    for heading in headings:
        # Under the pointer the number of parameters follows.
        assert any(line.split(" (")[0] == f"{heading} {front[heading].iloc[0]}" for line in lines), heading


def test_values_are_written_in_the_unit_that_is_shown_with_their_intervals():
    trials, run = made_up_results(10, objectives=["accuracy", "log_loss", "flops_overhead"])
    values = {
        "accuracy": (0.9, 0.85, 0.925),
        "log_loss": (0.3, 0.28, 0.33333),
        "latency": (1.25, 1.2, 1.3),
    }
    for name, (value, low, high) in values.items():
        trials["latency_ratio" if name == "latency" else name] = value
        trials[[f"{name}_low", f"{name}_high"]] = low, high
    trials["parameter_overhead"], trials["flops_overhead"] = 0.0123, 0.0035
    trials["latency_stopped"] = "model"
    row = describe_front(trials, run).iloc[0]
    assert list(row[["accuracy", "log-loss", "parameters", "FLOPs", "latency"]]) == [
        "90.00 % [85.00, 92.50]",
        "0.3000 [0.2800, 0.3333]",
        "+1.23 %",
        "+0.35 %",
        "×1.250 [1.200, 1.300], predicted",
    ]


def test_a_comparison_of_latencies_shows_one_digit_more():
    trials, _ = made_up_results(3)
    measured = trials.assign(name="mine", runtime="eager", latency_ratio=1.25, latency_low=1.2, latency_high=1.3)
    row = describe_latency(measured.assign(parameter_overhead=0.0123, flops_overhead=0.0035)).iloc[0]
    assert list(row[["parameters", "FLOPs", "latency"]]) == ["+1.23 %", "+0.35 %", "×1.2500 [1.2000, 1.3000]"]
