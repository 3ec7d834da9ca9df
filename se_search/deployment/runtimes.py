"""What runs a network where it is deployed: PyTorch as it is or compiled, ONNX Runtime, OpenVINO."""

import copy
import functools
import importlib
import logging
import shutil
import sys
import tempfile
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._C._dynamo.eval_frame import reset_code

from ..devices import check_device
from ..errors import BackboneError, DefinitionError, EvaluationError, did_you_mean, first_reason
from ..words import by
from .graph import export_onnx, export_openvino
from .inference import optimize_for_inference

RUNTIMES = ("eager", "compile", "onnxruntime", "openvino")
"""Names of what can run a network."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats of weights and images."""

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
"""Orders in memory of PyTorch's images and convolution weights."""

_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
_OPENVINO_DTYPES = {"float32": "f32", "bfloat16": "bf16"}

_Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Deployment:
    """How a network is run.

    Attributes:
        runtime: One of :data:`RUNTIMES`.
        optimized: Whether the network goes through :func:`se_search.optimize_for_inference` first.
        device: A torch device: ``"cpu"``, ``"cuda"`` or ``"cuda:0"``.
        dtype: One of :data:`DTYPES`, of weights and images. OpenVINO is given single precision and computes in this one
            where it can.
        memory_format: One of :data:`MEMORY_FORMATS`; the other runtimes than PyTorch's choose their own.
        batch: Images in a forward pass.
        size: ``(channels, height, width)`` of an image.
        threads: Threads of a CPU operation; PyTorch's present number if ``None``.
        cuda_graph: Whether the operations are recorded in a CUDA graph, which is then replayed.
    """

    runtime: str = "eager"
    optimized: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    memory_format: str = "contiguous"
    batch: int = 1
    size: tuple[int, int, int] = (3, 224, 224)
    threads: int | None = None
    cuda_graph: bool = False


class Prepared:
    """A network that is ready to run.

    Args:
        run: Does one forward pass.
        copy: Prepares the same network once more, where that is cheap.

    Attributes:
        run: Does one forward pass on images that are always the same, and returns the outputs, which the next pass may
            overwrite: on a CPU when they are there, on a GPU when they are under way. Call it within
            :func:`using_threads`, with the deployment's number.
        copies: Whether :meth:`fresh` gives the network at another place in memory.
    """

    def __init__(self, run: _Run, copy: "Callable[[], Prepared] | None" = None) -> None:
        self.run = run
        self.copies = copy is not None
        self._copy = copy

    def fresh(self) -> "Prepared":
        """Return the same network at another place in memory, or itself where it would have to be compiled again."""
        return self._copy() if self._copy else self


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads on the CPU, and its former number afterwards; ``None`` changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(deployment: Deployment) -> str:
    """Return what runs the network, with its version."""
    if deployment.runtime == "onnxruntime":
        return f"ONNX Runtime {importlib.import_module('onnxruntime').__version__}"
    if deployment.runtime == "openvino":
        return f"OpenVINO {importlib.import_module('openvino').__version__.partition('-')[0]}"
    kind = "compile (inductor, frozen weights)" if deployment.runtime == "compile" else "eager"
    return f"PyTorch {torch.__version__} {kind}"


def check(deployment: Deployment) -> None:
    """Check that networks can be run in this way here, as far as that can be told without one.

    Raises:
        DefinitionError: If a value is impossible, or what it needs is missing.
    """
    runtime, device = deployment.runtime, deployment.device
    for name, value, known in (
        ("runtime", runtime, RUNTIMES),
        ("dtype", deployment.dtype, DTYPES),
        ("memory format", deployment.memory_format, MEMORY_FORMATS),
    ):
        if value not in known:
            near = did_you_mean(value, known)
            raise DefinitionError(f"{name} {value!r} is unknown: it is one of {', '.join(known)}{near}")
    for name, number in (("batch", deployment.batch), ("number of threads", deployment.threads)):
        if number is not None and number < 1:
            raise DefinitionError(f"a {name} of {number} is impossible: it must be at least 1")
    if len(deployment.size) != 3 or min(deployment.size) < 1:
        raise DefinitionError(
            f"images of {by(deployment.size)} are impossible: channels, height and width must be at least 1"
        )
    check_device(device)
    if deployment.cuda_graph and (runtime != "eager" or device == "cpu"):
        raise DefinitionError(f"a CUDA graph needs the runtime eager on a CUDA device, not {runtime} on {device}")
    if runtime in _EXTRAS:
        _check_graph_runtime(deployment)
    elif runtime == "compile":
        _check_compiler(device)


def _check_graph_runtime(deployment: Deployment) -> None:
    runtime, extra = deployment.runtime, _EXTRAS[deployment.runtime]
    for package in ("onnx", "onnxscript", runtime):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise DefinitionError(
                f'the runtime {runtime} needs the package {package} ({error}): pip install "se-search[{extra}]"'
            ) from error
    if deployment.device != "cpu":
        raise DefinitionError(f"the runtime {runtime} is offered on the device cpu only, not on {deployment.device!r}")
    if deployment.memory_format != "contiguous":
        raise DefinitionError(
            f"the runtime {runtime} orders memory as it likes: its memory format is contiguous, not "
            f"{deployment.memory_format!r}"
        )
    possible = _OPENVINO_DTYPES if runtime == "openvino" else ("float32",)
    if deployment.dtype not in possible:
        raise DefinitionError(f"the runtime {runtime} computes in {' or '.join(possible)}, not in {deployment.dtype}")
    if deployment.dtype == "bfloat16":
        has = importlib.import_module("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in has:
            raise DefinitionError("the runtime openvino computes in float32 here: this CPU has nothing for bfloat16")


@functools.cache
def _check_compiler(device: str) -> None:
    """Compile a sum: whether a C++ compiler is there, works and finds Python's headers only shows then."""
    compiled = torch.compile(torch.add, dynamic=False)
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # once in a process PyTorch warns of what only matters on a GPU
    try:
        compiled(torch.ones(1000, device=device), 1)
    except Exception as error:  # of many kinds
        raise DefinitionError(
            "the runtime compile needs a C++ compiler that works, such as g++, on the path or named by CXX"
            f"{'' if device == 'cpu' else ', and Triton'}: "
            f"{first_reason(error)}"
        ) from error
    finally:
        logging.disable(disabled)


def prepare(network: nn.Module, deployment: Deployment) -> Prepared:
    """Make a network ready to run.

    Args:
        network: In any mode and on any device; it is not changed.
        deployment: How it is run.

    Raises:
        BackboneError: If the network cannot take images of this size.
        DefinitionError: If networks cannot be run in this way here.
        EvaluationError: If the network does not return one tensor, or PyTorch cannot compile it.
        ExportError: If it cannot be optimized for inference, or exported for its runtime.
    """
    check(deployment)
    with using_threads(deployment.threads):
        # OpenVINO converts the weights itself.
        dtype = torch.float32 if deployment.runtime in _EXTRAS else DTYPES[deployment.dtype]
        memory_format = MEMORY_FORMATS[deployment.memory_format]
        try:
            images = torch.randn(deployment.batch, *deployment.size, generator=torch.Generator().manual_seed(0))
            images = images.to(deployment.device, dtype, memory_format=memory_format)
            ready = copy.deepcopy(network).eval().to(deployment.device, dtype)
        except (MemoryError, RuntimeError) as error:
            raise DefinitionError(
                f"images of {by(deployment.size)} in batches of {deployment.batch} do not fit into the memory of "
                f"{deployment.device}: {first_reason(error)}"
            ) from error
        _check_images(ready, images)
        if deployment.optimized:
            ready = optimize_for_inference(ready, deployment.size)
        ready.to(memory_format=memory_format)
        if deployment.runtime == "compile":
            return _compiled(ready, images, type(network).__name__)
        if deployment.runtime == "onnxruntime":
            return _in_onnxruntime(_onnxruntime_sessions(ready, deployment), images)
        if deployment.runtime == "openvino":
            return _in_openvino(_openvino_graphs(ready, deployment), images)
        return _eager(ready, images, deployment.cuda_graph, type(network).__name__)


def _check_images(network: nn.Module, images: torch.Tensor) -> None:
    try:
        with torch.inference_mode():
            outputs = network(images)
    except Exception as error:  # timm's networks raise many kinds for what they do not take
        raise BackboneError(
            f"this {type(network).__name__} cannot take images of {by(images.shape[1:])} in batches of {len(images)} "
            f"and {str(images.dtype).removeprefix('torch.')}: {first_reason(error)}"
        ) from error
    if not isinstance(outputs, torch.Tensor):
        raise EvaluationError(
            f"this {type(network).__name__} cannot be timed: it returns a {type(outputs).__name__}, not one tensor"
        )


def _eager(network: nn.Module, images: torch.Tensor, cuda_graph: bool, name: str) -> Prepared:
    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return network(images)

    run = _recorded(forward, images.device, name) if cuda_graph else forward
    weakref.finalize(run, _drop_weights, network)
    return Prepared(run, lambda: _eager(copy.deepcopy(network), images, cuda_graph, name))


def _drop_weights(network: nn.Module) -> None:
    """Free memory at once: a traced network and its graph refer to each other, and wait for the garbage collector.

    Whoever measures holds that off while one copy follows another.
    """
    for module in network.modules():
        module._parameters.clear()
        module._buffers.clear()


def _recorded(forward: _Run, device: torch.device, name: str) -> _Run:
    """Record the operations in a CUDA graph, and return what replays it."""
    with torch.cuda.device(device):
        # What the first calls set up, such as handles of libraries, must not be recorded.
        for _ in range(3):
            forward()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                outputs = forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Ending the recording fails too: what went wrong in it is the context of that.
            reason = first_reason(error.__context__ or error)
            raise EvaluationError(f"this {name} cannot be recorded in a CUDA graph: {reason}") from error

    def run() -> torch.Tensor:
        graph.replay()
        return outputs

    return run


def _compiled(network: nn.Module, images: torch.Tensor, name: str) -> Prepared:
    """Compile by inductor, with the weights as constants: it then folds norms and orders weights for its kernels."""

    def forward(images: torch.Tensor) -> torch.Tensor:
        return network(images)

    # TorchDynamo keeps what it compiled with the code object: few of each, tried one by one. Every network has its own.
    own = types.FunctionType(forward.__code__.replace(), globals(), name, None, forward.__closure__)
    weakref.finalize(own, reset_code, own.__code__)
    compiled = torch.compile(own, fullgraph=True, dynamic=False)
    try:
        # Given to torch.compile as an option, freezing has no effect.
        with torch.inference_mode(), torch._inductor.config.patch(freezing=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a GPU that TF32 could be used
            compiled(images)
    except Exception as error:  # of many kinds
        raise EvaluationError(f"this {name} cannot be compiled: {first_reason(error)}") from error
    finally:
        _forget_compiled_modules()

    @torch.inference_mode()
    @torch.compiler.set_stance("fail_on_recompile")
    def run() -> torch.Tensor:
        return compiled(images)

    return Prepared(run)


def _forget_compiled_modules() -> None:
    """Let the weights go with the network: inductor keeps them as attributes of modules that it has no more use for."""
    importlib.import_module("torch._inductor.codecache").PyCodeCache.cache_clear()
    for name in list(sys.modules):
        if name.startswith("torch._inductor.runtime.compile_tasks."):
            del sys.modules[name]


def _onnxruntime_sessions(network: nn.Module, deployment: Deployment) -> Callable[[], Any]:
    """Export a network to ONNX, and return what opens new sessions on it."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors: what else it has to say is about speed
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads wait for more work in a busy loop, which is how it is deployed; but not after a network has run, as they
    # would then take the CPU from the other network of a pair.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_free_dimension_override_by_name("batch", deployment.batch)
    folder = Path(tempfile.mkdtemp(prefix="se-search-"))

    def open_session() -> Any:
        return runtime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    weakref.finalize(open_session, shutil.rmtree, folder, ignore_errors=True)
    export_onnx(network, folder / "model.onnx", deployment.size)
    return open_session


def _in_onnxruntime(open_session: Callable[[], Any], images: torch.Tensor) -> Prepared:
    session = open_session()
    inputs = {session.get_inputs()[0].name: images.numpy()}

    def run() -> torch.Tensor:
        return torch.from_numpy(session.run(None, inputs)[0])

    return Prepared(run, lambda: _in_onnxruntime(open_session, images))


def _openvino_graphs(network: nn.Module, deployment: Deployment) -> Callable[[], Any]:
    """Convert a network to an OpenVINO graph, and return what compiles it."""
    core = importlib.import_module("openvino").Core()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.xml")
        export_openvino(network, file, deployment.size)
        # Its weights are read here, as the file is removed.
        graph = core.read_model(file, config={"ENABLE_MMAP": False})
    graph.reshape([deployment.batch, *deployment.size])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": _OPENVINO_DTYPES[deployment.dtype],
    }
    return lambda: core.compile_model(graph, "CPU", settings)


def _in_openvino(compile_graph: Callable[[], Any], images: torch.Tensor) -> Prepared:
    request = compile_graph().create_infer_request()
    request.set_input_tensor(importlib.import_module("openvino").Tensor(images.numpy(), shared_memory=True))

    def run() -> torch.Tensor:
        return torch.from_numpy(request.infer(share_outputs=True)[0])

    return Prepared(run, lambda: _in_openvino(compile_graph, images))
