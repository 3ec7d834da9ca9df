"""Export formats: one registry for the command line, Python and plugins."""

import json

import pytest
import typer

from se_search import SEConfig, create_model, export_timm
from se_search.cli import app
from se_search.errors import ExportError
from se_search.export.formats import FORMATS, Format, choose_formats


def names(formats=(), optimized=False, **flags):
    return [one.name for one in choose_formats(formats, flags, optimized)]


def test_formats_are_written_in_one_order_and_once():
    assert list(FORMATS) == ["standalone", "onnx", "pt2", "openvino"]
    assert names() == []
    chosen = names(["openvino", "onnx", "onnx"], onnx=True, standalone=True, pt2=False)
    assert chosen == ["standalone", "onnx", "openvino"]


def test_an_optimized_network_is_written_as_pt2_where_no_format_of_other_runtimes_is_asked_for():
    assert names(optimized=True) == ["pt2"]
    assert names(["standalone"], optimized=True) == ["standalone", "pt2"]
    assert names(["onnx"], optimized=True) == ["onnx"]


def test_unknown_formats_are_refused_before_anything_is_written(tmp_path):
    model = create_model(SEConfig("test_resnet"))
    known = "known are standalone, onnx, pt2, openvino"
    for given, told in (
        ({"formats": ["onxx"]}, f"export format 'onxx' is unknown: {known}.*near names: onnx"),
        ({"onxx": True}, "unexpected argument 'onxx'; near names: onnx"),
    ):
        with pytest.raises(ExportError, match=told):
            export_timm(model, tmp_path / "exported", **given)
    assert list(tmp_path.iterdir()) == []


def test_each_format_has_a_flag_on_the_command_line_and_is_a_choice_of_format():
    options = {one.name: one for one in typer.main.get_command(app).commands["export"].params}
    for one in FORMATS.values():
        assert options[one.name].opts == [f"--{one.name}"]
        assert options[one.name].help == f"Also write {one.help}."
    assert options["formats"].metavar == "[standalone|onnx|pt2|openvino|NAME]"


def test_a_format_takes_one_entry_in_the_registry(tmp_path, monkeypatch):
    def write(network, folder):
        (folder / "layers.json").write_text(json.dumps([network.input_size, list(network.deployed.state_dict())]))

    monkeypatch.setitem(FORMATS, "layers", Format("layers", ("layers.json",), "layers.json", write))
    model = create_model(SEConfig("test_resnet"))
    written = export_timm(model, tmp_path / "exported", input_size=(3, 32, 32), formats=["layers"])
    assert written.files == ("config.json", "model.safetensors", "README.md", "layers.json")
    content = json.loads((tmp_path / "exported" / "layers.json").read_text())
    assert content == [[3, 32, 32], list(model.state_dict())]
    assert "`layers.json`" in (tmp_path / "exported" / "README.md").read_text()
