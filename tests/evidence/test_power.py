"""What data can show, in numbers and words, by itself and for a run."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import se_search
from se_search.cli import app
from se_search.data.folders import ImageCounts
from se_search.errors import DataError, DefinitionError
from se_search.evidence.power import SEARCH_NOISE, VERIFICATION_NOISE, Noise, Plan, describe_power
from se_search.evidence.published import published_gains
from se_search.paired_power import (
    Comparison,
    Variances,
    images_needed,
    seeds_needed,
    smallest_accuracy_difference,
    smallest_log_loss_difference,
)


def test_the_differences_are_those_of_the_comparisons_of_search_and_verification():
    found = se_search.power("digits", "resnet50", seeds=4, budget=20)
    in_search, verified = Comparison(400, 1, 19), Comparison(397, 4, 5)
    assert found.search.accuracy == smallest_accuracy_difference(in_search, SEARCH_NOISE.accuracy)
    assert found.search.log_loss == smallest_log_loss_difference(in_search, SEARCH_NOISE.log_loss)
    assert found.verification.accuracy == smallest_accuracy_difference(verified, VERIFICATION_NOISE.accuracy)
    gain = published_gains("resnet50").typical
    assert found.search.images_needed == images_needed(gain, in_search, SEARCH_NOISE.accuracy)
    assert found.verification.seeds_needed == seeds_needed(gain, verified, VERIFICATION_NOISE.accuracy)
    assert (found.search.assumed, found.verification.assumed) == (True, True)


def test_the_sentences_say_what_can_be_told_what_is_published_and_what_would_tell_it():
    search, verification, corrected, can, published, verdict = se_search.power("digits", "resnet50").sentences
    assert search.startswith("With 400 validation images, the search can detect differences of at least ")
    assert "corrected for 49 configurations" in corrected
    assert "397 test images and 3 seeds" in verification
    assert "noise assumed: two networks differ on 3.0 % of the images in the search, 11.0 % in verification" in can
    assert published == (
        "Published gains of SE for resnet networks are -1.02 to +1.51 points (typically +0.79; 13 ImageNet results, "
        "one checkpoint each)."
    )
    assert verdict.startswith("So neither the search nor verification can detect a gain of 0.79 points: ")
    assert "validation images" in verdict


def test_enough_images_can_tell():
    noise = Noise(Variances(0.02, 0.0, 0.02), Variances(0.01))
    found = describe_power(ImageCounts(1000, 200_000, 200_000), "resnet50", Plan(), noise, noise)
    assert found.search.accuracy < published_gains("resnet50").typical
    assert found.sentences[-1] == "So both the search and verification can detect a gain of 0.79 points."
    assert "noise seen in this run: two networks differ on 4.0 % of the images in the search" in found.sentences[3]


def test_noise_of_seeds_is_not_beaten_by_images():
    noise = Noise(Variances(0.02, 0.006**2, 0.02), Variances(0.01))
    found = describe_power(ImageCounts(1000, 200_000, 200_000), "resnet50", Plan(), noise, noise)
    needed = found.verification
    assert needed.with_seeds > needed.seeds == 3
    assert images_needed(published_gains("resnet50").typical, Comparison(200_000, 3, 5), noise.accuracy) is None
    assert f" test images and {needed.with_seeds} seeds or {needed.seeds_needed} seeds on these" in found.sentences[-1]


def test_a_handful_of_images_tells_nothing():
    found = se_search.power(images=4)
    assert found.search.accuracy is None
    assert "no difference in accuracy" in found.sentences[0]


def test_a_single_published_result_is_no_range():
    *_, published, _ = se_search.power("digits", "vgg16_bn").sentences
    assert published == (
        "The published gain of SE for vgg networks is +1.80 points (1 ImageNet result, one checkpoint each)."
    )


@pytest.mark.parametrize(
    ("arguments", "words"), [({"seeds": 0}, "seeds is 0"), ({"budget": 1}, "budget"), ({"images": 1}, "images is 1")]
)
def test_impossible_numbers_are_refused(arguments, words):
    with pytest.raises(DefinitionError, match=words):
        se_search.power(**arguments)


def test_unknown_data_are_refused():
    with pytest.raises(DataError, match="'digitz' are neither embedded"):
        se_search.power("digitz", "resnet18")


def test_an_unknown_backbone_is_refused_with_its_like():
    assert se_search.power(images=400, backbone="resnet10t").published == published_gains("resnet10t")
    for name, near in (("resnet5O", "resnet50"), ("mobilnetv2_100", "mobilenetv2_100")):
        refused = CliRunner().invoke(app, ["power", "--backbone", name, "--images", "400"])
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"Error: backbone {name!r} is not an architecture of timm; near names: {near}")


def test_the_command_prints_the_sentences_and_the_numbers():
    found = se_search.power("digits-context", "resnet18", seeds=2, budget=10)
    arguments = ["power", "--data", "digits-context", "--backbone", "resnet18", "--seeds", "2", "--budget", "10"]
    printed = CliRunner().invoke(app, arguments)
    assert printed.output.split() == str(found).split()
    assert max(map(len, str(found).splitlines())) < 300
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(as_json.output) == found.to_json()


def test_a_mistake_is_one_sentence_that_names_the_option():
    refused = CliRunner().invoke(app, ["power", "--budget", "1"])
    assert refused.exit_code == 2
    assert refused.stderr == "Error: --budget is 1: it must be at least 2\n"


def test_the_command_needs_no_pytorch():
    code = (
        "import sys; from se_search.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "power", "--backbone", "resnet50", "--images", "5000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
    assert done.stdout.startswith("With 5,000 validation images")
