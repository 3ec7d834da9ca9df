"""A trial's limit of time, where something takes any failure for its own."""

import time

import pytest

from se_search.data.image_data import UnreadableImages
from se_search.data.image_sources import ImageFiles
from se_search.errors import EvaluationError
from se_search.time_limit import time_limit


class Waits:
    """Images that never come."""

    labels = (0, 0)

    def read(self, index):
        while True:
            time.sleep(0.01)

    def name(self, index):
        return f"image {index}"


def test_a_limit_is_not_taken_for_an_image_that_cannot_be_read():
    unreadable = UnreadableImages("training", 2)
    images = ImageFiles(Waits(), range(2), lambda image: image, unreadable)
    with pytest.raises(EvaluationError, match=r"longer than its limit of 0\.2 s"), time_limit(0.2):
        images[0]
    assert not unreadable.names
