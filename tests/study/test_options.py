"""Options of a study: one table for keys, options of the command line, arguments in Python and messages."""

import functools
import inspect
import json

import pytest
import typer

import se_search
from se_search.cli import app
from se_search.errors import DefinitionError
from se_search.study.definitions import StudyDefinition
from se_search.study.files import load_study
from se_search.study.options import OPTIONS, definitions_in, find_fields, read_settings
from se_search.study.space_definition import SpaceDefinition

RUN = {parameter.name: parameter for parameter in typer.main.get_command(app).commands["run"].params}


def keys(kind=StudyDefinition, section=""):
    """Every key of a study; the space is one key, which names it."""
    for name, field in kind.model_fields.items():
        inner = [one for one in definitions_in(field.annotation) if one is not SpaceDefinition]
        if inner:
            for one in inner:
                yield from keys(one, f"{section}{name}.")
        else:
            yield section + name


KEYS = list(dict.fromkeys(keys()))


def value_of(study, key):
    for part in key.split("."):
        study = study[part]
    return study


def test_the_table_leads_from_arguments_to_keys_and_back():
    assert len({option.argument for option in OPTIONS}) == len({option.key for option in OPTIONS}) == len(OPTIONS)
    assert {option.key for option in OPTIONS} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_a_study_can_be_given_on_the_command_line(key):
    assert "--set" in RUN["settings"].opts
    for option in OPTIONS:
        if option.key == key:
            assert option.flag in RUN[option.argument].opts
    section, *settings = key.split(".")
    setting = settings[0] if settings else ""
    # A section that is off by default has its defaults once it is given.
    on = {f"{section}.{setting}": {}} if len(settings) > 1 else {}
    kinds = [kind for kind in definitions_in(find_fields(section)[0].annotation) if setting in kind.model_fields]
    evaluator = None
    if section == "evaluator" and setting != "name":  # one that has such a setting
        name = kinds[0].model_fields["name"]
        evaluator = "mine" if name.is_required() else name.default
    load = functools.partial(load_study, evaluator=evaluator)
    study = load("digits", on, space="stages")
    given = read_settings([f"{key}={json.dumps(value_of(study.model_dump(mode='json'), key))}"])
    assert load("digits", on | given) == study
    with pytest.raises(DefinitionError, match=rf"^{key}\b.* is "):  # so it is read, and not only passed by
        load("digits", {key: [{}]})


def test_settings_replace_single_keys_beside_arguments(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("backbone: resnet18\nevaluator: {epochs: 3, batch: 32}\nlatency: {limit: 2}\n")
    settings = read_settings(["evaluator.label_smoothing=0.1", "latency.size=null", "splits={test: validation}"])
    study = load_study(str(file), settings, epochs=5, latency={"batch": 8})
    evaluator, latency = study.evaluator, study.latency
    assert (evaluator.epochs, evaluator.batch, evaluator.label_smoothing) == (5, 32, 0.1)
    assert (latency.batch, latency.size, latency.limit) == (8, "data", 5.0)
    assert study.splits.test == "validation"
    options = load_study(str(file), {"evaluator.options.start": [1, 2]}, evaluator="mine").evaluator.options
    assert options == {"start": [1, 2]}


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["epochs"], "--set 'epochs' is not KEY=VALUE, such as evaluator.label_smoothing=0.1"),
        (["=3"], "--set '=3' is not KEY=VALUE"),
        (["seed=[1"], "--set seed is not valid YAML at line 1"),
        (["seed=!!python/object/apply:os.abort []"], "--set seed is not valid YAML at line 1"),
        (["budget=&a [*a]"], "--set budget is not accepted at line 1"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused(texts, told):
    with pytest.raises(DefinitionError) as refusal:
        read_settings(texts)
    assert str(refusal.value).startswith(told)


@pytest.mark.parametrize(
    ("settings", "arguments", "told"),
    [
        (
            {"evaluator.epochs": 3},
            {"epochs": 4},
            "evaluator.epochs and epochs set the same key: remove one of them",
        ),
        ({"budget.most": 3}, {"budget": 5}, "budget.most cannot be set: budget is 5, which has no keys"),
        ({"space.placement": "block"}, {"space": "stages"}, "space.placement cannot be set: space is 'stages'"),
        ({"evaluater.epochs": 3}, {}, "evaluater.epochs is not a known key; near names: evaluator"),
        ({"sampler.name": "tpe"}, {}, "sampler.name cannot be set: sampler is"),
        ({"threads.number": 1}, {}, "threads.number is {'number': 1}: it should be a valid integer"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_by_its_name(settings, arguments, told):
    with pytest.raises(DefinitionError) as refusal:
        load_study("digits", settings, **arguments)
    assert str(refusal.value).startswith(told)


def test_help_shows_choices_defaults_and_what_a_key_means_from_its_field():
    for option in OPTIONS:
        field, shown = find_fields(option.key)[0], RUN[option.argument]
        assert shown.help.startswith(field.description[:3].strip('`"')), option
        assert not {"`", ":class:"} & set(shown.help), option
        if not field.is_required() and field.default is not None:
            assert shown.help.endswith(f"[default: the study's, else {str(field.default).lower()}]"), option
        if option.choices:
            assert shown.metavar == f"[{'|'.join(option.choices)}]"
    by_name = {option.argument: option for option in OPTIONS}
    assert by_name["sampler"].choices == ("ehvi", "gp", "tpe", "nsga2", "random")
    assert by_name["latency"].choices == ("pooled", "measured", "model")
    assert by_name["latency_size"].choices == ("auto", "backbone", "data", "NUMBER")
    written = {"budget": int, "latency_optimized": bool, "trial_limit": float, "max_params": str, "data": str}
    assert {name: by_name[name].written_as for name in written} == written


def test_the_signature_of_search_shows_its_parameters():
    parameters = inspect.signature(se_search.search).parameters
    assert list(parameters)[:6] == ["backbone", "study", "budget", "out", "evaluator", "objectives"]
    expected = {option.argument for option in OPTIONS} | set(StudyDefinition.model_fields)
    assert expected | {"settings", "workers", "ray"} <= set(parameters)
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    assert all(one.default is not inspect.Parameter.empty for one in parameters.values())


def test_an_unknown_argument_is_refused_with_near_names():
    told = r"^search\(\) got an unexpected argument 'epohcs'; near names: epochs$"
    with pytest.raises(DefinitionError, match=told):
        se_search.search("resnet18", epohcs=3)
    with pytest.raises(DefinitionError, match=r"'wokers'; near names: workers"):
        se_search.search("resnet18", wokers=3)
