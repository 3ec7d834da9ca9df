"""Space and study files: what is read, and what is refused in one sentence."""

import json

import pytest
import yaml

from se_search.errors import DefinitionError, naming_options
from se_search.study.definitions import parse_share
from se_search.study.files import load_space, load_study, parse_definition, shipped_names
from se_search.study.safe_yaml import read_yaml, write_yaml
from se_search.training.common_start import Adaptation

SPACE = {"placement": "stage", "ratios": [4, 16], "gates": ["sigmoid"]}


def written(folder, content):
    file = folder / "mine.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(file)


def test_the_shipped_files_are_whole():
    assert shipped_names("search_spaces") == (
        "blocks",
        "depth",
        "extent",
        "gate",
        "kinds",
        "position",
        "positions",
        "ratio",
        "squeeze",
        "stage",
        "stages",
        "thin",
    )
    embedded = ("digits", "digits-context", "digits-distant", "digits-local", "extent")
    assert shipped_names("studies") == (*embedded, "imagenet-pretrained", "own-images-pretrained")
    for name in shipped_names("search_spaces"):
        # The paper's table of reduction ratios; its other ablations are at r=16.
        ablations = ("extent", "gate", "position", "squeeze", "stage")
        expected = {"thin": (16, 32), "kinds": (4, 16)} | dict.fromkeys(ablations, (16,))
        assert load_space(name).kinds["se"].ratios == expected.get(name, (2, 4, 8, 16, 32))
    assert load_study("digits").resolved_space == load_space("stages")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ratios": [0]}, ["ratios.0", "0", "at least 1"]),
        ({"ratios": [4, 2.5]}, ["ratios.1", "2.5", "integer"]),
        ({"ratios": [True]}, ["ratios.0", "True", "integer"]),
        ({"ratios": ["16"]}, ["ratios.0", "'16'", "integer"]),
        ({"ratios": []}, ["ratios", "at least 1"]),
        ({"ratios": [4, 4]}, ["ratios", "twice"]),
        ({"ratios": 4}, ["ratios", "4"]),
        ({"gates": ["sigmoyd"]}, ["gates.0", "'sigmoyd'", "sigmoid"]),
        ({"gates": []}, ["gates"]),
        ({"placement": "unit"}, ["placement", "'unit'", "'stage' or 'block'"]),
        ({"bias": "yes"}, ["bias", "'yes'", "boolean"]),
        ({"rounding": 0}, ["rounding", "greater than or equal to 1"]),
        ({"ratio": [4]}, ["ratio", "near names: ratios"]),
    ],
)
def test_a_bad_space_is_refused_with_file_key_and_what_would_be_right(tmp_path, change, words):
    file = written(tmp_path, SPACE | change)
    with pytest.raises(DefinitionError) as refusal:
        load_space(file)
    assert "\n" not in str(refusal.value)
    for word in [file, *words]:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objectives": ["accuracy"]}, ["objectives", "2"]),
        ({"objectives": ["accuracy", "beauty"]}, ["objectives.1", "'beauty'", "log_loss"]),
        ({"objectives": ["accuracy", "accuracy"]}, ["objectives", "twice"]),
        ({"budget": 0}, ["budget", "greater than or equal to 1"]),
        ({"budget": "50"}, ["budget", "'50'", "integer"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"device": "tpu"}, ["device", "auto, cpu, cuda or cuda:N"]),
        ({"image_size": 4}, ["image_size", "4", "greater than or equal to 8"]),
        ({"splits": {"training": "a"}}, ["splits.training", "near names: train"]),
        ({"evaluator": {"optimizer": "adamv"}}, ["evaluator.optimizer", "'adamv'", "near names: adam"]),
        ({"evaluator": {"scheduler": "linear"}}, ["evaluator.scheduler", "'cosine'"]),
        ({"evaluator": {"warm_up": 1.0}}, ["evaluator.warm_up", "less than 1"]),
        ({"evaluator": {"precision": "float16"}}, ["evaluator.precision", "'float32', 'bfloat16' or 'auto'"]),
        ({"evaluator": {"name": "scratch", "halving": 1}}, ["evaluator.halving", "greater than or equal to 2"]),
        ({"evaluator": {"name": "finetune", "seeds": 0}}, ["evaluator.seeds", "0"]),
        ({"evaluator": {"seeds": 2}}, ["evaluator.seeds is not a setting of supernet", "recalibration_images"]),
        (
            {"evaluator": {"name": "scratch", "pretrained": "timm"}},
            ["pretrained is not a setting of scratch", "seeds, halving"],
        ),
        (
            {"evaluator": {"name": "mine", "patience": 2}},
            ["evaluator.patience is not a setting of an evaluator of a plugin"],
        ),
        ({"evaluator": {"compile": True}}, ["evaluator.compile is True", "so it cannot be compiled"]),
        ({"constraints": {"max_params": "much"}}, ["constraints.max_params", "'much'", "5%"]),
        ({"constraints": {"max_latency": 0}}, ["constraints.max_latency", "greater than 0"]),
        ({"constraints": {"max_latency": "slow"}}, ["constraints.max_latency", "'slow'", "1.03 or 3%"]),
        ({"evaluator": {"epohcs": 3}}, ["evaluator.epohcs", "near names: epochs"]),
        ({"evaluator": {"learning_rate": float("nan")}}, ["evaluator.learning_rate", "nan"]),
        ({"latency": {"limit": 0}}, ["latency.limit", "greater than 0"]),
        ({"latency": {"batch": 0}}, ["latency.batch", "0", "greater than or equal to 1"]),
        ({"latency": {"runtime": "tensorrt"}}, ["latency.runtime", "'tensorrt'", "'onnxruntime'"]),
        ({"latency": {"source": "guess"}}, ["latency.source", "'guess'", "'pooled', 'measured' or 'model'"]),
        ({"space": {"placement": "stage", "ratios": [0], "gates": ["sigmoid"]}}, ["space: ratios.0", "at least 1"]),
        ({"space": 3}, ["space", "3"]),
        ({"sampler": "magic"}, ["sampler", "'ehvi', 'gp', 'tpe', 'nsga2' or 'random'"]),
        ({"evaluator": {"name": "a b"}}, ["evaluator.name", "'a b'", "such as supernet"]),
        ({"evaluator": {"name": "mine", "options": 3}}, ["evaluator.options", "3", "dictionary"]),
        ({"evaluator": {"options": {"a": 1}}}, ["evaluator.options is not a setting of supernet"]),
        ({"evaluator": {"name": "mine", "optons": 3}}, ["evaluator.optons", "near names: options"]),
        ({"objectives": ["accuracy", "acuracy"]}, ["objectives.1", "near names: accuracy"]),
        ({"custom_objectives": {"energy": "minimize"}}, ["objectives", "must include energy"]),
        ({"custom_objectives": {"accuracy": "maximize"}}, ["custom_objectives.accuracy", "not in use"]),
        ({"custom_objectives": {"killed": "maximize"}}, ["custom_objectives.killed", "not in use"]),
        ({"custom_objectives": {"a,b": "minimize"}}, ["custom_objectives.a,b", "letters, digits and _"]),
        ({"custom_objectives": {"energy": "less"}}, ["custom_objectives.energy", "'less'", "'maximize' or 'minimize'"]),
    ],
)
def test_a_bad_study_is_refused_with_file_key_and_what_would_be_right(tmp_path, change, words):
    file = written(tmp_path, {"backbone": "resnet18"} | change)
    with pytest.raises(DefinitionError) as refusal:
        load_study(file)
    assert "\n" not in str(refusal.value)
    for word in [file, *words]:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\nb: 2\n", ["not valid YAML", "line 2"]),
        ("just words", ["not a mapping"]),
        ("", ["not a mapping"]),
        ("- 1\n- 2\n", ["not a mapping"]),
        ("\x00", ["not valid YAML"]),
        ("backbone: !!python/object/apply:os.mkdir [made_by_yaml]\n", ["not valid YAML", "python/object"]),
        ("budget: 3\n", ["backbone is missing"]),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, text)
    with pytest.raises(DefinitionError) as refusal:
        load_study(file)
    for word in [file, *words]:
        assert word in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DefinitionError, match="cannot be read as text"):
        load_space(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("given", "share"),
    [("5%", 0.05), (" 0.5 % ", 0.005), ("0.05", 0.05), (0.05, 0.05), (0, 0.0), ("150%", 1.5), (1, 1.0), (1.5, 1.5)],
)
def test_shares(given, share):
    assert parse_share(given) == pytest.approx(share)


@pytest.mark.parametrize("given", ["abc", "", "%", "-1%", -0.1, "nan", "inf", True, None, [1]])
def test_what_is_no_share_is_refused(given):
    with pytest.raises(ValueError, match="such as 5%"):
        parse_share(given)


@pytest.mark.parametrize("given", ["5", 5, " 5 "])
def test_a_share_above_one_needs_a_percent_sign(given):
    with pytest.raises(ValueError, match=r"would be 500 %: write 5% or 500%$"):
        parse_share(given)


@pytest.mark.parametrize(("given", "ratio"), [("3%", 1.03), ("1.03", 1.03), (1.03, 1.03), ("0%", 1.0), ("0.9", 0.9)])
def test_a_limit_on_latency_is_a_ratio_or_what_may_be_added(given, ratio):
    assert load_study("digits", max_latency=given).constraints.max_latency == pytest.approx(ratio)


def test_given_values_replace_the_files_and_none_replaces_nothing(tmp_path):
    file = written(tmp_path, {"backbone": "resnet18", "budget": 7, "seed": 3, "constraints": {"max_latency": 1.1}})
    study = load_study(file, backbone="resnet26", budget=None, space="blocks", max_params="5%")
    assert (study.backbone, study.budget, study.seed) == ("resnet26", 7, 3)
    assert study.resolved_space == load_space("blocks")
    assert (study.constraints.max_params, study.constraints.max_latency) == (0.05, 1.1)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_params": "abc"}, ["max_params is 'abc'", "--max-params is 'abc'"]),
        ({"budget": 0}, ["budget is 0", "--budget is 0"]),
        ({"settings": {"evaluator.epohcs": 3}}, ["evaluator.epohcs is not", "--set evaluator.epohcs is not"]),
        ({"settings": {"latency.limit": 0}}, ["latency.limit is 0", "--set latency.limit is 0"]),
        (
            {"evaluator": "scratch", "pretrained": "timm"},
            [
                "pretrained requires evaluator supernet or finetune$",
                "--pretrained requires --evaluator supernet or finetune$",
            ],
        ),
    ],
)
def test_a_mistake_names_the_argument_or_on_the_command_line_the_option(given, told):
    with pytest.raises(DefinitionError, match=f"^{told[0]}"):
        load_study("digits", **given)
    with naming_options(), pytest.raises(DefinitionError, match=f"^{told[1]}"):
        load_study("digits", **given)


def test_a_mistake_in_the_file_that_a_given_value_brings_to_light_names_the_file(tmp_path):
    goals = {"objectives": ["energy", "accuracy"], "custom_objectives": {"energy": "minimize"}}
    file = written(tmp_path, {"backbone": "resnet18"} | goals)
    with pytest.raises(DefinitionError, match=rf"^{file}: objectives\.0 is 'energy'"):
        load_study(file, custom_objectives={"speed": "maximize"})
    file = written(tmp_path, {"backbone": "resnet18", "evaluator": {"recalibration_images": 64}})
    with pytest.raises(
        DefinitionError, match=rf"^{file}: evaluator\.recalibration_images is not a setting of finetune"
    ):
        load_study(file, evaluator="finetune")


def test_an_epoch_count_leaves_the_files_evaluator_as_it_is(tmp_path):
    file = written(tmp_path, {"backbone": "resnet18", "evaluator": {"name": "finetune", "seeds": 2}})
    evaluator = load_study(file, epochs=3).evaluator
    assert (evaluator.name, evaluator.epochs, evaluator.seeds) == ("finetune", 3, 2)


def test_a_resolved_study_is_a_study_file(tmp_path):
    study = load_study("digits", space="blocks", max_params="5%", threads=2)
    assert load_study(written(tmp_path, study.model_dump(mode="json"))) == study


def test_each_objective_has_its_direction_also_those_that_functions_measure(tmp_path):
    objectives = ["energy", "accuracy", "latency_ratio"]
    content = {"backbone": "resnet18", "objectives": objectives, "custom_objectives": {"energy": "minimize"}}
    study = load_study(written(tmp_path, content))
    assert study.objectives == tuple(objectives)
    assert study.directions == ("minimize", "maximize", "minimize")
    assert load_study("digits").directions == ("maximize", "minimize", "minimize")


def test_the_name_of_an_evaluator_replaces_the_files_name_and_nothing_else(tmp_path):
    evaluator = {"name": "one", "epochs": 3, "options": {"start": [1, 2]}}
    study = load_study(written(tmp_path, {"backbone": "resnet18", "evaluator": evaluator}), evaluator="other")
    assert (study.evaluator.name, study.evaluator.epochs, study.evaluator.options) == ("other", 3, {"start": [1, 2]})
    with pytest.raises(DefinitionError, match=r"^evaluator is 'a b'"):
        load_study("digits", evaluator="a b")


FROM_BACKBONE = ("pretrained", "adapt", "backbone_lr")


def test_each_evaluator_has_its_own_settings_and_learning_rate(tmp_path):
    for name, rate, own in (
        ("supernet", 0.002, {*FROM_BACKBONE, "recalibration_images", "distillation", "patience", "train"}),
        ("finetune", 0.0005, {*FROM_BACKBONE, "seeds", "halving"}),
        ("scratch", 0.002, {"seeds", "halving"}),
        ("mine", 0.002, {"seeds", "halving", "pretrained", "options"}),
    ):
        evaluator = load_study("digits", evaluator=name).evaluator
        assert (evaluator.name, evaluator.learning_rate, set(evaluator.own_settings())) == (name, rate, own)
    whole = written(tmp_path, load_study("digits").model_dump(mode="json"))
    assert load_study(whole, evaluator="finetune") == load_study("digits", evaluator="finetune")


@pytest.mark.parametrize("text", ["1e-4", "1.e-4", ".1e-3", "+1E-04", "0.0001", "1.0e-4"])
def test_a_number_may_be_written_in_every_usual_way(tmp_path, text):
    study = load_study(written(tmp_path, f"backbone: resnet18\nevaluator: {{weight_decay: {text}}}\n"))
    assert study.evaluator.weight_decay == 1e-4


@pytest.mark.parametrize("value", [1e-6, 5e-324, 1.5e-07, 1e22, 0.05])
def test_a_study_comes_back_from_a_storage_and_a_run_folder_as_it_was(value):
    study = load_study("digits", backbone="resnet18", description="1e5", evaluator="mine")
    changed = study.evaluator.model_copy(update={"learning_rate": value, "options": {"of": ["1e5", "-.5E3", value]}})
    study = study.model_copy(update={"evaluator": changed})
    assert parse_definition(study.model_dump_json(), "the storage") == study
    assert parse_definition(write_yaml(study.model_dump(mode="json")), "the folder") == study
    assert read_yaml("[1e, e5, 1e5x, 1.2.3e4, '1e5']", "here") == ["1e", "e5", "1e5x", "1.2.3e4", "1e5"]


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"placement": "stage", "gates": ["tanh"]}, "ratios is missing"),
        (SPACE | {"ratio": 4}, "ratio is not a known key; near names: ratios; known are .*"),
        (SPACE | {"ratios": [0]}, "ratios.0 is 0: .* at least 1"),
    ],
)
def test_a_space_written_out_is_refused_by_its_key(space, told):
    with pytest.raises(DefinitionError, match=rf"^space: {told}"):
        load_study("digits", backbone="resnet18", space=space)
    stored = json.dumps(load_study("digits", backbone="resnet18").model_dump(mode="json") | {"space": space})
    with pytest.raises(DefinitionError, match=rf"^the storage: space: {told}"):
        parse_definition(stored, "the storage")


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({"budget": 3}, True),
        ({"backbone": "resnet50"}, True),  # the file's own
        ({"backbone": "resnet18"}, False),
        ({"data": "pictures"}, False),
        ({"data": "pictures", "description": "My pictures."}, True),
    ],
)
def test_a_description_is_kept_only_with_its_backbone_and_data(changed, kept):
    assert bool(load_study("digits", changed).description) == kept


def test_the_adaptation_that_is_not_set_is_the_definitions_default():
    study = load_study("digits", pretrained="timm", settings={"evaluator.adapt.epochs": 4})
    assert study.evaluator.adaptation == Adaptation()
    assert load_study("digits", pretrained="timm").evaluator.adaptation is None
