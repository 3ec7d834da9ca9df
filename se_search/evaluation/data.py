"""The images that a search trains and evaluates on."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import TensorDataset

from ..errors import DataError, did_you_mean

DATA_NAMES = ("digits",)

_SPLIT_SEED = 2017  # part of the data's definition: every search, whatever its seed, sees the same split


@dataclass(frozen=True)
class ImageData:
    """Images and labels in three parts that share no image.

    Each part yields ``(image, label)``: a normalised float tensor of ``input_size`` and a class index.

    Attributes:
        name: Name as given to ``--data``.
        classes: Number of classes.
        input_size: ``(channels, height, width)`` of every image.
        mean: Mean that was subtracted, for each channel, of images with values from 0 to 1.
        std: Standard deviation that was divided by, for each channel.
        interpolation: How the images were resized, in timm's words.
        train: Images to train on.
        validation: Images that the search compares configurations on.
        test: Images that a search never sees; kept for verification.
        label_names: Names of the classes, where they are known.
    """

    name: str
    classes: int
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset
    label_names: tuple[str, ...] | None = None


def load_data(name: str) -> ImageData:
    """Load data by name.

    Raises:
        DataError: If the name is unknown.
    """
    if name not in DATA_NAMES:
        raise DataError(
            f"data {name!r} is unknown: available is {', '.join(DATA_NAMES)}{did_you_mean(name, DATA_NAMES)}"
        )
    return _load_digits()


def _load_digits() -> ImageData:
    """scikit-learn's 1,797 grey 8×8 digits, shown at 3×32×32: 1,000 to train, 400 to validate, 397 to test."""
    digits = load_digits()
    labels = torch.tensor(digits.target)
    images = F.interpolate(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, size=32, mode="bilinear")

    rest, test = train_test_split(range(len(labels)), test_size=397, stratify=labels, random_state=_SPLIT_SEED)
    train, validation = train_test_split(rest, test_size=400, stratify=labels[rest], random_state=_SPLIT_SEED)

    mean, std = float(images[train].mean()), float(images[train].std())
    images = ((images - mean) / std).expand(-1, 3, -1, -1)
    parts = [TensorDataset(images[part].contiguous(), labels[part]) for part in (train, validation, test)]
    return ImageData(
        name="digits",
        classes=10,
        input_size=(3, 32, 32),
        mean=(mean,) * 3,
        std=(std,) * 3,
        interpolation="bilinear",
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        label_names=tuple(map(str, digits.target_names)),
    )
