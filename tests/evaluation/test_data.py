"""The embedded digits against scikit-learn's own."""

import pytest
import torch
from sklearn.datasets import load_digits

from se_search.errors import DataError
from se_search.evaluation.data import load_data


def parts():
    data = load_data("digits")
    return data, [part.tensors for part in (data.train, data.validation, data.test)]


def test_the_parts_share_no_image_and_leave_none_out():
    data, tensors = parts()
    assert [len(labels) for _, labels in tensors] == [1000, 400, 397]
    # Bilinear enlargement by four keeps each pixel's four middle points nearest to it, so images stay distinct.
    seen = torch.cat([images[:, 0].flatten(1) for images, _ in tensors])
    assert len(torch.unique(seen, dim=0)) == len(torch.unique(torch.tensor(load_digits().data), dim=0)) == 1797
    counts = torch.bincount(torch.cat([labels for _, labels in tensors]))
    assert counts.tolist() == torch.bincount(torch.tensor(load_digits().target)).tolist()
    assert (data.classes, data.input_size) == (10, (3, 32, 32))


def test_every_class_has_its_share_in_every_part():
    _, tensors = parts()
    whole = torch.bincount(torch.tensor(load_digits().target)) / 1797
    for _, labels in tensors:
        torch.testing.assert_close(torch.bincount(labels) / len(labels), whole, rtol=0, atol=0.005)


def test_images_are_normalised_with_the_training_images_alone():
    data, ((train, _), (validation, _), _) = parts()
    assert train.shape[1:] == (3, 32, 32)
    assert abs(float(train.mean())) < 1e-4
    assert float(train.std()) == pytest.approx(1, abs=1e-3)
    assert abs(float(validation.mean())) > 1e-4
    restored = train * data.std[0] + data.mean[0]
    assert float(restored.min()) == pytest.approx(0, abs=1e-5)
    assert float(restored.max()) == pytest.approx(1, abs=1e-5)


def test_the_split_is_always_the_same():
    _, first = parts()
    torch.manual_seed(99)
    _, second = parts()
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


def test_unknown_data_are_refused():
    with pytest.raises(DataError, match=r"'digit'.*available is digits"):
        load_data("digit")


def test_the_classes_have_names():
    assert load_data("digits").label_names == tuple("0123456789")
