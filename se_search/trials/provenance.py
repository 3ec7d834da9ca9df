"""Provenance of a run: versions, platform, threads and commit."""

import json
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from ..files import read_json, write_text
from ..study.definitions import StudyDefinition
from .folder import RUN_FILE


def record_start(folder: Path, definition: StudyDefinition) -> None:
    """Write ``run.json`` with where the run takes place: versions, platform, threads, commit."""
    now = {"started": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    write_text(folder / RUN_FILE, json.dumps(now | read_json(folder / RUN_FILE) | _provenance(definition), indent=2))


def _provenance(definition: StudyDefinition) -> dict[str, Any]:
    packages = ("se-search", "torch", "timm", "optuna", "plotly", "numpy", "scikit-learn")
    return {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "threads": definition.threads,
        "dtype": definition.evaluator.precision,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Commit of the checkout that runs, if it is one."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603  # a fixed command
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
