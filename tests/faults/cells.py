"""The table of phases and faults: where in a command each phase is, and what each fault does there."""

import ctypes
import importlib
import itertools
import multiprocessing
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from forked import Ended, run_command

from se_search.data.image_data import Batches
from se_search.trials import folder as run_folders, search_study

RUN = ("run", "--study", "study.yaml", "--out", "run")
ADAPTED = ("run", "--study", "study.yaml", "--out", "run", "--pretrained", "weights.safetensors")


@dataclass(frozen=True)
class Point:
    """A moment in a command: a call of a function, and a batch of images that is drawn during that call."""

    function: str  # module:name
    call: int = 1
    batch: int | None = None  # None: as the call begins

    def strike(self, fault: Callable[[], object]) -> None:
        """Let a fault happen at this moment of this process."""
        module, _, path = self.function.partition(":")
        *outer, name = path.split(".")
        owner = importlib.import_module(module)
        for one in outer:
            owner = getattr(owner, one)
        original, calls, drawn = getattr(owner, name), itertools.count(1), Batches.__iter__

        def call(*args, **kwargs):
            if next(calls) != self.call:
                return original(*args, **kwargs)
            if self.batch is None:
                fault()
                return original(*args, **kwargs)
            numbers = itertools.count(1)

            def draw(batches):
                for batch in drawn(batches):
                    if next(numbers) == self.batch:
                        fault()
                    yield batch

            Batches.__iter__ = draw
            try:
                return original(*args, **kwargs)
            finally:
                Batches.__iter__ = drawn

        setattr(owner, name, call)


@dataclass(frozen=True)
class Phase:
    """A phase of a command, on a finished run if ``command`` is not a search.

    Attributes:
        command: Words of the command.
        during: Where it is hit.
        writing: Where it is killed, if that is while it writes.
    """

    command: tuple[str, ...]
    during: Point
    writing: Point | None = None


# An epoch of training has seven batches: the tenth is in the second epoch, after the first checkpoint.
PHASES = {
    "tracing": Phase(RUN, Point("se_search.network.sites:_discover")),
    "adapting": Phase(ADAPTED, Point("se_search.training.common_start:CommonStart._train", batch=10)),
    "shared training": Phase(RUN, Point("se_search.training.supernet:Supernet._train", batch=10)),
    "shared training from weights": Phase(ADAPTED, Point("se_search.training.supernet:Supernet._train", batch=10)),
    "calibration": Phase(RUN, Point("se_search.training.supernet:Supernet._select_calibrated", 2, batch=2)),
    "latency": Phase(RUN, Point("se_search.latency.meter:LatencyMeter.measure", 2)),
    "evaluation": Phase(RUN, Point("se_search.training.supernet:evaluate_network", 2, batch=2)),
    "report": Phase(
        ("report", "run"), Point("se_search.api.run:write_results"), Point("se_search.files:move_into_place", 2)
    ),
    "export": Phase(
        ("export", "run", "--to", "exported"),
        Point("se_search.api.run:load_network"),
        Point("se_search.export.timm_folder:move_into_place", 2),
    ),
    "verify": Phase(
        ("verify", "run", "--members", "1", "--seeds", "1"),
        Point("se_search.driver.verification:_verify", 2, batch=10),
        Point("se_search.files:move_into_place", 9),
    ),
    "thin": Phase(
        ("thin", "run", "--trial", "1", "--limit", "0", "--row", "0", "--to", "thinned"),
        Point("se_search.api.thin:compare_constants", batch=2),
    ),
    "excitation": Phase(
        ("excitation", "run", "--trial", "1"),
        Point("se_search.api.excitation:analyze_gates", batch=2),
        Point("se_search.files:move_into_place", 2),
    ),
}


@dataclass(frozen=True)
class Fault:
    """What happens to a command.

    Attributes:
        happens: What happens in its process, given the current directory.
        codes: Its possible exit codes then.
        while_writing: Whether it happens at :attr:`Phase.writing`.
        starts: What is different in its process from the start.
        before_again: What happens in the directory before the command is given again; it may return what repairs
            that after a refusal.
    """

    happens: Callable[[Path], object]
    codes: tuple[int, ...] = (0, 2)
    while_writing: bool = False
    starts: Callable[[], object] = lambda: None
    before_again: Callable[[Path], Callable[[], object] | None] = lambda directory: None


def kill(directory: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def terminate(directory: Path) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


def interrupt_twice(directory: Path) -> None:
    threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    signal.raise_signal(signal.SIGINT)


def fill_the_disk(directory: Path) -> None:
    """No file can grow any more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def make_read_only(directory: Path) -> None:
    give_up_root()
    for path in (directory, *directory.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)


def make_writable(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def give_up_root() -> None:
    """Give up the capabilities of root, whom no permission keeps from writing."""
    version = 0x20080522  # of capset(2): two sets of 32 capabilities follow, all empty
    header, none = (ctypes.c_uint32 * 2)(version, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None, use_errno=True).capset(header, none) == 0


def kill_the_loader(directory: Path) -> None:
    loaders = multiprocessing.active_children()
    assert loaders, "no process loads images"
    for one in loaders:
        one.kill()


def need_more_memory(directory: Path) -> None:
    torch.empty(2**50)


LOCK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=10)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def lock_the_database(directory: Path) -> None:
    """Let another process lock it until this one has ended."""
    command = [sys.executable, "-S", "-c", LOCK, directory / "run" / "study.db"]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert other.stdout.readline() == b"locked\n"
    kept.other = other


kept = SimpleNamespace()  # a process whose pipe is closed ends


def wait_for_a_lock_briefly() -> None:
    search_study.LOCK_LIMIT = run_folders.LOCK_LIMIT = 0.5


def exchange_classes(directory: Path) -> Callable[[], object]:
    """Exchange the images of two classes."""

    def exchange():
        first, second, aside = (directory / "pictures" / name for name in ("blue", "red", "aside"))
        first.rename(aside)
        second.rename(first)
        aside.rename(second)

    exchange()
    return exchange


def set_the_clock_back(directory: Path) -> None:
    """Let all that is recorded be of tomorrow."""
    for path in (directory / "run").rglob("*"):
        tomorrow = path.stat().st_mtime + 86_400
        os.utime(path, (tomorrow, tomorrow))
    with closing(sqlite3.connect(directory / "run" / "study.db")) as database, database:
        for column in ("datetime_start", "datetime_complete"):
            database.execute(f"UPDATE trials SET {column} = datetime({column}, '+1 day') || '.000000'")


FAULTS = {
    "SIGKILL": Fault(kill, (-signal.SIGKILL,), while_writing=True),
    "SIGTERM": Fault(terminate, (-signal.SIGTERM,), while_writing=True),
    "SIGINT twice": Fault(interrupt_twice, (130,), while_writing=True),
    "full disk": Fault(fill_the_disk),
    "read-only folder": Fault(make_read_only, before_again=make_writable),
    "killed loader": Fault(kill_the_loader, (0,)),
    "out of memory": Fault(need_more_memory),
    "locked database": Fault(lock_the_database, starts=wait_for_a_lock_briefly),
    "images changed": Fault(kill, (-signal.SIGKILL,), before_again=exchange_classes),
    "clock set back": Fault(kill, (-signal.SIGKILL,), before_again=set_the_clock_back),
}

_LOADS_NONE = "no process loads images then"
_NOTHING_YET = "there is no run folder yet"
EMPTY = {
    ("tracing", "killed loader"): _LOADS_NONE,
    ("latency", "killed loader"): _LOADS_NONE,
    ("report", "killed loader"): _LOADS_NONE,
    ("export", "killed loader"): _LOADS_NONE,
    ("tracing", "locked database"): _NOTHING_YET,
    ("tracing", "images changed"): _NOTHING_YET,
    ("tracing", "clock set back"): _NOTHING_YET,
    ("report", "images changed"): "a report reads no images",
}

IN_THE_GATE = {
    ("shared training", "SIGKILL"),
    ("evaluation", "read-only folder"),
    ("report", "SIGTERM"),
}


def run_disturbed(phase: str, fault: str, directory: Path) -> Ended:
    """Run the command of a phase in a fork of this process, and let a fault happen there."""
    where, what = PHASES[phase], FAULTS[fault]

    def prepare():
        what.starts()
        point = where.writing if what.while_writing else None
        (point or where.during).strike(lambda: what.happens(directory))

    return run_command(where.command, directory, prepare)
