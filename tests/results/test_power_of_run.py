"""The power of a run is stated with the noise seen in it."""

import json

import numpy as np
import pytest

from se_search.evidence.power import SEARCH_NOISE, VERIFICATION_NOISE
from se_search.network.config import SEConfig
from se_search.paired_power import Comparison, Variances, smallest_accuracy_difference
from se_search.report.text import render_markdown
from se_search.results.record import read_results
from se_search.results.trainings import result_file
from se_search.trials.folder import load_trials
from se_search.trials.notes import pack, pack_losses, unpack


def test_the_search_has_the_noise_of_its_trials(finished_run):
    trials, run = read_results(finished_run / "run")
    outcomes = {one.number: unpack(one.user_attrs["correct"])[0] for one in load_trials(finished_run / "run").trials}
    blocks = dict(zip(trials["number"], trials["se_blocks"], strict=True))
    (none,) = (number for number, count in blocks.items() if count == 0)
    # The variance of differences of correctness: the share of images on which one network alone is right, less the
    # square of the difference of accuracies.
    expected = np.median(
        [
            np.mean(outcomes[number] != outcomes[none]) - (outcomes[number].mean() - outcomes[none].mean()) ** 2
            for number, count in blocks.items()
            if count > 0
        ]
    )
    search = run.power.search
    assert (search.images, search.seeds, search.comparisons, search.assumed) == (400, 1, run.budget - 1, False)
    assert search.disagreement == pytest.approx(expected)
    comparison = Comparison(400, 1, run.budget - 1)
    assert search.accuracy == pytest.approx(smallest_accuracy_difference(comparison, Variances(expected)), rel=2e-3)
    assert run.power.verification.assumed
    assert run.power.verification.disagreement == VERIFICATION_NOISE.accuracy.of_an_image


def test_the_report_and_run_json_have_the_sentences_of_the_run(finished_run):
    trials, run = read_results(finished_run / "run")
    kept = json.loads((finished_run / "run" / "run.json").read_text())["power"]
    assert kept["sentences"] == list(run.power.sentences)
    assert kept["search"]["accuracy"] == run.power.search.accuracy
    assert "noise seen in this run for the search" in run.power.sentences[3]
    assert run.power.sentences[2] in render_markdown(trials, run)
    assert run.power.sentences[2] in (finished_run / "run" / "report.html").read_text()


def test_the_run_says_it_with_assumed_noise_before_anything_is_trained(finished_run):
    output = (finished_run / "output.txt").read_text()
    said = output.index("With 400 validation images, the search can detect differences of at least")
    assert f"differ on {SEARCH_NOISE.accuracy.of_an_image:.1%}".replace("%", " %") in output
    assert said < output.index("Training")


def test_published_gains_are_said_once_before_the_search_and_once_after(finished_run):
    output = (finished_run / "output.txt").read_text()
    before, after = output.split("Training the supernet", 1)
    assert [before.count("Published gains of SE"), before.count("Published for SE")] == [1, 0]
    assert after.count("Published for SE") == 1


def test_verification_has_the_noise_of_its_networks_and_its_own_numbers(finished_run):
    folder = finished_run / "run"
    (folder / "verification").mkdir()
    random = np.random.default_rng(3)
    none = SEConfig.without_attention("test_resnet")
    uniform = SEConfig.uniform("test_resnet", 16, rounding=1)
    drawn = random.random((2, 2, 300)) < 0.8
    losses = random.exponential(size=(2, 2, 300)).astype(np.float32)
    for place, config in enumerate((none, uniform)):
        for seed in range(2):
            content = {
                "correct": pack(drawn[place, seed][None]),
                "losses": pack_losses(losses[place, seed][None]),
                "epochs": [],
            }
            result_file(folder, config, 1, seed).write_text(json.dumps(content))
    found = read_results(folder)[1].power.verification
    differences = drawn[1].astype(float) - drawn[0]
    residuals = differences - differences.mean(0) - differences.mean(1, keepdims=True) + differences.mean()
    both = np.sum(residuals**2) / (1 * 299)
    of_images = max(differences.mean(0).var(ddof=1) - both / 2, 0.0)
    assert (found.seeds, found.comparisons, found.assumed) == (2, 1, False)
    assert found.disagreement == pytest.approx(of_images + both)
