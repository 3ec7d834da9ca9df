"""Batches and samples of images in memory; test_image_files covers files."""

import itertools
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from se_search.data.image_data import ImageData, Unreadable, UnreadableImages, batches, sample
from se_search.errors import DataError


def numbered(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(float(count))[:, None], torch.arange(count))


def labels_of(drawn) -> list[list[int]]:
    return [labels.tolist() for _, labels in drawn]


class Partly:
    """Numbers of which some cannot be read, and one that is random."""

    def __init__(self, bad: set[int], count: int = 12) -> None:
        self.bad = bad
        self.count = count
        self.unreadable = UnreadableImages("validation", count)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        if index in self.bad:
            return Unreadable(f"image {index}")
        return torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))]), index


def test_batches_in_order():
    drawn = batches(numbered(10), 4)
    assert labels_of(drawn) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(drawn) == 3
    assert [images.flatten().tolist() for images, _ in drawn][2] == [8.0, 9.0]


def test_a_seed_fixes_the_order():
    drawn = batches(numbered(10), 4, 7)
    first = labels_of(drawn)
    assert sorted(itertools.chain(*first)) == list(range(10))
    assert labels_of(drawn) == labels_of(batches(numbered(10), 4, 7)) == first
    assert labels_of(batches(numbered(10), 4, 8)) != first


def test_the_order_is_that_of_torchs_loader():
    loader = DataLoader(numbered(10), 4, shuffle=True, generator=torch.Generator().manual_seed(7))
    assert labels_of(batches(numbered(10), 4, 7)) == labels_of(loader)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seed", [None, 3])
def test_drawing_leaves_the_random_numbers_of_the_process_alone(seed, workers):
    def numbers():
        return random.random(), np.random.rand(), float(torch.rand(()))

    def seed_all():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed_all()
    expected = [numbers() for _ in range(3)]
    seed_all()
    seen = [numbers() for _ in batches(Partly(set()), 4, seed, workers)]
    assert seen == expected


def test_random_numbers_in_images_follow_from_the_seed_alone():
    def draw(seed, workers=0):
        return torch.cat([images for images, _ in batches(Partly({4}), 4, seed, workers)])

    first = draw(3)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert torch.equal(draw(3), first)
    assert torch.equal(draw(3, workers=2), first)
    assert not torch.equal(draw(5), first)
    assert len(torch.unique(first)) == first.numel() == 33


def test_unreadable_images_are_left_out_of_a_batch_and_noted_once():
    images = Partly({0, 1, 2, 3, 9})
    drawn = batches(images, 4)
    assert labels_of(drawn) == [[4, 5, 6, 7], [8, 10, 11]]
    assert labels_of(drawn) == [[4, 5, 6, 7], [8, 10, 11]]
    assert images.unreadable.names == {"image 0", "image 1", "image 2", "image 3", "image 9"}


def test_an_unreadable_image_that_cannot_be_noted_is_an_error():
    images = Partly({1})
    del images.unreadable
    with pytest.raises(DataError, match="image 1 cannot be read"):
        labels_of(batches(images, 4))


def test_those_of_a_sample_count_for_the_whole():
    images = Partly(set(range(5)))
    data = ImageData("x", 2, (3, 8, 8), (0.0,), (1.0,), "bilinear", numbered(2), numbered(2), images, numbered(2))
    list(batches(sample(images, 11, 0), 4))
    list(batches(Subset(images, [0, 5]), 4))
    assert data.unreadable == tuple(sorted(images.unreadable.names))
    assert 4 <= len(data.unreadable) <= 5


@pytest.mark.parametrize(("total", "limit"), [(2, 1), (7, 3), (19, 9), (20, 10), (999, 10), (1100, 11), (50_000, 500)])
def test_the_limit_is_one_in_a_hundred_or_ten_but_not_more_than_half(total, limit):
    noted = UnreadableImages("test", total)
    noted.add([str(one) for one in range(limit)])
    noted.add([str(one) for one in range(limit)])
    with pytest.raises(
        DataError, match=rf"at least {limit + 1} of the {total} test images .* more than the limit of {limit}"
    ):
        noted.add(["one more"])


def test_a_sample_is_drawn_by_its_seed():
    drawn = sample(numbered(100), 10, 1)
    assert len(drawn) == 10
    labels = [int(drawn[place][1]) for place in range(10)]
    assert len(set(labels)) == 10
    assert labels == torch.randperm(100, generator=torch.Generator().manual_seed(1))[:10].tolist()
    assert labels_of(batches(drawn, 10)) == [labels]
    assert [int(sample(numbered(100), 10, 2)[place][1]) for place in range(10)] != labels


def test_a_sample_of_more_than_there_are_is_all():
    images = numbered(5)
    assert sample(images, 5, 1) is images
    assert sample(images, 6, 1) is images


class Deadly(Dataset):
    """Images numbered from 0; reading one of ``deadly`` kills the process, for as long as ``marker`` has lines."""

    def __init__(self, marker, deadly):
        self.marker, self.deadly = marker, deadly

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index == self.deadly and (lives := self.marker.read_text()):
            self.marker.write_text(lives[1:])
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((1,), float(index)), index


def test_a_process_that_dies_is_replaced_once_and_no_batch_is_lost(tmp_path):
    (tmp_path / "marker").write_text("x")
    drawn = labels_of(batches(Deadly(tmp_path / "marker", 7), 2, shuffle_seed=3, workers=2))
    (tmp_path / "marker").write_text("")
    assert drawn == labels_of(batches(Deadly(tmp_path / "marker", 7), 2, shuffle_seed=3, workers=2))


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError])
def test_a_batch_that_its_process_can_no_longer_hand_over_is_drawn_by_another(monkeypatch, error):
    drawn = batches(numbered(4), 2)
    loader, loads = drawn._loader, []

    def fails_once():
        loads.append(loader())
        for batch in loads[-1]:
            yield batch
            if len(loads) == 1:
                raise error

    monkeypatch.setattr(type(drawn), "_loader", lambda self: fails_once())
    assert labels_of(drawn) == [[0, 1], [2, 3]]
    assert len(loads) == 2


def test_processes_that_die_again_are_told_in_a_sentence(tmp_path):
    (tmp_path / "marker").write_text("xx")
    with pytest.raises(DataError, match="two processes that load images were killed or crashed: free memory or lower"):
        labels_of(batches(Deadly(tmp_path / "marker", 1), 2, workers=1))


def test_a_process_that_dies_raises_nothing_elsewhere(tmp_path):
    """PyTorch's signal handler raises an error at any point of the program, here in the sleep."""
    (tmp_path / "marker").write_text("x")
    drawing = iter(batches(Deadly(tmp_path / "marker", 4), 2, workers=1))
    assert next(drawing)[1].tolist() == [0, 1]
    time.sleep(0.5)
    assert [labels.tolist() for _, labels in drawing] == [[2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
