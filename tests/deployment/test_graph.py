"""Exported graphs, loaded by their own runtimes and compared with the network."""

import copy
import itertools
import sys
import zipfile
from pathlib import Path

import onnxruntime
import openvino
import pytest
import timm
import torch
from timm.layers import SEModule
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from se_search import PlacedSE, SEConfig, create_model, find_sites
from se_search.deployment.graph import export_graph, trace
from se_search.errors import ExportError
from se_search.network.attention.gates import GATES

SIZE = (3, 64, 64)
EXPORTS = ("onnx", "pt2", "xml")


def uniform(backbone, *positions):
    placed = (SEConfig.uniform(backbone, position=position).placed for position in positions)
    return SEConfig(backbone, tuple(itertools.chain(*placed)))


def every_gate():
    sites = find_sites("resnet10t", position="standard")
    return SEConfig("resnet10t", tuple(PlacedSE(site, 4, gate) for site, gate in zip(sites, GATES, strict=True)))


def thinned():
    """A third of the backbone's own attention replaced, a third taken out, a third kept."""
    sites = find_sites("mobilenetv3_small_050", position="existing")
    placed = tuple(PlacedSE(site, 8, "hard_sigmoid") for site in sites[::3])
    return SEConfig("mobilenetv3_small_050", placed, removed=sites[1::3])


NETWORKS = {
    "every gate": every_gate,
    "identity start": lambda: uniform("test_resnet", "identity", "post").starting_at_identity(),
    "NHWC": lambda: uniform("test_convnext", "standard", "3x3"),
    "tokens": lambda: uniform("test_vit", "pre", "standard"),
    "thinned": thinned,
}


def se_blocks(model):
    return [module for module in model.modules() if isinstance(module, SEModule)]


def network(config, **options):
    """Create a network all of whose branches and SE blocks count: many of timm's start at zero or next to it."""
    if config.backbone == "test_vit":
        options["img_size"] = SIZE[1]
    torch.manual_seed(0)
    model = create_model(config, num_classes=7, **options)
    for parameter in model.parameters():
        if parameter.dim() <= 1:
            nn.init.uniform_(parameter, 0.2, 0.6)
    for block in se_blocks(model):
        nn.init.normal_(block.fc2.weight)
    return model.eval()


def loaded_onnx(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (images,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.shape) == ("images", ["batch", *SIZE])
    assert (logits.name, logits.shape[0]) == ("logits", "batch")
    return lambda batch: torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])


def loaded_program(file):
    return torch.export.load(file).module()


def loaded_openvino(file):
    graph = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert graph.input("images").partial_shape.to_string() == "[?,3,64,64]"
    return lambda batch: torch.from_numpy(graph([batch.numpy()])["logits"])


LOADED = {"onnx": loaded_onnx, "pt2": loaded_program, "xml": loaded_openvino}


def largest_difference(one, other):
    return ((one - other).abs().max() / other.abs().max()).item()


def assert_equal_outputs(run, model):
    with torch.no_grad():
        for batch in (1, 5):
            images = torch.randn(batch, *SIZE)
            outputs = run(images)
            assert outputs.shape == (batch, 7)
            assert largest_difference(outputs, model(images)) <= 1e-4


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=pytest.mark.slow if one in ("NHWC", "thinned", "tokens") else ()) for one in NETWORKS],
)
def test_onnx_runtime_and_pytorch_load_graphs_with_the_outputs_of_the_network(name, tmp_path, capfd):
    model = network(NETWORKS[name]())
    for kind in ("onnx", "pt2"):
        export_graph(model, tmp_path / f"model.{kind}", SIZE)
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.pt2"]

    runs = [LOADED[kind](tmp_path / f"model.{kind}") for kind in ("onnx", "pt2")]
    for run in runs:
        assert_equal_outputs(run, model)
    for block in se_blocks(model):
        nn.init.zeros_(block.fc2.weight)
    with torch.no_grad():  # the equality above would mean little if the SE blocks had no part in the outputs
        images = torch.randn(1, *SIZE)
        assert all(largest_difference(run(images), model(images)) > 0.01 for run in runs)


@pytest.mark.parametrize("name", ["every gate", pytest.param("tokens", marks=pytest.mark.slow)])
def test_openvino_loads_a_graph_with_the_outputs_of_the_network(name, tmp_path, capfd):
    model = network(NETWORKS[name]())
    export_graph(model, tmp_path / "model.xml", SIZE)
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert_equal_outputs(loaded_openvino(tmp_path / "model.xml"), model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (tmp_path / "model.bin").stat().st_size > 3.9 * parameters  # four bytes each; few are folded away


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network in training mode but for one layer, what it was before and after, and the folder of its exports."""
    folder = tmp_path_factory.mktemp("graphs") / "exported"
    model = network(uniform("test_resnet", "standard"), drop_rate=0.5).train()
    model.bn1.eval()
    before = snapshot(model)
    for kind in EXPORTS:
        export_graph(model, folder / f"model.{kind}", SIZE)
    return model, before, snapshot(model), folder


def snapshot(model):
    values = (*model.parameters(), *model.buffers())
    return {
        "training": [module.training for module in model.modules()],
        "identities": [id(value) for value in values],
        "values": [value.tolist() for value in values],
        "random": torch.get_rng_state().tolist(),
    }


def test_exports_leave_the_network_as_it_was(exported):
    _, before, after, _ = exported
    assert after == before


@pytest.mark.parametrize("kind", EXPORTS)
def test_a_network_in_training_mode_is_exported_in_evaluation_mode(kind, exported):
    model, _, _, folder = exported
    assert_equal_outputs(LOADED[kind](folder / f"model.{kind}"), copy.deepcopy(model).eval())


def test_files_do_not_tell_where_on_this_machine_they_were_made(exported):
    folder = exported[-1]
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        contents = [archive.read(name) for name in archive.namelist()]
    contents += [(folder / name).read_bytes() for name in ("model.onnx", "model.xml")]
    for place in (Path(timm.__file__).parent, Path(torch.__file__).parent, folder.parent):
        assert not any(str(place).encode() in content for content in contents)


def test_a_network_in_half_precision_is_exported_in_single_precision(tmp_path):
    model = network(uniform("test_resnet", "standard")).bfloat16()
    export_graph(model, tmp_path / "model.pt2", SIZE)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert_equal_outputs(loaded_program(tmp_path / "model.pt2"), model.float())


def test_large_weights_go_to_a_file_beside_the_onnx_file(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)
    model = network(uniform("test_resnet", "standard"))
    export_graph(model, tmp_path / "model.onnx", SIZE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size > (tmp_path / "model.onnx").stat().st_size
    assert_equal_outputs(loaded_onnx(tmp_path / "model.onnx"), model)


def test_an_export_replaces_an_earlier_one(tmp_path):
    export_graph(network(SEConfig("test_resnet")), tmp_path / "model.pt2", SIZE)
    model = network(uniform("test_resnet", "standard"))
    export_graph(model, tmp_path / "model.pt2", SIZE)
    assert_equal_outputs(loaded_program(tmp_path / "model.pt2"), model)


class BranchesOnValues(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


class AddsNoise(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) + torch.randn(images.shape[0], 3)


class ReturnsTwo(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)), images


class FixesItsBatch(nn.Module):
    def forward(self, images):
        return images.reshape(2, -1)


class IsNotANumber(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)).log().sqrt()


class WantsAnotherSize(nn.Module):
    def forward(self, images):
        raise AssertionError("Input height (64) doesn't match model (224).\nmore")


class UnknownToOnnx(nn.Module):
    def forward(self, images):
        return torch.linalg.eigvals(images[:, 0]).real


class UnknownToOpenvino(nn.Module):
    def forward(self, images):
        return torch.linalg.det(images)


REFUSED = [
    (BranchesOnValues, "onnx", "this BranchesOnValues cannot be exported as an ONNX file: .*data-dependent"),
    (BranchesOnValues, "pt2", "this BranchesOnValues cannot be exported as a PyTorch program: .*data-dependent"),
    (BranchesOnValues, "xml", "this BranchesOnValues cannot be exported as an OpenVINO graph: .*data-dependent"),
    (AddsNoise, "onnx", r"an ONNX file of this AddsNoise was not kept, as its outputs differ .* by \d"),
    (AddsNoise, "pt2", r"a PyTorch program of this AddsNoise was not kept, as its outputs differ .* by \d"),
    (AddsNoise, "xml", r"an OpenVINO graph of this AddsNoise was not kept, as its outputs differ .* by \d"),
    (ReturnsTwo, "pt2", "it returns a tuple, not one tensor$"),
    (FixesItsBatch, "onnx", "batch"),
    (IsNotANumber, "pt2", "differ from the network's by nan"),
    (WantsAnotherSize, "onnx", r"Input height \(64\) doesn't match model \(224\)\.$"),
    (UnknownToOnnx, "onnx", "No ONNX function found for .*linalg_eig"),
    (UnknownToOpenvino, "xml", "operations: Det"),
]


@pytest.mark.parametrize(("kind_of_network", "kind", "sentence"), REFUSED)
def test_what_cannot_be_exported_is_refused_in_one_sentence_and_leaves_no_file(
    kind_of_network, kind, sentence, tmp_path, capfd
):
    with pytest.raises(ExportError, match=sentence) as refusal:
        export_graph(kind_of_network(), tmp_path / f"model.{kind}", SIZE)
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", EXPORTS)
def test_an_earlier_file_outlives_a_refusal(kind, tmp_path):
    (tmp_path / f"model.{kind}").write_text("earlier")
    with pytest.raises(ExportError):
        export_graph(AddsNoise(), tmp_path / f"model.{kind}", SIZE)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [
        ("onnx", "onnx", "onnx"),
        ("onnx", "onnxscript", "onnx"),
        ("onnx", "onnxruntime", "onnx"),
        ("xml", "onnx", "openvino"),
        ("xml", "onnxscript", "openvino"),
        ("xml", "openvino", "openvino"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(kind, package, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    sentence = rf'needs the package {package} \(.*\): pip install "se-search\[{extra}\]"$'
    with pytest.raises(ExportError, match=sentence):
        export_graph(AddsNoise(), tmp_path / f"model.{kind}", SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_network_on_a_gpu_is_traced_for_as_many_images_as_its_libraries_take():
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device("cuda"):  # PyTorch's own code for CUDA, without a GPU
        program = trace(timm.create_model("test_resnet").eval(), SIZE)
    assert [str(one) for one in program.range_constraints.values()] == ["VR[1, 65535]"]


def test_a_name_of_no_format_is_refused(tmp_path):
    told = r"model\.zip cannot be written: its name must end in \.onnx or \.pt2 or \.xml$"
    with pytest.raises(ExportError, match=told):
        export_graph(AddsNoise(), tmp_path / "model.zip", SIZE)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ExportError, match=r"model\.pt2 cannot be written \(File exists\)$"):
        export_graph(nn.Flatten(), tmp_path / "taken" / "model.pt2", SIZE)


def test_a_refused_export_leaves_no_folder(tmp_path):
    with pytest.raises(ExportError):
        export_graph(BranchesOnValues(), tmp_path / "new" / "deeper" / "model.pt2", SIZE)
    assert list(tmp_path.iterdir()) == []
