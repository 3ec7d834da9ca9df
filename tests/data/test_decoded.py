"""Decoded images, kept for all processes that read them."""

import copy
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from test_image_files import load, picture, whole, write_classes

from se_search.data.decoded import DecodedImages


def shades(image: Image.Image) -> list:
    return np.asarray(image).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_is_decoded_once(tmp_path, workers):
    write_classes(tmp_path / "pets", {"cat": 20, "dog": 30})
    data = load(tmp_path / "pets")
    plain, augmented = whole(data.calibration, workers=workers), whole(data.train, shuffle_seed=1)
    shutil.rmtree(tmp_path / "pets")
    assert torch.equal(whole(data.calibration), plain)
    assert torch.equal(whole(data.calibration, workers=2), plain)
    assert torch.equal(whole(data.train, shuffle_seed=1), augmented)


def test_images_are_kept_as_long_as_there_is_room():
    """Three pictures of 31×47, 64×64 and 17×90 pixels, of three bytes each, into room for the first and the last."""
    kept = DecodedImages(3, 3 * (31 * 47 + 17 * 90))
    for number in range(3):
        kept.add(number, picture(number))
    assert [found is not None for found in map(kept.find, range(3))] == [True, False, True]
    for number in (0, 2):
        assert shades(kept.find(number)) == shades(picture(number))


def test_what_was_added_first_stays():
    kept = DecodedImages(1, 10**5)
    kept.add(0, picture(0))
    kept.add(0, picture(1))
    assert shades(kept.find(0)) == shades(picture(0))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])
def test_a_copy_keeps_none(copied):
    kept = DecodedImages(1, 10**5)
    kept.add(0, picture(0))
    other = copied(kept)
    other.add(0, picture(0))
    assert other.find(0) is None


def test_without_memory_none_are_kept(monkeypatch):
    def refuse(*_):
        raise OSError("cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    kept = DecodedImages(1)
    kept.add(0, picture(0))
    assert kept.find(0) is None
