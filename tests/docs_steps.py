"""Takes the steps of a documentation page one after the other in one process: ``python docs_steps.py < steps.json``.

A step is a piece of Python, the words of a command, a definition to load, or a file that must be there. The pieces of
Python share their names, as in a reader's session. Where a step fails its place is printed and nothing more is done.
"""

import json
import sys
from pathlib import Path
from typing import Any

from se_search.cli import main
from se_search.study.files import load_space, load_study


def take(step: dict[str, Any], session: dict[str, Any]) -> None:
    if "python" in step:
        exec(compile(step["python"], step["where"], "exec"), session)
    elif "command" in step:
        run_command(step["command"])
    elif "space" in step:
        load_space(step["space"])
    elif "study" in step:
        load_study(step["study"])
    elif not Path(step["file"]).exists():
        raise FileNotFoundError(step["file"])


def run_command(words: list[str]) -> None:
    sys.argv = words
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit code {end.code}: {' '.join(words)}") from None


if __name__ == "__main__":
    names: dict[str, Any] = {"__name__": "__main__"}
    for one in json.load(sys.stdin):
        try:
            take(one, names)
        except BaseException:
            print(f"{one['where']} fails:", file=sys.stderr)
            raise
