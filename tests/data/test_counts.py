"""Images counted without PyTorch are those that a search loads."""

import pytest
from test_image_files import BACKBONE, write_classes
from timm.data import get_img_extensions

from se_search.data.counts import EMBEDDED_COUNTS, count_images
from se_search.data.folders import EXTENSIONS, ImageCounts
from se_search.data.load import EMBEDDED, load_data
from se_search.errors import DataError


def loaded(name):
    data = load_data(str(name), BACKBONE)
    return ImageCounts(len(data.train), len(data.validation), len(data.test))


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_data_have_these_numbers(name):
    assert name in EMBEDDED_COUNTS
    assert count_images(name) == loaded(name)


def test_a_folder_of_classes_is_cut_as_for_a_search(tmp_path):
    write_classes(tmp_path / "pets", {"cat": 11, "dog": 23, "eel": 3})
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("no image")
    assert count_images(str(tmp_path / "pets")) == loaded(tmp_path / "pets") == ImageCounts(21, 8, 8)


def test_folders_of_splits_are_counted_and_missing_ones_cut(tmp_path):
    write_classes(tmp_path / "pets" / "train", {"cat": 12, "dog": 9})
    write_classes(tmp_path / "pets" / "val", {"cat": 4, "dog": 5}, start=50)
    assert count_images(str(tmp_path / "pets")) == loaded(tmp_path / "pets") == ImageCounts(17, 9, 4)


def test_endings_are_timms():
    assert get_img_extensions() == EXTENSIONS


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="have no images in"):
        count_images(str(tmp_path / "empty"))


def test_too_few_images_to_cut_from_are_refused(tmp_path):
    write_classes(tmp_path / "few", {"cat": 1, "dog": 1})
    with pytest.raises(DataError, match="too few images to cut"):
        count_images(str(tmp_path / "few"))
