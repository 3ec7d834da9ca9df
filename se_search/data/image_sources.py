"""Images of folders, datasets and streams, read lazily."""

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset
from torch.utils.data import Dataset

from ..errors import DataError, first_reason, printable
from .decoded import DecodedImages
from .fingerprint import ImageFile, content_key
from .image_data import ImageStream, Unreadable, UnreadableImages

# Some of PIL's other formats run programs.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

MOST_RESIZED = 2**26
"""Maximum number of pixels of an image that is resized as a whole, before a square is cut out of it."""


@dataclass(frozen=True)
class Transform:
    """Makes the input of a network from an image.

    Attributes:
        apply: The transform.
        side: Pixels of the shorter side of the resized image.
    """

    apply: Callable[[Image.Image], torch.Tensor]
    side: int

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Transform an image."""
        return self.apply(image)

    def fits(self, image: Image.Image) -> bool:
        """Whether the resized image has at most :data:`MOST_RESIZED` pixels."""
        return self.side**2 * max(image.size) <= MOST_RESIZED * min(image.size)


@dataclass(eq=False)
class ImageFiles(Dataset[Any]):
    """A lazily read :class:`~se_search.data.image_data.ImageSet`."""

    source: "Source"
    indices: Sequence[int]
    transform: Transform
    unreadable: UnreadableImages

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int] | Unreadable:
        place = self.indices[index]
        try:
            image = self.source.read(place)
        except MemoryError:
            raise
        except Exception:  # PIL's readers raise many kinds for damaged files
            return Unreadable(self.source.name(place))
        if not self.transform.fits(image):
            return Unreadable(f"{self.source.name(place)} (too long for its width)")
        return self.transform(image), self.source.labels[place]


@dataclass(eq=False)
class StreamedImages(ImageStream):
    """Images of a dataset that timm can only read sequentially."""

    name: str
    root: str | None
    split: str
    classes: int
    transform: Transform
    unreadable: UnreadableImages

    def __len__(self) -> int:
        return self.unreadable.total

    def __iter__(self) -> Iterator[Any]:
        return self._pass(create_dataset(self.name, self.root, self.split, batch_size=1))

    def shuffled(self, seed: int) -> Iterator[Any]:
        """Yield the images in an order that ``seed`` determines, as far as the reader shuffles."""
        return self._pass(create_dataset(self.name, self.root, self.split, batch_size=1, is_training=True, seed=seed))

    def _pass(self, dataset: Any) -> Iterator[Any]:
        given, reason = 0, "left out by timm's reader"
        stream = iter(dataset)
        while True:
            try:
                image, label = next(stream)
            except StopIteration:
                break
            except Exception as error:  # each kind of dataset raises its own
                reason = first_reason(error)
                break
            given += 1
            if not 0 <= int(label) < self.classes:
                raise DataError(
                    f"data {self.name!r} have the label {label} in the split {self.split!r}, beyond their "
                    f"{self.classes} classes: name all classes in an _info.json"
                )
            if self.transform.fits(image):
                yield self.transform(image), int(label)
            else:
                yield Unreadable(f"image {given} of {self.split} (too long for its width)")
        for place in range(given, len(self)):
            yield Unreadable(f"image {place + 1} of {self.split} ({reason})")


class Source(ABC):
    """Images that can be read in any order, and their labels.

    Attributes:
        split: Name of the split of the dataset.
        labels: Class of each image.
        classes: Names of the classes; empty where they are unknown.
    """

    split: str
    labels: Sequence[int]
    classes: tuple[str, ...]

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Return an image in RGB."""

    def name(self, index: int) -> str:
        """Return the location of an image, for messages."""
        return f"{self.split}[{index}]"

    def key(self, index: int) -> bytes:
        """Return a hash that decides into which part an image is cut: here of its place in the dataset."""
        return hashlib.sha256(self.name(index).encode()).digest()


class TimmSource(Source):
    """Images of timm's ``ImageDataset``."""

    def __init__(self, split: str, dataset: Any, labels: Sequence[int]) -> None:
        self.split, self.labels = split, labels
        self.classes = tuple(map(printable_name, dataset.reader.class_to_idx))
        self._reader = dataset.reader
        self._decoded = DecodedImages(len(labels))

    def read(self, index: int) -> Image.Image:
        """Return an image in RGB."""
        image = self._decoded.find(index)
        if image is None:
            image = self._decode(index)
            self._decoded.add(index, image)
        return image

    def _decode(self, index: int) -> Image.Image:
        file, _ = self._reader[index]
        with file, warnings.catch_warnings():
            # PIL reads up to twice the pixels at which it warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Transparent pixels keep their colour, as in timm, so that PIL's advice to convert to RGBA does not apply.
            warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
            return _rgb(Image.open(file, formats=_FORMATS))


class FolderSource(TimmSource):
    """Images of a folder."""

    def _decode(self, index: int) -> Image.Image:
        file = self._reader.samples[index][0]
        if not os.path.isfile(file):  # opening a pipe would block
            raise DataError(f"{file} is not a file")
        return super()._decode(index)

    def name(self, index: int) -> str:
        """Return the location of an image, for messages."""
        return printable_name(os.path.join(self.split, self._reader.filename(index)))

    def key(self, index: int) -> bytes:
        """Return a hash of the contents of an image, which its copies share."""
        return content_key(self._reader.samples[index][0])

    def files(self) -> Iterator[ImageFile]:
        """Yield the image files."""
        for index, (path, label) in enumerate(self._reader.samples):
            group = os.path.join(self.split, self.classes[label])
            yield ImageFile(os.path.join(self.split, self._reader.filename(index)), group, path)


class TorchSource(Source):
    """Images of one of torchvision's datasets."""

    def __init__(self, split: str, dataset: Any) -> None:
        self.split = split
        targets = getattr(dataset, "targets", None)
        if targets is None or np.ndim(targets) != 1:
            targets = [target for _, target in dataset]
        self.labels = [int(target) for target in targets]
        names = getattr(dataset, "classes", ())
        self.classes = tuple(names) if all(isinstance(one, str) for one in names) else ()
        self._dataset = dataset

    def read(self, index: int) -> Image.Image:
        """Return an image in RGB."""
        return _rgb(self._dataset[index][0])


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which PIL would clip to 8
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def printable_name(name: str) -> str:
    """Return a file's name with undecodable and unprintable bytes escaped, for JSON and messages."""
    return printable(os.fsencode(name).decode("utf-8", "backslashreplace"))
