"""OpenVINO, on a graph that is converted from ONNX."""

import importlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import DefinitionError
from ..deployment import Deployment
from ..graph import export_graph
from .base import Prepared, Runtime, check_exported

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def _check(deployment: Deployment) -> None:
    check_exported(deployment, "openvino", tuple(_PRECISIONS))
    if deployment.dtype == "bfloat16":
        has = importlib.import_module("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if "BF16" not in has:
            raise DefinitionError("the runtime openvino computes in float32 here: this CPU does not support bfloat16")


def _prepare(network: nn.Module, images: torch.Tensor, deployment: Deployment, name: str) -> Prepared:
    return _in_request(_compiler(network, deployment), images)


def _compiler(network: nn.Module, deployment: Deployment) -> Callable[[], Any]:
    """Convert a network to an OpenVINO graph, and return a function that compiles it."""
    core = importlib.import_module("openvino").Core()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.xml")
        export_graph(network, file, deployment.size)
        # Read the weights now: the file is removed with its folder.
        graph = core.read_model(file, config={"ENABLE_MMAP": False})
    graph.reshape([deployment.batch, *deployment.size])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": _PRECISIONS[deployment.dtype],
    }
    return lambda: core.compile_model(graph, "CPU", settings)


def _in_request(compile_graph: Callable[[], Any], images: torch.Tensor) -> Prepared:
    request = compile_graph().create_infer_request()
    request.set_input_tensor(importlib.import_module("openvino").Tensor(images.numpy(), shared_memory=True))

    def run() -> torch.Tensor:
        return torch.from_numpy(request.infer(share_outputs=True)[0])

    return Prepared(run, lambda: _in_request(compile_graph, images))


RUNTIME = Runtime(
    describe=lambda: f"OpenVINO {importlib.import_module('openvino').__version__.partition('-')[0]}",
    prepare=_prepare,
    check=_check,
    converts=True,
)
