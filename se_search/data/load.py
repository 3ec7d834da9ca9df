"""Load data by name."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..errors import DataError, did_you_mean
from .digits import load_context_digits, load_distant_digits, load_easy_digits, load_hard_digits, load_local_digits
from .folders import USUAL_SPLITS, Splits
from .image_data import ImageData
from .image_files import PREFIXES, load_folder, load_timm_dataset


@dataclass(frozen=True)
class EmbeddedTask:
    """Data that come with the package.

    Attributes:
        load: Loads the images.
        scope: What a search on them can and cannot tell, in one sentence.
    """

    load: Callable[[], ImageData]
    scope: str


_SYNTHETIC = "This synthetic task is made so that SE helps: a gain on it says nothing about other images."

EMBEDDED: Mapping[str, EmbeddedTask] = {
    "digits": EmbeddedTask(
        load_easy_digits,
        "Plain digits need no SE: this search measures its costs and tests the installation, but cannot show a gain.",
    ),
    "digits-hard": EmbeddedTask(
        load_hard_digits, "Distorted digits rank placements of SE: the ranking says nothing about other images."
    ),
    "digits-context": EmbeddedTask(load_context_digits, _SYNTHETIC),
    "digits-distant": EmbeddedTask(load_distant_digits, _SYNTHETIC),
    "digits-local": EmbeddedTask(
        load_local_digits,
        "This synthetic task is made so that local mixing helps: a gain on it says nothing about other images.",
    ),
}
"""Embedded tasks by name."""


def load_data(
    name: str,
    backbone: str | None = None,
    image_size: int | None = None,
    splits: Splits = USUAL_SPLITS,
    root: Path | None = None,
) -> ImageData:
    """Load data by name.

    Args:
        name: One of :data:`EMBEDDED`, the path of a folder of images, or timm's name of a dataset, such as
            ``torch/cifar100``.
        backbone: The timm architecture whose configuration determines the transforms. Embedded data need none.
        image_size: Height and width of images that are not embedded; ``None`` takes the backbone's.
        splits: Names of the splits of data that are not embedded.
        root: Location of a timm dataset, see :func:`~se_search.data.image_files.load_timm_dataset`.

    Raises:
        DataError: If the name is unknown or the data cannot be used.
        BackboneError: If timm does not know the backbone.
    """
    if name in EMBEDDED:
        if (image_size, splits.names, root) != (None, USUAL_SPLITS.names, None):
            raise DataError(f"data {name!r} are embedded: leave image_size, splits and data_root out")
        return EMBEDDED[name].load()
    folder = Path(os.path.expanduser(name))  # like isdir, it does not raise for names that nothing can have
    dataset = name.startswith(PREFIXES)
    if not (dataset or os.path.isdir(folder)):
        raise DataError(
            f"data {name!r} are neither embedded ({', '.join(EMBEDDED)}) nor a folder of images nor a timm dataset "
            f"({', '.join(prefix + '…' for prefix in PREFIXES)}){did_you_mean(name, EMBEDDED)}"
        )
    if backbone is None:
        raise DataError(f"the transforms of data {name!r} depend on the backbone: name one")
    if os.path.isdir(folder):
        return load_folder(name, folder, backbone, image_size, splits)
    return load_timm_dataset(name, root, backbone, image_size, splits)


def is_folder_name(name: str) -> bool:
    """Whether a name of data is the path of a folder of images, which may be missing."""
    return name not in EMBEDDED and not name.startswith(PREFIXES)


def absolute_name(name: str) -> str:
    """Return a name of data with absolute paths of folders, so that it means the same in another directory."""
    if is_folder_name(name):
        path = os.path.expanduser(name)
        return os.path.abspath(path) if os.path.isdir(path) else name
    prefix, _, rest = name.partition("/")
    return f"wds/{os.path.abspath(os.path.expanduser(rest))}" if prefix == "wds" and rest else name


def published_name(data: str) -> str:
    """Return a name of data without local paths, for what is shown to others.

    ``"/home/me/pets"`` becomes ``"pets"``, ``"wds//home/me/pets"`` ``"wds/pets"``; ``"hfds/me/pets"`` is unchanged.
    """
    prefix = next((prefix for prefix in PREFIXES if data.startswith(prefix)), "")
    path = PurePath(data.removeprefix(prefix))
    return prefix + path.name if path.is_absolute() else data
