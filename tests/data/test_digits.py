"""The embedded tasks against scikit-learn's digits, resized and rotated by SciPy."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from sklearn.datasets import load_digits

from se_search import SEConfig, create_model
from se_search.data.digits import (
    load_context_digits,
    load_distant_digits,
    load_easy_digits,
    load_hard_digits,
    load_local_digits,
)

ALL = [load_easy_digits, load_hard_digits, load_context_digits, load_distant_digits, load_local_digits]
IMAGES, LABELS = load_digits().images / 16, load_digits().target


@functools.cache
def loaded(load):
    return load()


def parts(data):
    """Images of each part with the normalisation taken back, and their labels."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return [(part.tensors[0] * std + mean, part.tensors[1]) for part in (data.calibration, data.validation, data.test)]


def enlarge(image, size):
    """Bilinear enlargement of an 8×8 image, its border repeated."""
    centres = (np.arange(size) + 0.5) * 8 / size - 0.5
    return map_coordinates(image, np.meshgrid(centres, centres, indexing="ij"), order=1, mode="nearest")


def numbers(images):
    """The number in scikit-learn's set of each of these images, which must be enlarged digits."""
    size = images.shape[-1]
    known = torch.tensor(np.stack([enlarge(image, size) for image in IMAGES]))
    distance, number = torch.cdist(images.double().flatten(1), known.flatten(1)).min(1)
    assert float(distance.max()) < 1e-4
    return number


def draw_corruptions(count, generator=None):
    """What is drawn at random for ``count`` corruptions: one row for each of seven uniform values, and the noise."""
    bounds = [(-math.pi / 12, math.pi / 12), (0.85, 1.15), (-0.1, 0.1), (-0.1, 0.1), (0.3, 1), (-1, 1), (-0.25, 0.25)]
    drawn = [torch.empty(count).uniform_(low, high, generator=generator) for low, high in bounds]
    return torch.stack(drawn).numpy(), torch.randn(count, 1, 32, 32, generator=generator).numpy()


def corrupt(image, values, noise):
    angle, scale, right, down, contrast, sign, offset = values
    centres = (2 * np.arange(32) + 1) / 32 - 1
    y, x = np.meshgrid(centres, centres, indexing="ij")
    source_x = (math.cos(angle) * x - math.sin(angle) * y) / scale + right
    source_y = (math.sin(angle) * x + math.cos(angle) * y) / scale + down
    pixels = [((source + 1) * 8 - 1) / 2 for source in (source_y, source_x)]
    turned = map_coordinates(image, pixels, order=1, mode="grid-constant")
    return turned * contrast * np.sign(sign) + offset + 0.35 * noise


def test_the_tasks_share_their_split():
    easy = [numbers(images[:, 0]) for images, _ in parts(loaded(load_easy_digits))]
    assert [len(part.unique()) for part in easy] == [1000, 400, 397]
    assert len(torch.cat(easy).unique()) == 1797
    strips = parts(loaded(load_context_digits))
    for part, (images, labels), (_, hard_labels) in zip(easy, strips, parts(loaded(load_hard_digits)), strict=True):
        assert torch.equal(hard_labels, torch.tensor(LABELS)[part])
        for channel in (0, 1):
            assert set(numbers(images[:, channel, :, :16]).tolist()) <= set(part.tolist())
        assert len(labels) % len(part) == 0


@pytest.mark.parametrize("load", ALL)
def test_what_is_compared_on_is_always_the_same(load):
    first = loaded(load)
    torch.manual_seed(99)
    again = load()
    assert (again.mean, again.std) == (first.mean, first.std)
    for part in ("calibration", "validation", "test"):
        for tensor, same in zip(getattr(first, part).tensors, getattr(again, part).tensors, strict=True):
            assert torch.equal(tensor, same)


@pytest.mark.parametrize("load", ALL)
def test_images_are_normalised_with_the_training_images_alone(load):
    data = loaded(load)
    images = data.calibration.tensors[0].numpy()
    np.testing.assert_allclose(images.mean((0, 2, 3), dtype=float), 0, rtol=0, atol=1e-4)
    np.testing.assert_allclose(images.std((0, 2, 3), dtype=float), 1, rtol=0, atol=1e-3)
    assert images.shape[1:] == data.input_size


def test_a_digit_is_corrupted_as_documented():
    values, noise = draw_corruptions(1797, torch.Generator().manual_seed(1))
    easy = [numbers(images[:, 0]) for images, _ in parts(loaded(load_easy_digits))]
    for sources, (images, _) in zip(easy, parts(loaded(load_hard_digits)), strict=True):
        for index in range(0, len(images), 40):
            number = int(sources[index])
            expected = corrupt(IMAGES[number], values[:, number], noise[number, 0])
            for channel in images[index]:
                np.testing.assert_allclose(channel, expected, rtol=0, atol=1e-4)


def test_training_digits_are_corrupted_anew_each_time_as_the_seed_says():
    data = load_hard_digits()
    assert len(data.train) == 1000
    source = int(numbers(parts(loaded(load_easy_digits))[0][0][7:8, 0]))
    torch.manual_seed(5)
    first, label = data.train[7]
    second, _ = data.train[7]
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(data.train[7][0], first)
    torch.manual_seed(5)
    values, noise = draw_corruptions(1)
    expected = (corrupt(IMAGES[source], values[:, 0], noise[0, 0]) - data.mean[0]) / data.std[0]
    np.testing.assert_allclose(first[0], expected, rtol=0, atol=1e-4)
    assert label == LABELS[source]


def test_training_digits_of_a_batch_are_each_corrupted_in_their_own_way():
    data = load_hard_digits()
    sources = numbers(parts(loaded(load_easy_digits))[0][0][:3, 0])
    torch.manual_seed(5)
    batch = data.train.__getitems__([0, 1, 2])
    torch.manual_seed(5)
    values, noise = draw_corruptions(3)
    for place, (image, label) in enumerate(batch):
        source = int(sources[place])
        expected = (corrupt(IMAGES[source], values[:, place], noise[place, 0]) - data.mean[0]) / data.std[0]
        np.testing.assert_allclose(image[0], expected, rtol=0, atol=1e-4)
        assert label == LABELS[source]


@pytest.mark.parametrize(("load", "size", "width"), [(load_context_digits, 16, 96), (load_distant_digits, 8, 64)])
def test_the_lamp_says_which_digit_counts(load, size, width):
    labels_known, dark = torch.tensor(LABELS), width * 3 // 4
    for (images, labels), repeats in zip(parts(loaded(load)), (4, 2, 2), strict=True):
        assert images.shape[1:] == (3, size, width)
        lamp = images[:, 2, :, dark:]
        lit = lamp.mean((1, 2)) > 0.5
        torch.testing.assert_close(lamp, lit[:, None, None].float().expand_as(lamp), rtol=0, atol=1e-5)
        assert float(images[:, 2, :, :dark].abs().max()) < 1e-5
        assert float(images[:, :2, :, size:].abs().max()) < 1e-5
        red, green = (numbers(images[:, channel, :, :size]) for channel in (0, 1))
        counts, other = torch.where(lit, red, green), torch.where(lit, green, red)
        assert torch.equal(labels, labels_known[counts])
        # Each digit counts equally often in either colour, so that neither lamp nor colour alone tells the class.
        for colour in (lit, ~lit):
            assert set(counts[colour].bincount().tolist()) <= {0, repeats // 2}
            assert set(other[colour].bincount().tolist()) <= {0, repeats // 2}


def test_the_class_is_that_of_the_only_digit_beside_the_lamp():
    labels_known = torch.tensor(LABELS)
    for (boards, labels), repeats in zip(parts(loaded(load_local_digits)), (4, 2, 2), strict=True):
        assert boards.shape[1:] == (3, 80, 80)
        cells = boards.reshape(-1, 3, 5, 16, 5, 16).permute(0, 2, 4, 1, 3, 5)  # rows, columns, colours
        shown = cells[..., 0, :, :].amax((3, 4)) > 0.1
        lamps = (cells[..., 2, :, :].amin((3, 4)) > 0.9) & ~shown
        assert lamps.sum((1, 2)).eq(1).all()
        assert shown.sum((1, 2)).eq(4).all()
        assert float(cells[~shown & ~lamps].abs().max()) < 1e-5
        assert float((cells[shown] - cells[shown][:, :1]).abs().max()) < 1e-5  # grey
        _, rows, columns = lamps.nonzero().T
        image, row, column = shown.nonzero().T
        beside = torch.maximum((row - rows[image]).abs(), (column - columns[image]).abs()) == 1
        assert torch.equal(image[beside], torch.arange(len(boards)))  # one for each board
        counts = numbers(cells[shown][beside][:, 0])
        assert torch.equal(labels, labels_known[counts])
        assert set(counts.bincount().tolist()) <= {0, repeats}


@pytest.mark.parametrize("load", ALL)
def test_every_class_has_its_share_in_every_part(load):
    whole = torch.bincount(torch.tensor(LABELS)) / 1797
    data = loaded(load)
    for _, labels in (part.tensors for part in (data.calibration, data.validation, data.test)):
        torch.testing.assert_close(torch.bincount(labels) / len(labels), whole, rtol=0, atol=0.005)


def columns_that_count(model, size):
    """For each column of the final feature map, the columns of the input that it depends on."""
    images = torch.rand(1, *size, dtype=torch.float64, requires_grad=True)
    features = model.double().eval().forward_features(images).sum((0, 1, 2))
    for value in features:
        (gradient,) = torch.autograd.grad(value, images, retain_graph=True)
        yield set(gradient.abs().sum((0, 1, 2)).nonzero().flatten().tolist())


def test_no_feature_of_the_control_network_sees_both_digits_and_lamp_unless_it_has_se():
    # Pooling adds the features and the classifier is linear: the logits are then a sum of what digits and lamp say.
    backbone, digits, lamp = "test_efficientnet", set(range(16)), set(range(72, 96))
    size = load_context_digits().input_size
    torch.manual_seed(0)
    bare = list(columns_that_count(create_model(SEConfig.without_attention(backbone)), size))
    assert len(bare) == 3
    assert not any(seen & digits and seen & lamp for seen in bare)
    assert set.union(*bare) == set(range(96))
    assert all(seen == set(range(96)) for seen in columns_that_count(create_model(SEConfig(backbone)), size))
