"""Splits of a folder of images and their numbers, without reading images and without PyTorch."""

import itertools
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError, first_reason
from ..words import some_of

CUT_SHARE = 0.2
"""Share of the training images in a validation or test part that is cut from them."""

CUT_LIMIT = 10_000
"""Maximum number of images in such a part."""

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}
"""Usual names of each split."""

EXTENSIONS = (".png", ".jpg", ".jpeg")
"""Endings of the names of image files, in lower case; those of timm."""


@dataclass(frozen=True)
class Splits:
    """Names of the splits of a folder or dataset; ``None`` looks for one of the usual name.

    Configurations are compared on the validation split; the test split is for verification. A missing one is cut from
    the training images by their ``"contents"``, or as up to version 0.1.0 by their ``"order"``.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    cut: Literal["contents", "order"] = "contents"

    @property
    def names(self) -> dict[str, str | None]:
        """The name of the split for each part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


USUAL_SPLITS = Splits()
"""Splits of the usual names; missing ones are cut from the training images."""


def cut_sizes(images: Mapping[Any, int]) -> dict[Any, int]:
    """Return the number of images of each class that are cut for a missing split, from those of the training images.

    They are a fifth of the class, rounded, or a smaller share if a fifth of all images is more than the limit; at least
    one.
    """
    share = min(CUT_SHARE, CUT_LIMIT / sum(images.values()))
    return {name: max(1, math.floor(share * count + 0.5)) for name, count in images.items()}


def split_folders(name: str, folder: Path, splits: Splits) -> dict[str, Path]:
    """Return the folder of each split; without folders of splits, ``folder`` itself has the training images.

    Raises:
        DataError: If a named split is missing, or splits are ambiguous or share images.
    """
    try:
        present = {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    except OSError as error:
        raise DataError(f"data {name!r} cannot be read: {first_reason(error)}") from error
    check_different(name, splits)
    found = {}
    for part, given in splits.names.items():
        if given is not None and not (folder / given).is_dir():
            there = f"are {some_of(present)}" if present else "are no folders"
            raise DataError(f"data {name!r} have no folder {given!r} for the {part} split: there {there}")
        usual = (
            [given]
            if given is not None
            else [
                one
                for one in SPLIT_NAMES[part]
                if one in present.difference(splits.names.values())
                and any(entry.is_dir() for entry in os.scandir(folder / one))
            ]
        )
        if len(usual) > 1:
            raise DataError(f"data {name!r} have the folders {' and '.join(usual)}: name the {part} split in splits")
        if usual:
            found[part] = folder / usual[0]
    if found and "train" not in found:
        raise DataError(
            f"data {name!r} have a folder {next(iter(found.values())).name!r} but none named 'train': name the "
            f"training split in splits"
        )
    for one, other in itertools.permutations(found.values(), 2):
        if one.resolve().is_relative_to(other.resolve()):
            raise DataError(f"data {name!r} have splits that share images: {one} lies in {other}")
    return found or {"train": folder}


def check_links(name: str, path: Path) -> None:
    """Check that symlinks lead to no folder twice: loops never end, and otherwise images would count twice.

    Raises:
        DataError: If they do.
    """
    seen: dict[str, str] = {}
    for here, _, _ in os.walk(path, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            raise DataError(
                f"data {name!r} contain the folder {real!r} twice, as {seen[real]!r} and as {here!r}: remove the link"
            )
        seen[real] = here


def check_different(name: str, splits: Splits) -> None:
    """Check that no split is named for two parts.

    Raises:
        DataError: If one is.
    """
    given = [split for split in splits.names.values() if split is not None]
    if twice := [split for split, count in Counter(given).items() if count > 1]:
        raise DataError(f"data {name!r} have the split {twice[0]!r} named for two parts: give each its own")


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of images of each split."""

    train: int
    validation: int
    test: int


def count_folder(name: str, folder: Path, splits: Splits = USUAL_SPLITS) -> ImageCounts:
    """Return the numbers of images that a search on a folder would have, from the names of the files.

    Copies of an image fall into the same part, so that the numbers of a search can differ by copies.

    Args:
        name: Name of the data in messages.
        folder: Class folders, or folders such as ``train`` that contain class folders.
        splits: Names of the splits.

    Raises:
        DataError: If the folder has no images, or splits that cannot be used.
    """
    found = {part: _count_classes(name, path) for part, path in split_folders(name, folder, splits).items()}
    counts = {part: classes.total() for part, classes in found.items()}
    train = found["train"]
    for part in ("test", "validation"):
        if part not in counts:
            counts[part] = sum(cut_sizes(train).values())
            counts["train"] -= counts[part]
    if counts["train"] < 1:
        raise DataError(f"data {name!r} have too few images to cut validation or test images from them")
    return ImageCounts(**counts)


def _count_classes(name: str, path: Path) -> Counter[str]:
    """Return the number of images of each class, which is the name of the images' folder."""
    check_links(name, path)
    counts = Counter(
        os.path.basename(here)
        for here, _, files in os.walk(path, followlinks=True)
        for file in files
        if os.path.splitext(file)[1].lower() in EXTENSIONS
    )
    if not counts:
        raise DataError(
            f"data {name!r} have no images in {str(path)!r}: folders of classes with {', '.join(EXTENSIONS)} files are "
            "needed"
        )
    return counts
