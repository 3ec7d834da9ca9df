"""The workers of a search: local processes that it starts and restarts, and workers that join through a storage."""

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from ..errors import EvaluationError
from ..progress import say
from ..trials.search_study import SearchStudy
from .exchange import WORKER, LivenessMonitor
from .storage import STORAGE_VARIABLE

_FAILED_STARTS = 3


@dataclass
class _Local:
    """A local worker process and its log."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def last_line(self) -> str:
        self.log.seek(0)
        lines = self.log.read()[-4000:].decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


class Fleet:
    """The workers of a search: local processes that it starts and restarts, and remote ones that join.

    Args:
        study: The Optuna study that all share.
        url: URL of its storage.
        folder: The run folder.
        local: Number of local worker processes.
        patience: Seconds without a heartbeat after which a remote worker counts as lost.
    """

    def __init__(self, study: SearchStudy, url: str, folder: Path, local: int, patience: float) -> None:
        self._study = study
        self._url = url
        self._folder = folder
        self._wanted = local
        self._threads = max(1, torch.get_num_threads() // max(1, local))
        self._watch = LivenessMonitor(patience)
        self._prefix = f"local-{uuid.uuid4().hex[:6]}"
        self._local: dict[str, _Local] = {}
        self._started = 0
        self._failed_starts = 0
        self.known: dict[str, dict[str, Any]] = {}
        self.left: set[str] = set()

    def refresh(self) -> None:
        """Update the list of live workers and restart local processes that have exited.

        Raises:
            EvaluationError: If several local workers in a row fail to start.
        """
        self._restart_exited()
        known = {}
        for name, content in self._study.user_attrs.items():
            worker = name.removeprefix(WORKER)
            if not name.startswith(WORKER):
                continue
            if content.get("left"):
                self.left.add(worker)
            elif worker in self._local or self._watch.is_alive(worker, content):
                known[worker] = content
        for worker in known.keys() - self.known.keys():
            if worker not in self._local:
                say(f"Worker {worker} has joined.")
        self.known = known

    @property
    def is_starting(self) -> bool:
        """Whether local workers are still loading; their load would disturb latency measurements."""
        return any(worker not in self.known for worker in self._local)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the local workers while the block runs, for undisturbed measurements."""
        self._signal("SIGSTOP")
        try:
            yield
        finally:
            self._signal("SIGCONT")

    def close(self) -> None:
        """Kill the local workers."""
        for local in self._local.values():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(local.process.pid, signal.SIGKILL)
            local.process.kill()
            local.process.wait()
            local.log.close()
        self._local.clear()

    def _signal(self, name: str) -> None:
        for worker, local in self._local.items():
            if worker in self.known:  # only then does it lead its own process group
                with suppress(ProcessLookupError):
                    os.killpg(local.process.pid, getattr(signal, name))

    def _restart_exited(self) -> None:
        for worker, local in list(self._local.items()):
            code = local.process.poll()
            if code is None:
                continue
            self._failed_starts = 0 if worker in self.known else self._failed_starts + 1
            said = local.last_line()
            local.log.close()
            del self._local[worker]
            how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code} ({said})"
            if self._failed_starts == _FAILED_STARTS:
                raise EvaluationError(f"{_FAILED_STARTS} workers in a row failed to start; the last {how}")
            say(f"Worker {worker} {how}.")
        while len(self._local) < self._wanted:
            self._start()

    def _start(self) -> None:
        self._started += 1
        worker = f"{self._prefix}-{self._started}"
        log = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the worker
        environment = {STORAGE_VARIABLE: self._url, "OMP_NUM_THREADS": str(self._threads)}
        options = {
            "--study": self._study.study_name,
            "--threads": str(self._threads),
            "--name": worker,
            "--patience": "inf",  # --parent ends it with this process
            "--run-folder": str(self._folder.resolve()),
            "--parent": str(os.getpid()),
        }
        command = [sys.executable, "-m", "se_search", "worker", *(part for pair in options.items() for part in pair)]
        process = subprocess.Popen(  # noqa: S603  # runs this package
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | environment
        )
        self._local[worker] = _Local(process, log)
