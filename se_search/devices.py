"""Torch devices by name."""

import re

import torch

from .errors import DefinitionError
from .words import counted


def check_device(device: str) -> None:
    """Check that PyTorch sees a device.

    Raises:
        DefinitionError: If it does not, or the name is invalid.
    """
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise DefinitionError(f"device {device!r} is unknown: it must be cpu, cuda or cuda:N")
    if not is_there(device):
        seen = counted(torch.cuda.device_count(), "CUDA device")
        raise DefinitionError(f"device {device!r} not found; PyTorch sees {seen}")


def is_there(device: str) -> bool:
    """Whether PyTorch sees a device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``."""
    return device == "cpu" or int(device.partition(":")[2] or 0) < torch.cuda.device_count()
