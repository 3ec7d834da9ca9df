"""Upload an exported folder to the Hugging Face Hub."""

import re
from collections.abc import Collection
from pathlib import Path

from ..errors import ExportError


def check_upload(repository: str) -> None:
    """Check the repository name and the presence of a token, without network access.

    Raises:
        ExportError: If the name is invalid or no token is set.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # lazily exported

    try:
        validate_repo_id(repository)
        valid = repository.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise ExportError(
            f"repository {_without_token(repository)!r} is invalid: it must be OWNER/NAME of letters, digits, '-', '_' "
            "and '.'"
        )
    if not get_token():
        raise ExportError(
            f"uploading to {_without_token(repository)} requires a token: set HF_TOKEN or run `hf auth login`"
        )


def upload(folder: Path, repository: str, files: Collection[str]) -> None:
    """Upload ``files`` of ``folder``, and create the public repository if it does not exist.

    The token comes from the environment or ``hf auth login``, and is never written or shown.

    Raises:
        ExportError: If the upload fails.
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
    except Exception as error:  # versions of huggingface_hub use different HTTP clients
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        # Drop the cause, which may contain the token.
        raise ExportError(
            f"{folder} was written but not uploaded to {_without_token(repository)}: {_without_token(reason)}"
        ) from None


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return re.sub(r"hf_\w+", "…", text.replace(token, "…") if token else text)
