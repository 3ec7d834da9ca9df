"""Images and labels in three parts, and the batches drawn from them."""

import itertools
import random
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from ..errors import DataError
from ..words import some_of


class ImageSet(Sized, Protocol):
    """Pairs of a normalised image and its class index.

    A set with an attribute ``unreadable``, an :class:`UnreadableImages`, may return an :class:`Unreadable` in place of
    a pair.
    """

    def __getitem__(self, index: int) -> Any: ...


class ImageStream(ABC, IterableDataset[Any]):
    """An :class:`ImageSet` that can only be read sequentially."""

    @abstractmethod
    def __len__(self) -> int:
        """Images in one pass."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """Yield the items of an :class:`ImageSet`, always in the same order."""

    @abstractmethod
    def shuffled(self, seed: int) -> Iterator[Any]:
        """Yield the same items in an order that ``seed`` determines."""


@dataclass(frozen=True)
class Unreadable:
    """Placeholder for an image that cannot be read; ``name`` is its location, for messages."""

    name: str


@dataclass
class UnreadableImages:
    """The ``names`` of the images of one part of the data that could not be read so far; the part has ``total``."""

    part: str
    total: int
    names: set[str] = field(default_factory=set)

    @property
    def limit(self) -> int:
        """Images that may be left out: one in a hundred or ten, whichever is more, but at most half of the part."""
        return max(self.total // 100, min(10, self.total // 2))

    def add(self, names: Sequence[str]) -> None:
        """Record images that cannot be read.

        Raises:
            DataError: If there are now more than :attr:`limit`.
        """
        self.names.update(names)
        if len(self.names) > self.limit:
            raise DataError(
                f"at least {len(self.names)} of the {self.total} {self.part} images cannot be read, more than the "
                f"limit of {self.limit}: repair or remove {some_of(self.names)}"
            )


@dataclass(frozen=True)
class ImageData:
    """Images and labels in three parts that share no image.

    Each part yields ``(image, label)``: a normalised float tensor of ``input_size`` and a class index.

    Attributes:
        name: Name as given to ``--data``.
        classes: Number of classes.
        input_size: ``(channels, height, width)`` of every image.
        mean: Mean of each channel, subtracted from images with values from 0 to 1.
        std: Standard deviation of each channel, by which they are divided.
        interpolation: How the images were resized, in timm's words.
        train: Training images, with random augmentation if the data have any.
        calibration: The same images without random augmentation, for statistics of a trained network.
        validation: Images on which the search compares configurations.
        test: Images for verification, which a search never uses.
        label_names: Names of the classes, where they are known.
        crop_pct: Share of the resized image's side that the crop keeps in evaluation.
        crop_mode: How the crop is placed, in timm's words.
        fingerprint: Plain data of the fingerprint of an image folder; ``None`` for other data.
    """

    name: str
    classes: int
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    train: ImageSet
    calibration: ImageSet
    validation: ImageSet
    test: ImageSet
    label_names: tuple[str, ...] | None = None
    crop_pct: float = 1.0
    crop_mode: str = "center"
    fingerprint: Mapping[str, Any] | None = None

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Names of the images that this process has left out so far because they could not be read."""
        noted = [_noted(images) for images in (self.train, self.calibration, self.validation, self.test)]
        return tuple(sorted(set().union(*(part.names for part in noted if part is not None))))


@dataclass(frozen=True)
class Batches:
    """Batches of images and class indices, the same in each iteration; created by :func:`batches`."""

    images: ImageSet
    batch: int
    shuffle_seed: int | None
    workers: int
    pinned: bool

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        noted = _noted(self.images)
        for samples, unreadable in self._drawn():
            if unreadable:
                if noted is None:
                    raise DataError(f"{unreadable[0]} cannot be read")
                noted.add(unreadable)
            if samples is not None:
                yield samples[0], samples[1]

    def _drawn(self) -> Iterator[Any]:
        """Yield what the loader collates; if one of its processes dies, load the rest again, once."""
        done, died = 0, False
        while True:
            try:
                with _loader_deaths_where_batches_are_drawn():
                    loader = iter(self._loader())
                for batch in itertools.islice(loader, done, None):
                    done += 1
                    yield batch
                return
            except (RuntimeError, ConnectionError, EOFError) as error:
                # A batch of a process that has died since cannot be fetched from it.
                if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
                    raise
                if died:
                    raise DataError(
                        "two processes that load images were killed or crashed: free memory or lower data_workers, and "
                        "run the same command again"
                    ) from error
                died = True

    def _loader(self) -> DataLoader[Any]:
        seed = self.shuffle_seed or 0
        images: Dataset[Any]
        if isinstance(self.images, ImageStream):
            images, shuffle = _SeededStream(self.images, self.shuffle_seed), None
            # Several workers would each read a part of the stream, so that the order depends on their number. In the
            # main process some of timm's readers shuffle differently than in a worker.
            workers = 1
        else:
            images, shuffle, workers = _Seeded(self.images, seed), self.shuffle_seed is not None, self.workers
        # A separate generator leaves the process's random state unchanged.
        generator = torch.Generator().manual_seed(seed)
        return DataLoader(
            images,
            self.batch,
            shuffle,
            num_workers=workers,
            collate_fn=_collate,
            generator=generator,
            pin_memory=self.pinned,
        )


def batches(
    images: ImageSet, batch: int, shuffle_seed: int | None = None, workers: int = 0, pinned: bool = False
) -> Batches:
    """Return the batches of one pass over ``images``: pairs of images and class indices.

    ``images``, ``batch`` and ``shuffle_seed`` determine the batches, including random augmentation. Drawing them leaves
    the random state of the process unchanged. Images that cannot be read are left out and recorded in
    :attr:`ImageData.unreadable`, so that a batch may have fewer images than ``batch``.

    Args:
        images: One part of :class:`ImageData`.
        batch: Images in one batch; the last one may have fewer.
        shuffle_seed: Seed of the order and the augmentation, not negative; without it the order is that of ``images``.
        workers: Processes that read images; 0 reads them in this process. An :class:`ImageStream` is always read by
            one.
        pinned: Whether batches are in page-locked memory, from which a CUDA device copies while it computes.

    Raises:
        DataError: While iterating, if more images cannot be read than :attr:`UnreadableImages.limit`.
    """
    return Batches(images, batch, shuffle_seed, workers, pinned)


def sample(images: ImageSet, count: int, seed: int) -> ImageSet:
    """Return ``count`` images of one part of :class:`ImageData`, drawn at random, or all if there are fewer."""
    if count >= len(images):
        return images
    if isinstance(images, ImageStream):
        return _StreamSample(images, count, seed)
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    if type(images) is TensorDataset:
        return TensorDataset(*images[chosen])
    return Subset(cast("Dataset[Any]", images), chosen)


@dataclass(eq=False)
class _StreamSample(ImageStream):
    """The first images of a stream shuffled with one seed."""

    stream: ImageStream
    count: int
    seed: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(self.stream.shuffled(self.seed), self.count)

    def shuffled(self, seed: int) -> Iterator[Any]:
        return iter(self)


@dataclass(eq=False)
class _Seeded(Dataset[Any]):
    """Draws the images of a batch with random numbers that depend on a seed and the batch only."""

    images: ImageSet
    seed: int

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> Any:
        if type(self.images) is TensorDataset:
            return self.images[indices]  # a whole batch, without collating
        at_once = getattr(self.images, "__getitems__", None)
        with _seeded(self.seed, indices[0]):
            return [self.images[index] for index in indices] if at_once is None else at_once(indices)


@dataclass(eq=False)
class _SeededStream(IterableDataset[Any]):
    """Draws each image of a stream with random numbers that depend on a seed and the image's position only."""

    stream: ImageStream
    shuffle_seed: int | None

    def __iter__(self) -> Iterator[Any]:
        stream = iter(self.stream) if self.shuffle_seed is None else self.stream.shuffled(self.shuffle_seed)
        for place in itertools.count():
            with _seeded(self.shuffle_seed or 0, place):
                drawn = next(stream, None)
            if drawn is None:
                return
            yield drawn


@contextmanager
def _loader_deaths_where_batches_are_drawn() -> Iterator[None]:
    """Keep the signal handler that PyTorch installs with its loader from raising an error at any point of the program.

    The loader itself finds a dead process while it waits for a batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:  # a handler of a program in C, which Python cannot set again
            signal.signal(signal.SIGCHLD, before)


@contextmanager
def _seeded(*seeds: int) -> Iterator[None]:
    """Seed Python's, NumPy's and PyTorch's random numbers, and restore their states afterwards."""
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _collate(drawn: Any) -> tuple[Any, list[str]]:
    """Return a batch of the readable images, ``None`` if there are none, and the names of the others."""
    if isinstance(drawn, tuple):
        return drawn, []
    read = [one for one in drawn if not isinstance(one, Unreadable)]
    return default_collate(read) if read else None, [one.name for one in drawn if isinstance(one, Unreadable)]


def _noted(images: ImageSet) -> UnreadableImages | None:
    """Return the record of unreadable images of a set, or of the set that it is a part of."""
    if isinstance(images, Subset):
        return _noted(cast("ImageSet", images.dataset))
    if isinstance(images, _StreamSample):
        return _noted(images.stream)
    return getattr(images, "unreadable", None)
