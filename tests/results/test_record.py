"""The description of a run and its JSON form."""

import json
import shutil
from pathlib import Path

import pytest

from se_search.results.record import _describe_study, read_results, write_results
from se_search.study.files import load_study

EARLIER = Path(__file__).parents[1] / "fixtures" / "version-0.1.0" / "run"


# A later version may word these differently.
SENTENCES = {"cautions", "gain", "description", "sentence", "why", "finding", "ranking"}


def without_sentences(content):
    """Plain data with sentences replaced by their kind and number."""
    if isinstance(content, dict):
        return {
            key: (type(value), isinstance(value, str) or len(value)) if key in SENTENCES else without_sentences(value)
            for key, value in content.items()
        }
    return [without_sentences(one) for one in content] if isinstance(content, list) else content


def keys_of(content, before):
    """Plain data with the keys that an earlier version wrote; a later one adds some.

    The last digits of a number depend on the versions of packages: within 1e-9 it is the earlier number.
    """
    if isinstance(content, dict) and isinstance(before, dict):
        return {key: keys_of(value, before[key]) for key, value in content.items() if key in before}
    if isinstance(content, list) and isinstance(before, list):
        return [keys_of(*both) for both in zip(content, before, strict=True)]
    return before if isinstance(before, float) and content == pytest.approx(before, rel=1e-9) else content


def test_run_json_keeps_the_keys_and_values_that_version_0_1_0_wrote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EARLIER, "run")
    before = json.loads(Path("run/run.json").read_text())
    write_results(Path("run"))
    after = json.loads(Path("run/run.json").read_text())
    assert [key for key in after if key in before] == list(before)
    # An evaluator has its own settings only, some of which are of later versions.
    evaluator, evaluator_before = after.pop("evaluator"), before.pop("evaluator")
    assert keys_of(evaluator, evaluator_before).items() <= evaluator_before.items()
    # A trial that is not distinguishable from the one without SE has left the front, and no other there has SE.
    before["picks"]["accurate"] = 1
    before["cautions"].append("No configuration with SE is on the front.")
    assert keys_of(without_sentences(after), without_sentences(before)) == without_sentences(before)


def test_what_others_have_added_to_run_json_stays(finished_run):
    file = finished_run / "run" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"cluster": "mine"}))
    write_results(finished_run / "run")
    assert json.loads(file.read_text())["cluster"] == "mine"


def test_a_run_without_run_json_is_described_without_its_provenance(finished_run):
    file = finished_run / "run" / "run.json"
    provenance = read_results(finished_run / "run")[1].provenance
    assert provenance.versions.keys() >= {"python", "torch", "timm"}
    file.unlink()
    _, run = write_results(finished_run / "run")
    assert (run.provenance.started, run.provenance.versions) == ("", {})
    assert "versions" not in json.loads(file.read_text())


@pytest.mark.parametrize(
    ("backbone", "data", "said"),
    [
        ("resnet50", "digits", load_study("digits").description),
        ("resnet50", "pictures", ""),  # as version 0.1.0 has kept it
        ("resnet18", "digits", ""),
    ],
)
def test_the_description_of_a_shipped_study_is_claimed_only_for_its_backbone_and_data(backbone, data, said):
    definition = load_study("digits").model_copy(update={"backbone": backbone, "data": data})
    assert _describe_study(definition) == said
    own = definition.model_copy(update={"description": "My own study."})
    assert _describe_study(own) == "My own study."
    assert _describe_study(own.model_copy(update={"description": ""})) == ""
