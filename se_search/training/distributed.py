"""Shared training by several processes that torchrun has started: the first searches, the others only train."""

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

# torchrun ends all processes when one has failed, so this is for one that hangs. It has to cover what the first does
# while the others wait: trying the runtime of the latencies before the training, writing checkpoints in it.
_LONGEST_WAIT = timedelta(minutes=30)


def size() -> int:
    """Processes that torchrun has started and that have not left yet; 1 without it."""
    launched = dist.is_available() and dist.is_torchelastic_launched()
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def rank() -> int:
    """Number of this process among them; 0 is the one that searches."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def use_own_device(device: str) -> None:
    """Where torchrun has started several processes, let ``cuda`` be another device for each of a machine.

    Raises:
        DefinitionError: If ``device`` names one device, or there are fewer devices than processes.
    """
    if size() == 1 or not device.startswith("cuda"):
        return
    if device != "cuda":
        raise DefinitionError(
            f"device {device!r} is one device and torchrun has started {size()} processes: give cuda, and each takes "
            "its own"
        )
    processes, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if processes > devices:
        raise DefinitionError(
            f"torchrun has started {processes} processes and PyTorch sees {devices} CUDA devices: give torchrun "
            f"--nproc-per-node {devices}"
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


@dataclass(frozen=True)
class Team:
    """The processes that train one network together; each calls the same methods in the same order.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int
    size: int

    def from_first(self, value: T) -> T:
        """Return the value that process 0 gives."""
        values = [value]
        with _answering():
            dist.broadcast_object_list(values)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by their numbers."""
        values: list[Any] = [None] * self.size
        with _answering():
            dist.all_gather_object(values, value)
        return values

    def keep_in_step(self) -> None:
        """Go on with the random numbers of process 0, so that all draw the same configuration.

        Networks that use random numbers may have drawn others of them for shares of other sizes.
        """
        state = torch.get_rng_state()
        with _answering():
            dist.broadcast(state, 0)
        torch.set_rng_state(state)

    def average(self, model: nn.Module, losses: Sequence[float], images: int) -> list[float]:
        """Replace gradients by their mean over all images of a step.

        Args:
            model: The network with the gradients of this process, each the mean over its images.
            losses: The losses of this process, likewise.
            images: Their number; 0 if the process has none in this step.

        Returns:
            The mean of the losses, which is not finite if one in any process is not; nothing if none has images.
        """
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        # What no process has used must stay without a gradient: optimizers pass over it.
        used = [float(one.grad is not None) for one in parameters]
        head = torch.tensor([1.0, float(np.mean(losses)) if losses else 0.0, *used], device=gradients[0].device)
        # In one piece: each exchange takes its time, whatever its size.
        everything = torch.cat([head, *(one.flatten() for one in gradients)]) * images
        with _answering():
            dist.all_reduce(everything)
        total, loss, *used = everything[: len(head)].tolist()
        if not total:
            return []
        means = torch.split(everything[len(head) :] / total, [one.numel() for one in parameters])
        for parameter, gradient, mean, by_any in zip(parameters, gradients, means, used, strict=True):
            parameter.grad = gradient.copy_(mean.view_as(gradient)) if by_any else None
        return [loss / total]


class Share(Subset[Any]):
    """Images of which a batch holds the share of one process.

    A share is at least two images, because normalisation over it needs two, or none.

    Args:
        images: All images.
        team: The process and how many there are.
    """

    def __init__(self, images: ImageSet, team: Team) -> None:
        super().__init__(cast("Dataset[Any]", images), range(len(images)))
        self.team = team

    def __getitems__(self, indices: list[int]) -> list[Any]:
        shares = max(1, min(self.team.size, len(indices) // 2))
        if self.team.rank >= shares:
            return []
        # Random numbers were seeded for the whole batch, and the shares shall not be augmented alike.
        seed = (torch.initial_seed() + self.team.rank) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        return super().__getitems__(indices[self.team.rank :: shares])


@contextmanager
def together(device: torch.device | str, needed: bool | None = None) -> Iterator[Team | None]:
    """Give the team that trains within the block; the search is alone afterwards.

    Args:
        device: What is trained on.
        needed: Whether there is something to train, which process 0 knows.

    Yields:
        ``None`` if torchrun has not started several processes, or nothing is to be trained.

    Raises:
        EvaluationError: If another process does not answer.
    """
    if size() == 1:
        yield None
        return
    with _answering():
        store, number, count = next(dist.rendezvous("env://", timeout=_LONGEST_WAIT))  # type: ignore[attr-defined]
        # Processes that torchrun starts again must not find the addresses of those before, or they wait for these.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)  # type: ignore[attr-defined]
        # Objects go over the CPU.
        backend = "cpu:gloo,cuda:nccl" if torch.device(device).type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_LONGEST_WAIT, store=store, rank=number, world_size=count)
    team = Team(number, count)
    yield team if team.from_first(needed) else None
    # Not after an error: it might wait for processes that are at another place. They all end then.
    dist.destroy_process_group()
    _be_alone()


@runtime_checkable
class Shared(Protocol):
    """An evaluator whose shared training several processes can do together."""

    def assist(self, space: ConfigurationSource, team: Team) -> None:
        """Take part in the training that process 0 does in its ``prepare``, and write nothing."""


def take_part(evaluator: object, space: ConfigurationSource, data: ImageData, device: str) -> None:
    """In each process of torchrun's but the first: take part in the shared training, then end the process.

    In the first, or without torchrun, return at once.

    Args:
        evaluator: The evaluator, not prepared yet; others than :class:`Shared` train nothing together.
        space: The space that is searched.
        data: What is trained on.
        device: The study's device.

    Raises:
        DataError: If the data are a stream.
        EvaluationError: If a loss is not finite, or another process does not answer.
    """
    if size() == 1:
        return
    number = rank()
    if isinstance(evaluator, Shared):
        if isinstance(data.train, ImageStream):
            raise DataError(f"data {data.name!r} are a stream, which processes cannot share: start without torchrun")
        if number > 0:
            with together(device) as team:
                if team is not None:
                    evaluator.assist(space, team)
    elif number == 0:
        _be_alone()
    if number > 0:
        raise SystemExit(0)


def _be_alone() -> None:
    """Note that the other processes have left: what follows here, or is started from here, is not one of several."""
    del os.environ["TORCHELASTIC_RUN_ID"]


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # the kind that all backends raise
        raise EvaluationError(
            "another process of the training has ended or does not answer: see its message, then give the same command "
            "again"
        ) from error
