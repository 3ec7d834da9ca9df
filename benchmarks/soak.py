"""Kill small searches at random moments, and count what is lost, repeated or left behind (0 each is wanted).

    python benchmarks/soak.py --minutes 10

Each search trains a supernet for two epochs and completes four trials. It is killed at moments drawn uniformly from the
time that an undisturbed search takes, mostly by SIGKILL, sometimes by SIGTERM or SIGINT, and the same command is given
again until it ends. After every kill each trial that was complete before must still be there with the same values; at
the end there must be four distinct trials with the values of other searches, and the files of an undisturbed search.

Commands run in forks of this process, as in `tests/faults/`, so that kills do not only hit imports. Linux only.
"""

import argparse
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from forked import complete_trials, contents, processes_of, run_command, write_small_study

BUDGET = 4
COMMAND = ("run", "--study", "study.yaml", "--out", "run")
SIGNALS = (signal.SIGKILL,) * 8 + (signal.SIGTERM, signal.SIGINT)
MOST_KILLS = 5  # of one search


def memory() -> int:
    """Peak resident memory of this process (KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def begin(directory: Path) -> Path:
    """Create the directory of a new search."""
    shutil.rmtree(directory, ignore_errors=True)
    write_small_study(directory, BUDGET, source="measured")
    return directory


def soak(directory: Path, minutes: float, seed: int) -> Counter:
    """Kill searches for some minutes; return what was counted."""
    drawn, counts, known = random.Random(seed), Counter(), {}
    assert run_command(COMMAND, begin(directory), is_first=True).code == 0
    started = time.monotonic()
    undisturbed = run_command(COMMAND, begin(directory))
    assert undisturbed.code == 0, undisturbed.output
    seconds, files = time.monotonic() - started, set(contents(directory))
    print(f"An undisturbed search takes {seconds:.1f} s.", flush=True)
    before, end = memory(), time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        begin(directory)
        counts["searches"] += 1
        kept: dict[str, list[float]] = {}
        groups = []
        for kill in range(MOST_KILLS + 1):
            after = drawn.uniform(0, seconds) if kill < MOST_KILLS else None
            ended = run_command(COMMAND, directory, after=after, which=drawn.choice(SIGNALS))
            groups.append(ended.group)
            if ended.code not in (0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGINT):
                counts["failed commands"] += 1
                print(ended.output, flush=True)
                break
            if (directory / "run" / "study.db").exists():
                try:
                    now = complete_trials(directory / "run")
                except AssertionError as error:
                    counts["repeated trials"] += 1
                    print(error, flush=True)
                    break
                counts["lost trials"] += sum(now.get(name) != values for name, values in kept.items())
                kept = now
            if ended.code == 0:
                break
            counts[f"kills by {signal.Signals(-ended.code if ended.code < 0 else ended.code - 128).name}"] += 1
        counts["trials"] += len(kept)
        counts["missing trials"] += BUDGET - len(kept)
        counts["other values"] += sum(known.setdefault(name, values) != values for name, values in kept.items())
        left = set(contents(directory)) ^ files
        counts["leaked or missing files"] += len(left)
        if left:
            print(sorted(left), flush=True)
        time.sleep(0.05)
        counts["leaked processes"] += sum(len(processes_of(group)) for group in groups)
    counts["growth of memory (KiB)"] = memory() - before
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = soak(Path(folder) / "soak", options.minutes, options.seed)
    print(f"kills: {sum(number for name, number in counts.items() if name.startswith('kills'))}")
    for name, number in sorted(counts.items()):
        print(f"{name}: {number}")
