"""Uploading an exported folder to a model hub."""

import re
from collections.abc import Collection
from pathlib import Path

from ..errors import ExportError


def check_upload(repository: str) -> None:
    """Check, without any connection, that an upload may be tried.

    Raises:
        ExportError: If the name is not possible or no token is set.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is loaded by name there

    try:
        validate_repo_id(repository)
        possible = repository.count("/") == 1
    except HFValidationError:
        possible = False
    if not possible:
        raise ExportError(
            f"repository {_without_token(repository)!r} is not possible: it must be OWNER/NAME of letters, digits, "
            "'-', '_' and '.'"
        )
    if not get_token():
        raise ExportError(
            f"nothing can be uploaded to {_without_token(repository)} without a token: set HF_TOKEN or run "
            "`hf auth login`"
        )


def upload(folder: Path, repository: str, files: Collection[str]) -> None:
    """Upload ``files`` of ``folder``; the repository is created, public, where it does not exist.

    The token is that of the environment or of ``hf auth login``. It is written nowhere.

    Args:
        folder: The exported folder.
        repository: ``OWNER/NAME``.
        files: Names of the files to upload.

    Raises:
        ExportError: If the upload does not succeed.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name="se-search")
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="Add a network from se-search",
        )
    except Exception as error:  # which HTTP client raises differs between versions of huggingface_hub
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        # Without its cause: that one may hold the token.
        raise ExportError(
            f"{folder} was written but not uploaded to {_without_token(repository)}: {_without_token(reason)}"
        ) from None


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return re.sub(r"hf_\w+", "…", text.replace(token, "…") if token else text)
