"""A plugin evaluator for tests that sleeps, dies or loses an image on command."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]

_MODULE = """
import json
import os
import signal
import sys
import time
from pathlib import Path

from own_evaluators import Quick, answer

ORDERS = Path(os.environ["SE_SEARCH_TEST_ORDERS"])


def node():
    import ray
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else "driver"


class Obedient(Quick):
    def evaluate(self, config):
        name = f"{config.id}-{os.getpid()}-{time.monotonic_ns()}"
        (ORDERS / f"began-{name}-{node()}").write_text(json.dumps(sys.path))
        once, always = ORDERS / f"kill-once-{config.id}", ORDERS / f"kill-always-{config.id}"
        if once.exists() or always.exists():
            once.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        while (ORDERS / "hold").exists() or (ORDERS / f"hold-{config.id}").exists():
            time.sleep(0.02)
        (ORDERS / f"ended-{name}").touch()
        loses = ORDERS / "loses-an-image"
        lost = loses.exists() and loses.read_text() in (node(), "every node")
        return answer(config, len(self.data.validation) - lost)
"""


class Orders:
    """Creates the plugin package, and controls its evaluator: hold, kill, lose an image."""

    def __init__(self, folder):
        self.folder = folder
        self.packages = folder / "packages"
        about = self.packages / "obedient-1.0.dist-info"
        about.mkdir(parents=True)
        (self.packages / "obedient.py").write_text(_MODULE)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: obedient\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[se_search.evaluators]\nobedient = obedient:Obedient\n")
        paths = [str(self.packages), str(TESTS), os.environ.get("PYTHONPATH", "")]
        self.environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "SE_SEARCH_TEST_ORDERS": str(folder)}

    def clear(self):
        for file in self.folder.glob("*"):
            if file != self.packages:
                file.unlink()

    def hold(self, config=None):
        """Let evaluations, or those of one configuration, wait until :meth:`release`."""
        (self.folder / ("hold" if config is None else f"hold-{config.id}")).touch()

    def release(self):
        for file in self.folder.glob("hold*"):
            file.unlink()

    def kill(self, config, how):
        (self.folder / f"kill-{how}-{config.id}").touch()

    def lose_an_image(self, where):
        """Make one image unreadable on a node, or on ``"every node"``."""
        (self.folder / "loses-an-image").write_text(where)

    def began(self):
        """Configuration, process and node of each evaluation that has started, in their order."""
        files = sorted((file.name.split("-") for file in self.folder.glob("began-*")), key=lambda name: int(name[3]))
        return [(config, process, node) for _, config, process, _, node in files]

    def running(self):
        """How many evaluations have started and not ended; those of killed processes among them."""
        return len(list(self.folder.glob("began-*"))) - len(list(self.folder.glob("ended-*")))


def wait_until(condition, seconds=240, otherwise=lambda: ""):
    """Wait for a condition and return what it then gives; ``otherwise`` tells why that does not happen."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"it did not happen: {otherwise()}"
        time.sleep(0.05)
    return found


def commands_with(text):
    """Commands of the processes whose environment contains ``text``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text in (entry / "environ").read_text(errors="replace"):
                found.append((entry / "cmdline").read_text(errors="replace").rstrip("\0"))
    return found


@contextlib.contextmanager
def starting(folder, **environment):
    """Yield a function that starts a search with its output in the file ``name``, and returns its process."""
    started = []
    study = folder / "quick.yaml"
    study.write_text("backbone: test_resnet\nlatency: {limit: 0.01, size: data}\nsampler: random\nthreads: 2\n")

    def start(name, *options):
        words = ["run", "--study", study, "--evaluator", "obedient", "--out", "run", *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "se_search", *map(str, words)],
            cwd=folder,
            env=os.environ | environment,
            stdout=(folder / name).open("wb"),
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
