"""Folders that version 0.1.0 has written: they open, resume, verify and export."""

import io
import json
import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
import yaml

import se_search
from se_search import SEConfig, load_run
from se_search.errors import RunFolderError
from se_search.latency.comparable import check_same_conditions
from se_search.results.table import front_of
from se_search.study.evaluator_definition import OwnEvaluatorDefinition, SupernetDefinition
from se_search.study.files import parse_definition
from se_search.trials.folder import read_definition

WRITTEN = Path(__file__).parent / "fixtures" / "version-0.1.0"
TRIALS = pd.read_csv(WRITTEN / "run" / "trials.csv")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(WRITTEN / "run", tmp_path / "run"))


@pytest.fixture
def same_machine(monkeypatch):
    """Count the processor and PyTorch that measured the folder's latency as those here: a run needs the same."""

    def check(before, now):
        check_same_conditions({**before, **{name: now[name] for name in ("processor", "runtime")}}, now)

    monkeypatch.setattr("se_search.trials.latency.check_same_conditions", check)


def assert_as_written(trials, but=("on_front",)):
    """By default but for the front, which holds only measurable advantages now."""
    now = pd.read_csv(io.StringIO(trials.head(len(TRIALS)).to_csv(index=False)))
    columns = [name for name in TRIALS if name not in but]
    pd.testing.assert_frame_equal(now[columns], TRIALS[columns], rtol=1e-12)


def outputs(network):
    with torch.inference_mode():
        return network.eval()(IMAGES)


def test_a_run_opens_with_its_values_and_gets_a_report(folder):
    run = load_run(folder)
    assert_as_written(run.trials)
    # Trial 2 was a member tied with trial 1, and is not distinguishable from it now.
    assert list(pd.read_csv(folder / "pareto.csv")["number"]) == [1, 2]
    assert list(front_of(run.trials)["number"]) == list(run.front["number"]) == [1]
    assert run.trials["tied_with"].fillna(-1).tolist() == [-1, -1, 1]
    assert read_definition(folder).evaluator == SupernetDefinition(epochs=1, recalibration_images=64)
    page = run.report().read_text(encoding="utf-8")
    assert "weight sharing (1 epoch of the shared network)" in page
    assert_as_written(pd.read_csv(folder / "trials.csv"))
    before, now = (json.loads((where / "run.json").read_text()) for where in (WRITTEN / "run", folder))
    for name in ("started", "versions", "timings", "hypervolume_reference", "seed"):
        assert now[name] == before[name], name
    assert now["picks"] == before["picks"] | {"accurate": 1}
    assert now["picks_source"] == "verified"
    assert list(pd.read_csv(folder / "pareto.csv")["number"]) == [1]


def test_a_network_of_a_run_is_the_slice_that_the_trial_has_evaluated(folder, tmp_path):
    run = load_run(folder)
    for number in TRIALS["number"]:
        network, data = run.load(trial=number, verified=False)
        images, labels = data.validation.tensors
        with torch.inference_mode():
            right = (network(images).argmax(1) == labels).double().mean().item()
        assert right == pytest.approx(TRIALS["accuracy"][number], abs=0.01)
        config = SEConfig.from_json(TRIALS["config"][number])
        assert network.state_dict().keys() == se_search.create_model(config, num_classes=10).state_dict().keys()
        run.export(trial=number, to=tmp_path / "exported", verified=False)
        exported = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True)
        assert torch.isfinite(outputs(exported)).all()
        torch.testing.assert_close(outputs(exported), outputs(network), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("same_machine")
def test_a_run_resumes_and_its_verification_too(folder):
    run = se_search.search(study=folder / "study.yaml", budget=4, out=folder)
    assert_as_written(run.trials, but=("on_front", "tied_with"))  # which a fourth trial may change
    assert list(run.trials["state"]) == ["complete"] * 4
    assert read_definition(folder).budget == 4

    kept = {file: file.read_bytes() for file in (WRITTEN / "run" / "verification").iterdir()}
    run.verify(members="all", seeds=1)
    for file, content in kept.items():
        assert (folder / "verification" / file.name).read_bytes() == content
    assert run.trials["verified_seeds"].tolist() == [1] * 4
    assert torch.isfinite(outputs(run.load(trial=1, verified=True)[0])).all()


@pytest.mark.usefixtures("same_machine")
def test_a_run_without_parts_by_depth_resumes_with_a_space_that_has_them(folder):
    before = (folder / "study.yaml").read_text()
    assert "depth_parts" not in before
    budget = len(se_search.load_run(folder).trials)
    se_search.search(study=folder / "study.yaml", settings={"space.depth_parts": 3}, budget=budget, out=folder)
    assert "depth_parts: 1" in (folder / "study.yaml").read_text()
    with pytest.raises(RunFolderError, match="another study: space"):  # now the folder says what it has
        se_search.search(study=folder / "study.yaml", settings={"space.depth_parts": 3}, budget=budget, out=folder)


def test_an_exported_folder_loads_with_timm_and_with_its_own_file(folder):
    network = WRITTEN / "network"
    loaded = timm.create_model(f"local-dir:{network}", pretrained=True)
    own = runpy.run_path(str(network / "model.py"))["load"](network)
    assert torch.isfinite(outputs(loaded)).all()
    torch.testing.assert_close(outputs(loaded), outputs(own), rtol=0, atol=0)
    (number,) = TRIALS.loc[TRIALS["config"] == SEConfig.without_attention("test_efficientnet").to_json(), "number"]
    torch.testing.assert_close(
        outputs(loaded), outputs(load_run(folder).load(trial=number, verified=False)[0]), rtol=0, atol=1e-5
    )


def test_a_study_of_a_plugin_is_read_and_a_setting_that_an_evaluator_never_had_is_refused(folder):
    file = folder / "study.yaml"
    definition = yaml.safe_load(file.read_text())
    settings = definition["evaluator"] | {"recalibration_images": 512}
    changed = definition | {"evaluator": settings | {"name": "mine", "halving": 2, "options": {"a": 1}}}
    mine = parse_definition(yaml.safe_dump(changed), "the file").evaluator
    assert mine == OwnEvaluatorDefinition(name="mine", epochs=1, halving=2, options={"a": 1})

    file.write_text(yaml.safe_dump(definition | {"evaluator": settings | {"seeds": 3}}))
    with pytest.raises(RunFolderError, match=r"study\.yaml.* evaluator\.seeds is not a setting of supernet") as refusal:
        load_run(folder)
    assert "\n" not in str(refusal.value)
