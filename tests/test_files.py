"""Files that others may have exchanged: pipes, devices and folders are refused without waiting."""

import os

import pytest

from se_search.errors import RunFolderError
from se_search.files import digest_of, read_json, read_text


@pytest.fixture(params=["pipe", "folder", "device", "link to a pipe"])
def other(request, tmp_path):
    path = tmp_path / "run.json"
    if request.param == "folder":
        path.mkdir()
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    else:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        path.symlink_to(pipe) if "link" in request.param else pipe.rename(path)
    return path


def test_what_is_no_regular_file_is_refused(other):
    for read in (read_text, digest_of):
        with pytest.raises(ValueError, match="it is not a regular file"):
            read(other)
    with pytest.raises(RunFolderError, match=r"run\.json is not a regular file: remove it"):
        read_json(other)


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "there").write_text("{}")
    (tmp_path / "here").symlink_to(tmp_path / "there")
    assert read_text(tmp_path / "here") == "{}"
