"""Numbers of images of data, counted without PyTorch where that is possible."""

import os
from collections.abc import Mapping
from pathlib import Path

from .folders import ImageCounts, count_folder

EMBEDDED_COUNTS: Mapping[str, ImageCounts] = {
    "digits": ImageCounts(1000, 400, 397),
    "digits-hard": ImageCounts(1000, 400, 397),
    "digits-context": ImageCounts(4000, 800, 794),
    "digits-distant": ImageCounts(4000, 800, 794),
    "digits-local": ImageCounts(4000, 800, 794),
}
"""Numbers of images of embedded data."""


def count_images(name: str, backbone: str | None = None) -> ImageCounts:
    """Return the numbers of images of data named as for :func:`~se_search.data.load.load_data`.

    Embedded data and folders are counted without PyTorch; timm datasets are opened.

    Args:
        name: Embedded data, an image folder or a timm dataset.
        backbone: A timm architecture; only timm datasets need it.

    Raises:
        DataError: If the data are unknown or cannot be used.
    """
    if name in EMBEDDED_COUNTS:
        return EMBEDDED_COUNTS[name]
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        return count_folder(name, folder)
    from .load import load_data

    data = load_data(name, backbone)
    return ImageCounts(len(data.train), len(data.validation), len(data.test))
