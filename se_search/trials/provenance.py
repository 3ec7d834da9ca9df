"""Provenance of a run: versions, platform, threads and Git commit."""

import json
import platform
import subprocess
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from ..files import plain, read_json, write_text
from ..study.definitions import StudyDefinition
from .evaluators import TrainingSpeed
from .folder import RUN_FILE


def record_start(folder: Path, definition: StudyDefinition, speeds: Sequence[TrainingSpeed] = ()) -> None:
    """Write ``run.json``: start time, versions, platform, threads, training and Git commit.

    Args:
        folder: The run folder.
        definition: The study.
        speeds: What precision and memory format were chosen from; those of an earlier start stay without any.
    """
    packages = ("se-search", "torch", "timm", "optuna", "plotly", "numpy", "scikit-learn")
    record: dict[str, Any] = {"started": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    record |= read_json(folder / RUN_FILE)  # keeps the first start
    record |= {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "threads": definition.threads,
        "dtype": definition.evaluator.precision,
        "channels_last": definition.evaluator.channels_last,
        "git_commit": _git_commit(),
    }
    if speeds:
        record["training_speeds"] = plain(speeds)
    write_text(folder / RUN_FILE, json.dumps(record, indent=2))


@contextmanager
def counting_warnings(folder: Path) -> Iterator[None]:
    """Show each warning of a block once, and add how often each occurred to ``run.json``.

    Those that Python ignores by default, and those of other processes, are not counted.
    """
    counts: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("always", append=True)
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            text = f"{category.__name__}: {message}"
            counts[text] += 1
            if counts[text] == 1:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        try:
            yield
        finally:
            if counts:
                record = read_json(folder / RUN_FILE)
                before = record.get("warnings")
                if isinstance(before, dict):
                    counts.update({text: count for text, count in before.items() if isinstance(count, int)})
                write_text(folder / RUN_FILE, json.dumps(record | {"warnings": counts}, indent=2))


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
