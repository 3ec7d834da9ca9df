"""PyTorch as it is, operation by operation, or replayed from a CUDA graph."""

import copy
import weakref

import torch
from torch import nn

from ...errors import EvaluationError, first_reason
from ..deployment import Deployment
from .base import Prepared, Run, Runtime


def _prepare(network: nn.Module, images: torch.Tensor, deployment: Deployment, name: str) -> Prepared:
    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return network(images)

    run = _record(forward, images.device, name) if deployment.cuda_graph else forward
    weakref.finalize(run, _drop_weights, network)
    return Prepared(run, lambda: _prepare(copy.deepcopy(network), images, deployment, name))


def _drop_weights(network: nn.Module) -> None:
    """Free the weights at once: a traced network and its graph refer to each other and wait for the garbage collector.

    The collector is off during a measurement, in which one copy follows another.
    """
    for module in network.modules():
        module._parameters.clear()
        module._buffers.clear()


def _record(forward: Run, device: torch.device, name: str) -> Run:
    """Record the operations in a CUDA graph and return a function that replays it."""
    with torch.cuda.device(device):
        # The first calls create handles of libraries, which must not be recorded.
        for _ in range(3):
            forward()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                outputs = forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # Ending the recording fails too; its context is the error that came first.
            reason = first_reason(error.__context__ or error)
            raise EvaluationError(f"this {name} cannot be recorded in a CUDA graph: {reason}") from error

    def run() -> torch.Tensor:
        graph.replay()
        return outputs

    return run


RUNTIME = Runtime(lambda: f"PyTorch {torch.__version__} eager", _prepare, in_process=True, cuda_graph=True)
