"""The workers of a search: processes here, which are started and replaced, and whoever joins through a storage."""

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
from .exchange import WORKER, Watch
from .storage import STORAGE_VARIABLE

_FAILED_STARTS = 3


@dataclass
class _Local:
    """A worker of this machine."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def last_line(self) -> str:
        self.log.seek(0)
        lines = self.log.read()[-4000:].decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class Fleet:
    """The workers of a search: those of this machine, which it starts and replaces, and those that join.

    Args:
        study: The Optuna study that all share.
        url: Its storage.
        folder: The run folder.
        local: Workers of this machine.
        patience: Seconds after which a silent worker of another machine counts as gone.
    """

    def __init__(self, study: SearchStudy, url: str, folder: Path, local: int, patience: float) -> None:
        self._study = study
        self._url = url
        self._folder = folder
        self._wanted = local
        self._threads = max(1, torch.get_num_threads() // max(1, local))
        self._watch = Watch(patience)
        self._prefix = f"local-{uuid.uuid4().hex[:6]}"
        self._local: dict[str, _Local] = {}
        self._started = 0
        self._failed_starts = 0
        self.known: dict[str, dict[str, Any]] = {}
        self.left: set[str] = set()

    def look(self) -> None:
        """Learn who is there, and replace workers of this machine that have ended.

        Raises:
            EvaluationError: If those of this machine do not start.
        """
        self._replace_ended()
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
        """Whether workers of this machine are loading what they need: latency is not measured beside that."""
        return any(worker not in self.known for worker in self._local)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the workers of this machine while the block runs, so that they do not disturb it."""
        self._signal("SIGSTOP")
        try:
            yield
        finally:
            self._signal("SIGCONT")

    def close(self) -> None:
        """End the workers of this machine."""
        for local in self._local.values():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(local.process.pid, signal.SIGKILL)
            local.process.kill()
            local.process.wait()
            local.log.close()
        self._local.clear()

    def _signal(self, name: str) -> None:
        for worker, local in self._local.items():
            if worker in self.known:  # it leads a group of its own by now
                with suppress(ProcessLookupError):
                    os.killpg(local.process.pid, getattr(signal, name))

    def _replace_ended(self) -> None:
        for worker, local in list(self._local.items()):
            code = local.process.poll()
            if code is None:
                continue
            self._failed_starts = 0 if worker in self.known else self._failed_starts + 1
            said = local.last_line()
            local.log.close()
            del self._local[worker]
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code} ({said})"
            if self._failed_starts == _FAILED_STARTS:
                raise EvaluationError(f"{_FAILED_STARTS} workers in a row did not start, the last {how}")
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
            "--patience": "inf",  # it ends with this process
            "--run-folder": str(self._folder.resolve()),
            "--parent": str(os.getpid()),
        }
        command = [sys.executable, "-m", "se_search", "worker", *(part for pair in options.items() for part in pair)]
        process = subprocess.Popen(  # noqa: S603  # this program itself
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | environment
        )
        self._local[worker] = _Local(process, log)
