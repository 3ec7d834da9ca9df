"""Find, check and split the images of a user's folders and of timm's datasets."""

import importlib.util
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import create_dataset, create_transform, get_img_extensions, resolve_model_data_config
from timm.utils.misc import natural_key

from ..errors import DataError, first_reason
from ..network.backbones import create_on_meta
from ..words import some_of
from .fingerprint import fingerprint_of
from .folders import (
    CUT_LIMIT,
    CUT_SHARE,
    SPLIT_NAMES,
    USUAL_SPLITS,
    Splits,
    check_different,
    check_links,
    cut_sizes,
    split_folders,
)
from .image_data import ImageData, ImageSet, UnreadableImages
from .image_sources import (
    FolderSource,
    ImageFiles,
    Source,
    StreamedImages,
    TimmSource,
    TorchSource,
    Transform,
    printable_name,
)

PREFIXES = ("torch/", "hfds/", "hfids/", "wds/", "tfds/")
"""Prefixes of the names of timm's datasets."""

TORCH_ROOT = Path("~/.cache/se-search/data")
"""Default folder of torchvision's datasets."""

_CUT_SEED = 2017  # part of the data's definition: every search has the same parts, whatever its seed
_PACKAGES = {"hfds": "datasets", "hfids": "datasets", "wds": "webdataset", "tfds": "tensorflow tensorflow_datasets"}
_EXTRAS = {"hfds": "hfds", "hfids": "hfds", "wds": "wds"}


def load_folder(name: str, folder: Path, backbone: str, image_size: int | None, splits: Splits) -> ImageData:
    """Load a folder of images: class folders, or folders such as ``train`` that contain class folders.

    Symlinks are followed. Without a validation or test folder these images are cut from the training images. The other
    arguments are those of :func:`~se_search.data.load.load_data`; ``splits`` are names of folders in ``folder``.

    Raises:
        DataError: If the folder has no images, too few images or classes, or a symlink that forms a loop.
    """
    found = split_folders(name, folder, splits)
    sources = {part: _read_folder(name, folder, path) for part, path in found.items()}
    data = _indexed_data(name, sources, backbone, image_size, splits)
    files = (file for source in sources.values() for file in source.files())
    return replace(data, fingerprint=fingerprint_of(files).to_dict())


def load_timm_dataset(name: str, root: Path | None, backbone: str, image_size: int | None, splits: Splits) -> ImageData:
    """Load a dataset by timm's name for it, with a prefix of :data:`PREFIXES`.

    ``root`` is the folder of the dataset. ``None`` is :data:`TORCH_ROOT` for ``torch/``, the path after the prefix for
    ``wds/`` and the library's own folder for the others. The other arguments are those of
    :func:`~se_search.data.load.load_data`.

    Raises:
        DataError: If the dataset cannot be opened or has no such splits.
    """
    prefix, _, rest = name.partition("/")
    packages = _PACKAGES.get(prefix, "").split()
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        what = f'"se-search[{_EXTRAS[prefix]}]"' if prefix in _EXTRAS else " ".join(missing)
        raise DataError(f"data {name!r} need the package {missing[0]}: pip install {what}")
    if prefix == "torch":
        return _indexed_data(name, _torch_sources(name, rest, root, splits), backbone, image_size, splits)
    if prefix == "hfds":
        return _indexed_data(name, _hfds_sources(name, rest, root, splits), backbone, image_size, splits)
    return _streamed_data(name, rest, root, backbone, image_size, splits)


def _read_folder(name: str, folder: Path, path: Path) -> FolderSource:
    check_links(name, path)
    try:
        dataset = create_dataset("", str(path), search_split=False)
    except RuntimeError as error:  # timm's for a folder without images
        raise DataError(
            f"data {name!r} have no images in {str(path)!r}: folders of classes with {', '.join(get_img_extensions())} "
            f"files are needed"
        ) from error
    reader = dataset.reader
    if "" in reader.class_to_idx:
        stray = next(file for file, label in reader.samples if label == reader.class_to_idx[""])
        raise DataError(
            f"data {name!r} have the image {printable_name(stray)!r} outside of any class's folder: move it into one"
        )
    _order_totally(reader)
    split = "" if path == folder else os.path.relpath(path, folder)
    return FolderSource(split, dataset, [label for _, label in reader.samples])


def _order_totally(reader: Any) -> None:
    """Order classes and files as timm does, and by their bytes where timm's order depends on the process.

    timm ignores case and leading zeros, so that the order of ``Cat`` and ``cat`` would be random.
    """

    def place(name: str) -> tuple[list[Any], bytes]:
        return natural_key(name), os.fsencode(name)

    names = {index: name for name, index in reader.class_to_idx.items()}
    classes = {name: index for index, name in enumerate(sorted(reader.class_to_idx, key=place))}
    reader.samples = sorted(
        ((file, classes[names[label]]) for file, label in reader.samples), key=lambda one: place(one[0])
    )
    reader.class_to_idx = classes


def _torch_sources(name: str, rest: str, root: Path | None, splits: Splits) -> dict[str, Source]:
    if rest.lower() in ("image_folder", "folder"):
        raise DataError(f"data {name!r} are a folder of images: give the folder's path in place of this name")
    if splits.names != USUAL_SPLITS.names:
        raise DataError(f"data {name!r} have fixed training and test splits: leave splits out")
    place = (root or TORCH_ROOT).expanduser()
    sources: dict[str, Source] = {}
    for part, split in (("train", "train"), ("test", "validation")):
        try:
            sources[part] = TorchSource(part, create_dataset(name, str(place), split))
        except Exception as error:  # timm asserts, torchvision raises many kinds
            raise DataError(
                f"data {name!r} cannot be read from {str(place)!r}: {first_reason(error)}; timm.data.create_dataset("
                f"{name!r}, {str(place)!r}, {split!r}, download=True) downloads most of them"
            ) from error
    return sources


def _hfds_sources(name: str, rest: str, root: Path | None, splits: Splits) -> dict[str, Source]:
    import datasets

    check_different(name, splits)
    sources: dict[str, Source] = {}
    try:
        present = datasets.get_dataset_split_names(rest)
        for part, given in splits.names.items():
            usual = [one for one in SPLIT_NAMES[part] if one in present and one not in splits.names.values()]
            if given is None and not usual:
                continue
            split = given or usual[0]
            dataset = create_dataset(name, str(root) if root else None, split)
            sources[part] = TimmSource(split, dataset, list(dataset.reader.iter_targets()))
    except Exception as error:  # the library raises many kinds
        raise DataError(f"data {name!r} cannot be read: {first_reason(error)}") from error
    if "train" not in sources:
        raise DataError(
            f"data {name!r} have no split 'train': name the training split in splits, of {some_of(present)}"
        )
    return sources


def _indexed_data(
    name: str, sources: Mapping[str, Source], backbone: str, image_size: int | None, splits: Splits
) -> ImageData:
    for source in sources.values():
        _check_labels(name, source)
        _check_same_classes(name, sources["train"], source)
    train = sources["train"]
    if len(set(train.labels)) < 2:
        only = _class_name(train, train.labels[0])
        raise DataError(f"data {name!r} have training images of one class only, {only!r}: at least two are needed")
    indices = {part: list(range(len(source.labels))) for part, source in sources.items()}
    absent = [part for part in ("test", "validation") if part not in sources]
    if absent:
        indices |= _CUTS[splits.cut](name, train, absent)

    def images(part: str, transform: Transform, unreadable: UnreadableImages) -> ImageSet:
        return ImageFiles(sources.get(part, train), indices[part], transform, unreadable)

    classes = len(train.classes) or max(train.labels) + 1
    totals = {part: len(chosen) for part, chosen in indices.items()}
    return _image_data(name, backbone, image_size, classes, train.classes, totals, images)


def _streamed_data(
    name: str, rest: str, root: Path | None, backbone: str, image_size: int | None, splits: Splits
) -> ImageData:
    if splits.validation is None or splits.test is None:
        raise DataError(
            f"data {name!r} are a stream, which cannot be split: name the validation and the test split in splits"
        )
    names = {"train": splits.train or "train", "validation": splits.validation, "test": splits.test}
    check_different(name, Splits(names["train"], names["validation"], names["test"]))
    place = str(root) if root else None
    if name.startswith("wds/"):
        folder = (root or Path(rest)).expanduser()
        if not folder.is_dir():
            raise DataError(f"data {name!r} not found: {str(folder)!r} is not a folder of shards")
        # An absolute path cannot be one of the commands that webdataset runs for names that start with "pipe:".
        place = str(folder.absolute())
    readers = {}
    for part, split in names.items():
        try:
            readers[part] = create_dataset(name, place, split, batch_size=1).reader
        except Exception as error:  # each kind of dataset raises its own
            raise DataError(f"data {name!r} cannot be read: {first_reason(error)}") from error
        if not len(readers[part]):
            raise DataError(
                f"data {name!r} do not say how many images the split {split!r} has: write it as 'SHARDS.tar|NUMBER'"
            )
    label_names = tuple(readers["train"].class_to_idx)
    classes = len(label_names) or (_classes_of_shards(name, readers["validation"]) if name.startswith("wds/") else 0)
    if classes < 2:
        raise DataError(f"data {name!r} have {classes} known classes: at least two are needed")

    def images(part: str, transform: Transform, unreadable: UnreadableImages) -> ImageSet:
        return StreamedImages(name, place, names[part], classes, transform, unreadable)

    totals = {part: len(reader) for part, reader in readers.items()}
    return _image_data(name, backbone, image_size, classes, label_names, totals, images)


def _classes_of_shards(name: str, reader: Any) -> int:
    """Return the number of classes from the labels of one split, without decoding images as timm's reader does."""
    import webdataset

    shards = webdataset.SimpleShardList([os.path.join(reader.root, file) for file in reader.split_info.filenames])
    samples = webdataset.DataPipeline(shards, webdataset.tarfile_to_samples())
    try:
        return 1 + max((int(one["cls"]) for one in samples if "cls" in one), default=-1)
    except ValueError as error:
        raise DataError(f"data {name!r} have a label that is not a class index ({error})") from error


def _image_data(
    name: str,
    backbone: str,
    image_size: int | None,
    classes: int,
    label_names: tuple[str, ...],
    totals: Mapping[str, int],
    images: Callable[[str, Transform, UnreadableImages], ImageSet],
) -> ImageData:
    """Create data from the parts that ``images`` returns, with the transforms of the backbone's configuration."""
    settings = resolve_model_data_config(create_on_meta(backbone))
    if image_size is not None:
        settings["input_size"] = (settings["input_size"][0], image_size, image_size)
    side = math.ceil(max(settings["input_size"][1:]) / settings["crop_pct"])
    augment = Transform(create_transform(**settings, is_training=True), side)
    prepare = Transform(create_transform(**settings, is_training=False), side)
    noted = {part: UnreadableImages("training" if part == "train" else part, total) for part, total in totals.items()}
    return ImageData(
        name=name,
        classes=classes,
        input_size=tuple(settings["input_size"]),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        interpolation=settings["interpolation"],
        crop_pct=settings["crop_pct"],
        crop_mode=settings["crop_mode"],
        train=images("train", augment, noted["train"]),
        calibration=images("train", prepare, noted["train"]),
        validation=images("validation", prepare, noted["validation"]),
        test=images("test", prepare, noted["test"]),
        label_names=label_names or None,
    )


def _cut_by_contents(name: str, source: Source, absent: Sequence[str]) -> dict[str, list[int]]:
    """Cut absent parts from the training images; return the indices of these parts and of the rest.

    Of each class the images with the lowest keys are the first part and those with the highest the second, so that
    names and order do not matter, and an added image moves at most one other of its class into or out of each. Images
    with the same key, such as copies, fall into the same part, whatever their classes.
    """
    labels = np.asarray(source.labels)
    sizes = cut_sizes(_check_enough(name, source, len(absent)))
    keys = [source.key(index) for index in range(len(labels))]
    part_of: dict[bytes, str] = {}
    for label, size in sorted(sizes.items()):
        members = Counter(keys[index] for index in np.flatnonzero(labels == label))
        left = dict.fromkeys(absent, size)
        for key in members.keys() & part_of.keys():
            if part_of[key] in left:
                left[part_of[key]] -= members[key]
        ordered = sorted(members.keys() - part_of.keys())
        for part, keys_in_turn in zip(absent, (ordered, ordered[::-1]), strict=False):
            for key in keys_in_turn:
                if left[part] > 0 and key not in part_of:
                    part_of[key] = part
                    left[part] -= members[key]
        for key in ordered:
            part_of.setdefault(key, "train")
    found: dict[str, list[int]] = {part: [] for part in ("train", *absent)}
    for index, key in enumerate(keys):
        found[part_of[key]].append(index)
    for part, indices in found.items():
        if lacking := set(source.labels) - {source.labels[index] for index in indices}:
            raise DataError(
                f"data {name!r} have too few different images of the class {_class_name(source, min(lacking))!r} for a "
                f"{part} part: copies of an image stay in one part"
            )
    return found


def _cut_by_order(name: str, source: Source, absent: Sequence[str]) -> dict[str, list[int]]:
    """Cut absent parts at random, stratified by class, as up to version 0.1.0: the order of the names matters."""
    from sklearn.model_selection import train_test_split  # a tenth of all imports, for runs of version 0.1.0 only

    labels = np.asarray(source.labels)
    counts = _check_enough(name, source, len(absent))
    size = max(min(round(CUT_SHARE * len(labels)), CUT_LIMIT), len(counts))
    found: dict[str, list[int]] = {}
    rest = list(range(len(labels)))
    for part in absent:
        rest, cut = train_test_split(rest, test_size=size, stratify=labels[rest], random_state=_CUT_SEED)
        rest, found[part] = sorted(rest), sorted(cut)
    return found | {"train": rest}


_CUTS = {"contents": _cut_by_contents, "order": _cut_by_order}


def _check_enough(name: str, source: Source, parts: int) -> Counter[int]:
    """Return the number of images of each class, of which ``parts`` parts can be cut."""
    counts = Counter(source.labels)
    rarest, count = min(counts.items(), key=lambda one: one[1])
    if count <= parts:
        raise DataError(
            f"data {name!r} have {count} training images of the class {_class_name(source, rarest)!r}: at least "
            f"{parts + 1} are needed to cut validation or test images from them"
        )
    return counts


def _check_labels(name: str, source: Source) -> None:
    where = f"data {name!r} have in the split {source.split!r}" if source.split else f"data {name!r} have"
    if len(source.labels) < 2:
        raise DataError(f"{where} {len(source.labels)} images: at least two are needed")
    wrong = [label for label in source.labels if not isinstance(label, int) or label < 0]
    if wrong:
        raise DataError(f"{where} labels that are not class numbers, such as {wrong[0]!r}: name another split")


def _check_same_classes(name: str, train: Source, source: Source) -> None:
    ours, theirs = _classes_of(train), _classes_of(source)
    if ours != theirs:
        differing = [
            f"{split!r} lacks {some_of(lacking)}"
            for split, lacking in ((train.split, theirs - ours), (source.split, ours - theirs))
            if lacking
        ]
        raise DataError(f"data {name!r} have splits with different classes: {' and '.join(differing)}")


def _classes_of(source: Source) -> set[str]:
    return set(source.classes) or {str(label) for label in source.labels}


def _class_name(source: Source, label: int) -> str:
    return source.classes[label] if source.classes else str(label)
