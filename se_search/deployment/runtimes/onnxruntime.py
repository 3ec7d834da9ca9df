"""ONNX Runtime, on an ONNX file."""

import importlib
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..deployment import Deployment
from ..graph import export_graph
from .base import Prepared, Runtime, check_exported


def _prepare(network: nn.Module, images: torch.Tensor, deployment: Deployment, name: str) -> Prepared:
    return _in_session(_session_opener(network, deployment), images)


def _session_opener(network: nn.Module, deployment: Deployment) -> Callable[[], Any]:
    """Export a network to ONNX, and return a function that opens new sessions on it."""
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about speed
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads wait for more work in a busy loop, as in deployment. They stop after each run: otherwise they would take
    # the CPU from the other network of a pair.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_free_dimension_override_by_name("batch", deployment.batch)
    folder = Path(tempfile.mkdtemp(prefix="se-search-"))

    def open_session() -> Any:
        return runtime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    weakref.finalize(open_session, shutil.rmtree, folder, ignore_errors=True)
    export_graph(network, folder / "model.onnx", deployment.size)
    return open_session


def _in_session(open_session: Callable[[], Any], images: torch.Tensor) -> Prepared:
    session = open_session()
    inputs = {session.get_inputs()[0].name: images.numpy()}

    def run() -> torch.Tensor:
        return torch.from_numpy(session.run(None, inputs)[0])

    return Prepared(run, lambda: _in_session(open_session, images))


RUNTIME = Runtime(
    describe=lambda: f"ONNX Runtime {importlib.import_module('onnxruntime').__version__}",
    prepare=_prepare,
    check=lambda deployment: check_exported(deployment, "onnx", ("float32",)),
    converts=True,
)
