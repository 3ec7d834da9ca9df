"""Priors from the analysis of the supernet: what is tried besides the known answers, and analyses in a run folder."""

import json
from pathlib import Path

import pytest
from optuna.trial import TrialState

from se_search import SEConfig
from se_search.data.load import load_data
from se_search.driver.loop import run_search
from se_search.errors import DefinitionError, RunFolderError
from se_search.excitation import analysis as excitation
from se_search.network.insertion import create_model
from se_search.report.excitation_page import render_excitation
from se_search.results.excitation import AnalysisPage, analysis_folder, find_analyses
from se_search.results.record import read_results
from se_search.study.files import load_study
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.trials import priors as module
from se_search.trials.evaluators import choose_device
from se_search.trials.folder import load_trials
from se_search.trials.priors import priors_from_excitation

STUDY = {
    "backbone": "test_resnet",
    "budget": 6,
    "priors": "excitation",
    "evaluator": {"epochs": 1, "recalibration_images": 64},
    "latency": {"limit": 0.05, "size": "data"},
}


def space_of(placement, ratios=(4, 16), backbone="test_resnet", positions=("default",), rounding=1):
    definition = SpaceDefinition(
        placement=placement, ratios=ratios, gates=("sigmoid",), rounding=rounding, positions=positions
    )
    return SearchSpace(backbone, definition)


def study_of(space, **given):
    return load_study("digits", **STUDY | {"space": space.definition, "backbone": space.backbone} | given)


def kept(folder: Path, verdicts) -> Path:
    """A run folder with an analysis of the supernet that says so of each block."""
    file = folder / "excitation" / "supernet" / "excitation.json"
    file.parent.mkdir(parents=True)
    blocks = [{"block": block, "position": position, "verdict": verdict} for (block, position), verdict in verdicts]
    file.write_text(json.dumps({"blocks": blocks, "cautions": []}))
    return folder


def priors(folder, space):
    """Priors of a folder that holds an analysis: neither data nor a supernet are asked for."""
    return {name: config for config, name in priors_from_excitation(folder, study_of(space), space, None, None).items()}


def of(verdicts, position="standard"):
    return [((block, position), verdict) for block, verdict in verdicts.items()]


def test_by_stage_a_stage_is_left_out_if_all_its_blocks_idle(tmp_path):
    space = space_of("stage", (4, 8), backbone="resnet18")
    verdicts = dict.fromkeys((site.block for site in space.sites), "works")
    verdicts |= {"layer4.0": "idle", "layer4.1": "idle", "layer3.1": "idle", "layer2.0": "cannot be told"}
    found = priors(kept(tmp_path, of(verdicts)), space)
    assert list(found) == ["r=4 without idle blocks", "r=8 without idle blocks"]
    for ratio, config in zip((4, 8), found.values(), strict=True):
        assert config == SEConfig.uniform("resnet18", ratio, stages=[2, 3, 4], rounding=1)
        assert space.to_config(space.to_parameters(config)) == config


def test_by_block_each_idle_block_is_left_out(tmp_path):
    space = space_of("block", backbone="resnet18")
    verdicts = dict.fromkeys((site.block for site in space.sites), "works") | {"layer1.0": "idle", "layer4.1": "idle"}
    found = priors(kept(tmp_path, of(verdicts)), space)
    config = found["r=16 without idle blocks"]
    assert [one.site.block for one in config.placed] == [
        site.block for site in space.sites if site.block not in ("layer1.0", "layer4.1")
    ]
    assert {one.ratio for one in config.placed} == {16}
    assert space.to_config(space.to_parameters(config)) == config


def test_a_configuration_that_is_a_known_answer_is_not_announced_as_a_new_one(tmp_path, capsys):
    space = space_of("stage", (16, 4), backbone="resnet18", rounding=8)
    verdicts = dict.fromkeys((site.block for site in space.sites), "works")
    folder = kept(tmp_path / "one", of(verdicts | {"layer4.0": "idle", "layer4.1": "idle"}))
    assert list(priors(folder, space)) == ["r=4 without idle blocks"]  # r=16 without the last stage is known
    assert "The search first tries 1 configuration without them." in capsys.readouterr().out
    folder = kept(tmp_path / "all", of(dict.fromkeys(verdicts, "idle")))
    assert priors(folder, space) == {}
    assert "The configurations without them are known answers" in capsys.readouterr().out


def test_cautions_are_said(tmp_path, capsys):
    space = space_of("stage")
    file = kept(tmp_path, {}) / "excitation" / "supernet" / "excitation.json"
    file.write_text(json.dumps({"blocks": [], "cautions": ["The network only guesses."]}))
    assert priors(tmp_path, space) == {}
    assert "The supernet's excitation: The network only guesses." in capsys.readouterr().out


def test_idle_attention_of_the_backbone_is_taken_out(tmp_path):
    space = space_of("block", backbone="test_efficientnet")
    first, *others = space.sites
    verdicts = {first.block: "idle"} | {site.block: "works" for site in others}
    found = priors(kept(tmp_path, of(verdicts, "existing")), space)
    assert found["r=16 without idle blocks"].removed == (first,)


@pytest.mark.parametrize(
    ("placement", "verdicts", "said"),
    [
        (
            "block",
            {"layer1.0": "works", "layer2.0": "cannot be told"},
            "None of the supernet's 8 SE blocks is significantly idle",
        ),
        (
            "stage",
            {"layer1.0": "idle", "layer2.0": "works"},
            "Idle SE blocks of the supernet (1 of 8): layer1.0; no stage",
        ),
    ],
)
def test_where_nothing_can_be_left_out_nothing_is_added(tmp_path, capsys, placement, verdicts, said):
    space = space_of(placement, backbone="resnet18")
    assert priors(kept(tmp_path, of(verdicts)), space) == {}
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"blocks": [1]}', '{"blocks": [{"block": "a"}]}', "[" * 100_000])
def test_a_damaged_analysis_is_refused(tmp_path, content):
    space = space_of("stage")
    kept(tmp_path, {})
    file = tmp_path / "excitation" / "supernet" / "excitation.json"
    file.write_text(content)
    with pytest.raises(RunFolderError, match=r"excitation\.json is damaged: delete it"):
        priors(tmp_path, space)


@pytest.mark.parametrize("name", ["scratch", "finetune", "python:Mine"])
def test_priors_need_a_supernet(tmp_path, name):
    study = load_study("digits", **STUDY | {"evaluator": {"name": name, "epochs": 1}})
    with pytest.raises(DefinitionError, match=r"^priors is 'excitation', which analyses a supernet"):
        run_search(study, tmp_path / "run", lambda *given: None)
    assert not (tmp_path / "run").exists()


def test_an_unknown_prior_is_refused():
    with pytest.raises(DefinitionError, match=r"^priors is 'best': it should be 'known' or 'excitation'"):
        load_study("digits", priors="best")


@pytest.mark.slow
def test_priors_are_tried_first_kept_and_not_analysed_again(tmp_path, monkeypatch, capsys):
    space = space_of("stage", (2, 16))
    study = study_of(space)
    # Blocks whose removal surely costs less than 10 nats idle: all of them, after one epoch.
    monkeypatch.setattr(excitation, "TOLERANCE", 10.0)
    first = study.model_copy(update={"budget": 2})
    run_search(first, tmp_path / "run", render=render_excitation)
    file = tmp_path / "run" / "excitation" / "supernet" / "excitation.json"
    analysis = json.loads(file.read_text())
    assert analysis["config"] == space.largest().to_dict()
    assert analysis["idle"] == [site.block for site in space.sites]
    page = file.with_name("excitation.html")
    assert "Role of excitation" in page.read_text()
    # Without any block nothing is left but no SE, which is known.
    assert "The configurations without them are known answers" in capsys.readouterr().out

    # Damage is told before a trial, and a missing page is written anew.
    damaged = json.loads(file.read_text())
    for block in damaged["blocks"]:
        del block["depth"]
    file.write_text(json.dumps(damaged))
    with pytest.raises(RunFolderError, match=r"excitation\.json is damaged: delete it"):
        run_search(study, tmp_path / "run", render=render_excitation)
    states = [trial.state for trial in load_trials(tmp_path / "run").get_trials()]
    assert states.count(TrialState.COMPLETE) == 2
    assert set(states) == {TrialState.COMPLETE}
    file.write_text(json.dumps(analysis))
    page.unlink()
    run_search(first, tmp_path / "run", render=render_excitation)
    assert page.is_file()

    # As if the last stage alone idled.
    for block in analysis["blocks"][:-1]:
        block["verdict"] = "works"
    file.write_text(json.dumps(analysis))
    monkeypatch.setattr(module, "analyze_gates", None)
    run_search(study, tmp_path / "run")
    table, _ = read_results(tmp_path / "run")
    assert table["name"].tolist() == [
        *("no SE", "uniform r=16", "r=16 without the last stage", "r=2 without idle blocks"),
        *("", ""),
    ]
    config = SEConfig.from_json(table["config"][3])
    assert config == SEConfig.uniform("test_resnet", 2, stages=space.stages[:-1], rounding=1)
    trials = load_trials(tmp_path / "run").get_trials()
    assert len({trial.user_attrs["config_id"] for trial in trials}) == len(trials) == 6


def test_the_analysis_of_the_supernet_is_that_of_its_widest_network(tmp_path):
    space = space_of("stage")
    study, data = choose_device(study_of(space)), load_data("digits")
    model = create_model(space.largest(), num_classes=10).eval()

    class Given:
        def network(self, config):
            assert config == space.largest()
            return model

    priors_from_excitation(tmp_path, study, space, data, Given())
    found = json.loads((tmp_path / "excitation" / "supernet" / "excitation.json").read_text())
    again = excitation.analyze_gates(model, data, "validation", seed=study.seed)
    assert [one["specificity"] for one in found["blocks"]] == [one["specificity"] for one in again["blocks"]]
    assert found["data"] == again["data"]


def test_analyses_of_complete_trials_are_listed_by_number(finished_run):
    run = finished_run / "run"
    assert find_analyses(run) == ()
    names = ("trial-5", "trial-2", "trial-2-verified", "supernet", "trial-x", "<script>", "trial-3", "trial-6")
    for folder in (*names, "trial-02", "trial-\u0661"):
        (run / "excitation" / folder).mkdir(parents=True)
        if folder != "trial-3":
            (run / "excitation" / folder / "excitation.html").write_text("")
    (run / "excitation" / "trial-4" / "excitation.html").mkdir(parents=True)
    assert find_analyses(run) == (  # the run has trials 0 to 5
        AnalysisPage(2, False, "excitation/trial-2/excitation.html"),
        AnalysisPage(2, True, "excitation/trial-2-verified/excitation.html"),
        AnalysisPage(5, False, "excitation/trial-5/excitation.html"),
    )
    assert analysis_folder(run, 2, True) == run / "excitation" / "trial-2-verified"
