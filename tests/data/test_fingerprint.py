"""Fingerprints of image folders, and a cut that neither names nor copies of images change."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_image_files import labels_of, load, names_of, picture, write_classes

from se_search.data import fingerprint
from se_search.data.fingerprint import ImageFile, describe_difference, fingerprint_of
from se_search.data.folders import cut_sizes
from se_search.errors import DataError


@pytest.fixture
def pets(tmp_path):
    write_classes(tmp_path / "pets", {"cat": 20, "dog": 30})
    return tmp_path / "pets"


def difference(before, folder):
    return describe_difference(before, load(folder).fingerprint)


def test_a_copy_elsewhere_has_the_same_fingerprint(pets, tmp_path):
    shutil.copytree(pets, tmp_path / "elsewhere")
    assert load(pets).fingerprint == load(tmp_path / "elsewhere").fingerprint
    assert difference(load(pets).fingerprint, tmp_path / "elsewhere") == ""


def test_exchanged_classes_are_named(pets):
    before = load(pets).fingerprint
    (pets / "eel").mkdir()
    for name in ("cat/0.png", "dog/0.png"):
        (pets / name).rename(pets / name.replace("/0", "/kept"))
    (pets / "cat" / "kept.png").rename(pets / "dog" / "0.png")
    (pets / "dog" / "kept.png").rename(pets / "cat" / "0.png")
    assert difference(before, pets) in {
        f"the {what} of image files differ, in 'cat', 'dog'" for what in ("contents", "sizes and contents")
    }


def test_a_renamed_file_and_a_missing_one_are_told(pets):
    before = load(pets).fingerprint
    (pets / "cat" / "0.png").rename(pets / "cat" / "00.png")
    assert difference(before, pets) == "the names of image files differ, in 'cat'"
    (pets / "cat" / "00.png").unlink()
    assert difference(before, pets) == "there were 50 image files and are 49 now, in 'cat'"


def test_of_large_sets_a_sample_is_read(pets, monkeypatch):
    monkeypatch.setattr(fingerprint, "_WHOLE", 10)
    monkeypatch.setattr(fingerprint, "_SAMPLE", 7)
    files = [ImageFile(str(path.relative_to(pets)), path.parent.name, str(path)) for path in pets.rglob("*.*g")]
    before = fingerprint_of(files)
    assert (before.files, before.read) == (50, 7)
    seen = 0
    for file in files:
        content = Path(file.path).read_bytes()
        Path(file.path).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        seen += fingerprint_of(files).contents != before.contents
        Path(file.path).write_bytes(content)
    assert seen == 7
    assert fingerprint_of(reversed(files)) == before


def parts_of(folder):
    """The part of each image, by its contents."""
    data = load(folder)
    return {
        (folder / name).read_bytes(): part
        for part in ("calibration", "validation", "test")
        for name in names_of(getattr(data, part))
    }


def test_renaming_moves_no_image_to_another_part(pets):
    before = parts_of(pets)
    for place, file in enumerate(sorted(pets.rglob("*.*g"))):
        file.rename(file.with_name(f"{(place * 31) % 50:03}{file.suffix}x"))
    for file in pets.rglob("*x"):
        file.rename(file.with_suffix(file.suffix.removesuffix("x")))
    assert parts_of(pets) == before


def test_an_added_image_moves_at_most_one_other_of_its_class_out_of_each_part(pets):
    before = parts_of(pets)
    for number in range(100, 110):
        picture(number).save(pets / "cat" / f"{number}.png")
        now = parts_of(pets)
        moved = [image for image, part in before.items() if now[image] != part]
        assert len(moved) <= 2
        assert all(image in {file.read_bytes() for file in (pets / "cat").iterdir()} for image in moved)
        before = now


def test_copies_stay_in_one_part_even_under_two_classes(pets):
    for place, file in enumerate(sorted((pets / "dog").iterdir())):
        shutil.copy(file, pets / "dog" / f"copy-{place}{file.suffix}")
        if place % 3 == 0:
            shutil.copy(file, pets / "cat" / f"copy-{place}{file.suffix}")
    data = load(pets)
    contents = [
        {(pets / name).read_bytes() for name in names_of(part)} for part in (data.train, data.validation, data.test)
    ]
    assert sum(map(len, contents)) == len(set().union(*contents)) == 50
    assert all({0, 1} == set(labels_of(part)) for part in (data.calibration, data.validation, data.test))


def test_a_class_of_copies_only_is_refused(pets):
    for file in sorted((pets / "cat").iterdir())[1:]:
        shutil.copy(pets / "cat" / "0.png", file)
    with pytest.raises(DataError, match=r"too few different images of the class 'cat' for a .* part: copies"):
        load(pets)


def test_a_fifth_of_each_class_is_cut():
    assert cut_sizes({"a": 3, "b": 20, "c": 23, "d": 1}) == {"a": 1, "b": 4, "c": 5, "d": 1}
    assert sum(cut_sizes(dict.fromkeys(range(10), 10_000)).values()) == 10_000


def test_the_cut_of_version_0_1_0_is_kept_on_request(pets):
    """Computed here as that version did, with scikit-learn."""
    from sklearn.model_selection import train_test_split

    data = load(pets, cut="order")
    source = data.train.source
    rest, test = train_test_split(range(50), test_size=10, stratify=source.labels, random_state=2017)
    rest, test = sorted(rest), sorted(test)
    labels = [source.labels[index] for index in rest]
    train, validation = train_test_split(rest, test_size=10, stratify=labels, random_state=2017)
    assert list(data.train.indices) == sorted(train)
    assert list(data.validation.indices) == sorted(validation)
    assert list(data.test.indices) == test


def test_classes_that_differ_in_case_have_one_order(tmp_path):
    write_classes(tmp_path, {"cat": 4, "Cat": 4, "CAT": 4, "bat": 4})
    Image.new("RGB", (8, 8)).save(tmp_path / "bat" / "00.png")
    data = load(tmp_path)
    assert data.label_names == ("bat", "CAT", "Cat", "cat")
    names = {source_name.split("/")[0] for source_name in names_of(data.train)}
    assert names == {"bat", "CAT", "Cat", "cat"}
    for part in (data.calibration, data.validation, data.test):
        for name, label in zip(names_of(part), labels_of(part), strict=True):
            assert data.label_names[label] == name.split("/")[0]
