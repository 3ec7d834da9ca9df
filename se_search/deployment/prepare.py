"""Networks made ready to run as they are deployed, by any runtime."""

import copy
import importlib

import torch
from torch import nn

from ..devices import check_device
from ..errors import BackboneError, DefinitionError, EvaluationError, did_you_mean, first_reason
from ..words import by
from .deployment import DTYPES, MEMORY_FORMATS, RUNTIMES, Deployment
from .inference import optimize_for_inference
from .runtimes.base import Prepared, Runtime, using_threads


def runtime_of(deployment: Deployment) -> Runtime:
    """Return the runtime of a deployment; only its own file is imported."""
    return importlib.import_module(f".runtimes.{deployment.runtime}", __package__).RUNTIME


def describe(deployment: Deployment) -> str:
    """Return the name of the runtime with its version."""
    return runtime_of(deployment).describe()


def check(deployment: Deployment) -> None:
    """Check that networks can be run in this way here, as far as that shows without one.

    Raises:
        DefinitionError: If a value is impossible, or a package, compiler or device is missing.
    """
    for name, value, known in (
        ("runtime", deployment.runtime, RUNTIMES),
        ("dtype", deployment.dtype, DTYPES),
        ("memory format", deployment.memory_format, MEMORY_FORMATS),
    ):
        if value not in known:
            near = did_you_mean(value, known)
            raise DefinitionError(f"{name} {value!r} is unknown: it must be one of {', '.join(known)}{near}")
    for name, number in (("batch", deployment.batch), ("number of threads", deployment.threads)):
        if number is not None and number < 1:
            raise DefinitionError(f"a {name} of {number} is impossible: it must be at least 1")
    if len(deployment.size) != 3 or min(deployment.size) < 1:
        raise DefinitionError(
            f"images of {by(deployment.size)} are impossible: channels, height and width must be at least 1"
        )
    check_device(deployment.device)
    runtime = runtime_of(deployment)
    if deployment.cuda_graph and (not runtime.cuda_graph or deployment.device == "cpu"):
        raise DefinitionError(
            f"a CUDA graph needs the runtime eager on a CUDA device, not {deployment.runtime} on {deployment.device}"
        )
    runtime.check(deployment)


def prepare(network: nn.Module, deployment: Deployment) -> Prepared:
    """Make a network, in any mode and on any device, ready to run; it is not changed.

    Raises:
        BackboneError: If the network cannot take images of this size.
        DefinitionError: If networks cannot be run in this way here.
        EvaluationError: If the network does not return one tensor, or PyTorch cannot compile it.
        ExportError: If it cannot be optimized for inference, or exported for its runtime.
    """
    check(deployment)
    runtime = runtime_of(deployment)
    with using_threads(deployment.threads):
        dtype = torch.float32 if runtime.converts else getattr(torch, deployment.dtype)
        memory_format = getattr(torch, MEMORY_FORMATS[deployment.memory_format])
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
            ready = optimize_for_inference(ready, deployment.size, deployment.cuda_graph)
        ready.to(memory_format=memory_format)
        return runtime.prepare(ready, images, deployment, type(network).__name__)


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
