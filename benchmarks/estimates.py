"""How near the estimated duration of a search is to its wall time.

    python benchmarks/estimates.py --out estimates.json

Five searches that differ in backbone, evaluator and data run as commands, one after the other. The wall time is that
from the printed plan to the end of the command. It is compared with the plan, and with the time left of the first line
of progress after a minute (``--after``), or of the last one if the search is shorter.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from se_search.files import write_text

RUNS: Mapping[str, Sequence[str]] = {
    "supernet, resnet18, digits": ("--backbone", "resnet18", "--budget", "40"),
    "scratch, resnet10t, digits": (
        *("--backbone", "resnet10t", "--evaluator", "scratch", "--epochs", "2", "--budget", "12"),
    ),
    "finetune, resnet14t, digits-hard": (
        *("--backbone", "resnet14t", "--evaluator", "finetune", "--epochs", "1", "--budget", "8"),
        *("--data", "digits-hard"),
    ),
    "supernet, mobilenetv3_small_100, images": (
        *("--backbone", "mobilenetv3_small_100", "--data", "images", "--image-size", "64", "--epochs", "4"),
        *("--budget", "30"),
    ),
    "supernet, regnety_002, predicted latency": (
        *("--backbone", "regnety_002", "--latency", "model", "--budget", "40", "--epochs", "4"),
    ),
}

_SECONDS = {"s": 1, "min": 60, "h": 3600}
_PLAN = re.compile(r"Estimated: about ([\d.]+) (s|min|h)\b")
_LEFT = re.compile(r"; about ([\d.]+) (s|min|h) left$")


@dataclass(frozen=True)
class Result:
    """Wall time of a search and its estimates, in seconds from the printed plan."""

    name: str
    wall: float
    planned: float | None
    told_at: float | None
    told: float | None

    @property
    def line(self) -> str:
        """The result in a line."""
        parts = [f"{self.name}: {self.wall:.0f} s"]
        if self.planned is not None:
            parts.append(f"plan {self.planned:.0f} s ({self.planned / self.wall - 1:+.0%})")
        if self.told is not None:
            parts.append(f"after {self.told_at:.0f} s {self.told:.0f} s ({self.told / self.wall - 1:+.0%})")
        return ", ".join(parts)


def main() -> None:
    """Run the searches and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS), metavar="NAME")
    parser.add_argument("--after", type=float, default=60.0, help="Seconds after which the time left is read.")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="Further settings of all runs.")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    results = []
    for name in given.only:
        with tempfile.TemporaryDirectory() as directory:
            results.append(measure(name, Path(directory), given.after, given.set))
        print(results[-1].line, flush=True)
    if given.out:
        write_text(given.out, json.dumps([asdict(one) for one in results], indent=2))


def measure(name: str, directory: Path, after: float, settings: Sequence[str]) -> Result:
    """Run a search and read its estimates."""
    if "images" in RUNS[name]:
        draw_images(directory / "images")
    further = [word for one in settings for word in ("--set", one)]
    command = [sys.executable, "-m", "se_search", "run", *RUNS[name], *further, "--out", "run"]
    planned = told_at = told = begun = None
    for moment, line in lines_of(command, directory):
        if found := _PLAN.match(line):
            planned, begun = seconds_in(found), moment
        elif begun is not None and (found := _LEFT.search(line)) and (told_at is None or told_at < after):
            told_at = moment - begun
            told = told_at + seconds_in(found)
    if begun is None:
        raise SystemExit(f"{name}: no plan was printed")
    return Result(name, time.perf_counter() - begun, planned, told_at, told)


def lines_of(command: Sequence[str], directory: Path) -> Iterator[tuple[float, str]]:
    """Yield the lines of a command with the moments at which they are printed."""
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield time.perf_counter(), line.rstrip("\n")
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")


def seconds_in(found: re.Match[str]) -> float:
    """Return a printed duration in seconds."""
    return float(found[1]) * _SECONDS[found[2]]


def draw_images(folder: Path, classes: int = 6, images: int = 200, side: int = 96) -> None:
    """Write images of stripes whose direction is the class."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] / side
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        angle = np.pi * label / classes
        for number in range(images):
            waves = np.sin(40 * (rows * np.sin(angle) + columns * np.cos(angle)) + rng.uniform(0, 6))
            pixels = 127 + 60 * waves[..., None] + rng.normal(0, 40, (side, side, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / f"class{label}" / f"{number}.png")


if __name__ == "__main__":
    main()
