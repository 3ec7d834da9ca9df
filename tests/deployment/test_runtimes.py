"""Networks made ready to run: the same outputs in every runtime, and one sentence for what cannot be run."""

import gc
import os
import subprocess
import sys
import tempfile
import weakref
from typing import ClassVar

import onnxruntime
import openvino
import pytest
import timm
import torch
from timm.layers import SEModule
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code

from se_search import SEConfig, create_model
from se_search.deployment.deployment import RUNTIMES, Deployment
from se_search.deployment.prepare import check, describe, prepare
from se_search.deployment.runtimes import compile as compiled_runtime
from se_search.deployment.runtimes.base import using_threads
from se_search.errors import BackboneError, DefinitionError, EvaluationError, ExportError
from se_search.words import counted

SIZE = (3, 64, 64)


class Small(nn.Module):
    """A network with one SE block; no other tensor in this process has the shape of its second convolution's weight."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 22, 3, stride=4)
        self.bn = nn.BatchNorm2d(22)
        self.conv2 = nn.Conv2d(22, 46, 1)
        self.se = SEModule(46, rd_ratio=0.5)
        self.fc = nn.Linear(46, 5)
        nn.init.uniform_(self.bn.running_var, 0.2, 2)
        nn.init.normal_(self.bn.running_mean)

    def forward(self, x):
        return self.fc(self.se(self.conv2(self.bn(self.conv(x)).relu())).mean((2, 3)))


def se_network():
    torch.manual_seed(0)
    model = create_model(SEConfig.uniform("test_resnet", ratio=4), num_classes=7)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.2, 0.6)
    return model


def deployment(runtime="eager", **others):
    return Deployment(runtime, **{"size": SIZE, "threads": 1} | others)


def outputs_of(prepared, threads=1):
    with using_threads(threads):
        return prepared.run().float().clone()


def expected_outputs(model, batch=1):
    images = torch.randn(batch, *SIZE, generator=torch.Generator().manual_seed(0))
    training = model.training
    with torch.no_grad():
        outputs = model.eval()(images)
    model.train(training)
    return outputs


def assert_close(got, expected, tolerance=1e-4):
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize(
    "runtime", [pytest.param(one, marks=pytest.mark.slow if one == "compile" else ()) for one in RUNTIMES]
)
def test_every_runtime_gives_the_outputs_of_the_network(runtime, optimized):
    model = se_network() if runtime != "compile" else Small()
    expected = expected_outputs(model, batch=2)
    assert_close(outputs_of(prepare(model, deployment(runtime, optimized=optimized, batch=2))), expected)
    with torch.no_grad():  # the equality would mean little if the SE blocks had no part in the outputs
        for block in model.modules():
            if isinstance(block, SEModule):
                nn.init.constant_(block.fc2.bias, -3.0)
    assert (expected_outputs(model, batch=2) - expected).abs().max() > 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ("runtime", "dtype"),
    [
        ("eager", "bfloat16"),
        ("eager", "float16"),
        pytest.param("compile", "bfloat16", marks=pytest.mark.slow),
        ("openvino", "bfloat16"),
    ],
)
def test_half_precision_gives_nearly_these_outputs_but_not_the_same(runtime, dtype):
    if runtime == "openvino" and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    model = Small()
    got, expected = outputs_of(prepare(model, deployment(runtime, dtype=dtype))), expected_outputs(model)
    assert_close(got, expected, 0.03)
    assert (got - expected).abs().max() > 1e-6 * expected.abs().max()


class Recording(nn.Module):
    """Notes for all its copies where the weight lies, the order of images and weight in memory, and the threads."""

    seen: ClassVar = []

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        weight = self.conv.weight
        orders = [one.is_contiguous(memory_format=torch.channels_last) for one in (x, weight)]
        self.seen.append((weight.data_ptr(), orders, torch.get_num_threads()))
        return self.conv(x)


def observed(prepared):
    prepared.run()
    return Recording.seen[-1]


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_images_and_weights_are_in_the_memory_format(memory_format):
    model = Recording()
    prepared = prepare(model, deployment(memory_format=memory_format))
    for one in (prepared, prepared.fresh()):
        assert observed(one)[1] == [memory_format == "channels_last"] * 2
        assert_close(outputs_of(one), expected_outputs(model))


def test_a_fresh_network_lies_elsewhere_and_gives_the_same_outputs():
    prepared = prepare(Recording(), deployment())
    others = [prepared.fresh(), prepared.fresh()]
    assert prepared.copies
    assert len({observed(one)[0] for one in (prepared, *others)}) == 3
    assert all(torch.equal(outputs_of(one), outputs_of(prepared)) for one in others)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_fresh_session_gives_the_same_outputs_after_the_first_is_gone(runtime):
    prepared = prepare(Small(), deployment(runtime))
    before = outputs_of(prepared)
    fresh = prepared.fresh()
    assert prepared.copies
    assert fresh is not prepared
    del prepared
    assert torch.equal(outputs_of(fresh.fresh()), before)


def test_the_network_is_not_changed():
    model = se_network().train()
    model.bn1.eval()
    before = [module.training for module in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    for dtype, memory_format in (("bfloat16", "channels_last"), ("float16", "contiguous")):
        prepare(model, deployment(dtype=dtype, memory_format=memory_format)).run()
    prepare(model, deployment(optimized=True)).run()
    assert [module.training for module in model.modules()] == before[0]
    after = model.state_dict()
    assert all(torch.equal(after[key], value) and after[key].dtype == value.dtype for key, value in before[1].items())
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_threads_are_used_and_restored():
    before = torch.get_num_threads()
    model = Recording()
    with pytest.raises(BackboneError, match="channels"):
        prepare(model, deployment(size=(5, 8, 8), threads=before + 1))
    assert torch.get_num_threads() == before
    for threads, used in ((before + 2, before + 2), (None, before)):
        with using_threads(threads):
            assert torch.get_num_threads() == used
    assert torch.get_num_threads() == before

    prepared = prepare(model, deployment(threads=before + 1))
    assert torch.get_num_threads() == before
    with using_threads(before + 1):
        assert observed(prepared)[2] == before + 1


def test_onnx_runtime_and_openvino_get_the_threads_and_the_batch(monkeypatch):
    sessions, graphs = [], []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, path, options, **others):
            super().__init__(path, options, **others)
            sessions.append((self, options))

    class Core(openvino.Core):
        def compile_model(self, *arguments):
            graphs.append(super().compile_model(*arguments))
            return graphs[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(openvino, "Core", Core)
    for runtime in ("onnxruntime", "openvino"):
        prepare(Small(), deployment(runtime, threads=2, batch=3))
    session, options = sessions[-1]  # those before compare the exported graph with the network
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert session.get_inputs()[0].shape == [3, *SIZE]
    graph = graphs[-1]
    assert graph.get_property("INFERENCE_NUM_THREADS") == 2
    assert graph.get_property("NUM_STREAMS") == 1
    assert graph.input(0).partial_shape.to_string() == "[3,3,64,64]"


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(x.mean((2, 3)))


@pytest.mark.slow
def test_twelve_networks_of_one_class_are_all_compiled():
    models = [Linear() for _ in range(12)]  # by default, TorchDynamo compiles eight
    before = counters["stats"]["unique_graphs"]
    prepared = [prepare(model, deployment("compile")) for model in models]
    assert counters["stats"]["unique_graphs"] == before + 12
    for one, model in zip(prepared, models, strict=True):
        assert_close(outputs_of(one), expected_outputs(model))
        assert not one.copies
        assert one.fresh() is one
    # Another number of threads would be another program.
    with pytest.raises(RuntimeError, match="recompile"):
        outputs_of(prepared[0], torch.get_num_threads() + 1)


@pytest.mark.slow
def test_compiled_weights_are_constants():
    prepared, (code,) = run_and_get_code(prepare, Small(), deployment("compile"))
    assert "_frozen_param" in code
    assert "running_var" not in code
    assert_close(outputs_of(prepared), expected_outputs(Small()))


def weights_alive():
    return sum(1 for one in gc.get_objects() if type(one) in (torch.Tensor, nn.Parameter) and one.shape[:2] == (46, 22))


@pytest.mark.slow
@pytest.mark.parametrize("optimized", [False, True])
def test_memory_of_a_compiled_network_is_freed_with_it(optimized):
    model = Small()
    gc.collect()
    before = weights_alive(), set(vars(compiled_runtime))
    prepared = prepare(model, deployment("compile", optimized=optimized))
    assert weights_alive() > before[0]
    del prepared
    gc.collect()
    assert (weights_alive(), set(vars(compiled_runtime))) == before


@pytest.mark.parametrize("optimized", [False, True])
def test_copies_are_freed_while_the_garbage_collector_is_off(optimized):
    prepared = prepare(Small(), deployment(optimized=optimized))
    gc.collect()
    alive = weights_alive()
    gc.disable()
    try:
        for _ in range(5):
            prepared = prepared.fresh()
        assert weights_alive() == alive
        before = outputs_of(prepared)
        assert torch.equal(outputs_of(prepared.fresh()), before)
    finally:
        gc.enable()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_files_and_sessions_are_removed(runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    prepared = prepare(Small(), deployment(runtime))
    fresh = prepared.fresh()
    alive = [weakref.ref(prepared.run), weakref.ref(fresh.run)]
    del prepared
    outputs_of(fresh.fresh())
    del fresh
    assert list(tmp_path.iterdir()) == []
    assert [one() for one in alive] == [None, None]


class ReadsItsInput(nn.Module):
    """Does what depends on the values of the images: no compiler can put this in one graph."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x) if x.mean().item() > 0 else self.conv(-x)


@pytest.mark.parametrize(
    ("runtime", "error", "sentence"),
    [
        ("compile", EvaluationError, r"^this ReadsItsInput cannot be compiled: \S.*$"),
        ("onnxruntime", ExportError, r"^this ReadsItsInput cannot be exported as an ONNX file: \S.*$"),
        ("openvino", ExportError, r"^this ReadsItsInput cannot be exported as an OpenVINO graph: \S.*$"),
    ],
)
def test_a_network_that_a_runtime_cannot_take_is_one_sentence(runtime, error, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(error, match=sentence) as caught:
        prepare(ReadsItsInput(), deployment(runtime))
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()
    assert list(tmp_path.iterdir()) == []


class Two(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("model", "size", "sentence"),
    [
        (
            "test_vit",
            (3, 65, 65),
            r"^this VisionTransformer cannot take images of 3×65×65 in batches of 1 and float32: .*65",
        ),
        (
            "test_resnet",
            (1, 64, 64),
            r"^this ResNet cannot take images of 1×64×64 in batches of 1 and float32: .*channels",
        ),
    ],
)
def test_images_that_a_network_does_not_take_are_one_sentence(runtime, model, size, sentence):
    with pytest.raises(BackboneError, match=sentence) as caught:
        prepare(timm.create_model(model), deployment(runtime, size=size))
    assert "\n" not in str(caught.value)


def test_a_network_of_two_outputs_is_one_sentence():
    with pytest.raises(EvaluationError, match=r"^this Two cannot be timed: it returns a tuple, not one tensor$"):
        prepare(Two(), deployment())


DEVICES = torch.cuda.device_count()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"runtime": "openvion"},
            "runtime 'openvion' is unknown: it must be one of eager, compile, onnxruntime, openvino; "
            "near names: openvino",
        ),
        (
            {"dtype": "fp16"},
            "dtype 'fp16' is unknown: it must be one of float32, bfloat16, float16",
        ),
        (
            {"memory_format": "NHWC"},
            "memory format 'NHWC' is unknown: it must be one of contiguous, channels_last",
        ),
        ({"batch": 0}, "a batch of 0 is impossible: it must be at least 1"),
        ({"threads": 0}, "a number of threads of 0 is impossible: it must be at least 1"),
        (
            {"size": (3, 0, 64)},
            "images of 3×0×64 are impossible: channels, height and width must be at least 1",
        ),
        ({"size": (64, 64)}, "images of 64×64 are impossible: channels, height and width must be at least 1"),
        ({"device": "gpu"}, "device 'gpu' is unknown: it must be cpu, cuda or cuda:N"),
        (
            {"device": f"cuda:{DEVICES}"},
            f"device 'cuda:{DEVICES}' not found; PyTorch sees {counted(DEVICES, 'CUDA device')}",
        ),
        ({"cuda_graph": True}, "a CUDA graph needs the runtime eager on a CUDA device, not eager on cpu"),
        (
            {"cuda_graph": True, "runtime": "compile"},
            "a CUDA graph needs the runtime eager on a CUDA device, not compile on cpu",
        ),
        (
            {"runtime": "onnxruntime", "memory_format": "channels_last"},
            "the runtime onnxruntime chooses its own memory format: it must be 'contiguous', not 'channels_last'",
        ),
        (
            {"runtime": "openvino", "memory_format": "channels_last"},
            "the runtime openvino chooses its own memory format: it must be 'contiguous', not 'channels_last'",
        ),
        (
            {"runtime": "onnxruntime", "dtype": "bfloat16"},
            "the runtime onnxruntime computes in float32, not in bfloat16",
        ),
        (
            {"runtime": "openvino", "dtype": "float16"},
            "the runtime openvino computes in float32 or bfloat16, not in float16",
        ),
    ],
)
def test_what_cannot_be_run_is_one_sentence_before_anything_is_prepared(given, sentence):
    for refuse in (check, lambda wrong: prepare(None, wrong)):
        with pytest.raises(DefinitionError) as caught:
            refuse(deployment(**given))
        assert str(caught.value) == sentence


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_onnx_runtime_and_openvino_are_for_the_cpu(runtime, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DefinitionError) as caught:
        check(deployment(runtime, device="cuda"))
    assert str(caught.value) == f"the runtime {runtime} runs on the device cpu only, not on 'cuda'"


@pytest.mark.parametrize(
    ("runtime", "package", "extra"),
    [
        ("onnxruntime", "onnx", "onnx"),
        ("onnxruntime", "onnxscript", "onnx"),
        ("onnxruntime", "onnxruntime", "onnx"),
        ("openvino", "onnx", "openvino"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(runtime, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    sentence = rf'^the runtime {runtime} needs the package {package} \(.*\): pip install "se-search\[{extra}\]"$'
    with pytest.raises(DefinitionError, match=sentence):
        check(deployment(runtime))


def test_a_missing_compiler_is_one_sentence():
    program = (
        "from se_search.errors import DefinitionError\n"
        "from se_search.deployment.deployment import Deployment\n"
        "from se_search.deployment.prepare import check\n"
        "try:\n    check(Deployment('compile'))\n"
        "except DefinitionError as error:\n    print(error)\n"
    )
    environment = os.environ | {"CXX": "/nowhere/c++"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    sentence = "the runtime compile needs a C++ compiler that works, such as g++, on the path or named by CXX: "
    assert ran.stdout.startswith(sentence)
    assert "/nowhere/c++" in ran.stdout
    assert ran.stdout.count("\n") == 1


def test_descriptions_hold_name_and_version():
    assert describe(Deployment()) == f"PyTorch {torch.__version__} eager"
    assert describe(Deployment("compile")) == f"PyTorch {torch.__version__} compile (inductor, frozen weights)"
    assert describe(Deployment("onnxruntime")) == f"ONNX Runtime {onnxruntime.__version__}"
    name, version = describe(Deployment("openvino")).split()
    assert name == "OpenVINO"
    assert openvino.__version__.startswith(version)
    assert version.replace(".", "").isdigit()
