"""What is said about published results of a backbone."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from se_search.cli import app
from se_search.errors import BackboneError
from se_search.evidence.known import LIMITS, evidence, known_in_brief


def test_a_backbone_with_results_of_its_own():
    found = evidence("resnet50")
    # timm's three recipes at two sizes each, two legacy pairs and table 2 of the paper; tables 10 to 16 are ablations.
    assert [(pair.recipe, pair.image_size) for pair in found.own][:6] == [
        (f"{recipe}_in1k", size)
        for recipe, size in (("a1", 224), ("a1", 288), ("a2", 224), ("a2", 288), ("a3", 224), ("a3", 160))
    ]
    assert len(found.own) == 9
    assert {pair.varies for pair in found.ablations} == {"ratio", "squeeze", "gate", "stage", "position", "extent"}
    assert found.nearest == ()
    assert found.sentences[0] == (
        "SE in resnet50: -1.02 to +1.51 points of top-1 accuracy, median -0.13 (7 published ImageNet results, one "
        "checkpoint each; 1 significantly above zero and 2 significantly below; 2 more, in which other parts differ, "
        "left out)."
    )
    assert found.sentences[-1] == LIMITS


def test_the_gain_of_regnet_shrinks_with_size():
    found = evidence("regnety_032")
    assert [pair.recipe for pair in found.own] == ["pycls_in1k", "tv2_in1k"]
    trend = found.trends[0]
    pairs = [pair for pair in (*found.own, *found.family) if pair.recipe == "pycls_in1k"]
    sizes, gains = np.log2([pair.params_m_without for pair in pairs]), np.array([pair.gain for pair in pairs])
    assert trend.pairs == len(pairs) == 12
    assert trend.slope == pytest.approx(np.polyfit(sizes, gains, 1)[0])
    # The covariance of least squares with the binomial variances of the gains.
    design = np.linalg.pinv(np.column_stack((np.ones(12), sizes)))
    error = np.sqrt((design @ np.diag([pair.standard_error**2 for pair in pairs]) @ design.T)[1, 1])
    assert (trend.low, trend.high) == pytest.approx((trend.slope - 1.959964 * error, trend.slope + 1.959964 * error))
    assert trend.high < 0
    assert "the gain shrinks with size: -0.22 points per doubling" in " ".join(found.sentences)


def test_a_backbone_without_results_gets_the_nearest():
    found = evidence("vit_tiny_patch16_224")
    assert found.own == ()
    assert [pair.attention for pair in found.family] == ["local"]
    assert found.sentences[:2] == (
        "No result with and without SE is published for vit_tiny_patch16_224 or other vit networks.",
        "The nearest is other attention: local in deit_tiny_patch16_224.",
    )
    sizes = [pair.params_m_without for pair in found.nearest]
    assert sizes == sorted(sizes, key=lambda size: abs(np.log(size / 5.717416)))
    assert known_in_brief("vit_tiny_patch16_224").startswith(
        "Nothing is published for SE in vit networks; in networks of all kinds: -1.02 to +3.10 points"
    )


def test_a_name_that_timm_lacks_is_refused():
    with pytest.raises(BackboneError, match="'resnet5O' is not an architecture of timm; near names: resnet50"):
        evidence("resnet5O")
    result = CliRunner().invoke(app, ["evidence", "resnet5O"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_the_command_needs_less_than_a_second_and_no_pytorch():
    code = (
        "import sys, time\nfrom se_search.cli import app\n"
        "for name in ('resnet50', 'regnety_032', 'vit_tiny_patch16_224'):\n"
        "    app(['evidence', name], standalone_mode=False)\n"
        "print(*sys.modules)\nprint(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, modules, seconds = done.stdout.splitlines()
    assert not {"torch", "timm", "numpy", "scipy", "pandas"} & set(modules.split())
    assert float(seconds) < 3  # three answers, of processor time
    assert "regnety_016    tv2_in1k" in done.stdout


def test_json_has_what_the_sentences_say():
    found = json.loads(CliRunner().invoke(app, ["evidence", "resnet50", "--json"]).stdout)
    assert found["own"][4]["gain"] == pytest.approx(-0.01016)
    low, high = found["own"][4]["interval"]
    assert low < -0.01016 < high < 0
    assert len(json.loads(CliRunner().invoke(app, ["evidence", "--json"]).stdout)) == 101


def test_all_families_are_listed():
    output = CliRunner().invoke(app, ["evidence"]).stdout
    assert ["regnetx", "other", "parts", "differ", "too", "19", "+0.07", "+1.53"] in [
        line.split() for line in output.splitlines()
    ]
