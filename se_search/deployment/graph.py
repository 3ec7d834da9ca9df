"""Export a network as a graph for other runtimes: ONNX, ``torch.export`` program, OpenVINO.

A file is kept only if its runtime reads it from disk and reproduces the outputs of the network.
"""

import contextlib
import copy
import importlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import ExportError, SeSearchError, first_reason
from ..files import draft_beside, move_into_place

TOLERANCE = 1e-4
"""Tolerance for rounding: difference of two outputs relative to the largest output."""

BATCHES = (1, 5)
"""Batch sizes at which an exported graph is compared: 1, which exporters tend to fix, and another."""

_MOST_OF_CUDNN = 65535
_INPUT, _OUTPUT, _BATCH = "images", "logits", "batch"

_Run = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Format:
    """A file format: its name in messages, the packages that it needs, and the extra of se-search that installs them.

    ``write`` writes a program to a file, and further files beside it if the format has any. ``load`` reads the file and
    returns the graph as a function of images.
    """

    name: str
    packages: tuple[str, ...]
    extra: str
    write: Callable[[torch.export.ExportedProgram, Path], None]
    load: Callable[[Path], _Run]


def export_graph(model: nn.Module, file: str | os.PathLike[str], input_size: tuple[int, int, int]) -> None:
    """Write ``model`` as a graph in the format of the file's suffix.

    - ``.onnx``: an ONNX file by PyTorch's exporter; weights of more than 1.5 GiB lie in ``FILE.data`` beside it.
    - ``.pt2``: a program for ``torch.export.load``.
    - ``.xml``: an OpenVINO graph, converted from ONNX, with its weights in a ``.bin`` file beside it.

    The graph has evaluation mode, single precision and any batch size. In ONNX and OpenVINO its input is ``images`` and
    its output ``logits``. The runtime of the format must reproduce the network's outputs in single precision on the CPU
    within :data:`TOLERANCE` for each of :data:`BATCHES`.

    Args:
        model: The network; it is not changed.
        file: Where to write.
        input_size: ``(channels, height, width)`` of the images.

    Raises:
        ExportError: If the suffix is none of these, a package is missing, the network cannot be exported, the outputs
            differ, or the file cannot be written; no file is written then.
    """
    target = Path(file)
    if target.suffix not in _FORMATS:
        raise ExportError(f"{target} cannot be written: its name must end in {' or '.join(_FORMATS)}")
    form = _FORMATS[target.suffix]
    require(form.name, form.packages, form.extra, ExportError)
    try:
        with torch.no_grad(), draft_beside(target) as draft:
            network = copy.deepcopy(model).cpu().float().eval()
            written = draft / target.name
            form.write(trace(network, input_size), written)
            compare(network, form.load(written), input_size, form.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            # The file that refers to the others comes last: if it exists, they do.
            for part in sorted(draft.iterdir(), key=lambda part: part == written):
                move_into_place(part, target.with_name(part.name))
    except ExportError:
        raise
    except OSError as error:
        raise ExportError(f"{target} cannot be written ({error.strerror or error})") from error
    # Tracing and the exporters may raise any exception.
    except Exception as error:
        raise ExportError(
            f"this {type(model).__name__} cannot be exported as {form.name}: {first_reason(error)}"
        ) from error


def require(user: str, packages: tuple[str, ...], extra: str, kind: type[SeSearchError]) -> None:
    """Raise an error of this kind if a package is missing that an extra of se-search installs for ``user``."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise kind(f'{user} needs the package {package} ({error}): pip install "se-search[{extra}]"') from error


def trace(network: nn.Module, input_size: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """Return the program of ``network``, which is in evaluation mode, for images of one size and any batch size.

    The example images have the device and precision of its weights.

    Raises:
        TypeError: If it does not return one tensor.
        Exception: Any other exception of the network or ``torch.export``.
    """
    weight = next((one for one in network.parameters() if one.is_floating_point()), torch.empty(0))
    images = _images(2, input_size).to(weight)
    outputs = network(images)
    if not isinstance(outputs, torch.Tensor):
        raise TypeError(f"it returns a {type(outputs).__name__}, not one tensor")
    # On a GPU PyTorch checks before a batch norm in single precision whether the batch is too large for cuDNN.
    batch = torch.export.Dim(_BATCH, min=1, max=_MOST_OF_CUDNN if images.is_cuda else None)
    with _quiet():
        program = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
    # Stack traces contain paths of this machine, which the exported file would disclose.
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress logs and warnings of exporters, and what they print if an exception follows."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as printed, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
    sys.stderr.write(printed.getvalue())


def _images(batch: int, input_size: tuple[int, int, int]) -> torch.Tensor:
    return torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(batch))


def compare(network: nn.Module, run: _Run, input_size: tuple[int, int, int], name: str) -> None:
    """Check that an export reproduces the outputs of ``network`` within :data:`TOLERANCE` for :data:`BATCHES`.

    ``network`` is in evaluation mode, ``run`` is the export as a function of images, and ``name`` its name in messages.

    Raises:
        ExportError: If the outputs differ.
    """
    for batch in BATCHES:
        images = _images(batch, input_size)
        expected, got = network(images), run(images)
        not_kept = f"{name} of this {type(network).__name__} was not kept, as its outputs"
        if got.shape != expected.shape:
            raise ExportError(f"{not_kept} have the shape {tuple(got.shape)} and not {tuple(expected.shape)}")
        difference, largest = (got - expected).abs().max().item(), expected.abs().max().item()
        if not difference <= TOLERANCE * largest:  # also if one is NaN
            raise ExportError(
                f"{not_kept} differ from the network's by {difference:.2g} at batch size {batch}, where the largest is "
                f"{largest:.2g}"
            )


def _write_onnx(program: torch.export.ExportedProgram, file: Path) -> None:
    with _quiet():
        written: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[_INPUT],
            output_names=[_OUTPUT],
            dynamic_shapes=({0: _BATCH},),  # passes on the name; the program has the shape
        )
    written.save(file)


def _load_onnx(file: Path) -> _Run:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about speed
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([_OUTPUT], {_INPUT: images.numpy()})[0])


def _write_openvino(program: torch.export.ExportedProgram, file: Path) -> None:
    openvino = importlib.import_module("openvino")
    with tempfile.TemporaryDirectory() as temporary:
        between = Path(temporary, "model.onnx")
        _write_onnx(program, between)
        try:
            graph = openvino.convert_model(between)
        except Exception as error:
            # The first line is a place in OpenVINO's source, the last one names what could not be converted.
            raise ValueError(str(error).strip().rpartition("\n")[2].lstrip("- ")) from None
        openvino.save_model(graph, file, compress_to_fp16=False)


def _load_openvino(file: Path) -> _Run:
    openvino = importlib.import_module("openvino")
    # The default is half precision on CPUs that support it.
    graph = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: torch.from_numpy(graph({_INPUT: images.numpy()})[_OUTPUT].copy())


_FORMATS = {
    ".onnx": _Format("an ONNX file", ("onnx", "onnxscript", "onnxruntime"), "onnx", _write_onnx, _load_onnx),
    ".pt2": _Format("a PyTorch program", (), "", torch.export.save, lambda file: torch.export.load(file).module()),
    ".xml": _Format(
        "an OpenVINO graph", ("onnx", "onnxscript", "openvino"), "openvino", _write_openvino, _load_openvino
    ),
}
