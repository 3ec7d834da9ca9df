"""The sentence on local focus, with intervals computed by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from se_search import SEConfig
from se_search.network.attention.local import PlacedLocal
from se_search.report.text import render_markdown
from se_search.results.focus import Focused, compare_focus
from se_search.results.record import read_results
from se_search.study.objectives import OBJECTIVES
from se_search.terminal import show_front

IMAGES = 400
GLOBAL = SEConfig.uniform("test_resnet")
WINDOWS = SEConfig.uniform("test_resnet", extent=2)
SOME = SEConfig("test_resnet", (*GLOBAL.placed[:-1], WINDOWS.placed[-1]))
LOCAL = SEConfig("test_resnet", (PlacedLocal(GLOBAL.placed[0].site),))
BARE = SEConfig("test_resnet")
ACCURACY, LOG_LOSS = OBJECTIVES["accuracy"], OBJECTIVES["log_loss"]


def network(config, right, label):
    return Focused(label, config, (np.arange(IMAGES) < right)[None])


def agresti_and_min(more, comparisons):
    """The interval of a paired difference if one network is right wherever the other is."""
    centre = more / (IMAGES + 2)
    margin = stats.norm.ppf(1 - 0.025 / comparisons) * math.sqrt(((more + 1) / (IMAGES + 2) - centre**2) / (IMAGES + 2))
    return f"[{100 * (centre - margin):+.2f}, {100 * (centre + margin):+.2f}]"


@pytest.mark.parametrize("local", [WINDOWS, SOME, LOCAL], ids=["windows", "some windows", "convolution"])
def test_the_best_of_both_are_compared_with_correction_for_all_pairs(local):
    networks = [
        network(BARE, 399, "none"),
        network(GLOBAL, 370, "trial 1"),
        network(GLOBAL, 380, "trial 2"),
        network(local, 396, "trial 3"),
        network(local, 390, "trial 4"),
    ]
    assert compare_focus(networks, ACCURACY, "image", " (estimated by the search)") == (
        "Local focus helps here (estimated by the search): the best network with it, trial 3, changes accuracy by "
        f"+4.00 points {agresti_and_min(16, 4)} relative to the best one with global attention only, trial 2 "
        "(paired by image, corrected for 4 pairs)."
    )


def test_a_loss_and_noise_are_told_from_a_gain():
    worse = compare_focus([network(GLOBAL, 396, "a"), network(WINDOWS, 380, "b")], ACCURACY, "image")
    assert worse.startswith("Local focus does not help here: the best network with it, b, changes accuracy by -4.00")
    noise = compare_focus([network(GLOBAL, 396, "a"), network(WINDOWS, 397, "b")], ACCURACY, "image")
    assert noise.startswith("No measurable difference between local and global attention: ")
    # A lower log-loss is better.
    losses = np.random.default_rng(0).random((1, IMAGES))
    better = compare_focus([Focused("a", GLOBAL, losses), Focused("b", LOCAL, losses - 0.1)], LOG_LOSS, "image")
    assert better.startswith("Local focus helps here: the best network with it, b, changes log-loss by -0.1000 [")


def test_without_both_there_is_no_sentence(finished_run, capsys):
    assert compare_focus([network(BARE, 1, "a"), network(GLOBAL, 2, "b")], ACCURACY, "image") == ""
    assert compare_focus([network(BARE, 1, "a"), network(LOCAL, 2, "b")], ACCURACY, "image") == ""
    trials, run = read_results(finished_run / "run")
    assert run.focus == ""
    show_front(finished_run / "run")
    assert "ocal focus" not in capsys.readouterr().out + render_markdown(trials, run)
