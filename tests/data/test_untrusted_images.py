"""Untrusted image folders: decompression bombs, pipes, other formats and links."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from test_image_files import load, write_classes

from se_search.data.image_data import Unreadable, batches
from se_search.errors import DataError

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(made) (w) file closefile\nshowpage\n"


@pytest.fixture
def folder(tmp_path):
    for start, split in ((0, "train"), (100, "val"), (200, "test")):
        write_classes(tmp_path / "data" / split, {"a": 10, "b": 10}, start)
    return tmp_path / "data"


def unreadable_of(folder):
    data = load(folder)
    for _ in batches(data.validation, 4):
        pass
    return data.unreadable


def test_an_image_that_pillow_only_warns_of_is_left_out(folder, monkeypatch):
    """With a limit of 2,000 pixels: 2,500 are a warning, below twice the limit, and 4,900 an error."""
    shades = np.zeros((100, 100), np.uint8)
    for name, side in (("fits", 40), ("warned", 50), ("refused", 70)):
        Image.fromarray(shades[:side, :side]).save(folder / "val" / "a" / f"{name}.png")
    data = load(folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    read = {
        data.validation.source.name(place): not isinstance(data.validation[index], Unreadable)
        for index, place in enumerate(data.validation.indices)
    }
    assert [read[f"val/a/{name}.png"] for name in ("fits", "warned", "refused")] == [True, False, False]


def test_a_file_of_a_few_kilobytes_and_billions_of_pixels_takes_no_memory(folder):
    """Real pixels that compress well, twice as many as Pillow warns of: 13,400² bytes are 180 MB."""
    bomb = folder / "val" / "a" / "bomb.png"
    Image.new("1", (13_400, 13_400)).save(bomb)
    assert bomb.stat().st_size < 100_000
    assert unreadable_of(folder) == ("val/a/bomb.png",)


def test_formats_for_which_pillow_starts_a_program_are_left_out(folder):
    (folder / "val" / "a" / "script.png").write_bytes(POSTSCRIPT)
    assert unreadable_of(folder) == ("val/a/script.png",)


def test_pipes_and_devices_are_left_out_and_not_waited_for(folder):
    os.mkfifo(folder / "val" / "a" / "pipe.png")
    (folder / "val" / "a" / "endless.png").symlink_to("/dev/zero")
    (folder / "val" / "a" / "deep.png").symlink_to(folder / "val" / "a" / "deep.png")
    assert unreadable_of(folder) == ("val/a/deep.png", "val/a/endless.png", "val/a/pipe.png")


def test_links_out_of_the_folder_are_followed(folder, tmp_path):
    linked = tmp_path / "linked"
    for split in ("train", "val"):
        (linked / split).mkdir(parents=True)
        (linked / split / "a").symlink_to(folder / split / "a")
        (linked / split / "b").mkdir()
        for file in (folder / split / "b").iterdir():
            (linked / split / "b" / file.name).symlink_to(os.path.relpath(file, linked / split / "b"))
    (linked / "test").symlink_to(folder / "test")
    ours, theirs = load(linked), load(folder)
    for part in ("calibration", "validation", "test"):
        (here, _), (there, _) = (
            next(iter(batches(getattr(ours, part), 20))),
            next(iter(batches(getattr(theirs, part), 20))),
        )
        assert torch.equal(here, there)


@pytest.mark.parametrize(
    "links",
    [
        {"train/a/up": ".."},
        {"train/a/up": "..", "train/a/again": "..", "train/b/up": "..", "train/b/again": ".."},
        {"train/a/other": "../b", "train/b/other": "../a"},
        {"train/a/self": "."},
        {"train/c": "a"},
    ],
    ids=["a loop", "loops that multiply", "a loop of two", "itself", "a class twice"],
)
def test_links_that_lead_to_a_folder_twice_are_refused(folder, links):
    for name, target in links.items():
        (folder / name).symlink_to(target)
    with pytest.raises(DataError, match=r"contain the folder .* twice, as .* and as .*: remove the link"):
        load(folder)


def test_names_with_control_characters_are_written_out(folder):
    for split in ("train", "val", "test"):
        (folder / split / "b").rename(folder / split / "b\x1b[31m\n<script>")
    (folder / "val" / "a" / "x\n\x07.png").write_text("no picture")
    data = load(folder)
    assert data.label_names == ("a", "b\\x1b[31m\\n<script>")
    assert unreadable_of(folder) == ("val/a/x\\n\\x07.png",)


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_an_image_that_would_be_resized_to_gigabytes_is_left_out(folder, size):
    Image.new("RGB", size).save(folder / "val" / "a" / "long.png")
    assert unreadable_of(folder) == ("val/a/long.png (too long for its width)",)


def test_a_long_image_within_the_limit_is_read(folder):
    Image.new("RGB", (1, 400)).save(folder / "val" / "a" / "long.png")
    assert unreadable_of(folder) == ()
