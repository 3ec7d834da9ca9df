"""Run the tasks of a search in other processes and on other machines with Ray, which only this file imports."""

import contextlib
import functools
import os
import platform
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

# Ray reads these when it is imported. It must not send usage statistics, and must not start a cluster unless asked.
# The user waits for its processes, so they run at normal priority.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
os.environ.setdefault("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "minor")
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
import ray._private.worker
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import GetTimeoutError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from ..errors import ClusterError, EvaluationError, as_given, first_reason
from ..progress import console, say
from ..safe_path import safe_path
from ..trials.trials import MOST_ATTEMPTS
from .evaluate import Job, do_elsewhere, prepare_elsewhere
from .executor import ClusterOptions, Outcome, Task

_INTERVAL = 1.0  # seconds between checks of the cluster
_LOST_AFTER = 20.0  # seconds without a response from the head
_MEMORY = 2**28  # bytes that the object store of local workers has besides the prepared files
_LONGEST_FOLDER = 24  # characters: paths of sockets may have 107

_LATENCY = "latency"  # a resource


def find_cluster(address: str) -> str:
    """Return the address ``HOST:PORT`` of a running cluster.

    Args:
        address: ``"auto"`` or that address.

    Raises:
        ClusterError: If no cluster responds there. Ray itself would retry for more than ten minutes.
    """
    found = get_ray_address_from_environment("auto", None) if address == "auto" else address
    if found == "auto":
        raise ClusterError(
            f"{as_given('ray')} auto finds no Ray cluster on this machine: start one with ray start --head"
        )
    host, colon, port = found.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise ClusterError(
            f"{as_given('ray')} {address} is neither auto nor HOST:PORT of a cluster that includes this machine"
        )
    if not _responds(found):
        raise ClusterError(f"no Ray cluster responds at {found}: start one with ray start --head")
    return found


def _responds(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except (OSError, ValueError, OverflowError):  # the host is unknown or invalid
        return False


class RayExecutor:
    """Runs tasks in a Ray cluster: a running one, or a private one on this machine.

    If a process dies during an evaluation, its task starts again in a new process; after the third death it fails. The
    loss of a node does not count. On a CUDA device each task has a new process, so that its memory is free afterwards.

    Args:
        job: Input of the processes.
        options: The cluster and its resources.

    Raises:
        ClusterError: If the cluster cannot be used.
    """

    def __init__(self, job: Job, options: ClusterOptions) -> None:
        is_own = options.ray is None
        self._latency_gpus = int(job.uses_gpu)
        self._gpus = float(job.uses_gpu) if options.gpus_per_trial is None else options.gpus_per_trial
        self._cpus = 1 if is_own or self._gpus else job.threads
        self._latency_node = options.latency_node
        self._closed = False
        with contextlib.ExitStack() as stack:
            parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < _LONGEST_FOLDER else "/tmp"  # noqa: S108
            private = tempfile.TemporaryDirectory(prefix="se-", dir=parent, ignore_cleanup_errors=True)
            folder = stack.enter_context(private)
            stack.callback(_set_sigterm, signal.getsignal(signal.SIGTERM))
            stack.callback(ray.shutdown)
            _connect(options, folder, sum(content.nbytes for content in job.files.values()))
            # Ray's own handler prints a traceback.
            _set_sigterm(lambda number, frame: sys.exit(128 + number))
            self._address = str(ray.get_runtime_context().gcs_address)
            self._here = {one["NodeManagerAddress"] for one in ray.nodes() if one["NodeID"] == _own_node()}
            threads = max(1, job.threads // options.workers)  # which is 1 on a running cluster
            self._job = _put(replace(job, uses_gpu=self._gpus > 0, threads=threads, scratch=folder if is_own else None))
            self._do = ray.remote(max_retries=0)(_do)  # Ray retries some without limit: they are counted here
            if is_own and not self._gpus:
                _prepare_processes(options.workers, self._job)
            self._look()
            self._stack = stack.pop_all()
        self._threads: list[threading.Thread] = []
        self._start_thread(self._watch)

    @property
    def runs_here(self) -> bool:
        """Whether a node on this machine evaluates."""
        return any(self._room(one) for one in self._nodes if one["NodeManagerAddress"] in self._here)

    def slots(self, avoid: frozenset[str] = frozenset()) -> int:
        """Return the number of tasks that can run at once now; raise an error also if a latency node has CPUs."""
        silent = time.monotonic() - self._seen
        if silent > 3 * _LOST_AFTER or (silent > _LOST_AFTER and not _responds(self._address)):
            raise ClusterError(
                f"the head of the Ray cluster at {self._address} no longer responds: when it runs again, the same "
                "command resumes"
            )
        for one in self._nodes:
            if self._latency_node and _LATENCY in one["Resources"] and one["Resources"].get("CPU"):
                raise ClusterError(
                    f"node {one['NodeManagerHostname']} offers {_LATENCY} and CPUs, but evaluations would disturb its "
                    "measurements: start it with --num-cpus 0"
                )
        return sum(self._room(one) for one in self._nodes if one["NodeID"] not in avoid)

    def missing(self) -> str:
        """Return what must join before tasks can run; empty if nothing must."""
        if self._latency_node and not any(_LATENCY in one["Resources"] for one in self._nodes):
            return f"a node that offers the resource {_LATENCY}"
        gpus = f" and {self._gpus:g} GPUs" if self._gpus else ""
        return "" if self.slots() else f"a node with {self._cpus} CPUs{gpus}"

    def submit(self, task: Task, avoid: frozenset[str] = frozenset()) -> "Future[Outcome]":
        """Start a task."""
        future: Future[Outcome] = Future()
        self._start_thread(self._run, task, avoid, future)
        return future

    def close(self) -> None:
        """Stop the private cluster, or disconnect from a running one."""
        self._closed = True
        for thread in self._threads:  # a thread that calls Ray after its shutdown would end this process
            thread.join(3 * _INTERVAL)
        self._stack.close()

    def _start_thread(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()

    def _run(self, task: Task, avoid: frozenset[str], future: "Future[Outcome]") -> None:
        deaths = 0
        options: dict[str, Any] = {"num_cpus": self._cpus, "num_gpus": self._gpus}
        if task.work == "latency":
            options = {"num_cpus": 0, "num_gpus": self._latency_gpus, "resources": {_LATENCY: 1}}
        elif avoid:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(avoid))})"}
        while not self._closed:
            try:
                future.set_result(self._wait_for(self._do.options(**options).remote([self._job], task)))
            except NodeDiedError:
                say(f"A node is lost: configuration {task.config.id} is evaluated elsewhere.")
                continue
            except (WorkerCrashedError, OutOfMemoryError) as error:
                deaths += 1
                if deaths < MOST_ATTEMPTS:
                    say(f"A process that evaluated configuration {task.config.id} has died: it is evaluated again.")
                    continue
                reason = "ran out of memory" if isinstance(error, OutOfMemoryError) else "were killed or crashed"
                future.set_exception(EvaluationError(f"{MOST_ATTEMPTS} processes that evaluated it {reason}"))
            except RayTaskError as error:
                cause = error.cause
                future.set_exception(cause if isinstance(cause, Exception) else EvaluationError(first_reason(error)))
            except GetTimeoutError:  # the search ends
                pass
            except Exception as error:  # of Ray itself
                future.set_exception(ClusterError(f"Ray cannot run a task: {first_reason(error)}"))
            return

    def _wait_for(self, reference: Any) -> Outcome:
        while True:
            try:
                return ray.get(reference, timeout=_INTERVAL)
            except GetTimeoutError:
                if self._closed:
                    raise

    def _room(self, node: dict[str, Any]) -> int:
        """Return the number of tasks that a node can run at once."""
        offered = node["Resources"]
        cpus = int(offered.get("CPU", 0) // self._cpus)
        return min(cpus, int(offered.get("GPU", 0) / self._gpus)) if self._gpus else cpus

    def _watch(self) -> None:
        while not self._closed:
            time.sleep(_INTERVAL)
            if _responds(self._address):
                with contextlib.suppress(Exception):  # the cluster is ending
                    self._look()

    def _look(self) -> None:
        self._nodes = [one for one in ray.nodes() if one["Alive"]]
        self._seen = time.monotonic()


def _do(shared: list[Any], task: Task) -> Outcome:
    """Run a task in a Ray process; ``shared`` is a list so that only the first task of a process fetches the job."""
    outcome = do_elsewhere(shared[0].hex(), lambda: ray.get(shared[0]), task)
    return replace(outcome, node=_own_node(), host=platform.node())


def _prepare_processes(count: int, job: Any) -> None:
    """Start and prepare processes, so that trials do not start with imports, which can take longer than they do."""
    prepare = ray.remote(num_cpus=1, max_retries=0)(_prepare)
    with console.status("Starting the workers"), contextlib.suppress(Exception):  # the first tasks report errors
        ray.get([prepare.remote([job]) for _ in range(count)])


def _prepare(shared: list[Any]) -> None:
    prepare_elsewhere(shared[0].hex(), lambda: ray.get(shared[0]), "accuracy")


def _own_node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _put(job: Job) -> Any:
    """Put the job into the object store, with the modules that define the user's functions."""
    modules = {sys.modules[one.__module__] for one in (job.evaluator, *job.measures.values()) if one is not None}
    by_value = [one for one in modules if one.__name__ not in ("__main__", "builtins")]
    for module in by_value:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        return ray.put(job)
    except Exception as error:  # pickling runs the user's code
        raise ClusterError(
            f"the evaluator or an objective cannot be sent to another process: {first_reason(error)}"
        ) from error
    finally:
        for module in by_value:
            ray.cloudpickle.unregister_pickle_by_value(module)


def _connect(options: ClusterOptions, folder: str, shared: int) -> None:
    if options.ray is not None:
        arguments: dict[str, Any] = {"address": find_cluster(options.ray)}
    else:
        _make_token_private()
        arguments = {
            "address": "local",
            "num_cpus": options.workers,
            "include_dashboard": False,
            "object_store_memory": _MEMORY + 2 * shared,
            "_temp_dir": folder,
        }
    # Otherwise Ray prints a paragraph about each process that dies, regardless of log_to_driver.
    ray._private.worker._worker_logs_enabled = False
    # Ray adds the current directory to sys.path of its processes, where a file torch.py would replace PyTorch.
    directory = Path.cwd()
    os.chdir(folder)
    try:
        with safe_path():
            ray.init(**arguments, log_to_driver=False, logging_level="ERROR")
    except Exception as error:
        raise ClusterError(f"Ray does not start: {first_reason(error)}") from error
    finally:
        os.chdir(directory)


def _make_token_private() -> None:
    """Write the token of a local cluster, readable for the user only; Ray would make it readable for all."""
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    file = Path.home() / ".ray" / "auth_token"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    private = functools.partial(os.open, mode=0o600)
    with contextlib.suppress(FileExistsError), open(file, "x", opener=private) as token:
        token.write(secrets.token_hex(32))
    file.chmod(0o600)


def _set_sigterm(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
