"""Data-parallel training under torchrun; rank 0 runs the search, the other ranks only train."""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import Dataset, Subset

from ..data.image_data import ImageData, ImageSet, ImageStream
from ..errors import DataError, DefinitionError, EvaluationError
from .protocols import ConfigurationSource

T = TypeVar("T")

# torchrun stops all ranks when one fails, so this timeout is for a rank that hangs. It must cover the work of rank 0
# while the others wait: testing the latency runtime before training, and writing checkpoints.
_TIMEOUT = timedelta(minutes=30)


def size() -> int:
    """Return the world size under torchrun; 1 without torchrun or after the training."""
    launched = dist.is_available() and dist.is_torchelastic_launched()
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def rank() -> int:
    """Return the rank of this process; rank 0 runs the search."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def use_own_device(device: str) -> None:
    """Under torchrun, make ``cuda`` the device with this process's local rank.

    Raises:
        DefinitionError: If ``device`` names a single CUDA device, or a machine has fewer devices than processes.
    """
    if size() == 1 or not device.startswith("cuda"):
        return
    if device != "cuda":
        raise DefinitionError(
            f"device {device!r} is a single device and torchrun has started {size()} processes: use cuda, which gives "
            "each process its own device"
        )
    processes, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if processes > devices:
        raise DefinitionError(
            f"torchrun has started {processes} processes and PyTorch sees {devices} CUDA devices: run torchrun with "
            f"--nproc-per-node {devices}"
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


@dataclass(frozen=True)
class Team:
    """A process group that trains one network. All ranks must call the same methods in the same order."""

    rank: int
    size: int

    def broadcast(self, value: T) -> T:
        """Return the value that rank 0 passes."""
        values = [value]
        with _converting_errors():
            dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order."""
        values: list[Any] = [None] * self.size
        with _converting_errors():
            dist.all_gather_object(values, value)
        return values

    def sync_random_state(self) -> None:
        """Copy the random state of rank 0, so that all ranks draw the same configuration.

        The states can differ, because networks with random layers draw more numbers for larger shares.
        """
        state = torch.get_rng_state()
        with _converting_errors():
            dist.broadcast(state, 0)
        torch.set_rng_state(state)

    def average_gradients(self, model: nn.Module, losses: Sequence[torch.Tensor], images: int) -> list[torch.Tensor]:
        """Replace gradients by their mean over all images of a step.

        Args:
            model: The network with this rank's gradients, averaged over its images.
            losses: This rank's losses, averaged likewise.
            images: This rank's number of images; 0 if it has none in this step.

        Returns:
            The mean loss, or an empty list if no rank has images. It is not finite if any rank's loss is not.
        """
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        # A parameter that no rank used keeps no gradient, so that the optimizer skips it.
        used = [float(one.grad is not None) for one in parameters]
        own = float(torch.stack(list(losses)).mean()) if losses else 0.0
        head = torch.tensor([1.0, own, *used], device=gradients[0].device)
        # One all-reduce for everything, because each has a fixed cost.
        everything = torch.cat([head, *(one.flatten() for one in gradients)]) * images
        with _converting_errors():
            dist.all_reduce(everything)
        total, loss, *used = everything[: len(head)].tolist()
        if not total:
            return []
        means = torch.split(everything[len(head) :] / total, [one.numel() for one in parameters])
        for parameter, gradient, mean, by_any in zip(parameters, gradients, means, used, strict=True):
            parameter.grad = gradient.copy_(mean.view_as(gradient)) if by_any else None
        return [torch.tensor(loss / total)]


class Share(Subset[Any]):
    """A dataset that returns this rank's share of each batch.

    A share has at least two images, because batch normalisation needs two, or none.
    """

    def __init__(self, images: ImageSet, team: Team) -> None:
        super().__init__(cast("Dataset[Any]", images), range(len(images)))
        self.team = team

    def __getitems__(self, indices: list[int]) -> list[Any]:
        shares = max(1, min(self.team.size, len(indices) // 2))
        if self.team.rank >= shares:
            return []
        # The seed is that of the whole batch; without the rank all shares would get the same augmentation.
        seed = (torch.initial_seed() + self.team.rank) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        return super().__getitems__(indices[self.team.rank :: shares])


@contextmanager
def together(device: torch.device | str, needed: bool | None = None) -> Iterator[Team | None]:
    """Context with a process group for training; rank 0 continues alone afterwards.

    Args:
        device: Device to train on.
        needed: Whether there is anything to train. Only the value of rank 0 counts.

    Yields:
        The process group, or ``None`` without several processes or without anything to train.

    Raises:
        EvaluationError: If another rank does not respond.
    """
    if size() == 1:
        yield None
        return
    with _converting_errors():
        store, number, count = next(dist.rendezvous("env://", timeout=_TIMEOUT))  # type: ignore[attr-defined]
        # Processes restarted by torchrun must not find the addresses of the previous ones, or they wait for them.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)  # type: ignore[attr-defined]
        # Python objects are exchanged on the CPU.
        backend = "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT, store=store, rank=number, world_size=count)
    team = Team(number, count)
    yield team if team.broadcast(needed) else None
    # Not after an error: it could wait for ranks at another point of the program. All ranks exit then.
    dist.destroy_process_group()
    _leave_launch()


@runtime_checkable
class Shared(Protocol):
    """An evaluator with data-parallel shared training."""

    def assist(self, space: ConfigurationSource, team: Team) -> None:
        """Join the training that rank 0 runs in ``prepare``; write nothing."""


def take_part(evaluator: object, space: ConfigurationSource, data: ImageData, device: str) -> None:
    """On ranks above 0, join the shared training and exit; a no-op on rank 0 and without torchrun.

    Ranks above 0 exit at once if the evaluator is not :class:`Shared`. Rank 0 calls ``prepare`` of the evaluator next.

    Raises:
        DataError: If the data are a stream.
        EvaluationError: If a loss is not finite, or another rank does not respond.
        SystemExit: On ranks above 0.
    """
    if size() == 1:
        return
    number = rank()
    if isinstance(evaluator, Shared):
        if isinstance(data.train, ImageStream):
            raise DataError(
                f"data {data.name!r} are a stream, which cannot be split between processes: run without torchrun"
            )
        if number > 0:
            with together(device) as team:
                if team is not None:
                    evaluator.assist(space, team)
    elif number == 0:
        _leave_launch()
    if number > 0:
        raise SystemExit(0)


def _leave_launch() -> None:
    """Mark this process and its children as running without torchrun, because the other ranks have exited."""
    del os.environ["TORCHELASTIC_RUN_ID"]


@contextmanager
def _converting_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # raised by all backends
        raise EvaluationError(
            "another process of the training has exited or does not respond: see its message, then run the same "
            "command again"
        ) from error
