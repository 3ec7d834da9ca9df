"""What every runtime offers, and what it makes of a network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ...errors import DefinitionError
from ..deployment import Deployment
from ..graph import require

Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Prepared:
    """A network that is ready to run.

    Attributes:
        run: Does one forward pass on images that are always the same and returns the outputs, which the next pass may
            overwrite. On a CPU it returns when they are computed, on a GPU when their computation is queued. Call it
            within :func:`using_threads`, with the deployment's number.
        copy: Prepares the same network once more at another place in memory; ``None`` where that needs another
            compilation.
    """

    run: Run
    copy: "Callable[[], Prepared] | None" = None

    @property
    def copies(self) -> bool:
        """Whether :meth:`fresh` returns a copy."""
        return self.copy is not None

    def fresh(self) -> "Prepared":
        """Return a copy at another place in memory, or the network itself where there is none."""
        return self.copy() if self.copy else self


@dataclass(frozen=True)
class Runtime:
    """A runtime.

    Attributes:
        describe: Returns its name and version.
        prepare: Makes a network ready to run. It is given a copy of the network of its own in evaluation mode, images
            for it, the deployment, and the name of the network's class for messages.
        check: Raises a ``DefinitionError`` where a deployment is impossible with it, or a package is missing.
        in_process: Whether it runs in the process of a search. PyTorch in eager mode does: where it crashes over a
            network, the evaluation crashes too.
        cuda_graph: Whether it can record a CUDA graph.
        converts: Whether it takes single precision and converts weights and images itself.
    """

    describe: Callable[[], str]
    prepare: Callable[[nn.Module, torch.Tensor, Deployment, str], Prepared]
    check: Callable[[Deployment], None] = lambda deployment: None
    in_process: bool = False
    cuda_graph: bool = False
    converts: bool = False


def check_exported(deployment: Deployment, extra: str, dtypes: tuple[str, ...]) -> None:
    """Check a deployment of a runtime that reads an exported graph on the CPU.

    The runtime has the name of a package, ``extra`` of se-search brings the packages, and it computes in ``dtypes``.

    Raises:
        DefinitionError: If a value is impossible, or a package is missing.
    """
    runtime = deployment.runtime
    require(f"the runtime {runtime}", ("onnx", "onnxscript", runtime), extra, DefinitionError)
    if deployment.device != "cpu":
        raise DefinitionError(f"the runtime {runtime} runs on the device cpu only, not on {deployment.device!r}")
    if deployment.memory_format != "contiguous":
        raise DefinitionError(
            f"the runtime {runtime} chooses its own memory format: it must be 'contiguous', not "
            f"{deployment.memory_format!r}"
        )
    if deployment.dtype not in dtypes:
        raise DefinitionError(f"the runtime {runtime} computes in {' or '.join(dtypes)}, not in {deployment.dtype}")


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Set PyTorch's number of CPU threads, and its former number afterwards; ``None`` changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
