"""Exchange files between a search and its workers through an Optuna artifact store, verified by SHA-256."""

import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import optuna
from optuna.artifacts import (
    Boto3ArtifactStore,
    FileSystemArtifactStore,
    GCSArtifactStore,
    download_artifact,
    upload_artifact,
)
from optuna.exceptions import ExperimentalWarning

from ..errors import DefinitionError, RunFolderError, as_given
from ..files import digest_of, write_atomically

_S3, _GCS = "s3://", "gs://"

ArtifactStore = Boto3ArtifactStore | FileSystemArtifactStore | GCSArtifactStore
"""A folder or bucket through which files are exchanged."""


def open_artifact_store(where: str) -> ArtifactStore:
    """Open an artifact store.

    Args:
        where: A folder that all machines share, ``s3://BUCKET`` or ``gs://BUCKET``.

    Raises:
        DefinitionError: If it cannot be used or its client package is not installed.
    """
    try:
        if where.startswith(_S3):
            return Boto3ArtifactStore(where.removeprefix(_S3).rstrip("/"))
        if where.startswith(_GCS):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return GCSArtifactStore(where.removeprefix(_GCS).rstrip("/"))
        Path(where).mkdir(parents=True, exist_ok=True)
        return FileSystemArtifactStore(where)
    except ImportError as error:
        extra = "s3" if where.startswith(_S3) else "gcs"
        raise DefinitionError(
            f'{as_given("artifacts")} {where} needs another package: pip install "se-search[{extra}]"'
        ) from error
    except Exception as error:  # each cloud client raises its own exceptions
        raise DefinitionError(
            f"{as_given('artifacts')} {where} cannot be used: {' '.join(str(error).split())[:200]}"
        ) from error


def share_files(study: optuna.Study, store: ArtifactStore, folder: Path, files: Iterable[Path]) -> list[dict[str, str]]:
    """Upload files of a folder.

    Args:
        study: The study to which Optuna attaches the files.
        store: The artifact store.
        folder: The folder.
        files: The files, which lie below it.

    Returns:
        For each file its path, hash and artifact id, as :func:`fetch_files` takes them.
    """
    return [
        {
            "path": file.relative_to(folder).as_posix(),
            "sha256": digest_of(file),
            "artifact": upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=study),
        }
        for file in files
    ]


def fetch_files(store: ArtifactStore, shared: Iterable[dict[str, str]], folder: Path) -> None:
    """Download files into a folder, except those already there unchanged.

    Args:
        store: The artifact store.
        shared: From :func:`share_files`.
        folder: The folder.

    Raises:
        RunFolderError: If a file is missing, has another hash, or has a path outside the folder.
    """
    for one in shared:
        target = folder / one["path"]
        if not target.resolve().is_relative_to(folder.resolve()):
            raise RunFolderError(f"the path of shared file {one['path']!r} is outside {folder}: it is rejected")
        if target.exists() and digest_of(target) == one["sha256"]:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_atomically(target, partial(_fetch, store, one))
        except RunFolderError:
            raise
        except Exception as error:  # each store raises its own exceptions
            raise RunFolderError(
                f"shared file {one['path']} cannot be fetched ({type(error).__name__}): check that "
                f"{as_given('artifacts')} is the "
                "location that the search uses"
            ) from error


def _fetch(store: ArtifactStore, one: dict[str, str], file: Path) -> None:
    file.unlink()  # Optuna does not overwrite files
    download_artifact(artifact_store=store, artifact_id=one["artifact"], file_path=str(file))
    if digest_of(file) != one["sha256"]:
        raise RunFolderError(f"shared file {one['path']} differs from the uploaded one: its SHA-256 does not match")


def remove_files(store: ArtifactStore, shared: Iterable[dict[str, str]]) -> None:
    """Remove files from the store; failures are ignored.

    Args:
        store: The artifact store.
        shared: From :func:`share_files`.
    """
    for one in shared:
        with suppress(Exception):  # each store raises its own exceptions; a leftover file does no harm
            store.remove(one["artifact"])
