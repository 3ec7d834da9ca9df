"""Load data by name."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import DataError, did_you_mean
from .digits import load_context_digits, load_easy_digits, load_hard_digits
from .image_data import ImageData
from .image_files import PREFIXES, USUAL_SPLITS, Splits, load_folder, load_timm_dataset

EMBEDDED: Mapping[str, Callable[[], ImageData]] = {
    "digits": load_easy_digits,
    "digits-hard": load_hard_digits,
    "digits-context": load_context_digits,
}
"""Data that come with the package."""


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
        if (image_size, splits, root) != (None, USUAL_SPLITS, None):
            raise DataError(f"data {name!r} are embedded: leave image_size, splits and data_root out")
        return EMBEDDED[name]()
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
