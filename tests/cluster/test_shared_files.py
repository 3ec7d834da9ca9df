"""Files exchanged through Optuna's artifact stores arrive whole or not at all, and only inside the target folder."""

import hashlib
import re

import optuna
import pytest

from se_search.cluster import shared_files
from se_search.cluster.shared_files import fetch_files, open_artifact_store, remove_files, share_files
from se_search.errors import DefinitionError, RunFolderError


@pytest.fixture
def uploaded(tmp_path):
    source = tmp_path / "source"
    (source / "networks").mkdir(parents=True)
    (source / "supernet.safetensors").write_bytes(bytes(range(256)) * 9000)
    (source / "networks" / "one.safetensors").write_bytes(b"weights")
    store = open_artifact_store(str(tmp_path / "store"))
    files = [source / "supernet.safetensors", source / "networks" / "one.safetensors"]
    return store, share_files(optuna.create_study(), store, source, files)


def entries(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_files_arrive_as_they_were(uploaded, tmp_path):
    store, shared = uploaded
    assert [one["path"] for one in shared] == ["supernet.safetensors", "networks/one.safetensors"]
    assert shared[1]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    target = tmp_path / "target"
    target.mkdir()
    fetch_files(store, shared, target)
    assert entries(target) == ["networks/one.safetensors", "supernet.safetensors"]
    assert (target / "supernet.safetensors").read_bytes() == bytes(range(256)) * 9000
    fetch_files(store, shared, target)
    remove_files(store, shared)
    assert list((tmp_path / "store").iterdir()) == []
    remove_files(store, shared)


def test_a_file_that_is_not_what_was_uploaded_is_not_taken(uploaded, tmp_path):
    store, shared = uploaded
    (tmp_path / "store" / shared[0]["artifact"]).write_bytes(b"something else")
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(RunFolderError, match=r"supernet\.safetensors differs from the uploaded one"):
        fetch_files(store, shared, target)
    assert entries(target) == []


def test_a_file_that_is_missing_is_told(uploaded, tmp_path):
    store, shared = uploaded
    remove_files(store, shared[:1])
    with pytest.raises(RunFolderError, match=r"cannot be fetched.*check that artifacts is the location"):
        fetch_files(store, shared, tmp_path)


@pytest.mark.parametrize("path", ["../outside", "/tmp/outside", "networks/../../outside"])
def test_a_file_never_lands_outside_of_the_folder(uploaded, tmp_path, path):
    store, shared = uploaded
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(RunFolderError, match=r"is outside .*target: it is rejected"):
        fetch_files(store, [shared[1] | {"path": path}], target)
    assert not (tmp_path / "outside").exists()
    assert entries(target) == []


def test_a_name_in_the_store_that_leads_out_of_it_is_refused(uploaded, tmp_path):
    store, _ = uploaded
    (tmp_path / "secret").write_bytes(b"secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(RunFolderError, match="cannot be fetched"):
        fetch_files(store, [{"path": "taken", "artifact": "../secret", "sha256": digest}], target)
    assert entries(target) == []


def test_a_store_that_cannot_be_used_is_refused():
    with pytest.raises(DefinitionError, match=r"^artifacts /proc/nowhere cannot be used: \[Errno"):
        open_artifact_store("/proc/nowhere")


@pytest.mark.parametrize(
    ("where", "store", "extra"),
    [("s3://bucket", "Boto3ArtifactStore", "s3"), ("gs://bucket", "GCSArtifactStore", "gcs")],
)
@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (ImportError("no module"), 'needs another package: pip install "se-search[{}]"'),
        (RuntimeError("no credentials\nwere found"), "cannot be used: no credentials were found"),
    ],
)
def test_what_keeps_a_cloud_from_being_used_is_told(monkeypatch, where, store, extra, raised, told):
    def refuse(bucket):
        assert bucket == "bucket"
        raise raised

    monkeypatch.setattr(shared_files, store, refuse)
    with pytest.raises(DefinitionError, match=re.escape(f"artifacts {where} {told.format(extra)}")):
        open_artifact_store(where)
