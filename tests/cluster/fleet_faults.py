"""A plugin evaluator for tests that sleeps, dies or loses an image on command."""

import os
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]

_MODULE = """
import os
import signal
import time
from pathlib import Path

from own_evaluators import Quick, answer

ORDERS = Path(os.environ["SE_SEARCH_TEST_ORDERS"])


class Obedient(Quick):
    def evaluate(self, config):
        (ORDERS / f"evaluated-{config.id}-{os.getpid()}").touch()
        time.sleep(float((ORDERS / "seconds").read_text()))
        once, always = ORDERS / f"kill-once-{config.id}", ORDERS / f"kill-always-{config.id}"
        if once.exists() or always.exists():
            once.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return answer(config, len(self.data.validation) - self.loses_an_image())

    def loses_an_image(self):
        loses = ORDERS / "loses-an-image"
        if not loses.exists():
            return False
        if not loses.read_text():
            loses.write_text(str(os.getpid()))
        return loses.read_text() in (str(os.getpid()), "every process")
"""


class Orders:
    """Creates the plugin package, and controls its evaluator: ``seconds`` per evaluation, kills, lost images."""

    def __init__(self, folder, seconds):
        self.folder = folder
        packages = folder / "packages"
        about = packages / "obedient-1.0.dist-info"
        about.mkdir(parents=True)
        (packages / "obedient.py").write_text(_MODULE)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: obedient\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[se_search.evaluators]\nobedient = obedient:Obedient\n")
        self.take(seconds)
        self.packages = packages
        paths = [str(packages), str(TESTS), os.environ.get("PYTHONPATH", "")]
        self.environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "SE_SEARCH_TEST_ORDERS": str(folder)}

    def take(self, seconds):
        """Set the seconds of each evaluation that starts from now on."""
        draft = self.folder / "seconds.draft"
        draft.write_text(str(seconds))
        draft.replace(self.folder / "seconds")

    def kill(self, config, how):
        (self.folder / f"kill-{how}-{config.id}").touch()

    def lose_an_image(self, where=""):
        """Make one image unreadable in the first process that evaluates, or in ``"every process"``."""
        (self.folder / "loses-an-image").write_text(where)

    def evaluated(self):
        """Pairs of configuration id and process id, one for each evaluation that started."""
        return [tuple(file.name.split("-")[1:]) for file in self.folder.glob("evaluated-*")]


def here(orders, monkeypatch):
    """Make the package importable in this process and in those that it starts."""
    for name, value in orders.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(orders.packages))
    sys.modules.pop("obedient", None)
