"""Commands in forked processes: as a new process runs them, without the seconds that it would need for imports."""

import fcntl
import functools
import gc
import hashlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from se_search import api, terminal  # noqa: F401  # what the children would have to import
from se_search.cli import main
from se_search.results.table import trials_table
from se_search.training import pretrained_supernet, stand_alone  # noqa: F401
from se_search.trials.folder import load_trials
from se_search.trials.notes import with_measured_latency

_LIMIT = 600.0  # seconds of a command, on a busy machine too
_PIPE = 2**20  # bytes of output
_FAILED = 99

_COMPARED = ("accuracy", "log_loss", "parameter_overhead", "flops_overhead")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal; its output; and its process group."""

    code: int
    output: str
    group: int

    def is_gone(self, seconds: float = 15.0) -> bool:
        """Whether no process of the command is left, after a while."""
        end = time.monotonic() + seconds
        while processes_of(self.group):
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True


def processes_of(group: int) -> list[str]:
    """Return the commands of a group's processes, as Linux lists them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def run_command(
    arguments: Sequence[str],
    directory: Path,
    prepare: Callable[[], object] = lambda: None,
    after: float | None = None,
    which: signal.Signals = signal.SIGKILL,
    is_first: bool = False,
) -> Ended:
    """Run a command of se-search in a fork of this process, which must not have computed with several threads.

    Args:
        arguments: Words of the command.
        directory: The current directory; temporary files are in ``tmp`` there.
        prepare: Called in the fork first.
        after: Seconds after which the command gets the signal ``which``; never by default.
        which: That signal.
        is_first: Whether this process then imports what the command had to import, so that the next need not.
    """
    (directory / "tmp").mkdir(exist_ok=True)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_in_child(arguments, directory, prepare, writing, is_first)
    os.close(writing)
    status = None
    while status is None:
        done, ended = os.waitpid(child, os.WNOHANG)
        if done:
            status = ended
        elif time.monotonic() - begun > (_LIMIT if after is None else after):
            os.kill(child, signal.SIGKILL if after is None else which)
            assert after is not None, f"{' '.join(arguments)} took longer than {_LIMIT:g} s"
            status = os.waitpid(child, 0)[1]
        else:
            time.sleep(0.002)
    os.set_blocking(reading, False)
    with open(reading, "rb") as stream:
        output = stream.read() or b""
    if is_first:
        modules = directory / "tmp" / "modules"
        for name in modules.read_text().split():
            with suppress(ImportError):
                importlib.import_module(name)
        modules.unlink()
    return Ended(os.waitstatus_to_exitcode(status), output.decode(errors="replace"), child)


def _run_in_child(
    arguments: Sequence[str], directory: Path, prepare: Callable[[], object], output: int, is_first: bool
) -> None:
    code = _FAILED
    try:
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)  # in a background job it is ignored
        os.chdir(directory)
        tempfile.tempdir = str(directory / "tmp")
        torch.set_num_threads(1)
        for cache in gc.get_objects():
            if isinstance(cache, functools._lru_cache_wrapper) and str(cache.__module__).startswith("se_search"):
                cache.cache_clear()
        sys.argv = ["se-search", *arguments]
        prepare()
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:  # before the command has begun
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if is_first:
            (directory / "tmp" / "modules").write_text("\n".join(sys.modules))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def write_small_study(directory: Path, budget: int, **latency: str) -> None:
    """Write ``study.yaml``, and its images: coloured noise of three classes, seven batches for training."""
    (directory / "pictures").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, colour in {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}.items():
        (directory / "pictures" / name).mkdir()
        for number in range(40):
            pixels = np.clip(random.normal(colour, 90, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(directory / "pictures" / name / f"{number}.png")
    study = {
        "backbone": "test_resnet",
        "data": "pictures",
        "image_size": 32,
        "data_workers": 0,
        "budget": budget,
        "threads": 1,
        "evaluator": {"epochs": 2, "batch": 10, "recalibration_images": 30},
        "latency": {"limit": 0.01, "size": "data"} | latency,
    }
    (directory / "study.yaml").write_text(yaml.safe_dump(study))


def complete_trials(folder: Path) -> dict[str, list[float]]:
    """Return what a seed determines of each complete trial, by its configuration; fail for one that is there twice."""
    with closing(load_trials(folder)) as study:
        table = trials_table(with_measured_latency(study))
    complete = table[table["state"] == "complete"]
    assert complete["config_id"].is_unique, f"repeated trials: {list(complete['config_id'])}"
    return {one["config_id"]: [one[name] for name in _COMPARED] for _, one in complete.iterrows()}


def contents(directory: Path) -> dict[str, object]:
    """Return every file and folder below a directory, with what a seed determines of the contents of some."""
    return {str(path.relative_to(directory)): _determined(path) for path in sorted(directory.rglob("*"))}


def _determined(path: Path) -> object:
    if path.suffix == ".safetensors":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if path.name == "excitation.json":
        return json.loads(path.read_text()) | {"seconds": None}
    if path.parent.name == "verification" and path.suffix == ".json":
        result = json.loads(path.read_text())
        return result["correct"], result["losses"]
    return None
