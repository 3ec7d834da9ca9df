"""Count the lines with certain words in the Python files of other packages.

    python benchmarks/baselines/peer_words.py wheels/*.whl

Download each wheel with a command like ``pip download --no-deps --dest wheels syne-tune==0.16.0``. The count is 0 for
every feature that ``docs/how-it-compares.md`` reports as not found.
"""

import argparse
import re
from pathlib import Path
from zipfile import ZipFile

WORDS = {
    "timm networks": r"^\s*(import|from) timm\b",
    "SE blocks": r"squeeze_?excit",
    "weight sharing": r"supernet|super_net|super-net|weight.sharing",
    "a model of a known cost": r"GenericDeterministicModel",
    "a Pareto front": r"pareto",
}


def main() -> None:
    """Print a table: a row for each wheel, a column for each subject."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, nargs="+")
    arguments = parser.parse_args()

    print("| release |", " | ".join(WORDS), "|")
    print("|---" * (len(WORDS) + 1) + "|")
    for wheel in arguments.wheels:
        lines = python_lines(wheel)
        counts = [sum(bool(re.search(word, line, re.IGNORECASE)) for line in lines) for word in WORDS.values()]
        print(f"| {' '.join(wheel.name.split('-')[:2])} |", " | ".join(map(str, counts)), "|")


def python_lines(wheel: Path) -> list[str]:
    """Lines of the package's Python files: not of tests, nor of what JavaScript packages bring along."""
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        own = [name for name in names if not {"tests", "node_modules"} & set(Path(name).parts)]
        return [line for name in own for line in archive.read(name).decode(errors="replace").splitlines()]


if __name__ == "__main__":
    main()
