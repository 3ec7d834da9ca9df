"""Image folders and timm datasets, on files written by the tests."""

import io
import json
import os
import random
import re
import struct
import sys
import tarfile

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from se_search.data.image_data import Unreadable, batches, sample
from se_search.data.image_files import Splits
from se_search.data.load import load_data
from se_search.errors import BackboneError, DataError

BACKBONE = "test_resnet"
SIZES = [(31, 47), (64, 64), (17, 90), (120, 33)]


def picture(number: int, mode: str = "RGB") -> Image.Image:
    """A picture of random shades whose size goes with its number."""
    rng = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)))
        return image
    return image.convert(mode)


def encoded(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, kind)
    return buffer.getvalue()


def write_classes(folder, counts: dict[str, int], start: int = 0) -> None:
    """Class folders of PNG and JPEG pictures, all different."""
    number = start
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for place in range(count):
            picture(number).save(folder / name / f"{place}.{('png', 'jpg')[number % 2]}")
            number += 1


def load(folder, backbone=BACKBONE, image_size=32, **named):
    return load_data(str(folder), backbone, image_size, Splits(**named))


def names_of(images) -> list[str]:
    return [images.source.name(place) for place in images.indices]


def labels_of(images) -> list[int]:
    return [label for _, labels in batches(images, 7) for label in labels.tolist()]


def whole(images, **how) -> torch.Tensor:
    return torch.cat([inputs for inputs, _ in batches(images, 4, **how)])


@pytest.fixture
def pets(tmp_path):
    folder = tmp_path / "pets"
    write_classes(folder, {"cat": 20, "dog": 30})
    return folder


@pytest.mark.parametrize(
    ("backbone", "size"), [("test_resnet", None), ("test_resnet", 48), ("mobilenetv3_small_050", 64)]
)
def test_evaluation_images_are_those_of_timms_own_transform(pets, backbone, size):
    data = load(pets, backbone, size)
    config = resolve_model_data_config(timm.create_model(backbone))
    if size:
        config["input_size"] = (3, size, size)
    expected = create_transform(**config, is_training=False)
    assert data.input_size == config["input_size"]
    assert (data.mean, data.std, data.interpolation) == (config["mean"], config["std"], config["interpolation"])
    assert (data.crop_pct, data.crop_mode) == (config["crop_pct"], config["crop_mode"])
    for part in (data.calibration, data.validation, data.test):
        for place, name in enumerate(names_of(part)):
            image, label = part[place]
            assert torch.equal(image, expected(Image.open(pets / name).convert("RGB")))
            assert data.label_names[label] == name.split("/")[0]


def test_a_palette_with_transparency_is_read_without_a_warning_and_keeps_its_colours(pets, recwarn):
    file = pets / "cat" / "transparent.png"
    palette = picture(7).convert("P")
    palette.save(file, transparency=bytes(range(256)))
    data = load_data(str(pets), BACKBONE, 32)
    (index,) = [i for i, path in enumerate(data.train.source._reader.samples) if path[0] == str(file)]
    assert not recwarn.list
    with pytest.warns(UserWarning, match="Palette images with Transparency"), Image.open(file) as image:
        image.convert("RGB")
    recwarn.clear()
    read = data.train.source.read(index)
    assert not recwarn.list
    assert np.array_equal(np.asarray(read), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA"])
def test_images_of_every_mode_are_seen_in_rgb(pets, mode):
    picture(7, mode).save(pets / "cat" / "other.png")
    data = load(pets)
    shown = {
        name: part[place][0]
        for part in (data.calibration, data.validation, data.test)
        for place, name in enumerate(names_of(part))
    }
    config = resolve_model_data_config(timm.create_model(BACKBONE)) | {"input_size": (3, 32, 32)}
    expected = create_transform(**config)(Image.open(pets / "cat" / "other.png").convert("RGB"))
    assert torch.equal(shown["cat/other.png"], expected)


def test_sixteen_bits_of_grey_keep_their_shades(pets):
    shades = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(shades).save(pets / "cat" / "deep.png")
    Image.fromarray((shades >> 8).astype(np.uint8)).save(pets / "cat" / "shallow.png")
    data = load(pets)
    shown = {
        name: part[place][0]
        for part in (data.calibration, data.validation, data.test)
        for place, name in enumerate(names_of(part))
    }
    assert torch.equal(shown["cat/deep.png"], shown["cat/shallow.png"])


def test_what_has_no_folder_is_cut_from_the_training_images_in_proportion(pets):
    data = load(pets)
    names = [names_of(part) for part in (data.train, data.validation, data.test)]
    assert [len(part) for part in names] == [30, 10, 10]
    assert len(set().union(*map(set, names))) == 50
    assert [labels_of(part).count(0) for part in (data.calibration, data.validation, data.test)] == [12, 4, 4]
    assert names_of(data.calibration) == names_of(data.train)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    again = load(pets)
    assert [names_of(part) for part in (again.train, again.validation, again.test)] == names


def test_folders_of_the_usual_names_are_the_parts(tmp_path):
    for start, split, count in ((0, "train", 6), (100, "val", 3), (200, "test", 2)):
        write_classes(tmp_path / split, {"a": count, "b": count}, start)
    data = load(tmp_path)
    for part, split, count in ((data.train, "train", 12), (data.validation, "val", 6), (data.test, "test", 4)):
        assert len(part) == count
        assert {name.split(os.sep)[0] for name in names_of(part)} == {split}
    assert data.label_names == ("a", "b")
    named = load(tmp_path, validation="test", test="val")
    assert (names_of(named.validation), names_of(named.test)) == (names_of(data.test), names_of(data.validation))


def test_a_missing_part_alone_is_cut(tmp_path):
    write_classes(tmp_path / "train", {"a": 10, "b": 10})
    write_classes(tmp_path / "validation", {"a": 2, "b": 2}, 100)
    data = load(tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 4, 4]
    assert not set(names_of(data.train)) & set(names_of(data.test))


def test_a_class_may_be_called_train(tmp_path):
    write_classes(tmp_path, {"car": 5, "train": 5})
    assert load(tmp_path).label_names == ("car", "train")


def damage(folder) -> set[str]:
    """Put files that cannot be read beside the images of a class, and return their names."""
    (folder / "noise.png").write_bytes(np.random.default_rng(0).bytes(200))
    (folder / "text.png").write_text("no picture")
    (folder / "empty.jpg").touch()
    (folder / "truncated.jpg").write_bytes(encoded(3, "JPEG")[:-900])
    (folder / "truncated.png").write_bytes(encoded(3)[:-900])
    (folder / "dangling.png").symlink_to(folder / "nothing.png")
    # A header of 30,000 × 30,000 pixels and nothing that follows.
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 30_000, 30_000, 8, 2, 0, 0, 0)
    (folder / "bomb.png").write_bytes(bomb + struct.pack(">I", 0x7A1D5A0F) + encoded(3)[33:])
    return {"noise.png", "text.png", "empty.jpg", "truncated.jpg", "truncated.png", "dangling.png", "bomb.png"}


@pytest.fixture
def damaged(tmp_path):
    folder = tmp_path / "damaged"
    for start, split in ((0, "train"), (100, "val"), (200, "test")):
        write_classes(folder / split, {"a": 10, "b": 10}, start)
    return folder, damage(folder / "val" / "a")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch", [1, 4])
def test_unreadable_images_are_left_out_and_named(damaged, batch, workers):
    folder, bad = damaged
    data = load(folder)
    assert data.unreadable == ()
    assert len(data.validation) == 27
    drawn = list(batches(data.validation, batch, workers=workers))
    assert sum(len(labels) for _, labels in drawn) == 20
    assert torch.cat([labels for _, labels in drawn]).tolist() == [0] * 10 + [1] * 10
    assert all(len(images) for images, _ in drawn)
    assert data.unreadable == tuple(sorted(f"val/a/{name}" for name in bad))
    list(batches(data.validation, batch, 3))
    assert len(data.unreadable) == len(bad)


def test_an_image_stands_for_itself_only(damaged):
    folder, bad = damaged
    data = load(folder)
    for place, name in enumerate(names_of(data.validation)):
        drawn = data.validation[place]
        assert (drawn == Unreadable(name)) == (os.path.basename(name) in bad), name


def test_too_many_unreadable_images_end_the_run_with_their_names(tmp_path):
    write_classes(tmp_path / "train", {"a": 20, "b": 20})
    write_classes(tmp_path / "val", {"a": 10, "b": 10}, 100)
    for place in range(11):
        (tmp_path / "val" / "a" / f"bad{place:02}.png").write_text("no picture")
    data = load(tmp_path)
    with pytest.raises(DataError) as error:
        list(batches(data.validation, 4))
    assert str(error.value) == (
        "at least 11 of the 31 validation images cannot be read, more than the limit of 10: repair or remove "
        "'val/a/bad00.png', 'val/a/bad01.png', 'val/a/bad02.png' and 8 more"
    )
    (tmp_path / "val" / "a" / "bad10.png").unlink()
    data = load(tmp_path)
    assert len(labels_of(data.validation)) == 20
    assert len(data.unreadable) == 10


def test_augmentation_and_order_follow_from_the_seed_alone(pets):
    data = load(pets)
    torch.manual_seed(1)
    first = whole(data.train, shuffle_seed=11)
    torch.manual_seed(2)
    random.seed(3)
    np.random.seed(4)
    assert torch.equal(whole(data.train, shuffle_seed=11), first)
    assert torch.equal(whole(data.train, shuffle_seed=11, workers=2), first)
    assert not torch.equal(whole(data.train, shuffle_seed=12), first)
    assert torch.equal(whole(load(pets).train, shuffle_seed=11), first)


def test_training_images_are_augmented_anew_in_each_pass(pets):
    data = load(pets)
    plain = whole(data.calibration)
    augmented = [whole(data.train), whole(data.train, shuffle_seed=1)]
    assert plain.shape == augmented[0].shape == augmented[1].shape
    assert not torch.equal(plain, augmented[0])
    one = {place: data.train[place][0] for place in range(3)}
    assert not any(torch.equal(one[place], data.train[place][0]) for place in one)


def test_a_name_that_is_not_text_is_written_out(pets):
    (pets / "cat" / os.fsdecode(b"b\xffd\n.png")).write_text("no picture")
    data = load(pets)
    for part in (data.calibration, data.validation, data.test):
        labels_of(part)
    assert data.unreadable == ("cat/b\\xffd\\n.png",)
    json.dumps(data.unreadable).encode()


def refuses(folder, sentence, **named):
    with pytest.raises(DataError, match=sentence) as error:
        load(folder, **named)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    refuses(tmp_path / "nowhere", r"nowhere' are neither embedded \(digits.* nor a folder of images nor a timm dataset")


def test_an_empty_folder_is_refused(tmp_path):
    refuses(tmp_path, r"have no images in .*: folders of classes with \.png, \.jpg, \.jpeg files are needed")


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "cat.txt").write_text("a cat")
    refuses(tmp_path, "have no images in")


def test_one_class_only_is_refused(tmp_path):
    write_classes(tmp_path, {"cat": 5})
    refuses(tmp_path, "training images of one class only, 'cat': at least two are needed")


def test_an_image_outside_of_any_class_is_refused(pets):
    picture(0).save(pets / "stray.png")
    refuses(pets, "have the image .*stray.png' outside of any class's folder")


def test_different_classes_are_refused(tmp_path):
    write_classes(tmp_path / "train", dict.fromkeys(["a", "b", "c", "d", "e", "f"], 3))
    write_classes(tmp_path / "val", dict.fromkeys(["a", "b", "g"], 3), 100)
    refuses(tmp_path, r"splits with different classes: 'train' lacks 'g' and 'val' lacks 'c', 'd', 'e' and 1 more")


def test_too_few_images_of_a_class_to_cut_from_are_refused(tmp_path):
    write_classes(tmp_path, {"a": 9, "b": 2})
    refuses(tmp_path, "have 2 training images of the class 'b': at least 3 are needed to cut")
    picture(50).save(tmp_path / "b" / "more.png")
    assert [set(labels_of(part)) for part in (load(tmp_path).calibration,)] == [{0, 1}]


def test_a_split_of_one_image_is_refused(tmp_path):
    write_classes(tmp_path / "train", {"a": 5, "b": 5})
    write_classes(tmp_path / "val", {"a": 1}, 100)
    refuses(tmp_path, "have in the split 'val' 1 images: at least two are needed")


def test_a_split_that_is_not_there_is_refused(tmp_path):
    write_classes(tmp_path / "train", {"a": 5, "b": 5})
    refuses(tmp_path, r"have no folder 'dev' for the validation split: there are 'train'", validation="dev")


def test_one_split_for_two_parts_is_refused(tmp_path):
    write_classes(tmp_path / "train", {"a": 5, "b": 5})
    write_classes(tmp_path / "val", {"a": 5, "b": 5}, 100)
    refuses(tmp_path, "have the split 'val' named for two parts", validation="val", test="val")
    (tmp_path / "again").symlink_to(tmp_path / "val")
    refuses(tmp_path, "have splits that share images", validation="val", test="again")


def test_two_folders_for_one_part_are_refused(tmp_path):
    for start, split in ((0, "train"), (50, "val"), (100, "validation")):
        write_classes(tmp_path / split, {"a": 5, "b": 5}, start)
    refuses(tmp_path, "have the folders validation and val: name the validation split in splits")
    assert names_of(load(tmp_path, validation="val").validation)[0].startswith("val/")


def test_splits_without_training_images_are_refused(tmp_path):
    write_classes(tmp_path / "val", {"a": 5, "b": 5})
    refuses(tmp_path, "have a folder 'val' but none named 'train'")


def test_an_unknown_backbone_is_told_as_such(pets):
    with pytest.raises(BackboneError, match="resnet9000"):
        load(pets, "resnet9000")


def test_a_home_folder_is_found(pets, monkeypatch):
    monkeypatch.setenv("HOME", str(pets.parent))
    assert load("~/pets").classes == 2


def write_mnist(root, train: int = 60, test: int = 12) -> None:
    """Grey images of ten classes in MNIST's own file format."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count, seed in (("train", train, 0), ("t10k", test, 1)):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, count) + labels.tobytes())


def test_a_torch_dataset_has_its_own_test_images_and_the_rest_is_cut(tmp_path):
    write_mnist(tmp_path)
    data = load_data("torch/mnist", BACKBONE, 32, root=tmp_path)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [50, 10, 12]
    assert (data.classes, data.label_names[3]) == (10, "3 - three")
    pixels = np.random.default_rng(1).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    config = resolve_model_data_config(timm.create_model(BACKBONE)) | {"input_size": (3, 32, 32)}
    expected = create_transform(**config)(Image.fromarray(pixels[4]).convert("RGB"))
    assert torch.equal(data.test[4][0], expected)
    assert labels_of(data.test) == [place % 10 for place in range(12)]


def test_torch_datasets_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"'torch/cifar10' cannot be read from .*download=True\) downloads most"):
        load_data("torch/cifar10", BACKBONE, root=tmp_path)
    with pytest.raises(DataError, match=r"cannot be read from .*Unknown torchvision dataset cifar99"):
        load_data("torch/cifar99", BACKBONE, root=tmp_path)
    with pytest.raises(DataError, match="leave splits out"):
        load_data("torch/mnist", BACKBONE, splits=Splits(test="train"), root=tmp_path)
    with pytest.raises(DataError, match="are a folder of images: give the folder's path"):
        load_data("torch/image_folder", BACKBONE, root=tmp_path)


def test_a_hugging_face_dataset_has_its_own_splits(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    write_classes(tmp_path / "set" / "train", {"cat": 10, "dog": 10})
    write_classes(tmp_path / "set" / "test", {"cat": 3, "dog": 3}, 100)
    (tmp_path / "set" / "test" / "dog" / "bad.png").write_bytes(b"no picture")
    data = load_data(f"hfds/{tmp_path / 'set'}", BACKBONE, 32, root=tmp_path / "cache")
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 4, 7]
    assert data.label_names == ("cat", "dog")
    assert sorted(labels_of(data.test)) == [0] * 3 + [1] * 3
    assert len(data.unreadable) == 1
    folder = load(tmp_path / "set")
    torch.testing.assert_close(
        torch.sort(whole(data.test).flatten(1).sum(1))[0], torch.sort(whole(folder.test).flatten(1).sum(1))[0]
    )


def test_a_hugging_face_dataset_without_training_images_is_refused(tmp_path):
    write_classes(tmp_path / "set" / "test", {"cat": 3, "dog": 3}, 100)
    with pytest.raises(DataError, match="have no split 'train': name the training split in splits, of 'test'"):
        load_data(f"hfds/{tmp_path / 'set'}", BACKBONE, root=tmp_path / "cache")
    with pytest.raises(DataError, match=r"cannot be read: .*dev"):
        load_data(f"hfds/{tmp_path / 'set'}", BACKBONE, splits=Splits(train="dev"), root=tmp_path / "cache")


def test_labels_that_are_no_classes_are_refused(tmp_path):
    import datasets

    write_classes(tmp_path / "pictures", {"cat": 6})
    paths = sorted(map(str, (tmp_path / "pictures" / "cat").iterdir()))
    for split, labels in (("train", [0, 1] * 3), ("test", [-1] * 6)):
        table = datasets.Dataset.from_dict({"image": paths, "label": labels}).cast_column("image", datasets.Image())
        table.to_parquet(tmp_path / "set" / f"{split}.parquet")
    with pytest.raises(DataError, match="have in the split 'test' labels that are not class numbers, such as -1"):
        load_data(f"hfds/{tmp_path / 'set'}", BACKBONE, root=tmp_path / "cache")


def write_shards(folder, splits: dict[str, list[int]], bad: int = 0) -> None:
    """One tar of each split in WebDataset's layout, with the file of sizes that timm reads."""
    folder.mkdir()
    info = {}
    for split, labels in splits.items():
        with tarfile.open(folder / f"{split}.tar", "w") as tar:
            for place, label in enumerate(labels):
                image = (
                    b"no picture"
                    if split == "validation" and place < bad
                    else encoded(place + (label if isinstance(label, int) else 0))
                )
                for suffix, content in (("png", image), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{place:04}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        info[split] = {
            "name": split,
            "filenames": [f"{split}.tar"],
            "shard_lengths": [len(labels)],
            "num_samples": len(labels),
        }
    (folder / "_info.json").write_text(json.dumps({"splits": info}))


NAMED = Splits(validation="validation", test="test")


def test_shards_are_streamed(tmp_path):
    labels = {"train": [0, 1, 2] * 8, "validation": [0, 1, 2] * 3, "test": [2, 1, 0] * 2}
    write_shards(tmp_path / "shards", labels)
    data = load_data(f"wds/{tmp_path / 'shards'}", BACKBONE, 32, NAMED)
    assert data.classes == 3
    assert [len(part) for part in (data.train, data.validation, data.test)] == [24, 9, 6]
    assert labels_of(data.validation) == labels["validation"]
    assert len(batches(data.validation, 4)) == len(list(batches(data.validation, 4))) == 3
    config = resolve_model_data_config(timm.create_model(BACKBONE)) | {"input_size": (3, 32, 32)}
    expected = create_transform(**config)(picture(4 + 1))
    assert torch.equal(whole(data.validation)[4], expected)

    shuffled = whole(data.train, shuffle_seed=3)
    assert len(shuffled) == 24
    torch.manual_seed(1)
    assert torch.equal(whole(data.train, shuffle_seed=3), shuffled)
    assert torch.equal(whole(data.train, shuffle_seed=3, workers=2), shuffled)
    assert not torch.equal(whole(data.train, shuffle_seed=4), shuffled)
    orders = [[int(one) for _, some in batches(data.train, 5, seed) for one in some] for seed in (1, 2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(labels["train"])

    drawn = sample(data.calibration, 5, seed=1)
    assert len(drawn) == len(whole(drawn)) == 5
    assert torch.equal(whole(drawn), whole(sample(data.calibration, 5, seed=1)))


def test_unreadable_images_of_shards_are_counted(tmp_path):
    labels = {"train": [0, 1] * 5, "validation": [0, 1] * 5, "test": [0, 1]}
    write_shards(tmp_path / "few", labels, bad=2)
    data = load_data(f"wds/{tmp_path / 'few'}", BACKBONE, 32, NAMED)
    assert len(labels_of(data.validation)) == 8
    assert data.unreadable == tuple(f"image {one} of validation (left out by timm's reader)" for one in (10, 9))
    write_shards(tmp_path / "many", labels, bad=6)
    data = load_data(f"wds/{tmp_path / 'many'}", BACKBONE, 32, NAMED)
    with pytest.raises(DataError, match="at least 6 of the 10 validation images cannot be read"):
        labels_of(data.validation)


def test_streams_that_cannot_be_used_are_refused(tmp_path):
    write_shards(tmp_path / "shards", {"train": [0, 0], "validation": [0, 0], "test": [0, 0]})
    name = f"wds/{tmp_path / 'shards'}"
    with pytest.raises(DataError, match="are a stream, which cannot be split: name the validation and the test"):
        load_data(name, BACKBONE, splits=Splits(validation="validation"))
    with pytest.raises(DataError, match="have the split 'train' named for two parts"):
        load_data(name, BACKBONE, splits=Splits(validation="train", test="test"))
    with pytest.raises(DataError, match="cannot be read: split dev not found"):
        load_data(name, BACKBONE, splits=Splits(validation="dev", test="test"))
    with pytest.raises(DataError, match=r"do not say how many images the split 'train\.tar' has"):
        load_data(name, BACKBONE, splits=Splits("train.tar", "validation", "test"))
    with pytest.raises(DataError, match="have 1 known classes: at least two are needed"):
        load_data(name, BACKBONE, splits=NAMED)
    with pytest.raises(DataError, match="is not a folder of shards"):
        load_data("wds/pipe:touch hacked", BACKBONE, splits=NAMED)


@pytest.mark.parametrize(
    ("name", "package", "remedy"),
    [
        ("hfds/x", "datasets", '"se-search[hfds]"'),
        ("wds/x", "webdataset", '"se-search[wds]"'),
        ("tfds/x", "tensorflow", "tensorflow"),
    ],
)
def test_a_package_that_is_missing_is_named(name, package, remedy, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=re.escape(f"'{name}' need the package {package}: pip install {remedy}")):
        load_data(name, BACKBONE)


def test_labels_beyond_the_classes_of_a_stream_are_refused(tmp_path):
    write_shards(tmp_path / "shards", {"train": [0, 1, 2], "validation": [0, 1], "test": [0, 1]})
    data = load_data(f"wds/{tmp_path / 'shards'}", BACKBONE, 32, NAMED)
    assert data.classes == 2
    with pytest.raises(DataError, match="have the label 2 in the split 'train', beyond their 2 classes"):
        labels_of(data.train)
    write_shards(tmp_path / "words", {"train": [0, 1], "validation": ["cat", "dog"], "test": [0, 1]})
    with pytest.raises(DataError, match=r"have a label that is not a class index \(.*cat"):
        load_data(f"wds/{tmp_path / 'words'}", BACKBONE, 32, NAMED)


def test_an_image_that_torchvision_cannot_read_for_its_label_is_told(monkeypatch):
    class Damaged:
        """As torchvision's INaturalist, which has no list of labels."""

        def __getitem__(self, index):
            raise OSError("image file is truncated")

    monkeypatch.setattr("se_search.data.image_files.create_dataset", lambda *given: Damaged())
    with pytest.raises(DataError, match=r"data 'torch/inaturalist' cannot be read .*image file is truncated"):
        load_data("torch/inaturalist", BACKBONE, 32)
