"""The embedded digits against scikit-learn's."""

from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from se_search.data.image_files import Splits
from se_search.data.load import load_data
from se_search.errors import DataError


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


def test_images_go_from_0_to_1_before_they_are_normalised():
    data, ((train, _), (validation, _), _) = parts()
    assert train.shape[1:] == (3, 32, 32)
    assert abs(float(validation.mean())) > 1e-4  # normalised with the training images alone
    restored = train * data.std[0] + data.mean[0]
    assert float(restored.min()) == pytest.approx(0, abs=1e-5)
    assert float(restored.max()) == pytest.approx(1, abs=1e-5)


def test_unknown_data_are_refused():
    sentence = (
        r"'digit' are neither embedded \(digits.*\) nor a folder of images nor a timm dataset \(torch/…, .*digits"
    )
    with pytest.raises(DataError, match=sentence):
        load_data("digit")


def test_embedded_data_take_no_settings():
    for settings in ({"image_size": 64}, {"splits": Splits(test="test")}, {"root": Path()}):
        with pytest.raises(DataError, match="'digits' are embedded: leave image_size, splits and data_root out"):
            load_data("digits", **settings)


def test_a_folder_does_not_hide_embedded_data(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_data("digits", "test_resnet").classes == 10
    with pytest.raises(DataError, match=r"'\./digits' have no images"):
        load_data("./digits", "test_resnet")


def test_images_of_files_need_a_backbone(tmp_path):
    with pytest.raises(DataError, match=r"transforms of data .* depend on the backbone: name one"):
        load_data(str(tmp_path))


def test_the_classes_have_names():
    assert load_data("digits").label_names == tuple("0123456789")
