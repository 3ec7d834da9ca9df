"""A fault in any phase of a command: the same command again ends as if nothing had happened."""

import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from cells import ADAPTED, EMPTY, FAULTS, IN_THE_GATE, PHASES, RUN, run_disturbed
from forked import complete_trials, contents, run_command, write_small_study
from safetensors.torch import save_file

from se_search import SEConfig, create_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes, limits and capabilities of Linux")

BUDGET = 3  # as many as the known answers, which a resumed search may try in another order


class Undisturbed:
    """Directories in which commands have ended undisturbed.

    Commands are forks of ``process``, which computes nothing: PyTorch cannot differentiate in a fork of a process that
    has computed with several threads, as that of the tests has.
    """

    def __init__(self, base, process):
        self.base, self.process = base, process
        self.directory = base / "directory"  # commands record where their images are
        self._ended = {}
        start = base / "start"
        write_small_study(start, BUDGET, source="measured")
        torch.manual_seed(0)
        save_file(create_model(SEConfig("test_resnet"), num_classes=7).state_dict(), start / "weights.safetensors")

    def run(self, function, *arguments, **options):
        return self.process.submit(function, *arguments, **options).result()

    def begin(self, command):
        """Make the directory one in which a command can be given."""
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(self.base / "start" if command in (RUN, ADAPTED) else self.end(RUN), self.directory)
        return self.directory

    def end(self, command):
        """Return a copy of the directory after a command."""
        if command not in self._ended:
            directory = self.begin(command)
            ended = self.run(run_command, command, directory, is_first=True)
            assert ended.code == 0, ended.output
            self._ended[command] = self.base / f"after {len(self._ended)}"
            shutil.move(directory, self._ended[command])
        return self._ended[command]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield Undisturbed(tmp_path_factory.mktemp("faults"), process)


CELLS = [
    pytest.param(phase, fault, marks=() if (phase, fault) in IN_THE_GATE else pytest.mark.slow)
    for phase in PHASES
    for fault in FAULTS
    if (phase, fault) not in EMPTY
]


@pytest.mark.parametrize(("phase", "fault"), CELLS)
def test_the_same_command_again_ends_as_if_nothing_had_happened(undisturbed, phase, fault, record_property):
    record_property("cell", (phase, fault))
    command, what = PHASES[phase].command, FAULTS[fault]
    expected = undisturbed.end(command)
    directory = undisturbed.begin(command)
    if fault == "killed loader":
        for study in (directory / "study.yaml", directory / "run" / "study.yaml"):
            if study.exists():
                study.write_text(study.read_text().replace("data_workers: 0", "data_workers: 1"))

    disturbed = undisturbed.run(run_disturbed, phase, fault, directory)
    assert disturbed.code in what.codes, disturbed.output
    assert "Traceback" not in disturbed.output
    assert disturbed.code != 2 or disturbed.output.splitlines()[-1].startswith("Error: ")
    repair = what.before_again(directory)
    if repair is not None:
        refused = undisturbed.run(run_command, command, directory)
        assert refused.code == 2
        assert "other images" in refused.output
        repair()

    again = undisturbed.run(run_command, command, directory)
    assert again.code == 0, disturbed.output + again.output
    assert disturbed.is_gone()
    assert again.is_gone()
    trials, wanted = complete_trials(directory / "run"), complete_trials(expected / "run")
    assert len(trials) == BUDGET
    failed = disturbed.code == 0 and fault == "out of memory"  # its trial failed, and another one took its place
    assert {name: trials[name] for name in trials.keys() & wanted.keys()}.items() <= wanted.items()
    assert failed or trials.keys() == wanted.keys()
    # A killed process leaves the socket by which it handed over batches, as with any loader of PyTorch.
    left = {name: what for name, what in contents(directory).items() if not name.startswith("tmp/pymp-")}
    assert left == contents(expected)


def test_every_empty_cell_of_the_table_has_a_reason():
    assert all(phase in PHASES and fault in FAULTS and reason for (phase, fault), reason in EMPTY.items())
    assert not EMPTY.keys() & IN_THE_GATE
