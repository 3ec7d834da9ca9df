"""PyTorch compiled by inductor, with frozen weights."""

import functools
import importlib
import logging
import sys
import types
import warnings
import weakref

import torch
from torch import nn
from torch._C._dynamo.eval_frame import reset_code

from ...errors import DefinitionError, EvaluationError, first_reason
from ..deployment import Deployment
from .base import Prepared, Runtime


@functools.cache
def _check_compiler(device: str) -> None:
    """Compile a sum: only this shows whether a C++ compiler is there, works and finds Python's headers."""
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


def _prepare(network: nn.Module, images: torch.Tensor, deployment: Deployment, name: str) -> Prepared:
    """Compile with the weights as constants: inductor then folds norms and orders weights for its kernels."""

    def forward(images: torch.Tensor) -> torch.Tensor:
        return network(images)

    # TorchDynamo keeps compiled code with the code object: few versions of each. So every network has its own.
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
    """Free the weights with the network: inductor keeps them as attributes of modules that it no longer uses."""
    importlib.import_module("torch._inductor.codecache").PyCodeCache.cache_clear()
    for name in list(sys.modules):
        if name.startswith("torch._inductor.runtime.compile_tasks."):
            del sys.modules[name]


RUNTIME = Runtime(
    describe=lambda: f"PyTorch {torch.__version__} compile (inductor, frozen weights)",
    prepare=_prepare,
    check=lambda deployment: _check_compiler(deployment.device),
)
