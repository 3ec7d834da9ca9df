"""Plugins: packages that add spaces, evaluators, export formats and configurations by entry points."""

import importlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from se_search import SEConfig, create_model, export_timm, load_run
from se_search.api import configurations, exporters, load_config
from se_search.cli import app
from se_search.data.load import load_data
from se_search.errors import ConfigurationError, DefinitionError, ExportError, RunFolderError
from se_search.plugins import EXPORTERS, SPACES, find_plugin, find_plugins
from se_search.study.files import load_space
from se_search.study.space_definition import SpaceDefinition
from se_search.trials.evaluators import create_shipped, find_evaluator

SPACE = {"description": "From a plugin.", "placement": "stage", "ratios": [4, 16], "gates": ["sigmoid"]}

MODULE = f'''
from pathlib import Path

import torch
from torch import nn

import se_search
from se_search.errors import DefinitionError, RunFolderError
from se_search.training.evaluator import Evaluation, evaluate_network

SPACE = {SPACE!r}
FILE = Path(__file__).with_name("space.yaml")
TEXT = "placement: stage\\nratios: [4]\\ngates: [relu]\\n"
MALFORMED = "placement: [stage\\nratios: [4]\\n"
NUMBER = 3


def mapping():
    return SPACE


def failing():
    raise OSError("the server is away")


def quarter():
    return se_search.SEConfig.uniform("test_resnet", 4)


def write_names(model, folder, input_size):
    Path(folder, "names.txt").write_text(" ".join(model.state_dict()))


class Untrained:
    """Judges networks with the weights that a seed gives them; keeps the seed in the run folder."""

    def __init__(self, study, space, data):
        if set(study.evaluator.options) - {{"start"}}:
            raise DefinitionError("evaluator.options may hold start only")
        self.data, self.start = data, study.evaluator.options.get("start", 0)

    def prepare(self, folder, space, progress_bar):
        assert space.largest().sites and all(site in space.sites for site in space.largest().sites)
        with progress_bar("Preparing", 1, 0) as advance:
            Path(folder, "start.txt").write_text(str(self.start))
            advance()

    def load(self, folder):
        if not Path(folder, "start.txt").is_file():
            raise RunFolderError(f"{{folder}} has no start.txt: run the search first")
        self.start = int(Path(folder, "start.txt").read_text())

    def network(self, config) -> nn.Module:
        torch.manual_seed(self.start)
        return se_search.create_model(config, num_classes=self.data.classes).eval()

    def evaluate(self, config) -> Evaluation:
        return evaluate_network(self.network(config), self.data.validation)
'''

ENTRY_POINTS = {
    "se_search.spaces": {
        "a-mapping": "SPACE",
        "a-file": "FILE",
        "a-text": "TEXT",
        "a-function": "mapping",
        "malformed": "MALFORMED",
        "number": "NUMBER",
        "failing": "failing",
        "stages": "TEXT",
    },
    "se_search.evaluators": {"untrained": "Untrained", "supernet": "Untrained"},
    "se_search.exporters": {"names": "write_names"},
    "se_search.configurations": {"quarter": "quarter", "number": "NUMBER", "failing": "failing"},
}


def install(folder: Path, package: str, module: str, text: str, entry_points) -> None:
    """Lay a package out as an installer does."""
    folder.joinpath(f"{module}.py").write_text(text)
    about = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {module}:{attribute}" for name, attribute in entries.items())]
    (about / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def installed(tmp_path_factory, monkeypatch):
    """A folder of installed packages: one that works and one whose import fails."""
    folder = tmp_path_factory.mktemp("packages")
    install(folder, "example-plugin", "example_plugin", MODULE, ENTRY_POINTS)
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
    broken = {"se_search.spaces": {"broken": "SPACE"}, "se_search.evaluators": {"broken": "create"}}
    install(folder, "broken-plugin", "broken_plugin", "import a_module_that_nobody_has\n", broken)
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    yield folder
    for name in ("example_plugin", "broken_plugin"):
        sys.modules.pop(name, None)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_sentence(error, *words):
    assert "\n" not in str(error)
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("name", ["a-mapping", "a-file", "a-function"])
def test_a_space_may_be_a_mapping_a_file_or_a_function(installed, name):
    expected = {key: tuple(value) if isinstance(value, list) else value for key, value in SPACE.items()}
    assert load_space(name) == SpaceDefinition(**expected)


def test_a_space_may_be_yaml_text(installed):
    assert (load_space("a-text").ratios, load_space("a-text").gates) == ((4,), ("relu",))


def test_a_plugin_is_imported_only_when_it_is_asked_for(installed):
    assert {plugin.name for plugin in find_plugins(SPACES)} == {*ENTRY_POINTS["se_search.spaces"], "broken"}
    load_space("blocks")
    assert "example_plugin" not in sys.modules
    load_space("a-mapping")
    assert "example_plugin" in sys.modules


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broken", ["broken-plugin", "broken = broken_plugin:SPACE", "se_search.spaces", "a_module_that_nobody_has"]),
        ("failing", ["example-plugin", "failing = example_plugin:failing", "OSError: the server is away"]),
        ("malformed", ["space 'malformed' of package example-plugin", "not valid YAML", "line 2"]),
        ("number", ["space 'number' of package example-plugin", "not a mapping"]),
    ],
)
def test_a_space_that_cannot_be_used_is_refused_by_package_and_entry_point(installed, name, words):
    with pytest.raises(DefinitionError) as refusal:
        load_space(name)
    assert_one_sentence(refusal.value, *words)


def test_a_broken_evaluator_is_refused_by_package_and_entry_point(installed):
    with pytest.raises(DefinitionError) as refusal:
        find_evaluator("broken")
    assert_one_sentence(refusal.value, "broken-plugin", "broken = broken_plugin:create", "se_search.evaluators")


def test_an_unknown_name_is_refused_with_those_of_plugins(installed):
    with pytest.raises(DefinitionError) as refusal:
        load_space("a-maping")
    assert_one_sentence(
        refusal.value, "shipped are blocks, depth, extent, gate, kinds", "of plugins: a-file", "a-mapping"
    )
    with pytest.raises(DefinitionError) as refusal:
        find_evaluator("untraind")
    assert_one_sentence(
        refusal.value, "'untraind'", "known are supernet, finetune, scratch, broken, untrained", "near names: untrained"
    )


def test_a_shipped_name_stays_what_is_shipped_and_a_warning_says_so(installed):
    with pytest.warns(UserWarning, match="space 'stages' of package example-plugin is not used: se-search ships"):
        assert load_space("stages").ratios == (2, 4, 8, 16, 32)
    with pytest.warns(UserWarning, match="evaluator 'supernet' of package example-plugin is not used"):
        assert find_evaluator("supernet") is create_shipped


def test_a_name_that_two_packages_offer_is_refused_where_it_is_used(installed):
    install(installed, "second-plugin", "second_plugin", MODULE, {"se_search.spaces": {"a-text": "SPACE"}})
    importlib.invalidate_caches()
    assert load_space("a-mapping").ratios == (4, 16)
    with pytest.raises(DefinitionError) as refusal:
        load_space("a-text")
    assert_one_sentence(refusal.value, "'a-text'", "example-plugin, second-plugin", "keep one")


def test_spaces_of_plugins_are_listed_with_their_package(installed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = invoke("spaces")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[lines.index("a-mapping (of package example-plugin): From a plugin.") + 1].endswith(
        "ratios 4, 16; gates sigmoid; squeezes avg; extents global"
    )
    broken = next(line for line in lines if line.startswith("broken"))
    assert broken.startswith("broken (of package broken-plugin): cannot be used: ")
    assert "a_module_that_nobody_has" in broken
    assert "stages (of package example-plugin): cannot be used: se-search ships a space of that name" in lines


def test_export_formats_are_found_by_name(installed, tmp_path):
    assert exporters() == {"names": "example-plugin"}
    plugin = find_plugin(EXPORTERS, "names", shipped=("timm",))
    model = create_model(SEConfig("test_resnet"))
    plugin.load()(model, tmp_path, (3, 32, 32))
    assert (tmp_path / "names.txt").read_text().split() == list(model.state_dict())
    assert find_plugin(EXPORTERS, "timm", shipped=("timm",)) is None


def test_the_command_writes_an_export_format_of_a_plugin(installed, finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    for _ in range(2):  # the second replaces the first
        assert invoke("export", "run", "--trial", "0", "--format", "names").exit_code == 0
        assert (finished_run / "exported" / "names" / "names.txt").read_text().split()
    refused = invoke("export", "run", "--format", "nmes")
    assert refused.exit_code == 2
    assert "'nmes' is unknown: known are standalone, onnx, pt2, openvino, names; near names: names" in refused.stderr


def test_folders_of_formats_are_recorded_uploaded_and_removed_with_the_next_export(installed, tmp_path, monkeypatch):
    uploaded = []
    monkeypatch.setattr("se_search.export.timm_folder.check_upload", lambda repository: None)
    monkeypatch.setattr("se_search.export.timm_folder.upload", lambda folder, repository, files: uploaded.extend(files))
    folder, model = tmp_path / "exported", create_model(SEConfig("test_resnet"))
    written = export_timm(model, folder, formats=("names",), push_to_hub="me/network")
    assert "names/" in written.files
    assert "names/*" in uploaded
    assert "`names/`" in (folder / "README.md").read_text()
    export_timm(model, folder)
    assert not (folder / "names").exists()
    (folder / "mine").mkdir()
    with pytest.raises(RunFolderError, match=r"contains other files \(mine\)"):
        export_timm(model, folder)


def test_a_record_that_names_folders_elsewhere_removes_nothing(installed, tmp_path):
    folder, model = tmp_path / "exported", create_model(SEConfig("test_resnet"))
    export_timm(model, folder)
    (tmp_path / "mine").mkdir()
    config = json.loads((folder / "config.json").read_text())
    config["se_search"]["formats"] = ["../mine", str(tmp_path / "mine"), "..", ".", "", 5]
    (folder / "config.json").write_text(json.dumps(config))
    export_timm(model, folder)
    assert (tmp_path / "mine").is_dir()
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("raised", "told"), [(KeyError("x"), "KeyError: 'x'"), (FileNotFoundError(2, "no such file", "y"), "no such file")]
)
def test_an_export_format_that_fails_is_named_and_nothing_is_written(installed, tmp_path, monkeypatch, raised, told):
    def fail(model, folder, input_size):
        raise raised

    importlib.import_module("example_plugin")
    monkeypatch.setattr("example_plugin.write_names", fail)
    with pytest.raises(ExportError) as refusal:
        export_timm(create_model(SEConfig("test_resnet")), tmp_path / "new", formats=("names",))
    assert_one_sentence(refusal.value, "export format 'names' of package example-plugin cannot write the network", told)
    assert not (tmp_path / "new").exists()


def test_configurations_are_found_by_name(installed):
    assert configurations() == dict.fromkeys(("failing", "number", "quarter"), "example-plugin")
    assert load_config("quarter") == SEConfig.uniform("test_resnet", 4)
    for name, words in {
        "quartr": ["'quartr'", "near names: quarter"],
        "number": ["'number'", "example-plugin", "SEConfig is needed, not int"],
        "failing": ["'failing'", "example-plugin", "the server is away"],
    }.items():
        with pytest.raises(ConfigurationError) as refusal:
            load_config(name)
        assert_one_sentence(refusal.value, *words)


def test_a_search_with_a_space_and_an_evaluator_of_a_plugin(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = {"backbone": "test_resnet", "budget": 4, "space": "a-mapping", "latency": {"limit": 0.05, "size": "data"}}
    study["evaluator"] = {"name": "untrained", "options": {"start": 5}}
    Path("mine.yaml").write_text(yaml.safe_dump(study))
    result = invoke("run", "--study", "mine.yaml", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "accuracy estimated by the evaluator untrained" in result.output

    trials = pd.read_csv("run/trials.csv")
    assert (trials["state"] == "complete").sum() == 4
    images, labels = load_data("digits").validation.tensors
    for row in trials.to_dict("records"):
        torch.manual_seed(5)
        model = create_model(SEConfig.from_json(row["config"]), num_classes=10).eval()
        with torch.no_grad():
            assert row["accuracy"] == (model(images).argmax(1) == labels).double().mean().item()
    assert yaml.safe_load(Path("run/study.yaml").read_text())["evaluator"]["options"] == {"start": 5}

    number = load_run("run").export("accurate", to="exported").trial
    torch.manual_seed(5)
    config = SEConfig.from_json(trials.set_index("number")["config"][number])
    fresh = create_model(config, num_classes=10).eval()
    code = (
        "import sys, torch, timm, se_search; m = timm.create_model('local-dir:exported', pretrained=True);"
        "torch.save(m.eval()(torch.ones(1, 3, 32, 32)).detach(), 'out.pt')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    torch.testing.assert_close(torch.load("out.pt"), fresh(torch.ones(1, 3, 32, 32)).detach(), rtol=0, atol=1e-6)

    # Without the plugin the run can still be read; going on and exporting need it.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(installed)])
    importlib.invalidate_caches()
    assert invoke("report", "run").exit_code == 0
    for arguments in (["run", "--study", "run/study.yaml", "--out", "run", "--budget", "5"], ["export", "run"]):
        refused = invoke(*arguments)
        assert refused.exit_code == 2
        assert "evaluator 'untrained' is unknown" in refused.stderr


def test_settings_that_an_evaluator_does_not_take_are_refused_and_nothing_is_written(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, words in {"untrained": "may hold start only", "supernet": "is not a setting of supernet"}.items():
        study = {"backbone": "test_resnet", "evaluator": {"name": name, "options": {"end": 1}}}
        Path("mine.yaml").write_text(yaml.safe_dump(study))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this plugin offers a supernet of its own
            result = invoke("run", "--study", "mine.yaml", "--out", "run")
        assert result.exit_code == 2
        assert words in result.stderr
        assert not Path("run").exists()


def test_an_evaluator_is_chosen_on_the_command_line(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        yaml.safe_dump({"backbone": "test_resnet", "latency": {"limit": 0.01, "size": "data"}})
    )
    options = ["run", "--study", "mine.yaml", "--budget", "1", "--out", "run"]
    result = invoke(*options, "--evaluator", "untraind")
    assert result.exit_code == 2
    assert "near names: untrained" in result.stderr
    assert not Path("run").exists()
    assert invoke(*options, "--evaluator", "untrained").exit_code == 0
    assert yaml.safe_load(Path("run/study.yaml").read_text())["evaluator"]["name"] == "untrained"
    assert Path("run/start.txt").read_text() == "0"
