"""Provenance of a run: versions, platform, threads and Git commit."""

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
    """Write ``run.json``: start time, versions, platform, threads and Git commit."""
    packages = ("se-search", "torch", "timm", "optuna", "plotly", "numpy", "scikit-learn")
    record: dict[str, Any] = {"started": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    record |= read_json(folder / RUN_FILE)  # keeps the first start
    record |= {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "threads": definition.threads,
        "dtype": definition.evaluator.precision,
        "git_commit": _git_commit(),
    }
    write_text(folder / RUN_FILE, json.dumps(record, indent=2))


def _git_commit() -> str | None:
    """Return the commit of the package's checkout, if it is one."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603  # a fixed command
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
