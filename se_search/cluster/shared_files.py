"""Files that a search and its workers hand to each other through a store of Optuna's, checked by their hashes."""

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

from ..errors import DefinitionError, RunFolderError
from ..files import digest_of, write_atomically

_S3, _GCS = "s3://", "gs://"

ArtifactStore = Boto3ArtifactStore | FileSystemArtifactStore | GCSArtifactStore
"""Where files are handed over."""


def open_artifacts(where: str) -> ArtifactStore:
    """Open a store of files.

    Args:
        where: A folder that all machines see, ``s3://BUCKET`` or ``gs://BUCKET``.

    Raises:
        DefinitionError: If it cannot be used.
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
        raise DefinitionError(f'--artifacts {where} needs another package: pip install "se-search[{extra}]"') from error
    except Exception as error:  # the packages of clouds raise errors of their own
        raise DefinitionError(f"--artifacts {where} cannot be used: {' '.join(str(error).split())[:200]}") from error


def share_files(study: optuna.Study, store: ArtifactStore, folder: Path, files: Iterable[Path]) -> list[dict[str, str]]:
    """Hand over files of a folder.

    Args:
        study: Notes them too, as Optuna wants it.
        store: Where they go.
        folder: The folder.
        files: The files, below it.

    Returns:
        For each what :func:`fetch_files` needs: plain data.
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
    """Take over files into a folder; those that are there already are left.

    Args:
        store: Where they are.
        shared: From :func:`share_files`.
        folder: The folder.

    Raises:
        RunFolderError: If one is missing, is not what was handed over, or does not belong below the folder.
    """
    for one in shared:
        target = folder / one["path"]
        if not target.resolve().is_relative_to(folder.resolve()):
            raise RunFolderError(f"the shared file {one['path']!r} would not be in {folder}: it is not taken")
        if target.exists() and digest_of(target) == one["sha256"]:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_atomically(target, partial(_fetch, store, one))
        except RunFolderError:
            raise
        except Exception as error:  # every store has errors of its own
            raise RunFolderError(
                f"the shared file {one['path']} cannot be fetched ({type(error).__name__}): is --artifacts the same "
                "place as that of the search?"
            ) from error


def _fetch(store: ArtifactStore, one: dict[str, str], file: Path) -> None:
    file.unlink()  # Optuna writes over nothing
    download_artifact(artifact_store=store, artifact_id=one["artifact"], file_path=str(file))
    if digest_of(file) != one["sha256"]:
        raise RunFolderError(f"the shared file {one['path']} is not what was handed over: its hash differs")


def remove_files(store: ArtifactStore, shared: Iterable[dict[str, str]]) -> None:
    """Remove from the store what nobody needs any more, as far as it lets us.

    Args:
        store: Where they are.
        shared: From :func:`share_files`.
    """
    for one in shared:
        with suppress(Exception):  # every store has errors of its own; a file too many does no harm
            store.remove(one["artifact"])
