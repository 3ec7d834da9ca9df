"""Size and loading time of a report by the number of trials, and of the page of the atlas.

    python benchmarks/report_page.py runs/resnet50-digits --trials 50 1000
    python benchmarks/report_page.py --atlas

The trials are those of a finished run, repeated with random configurations of its space and perturbed values.
Baselines are not repeated, because the figures label them. The page of the atlas is that of `se-search atlas --html`,
with all architectures. Loading is timed in a new tab of headless Chromium (no GPU), from navigation until the first
figure is drawn and the page responds, and until all figures that are visible at first are drawn. The pages are opened
in turn. No inspector is attached: with Playwright's, Chromium parses Plotly's script once more for the stack of each
exception that Plotly catches.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd

from se_search.evidence.atlas import architectures
from se_search.network.overhead import added_parameters, backbone_parameters
from se_search.report.atlas_page import write_atlas
from se_search.report.page import render_report
from se_search.results.picks import pick_trials
from se_search.results.record import read_results
from se_search.study.space import SearchSpace
from se_search.trials.folder import read_definition
from se_search.words import counted

_TELL = """<script>
const moments = [];
function note() {
  moments.push(performance.now());
  const first = places.filter((place) => near.has(place)).length;
  if (moments.length === first) document.title = `drawn ${moments[0]} ${moments.at(-1)}`;
}
addEventListener("drawn", () => requestAnimationFrame(() => scheduler.postTask(note, { priority: "user-blocking" })));
</script>
</body>"""
"""Script that tells the times of the first and the last of the first figures in the title of a page."""


def main() -> None:
    """Write the pages, open each several times in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="run folder whose trials are repeated")
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 50, 1000])
    parser.add_argument("--atlas", action="store_true", help="also the page of the atlas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--width", type=int, default=1400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser(arguments.width) as address:
        files: dict[str, Path] = {}
        for count in arguments.trials if arguments.run else ():
            files[counted(count, "trial")] = file = Path(folder, f"{count}.html")
            file.write_text(write_page(arguments.run, count), encoding="utf-8")
        if arguments.atlas:
            files[f"atlas of {len(architectures())} architectures"] = write_atlas(Path(folder, "atlas.html"))
        sizes = {name: file.stat().st_size / 1e6 for name, file in files.items()}
        for file in files.values():
            file.write_text(file.read_text(encoding="utf-8").replace("</body>", _TELL), encoding="utf-8")
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
        for _ in range(arguments.repeats):
            for name, file in files.items():
                seconds[name].append(open_page(address, file))
        for name, size in sizes.items():
            first, last = zip(*seconds[name], strict=True)
            print(f"{name}: {size:.2f} MB, ready after {_median(first)}, all visible figures after {_median(last)}")


def _median(seconds: tuple[float, ...]) -> str:
    return f"{statistics.median(seconds):.2f} s [{min(seconds):.2f}, {max(seconds):.2f}]"


def write_page(folder: Path, count: int) -> str:
    """Return a report with ``count`` trials."""
    trials, run = read_results(folder)
    definition = read_definition(folder)
    space = SearchSpace(definition.backbone, definition.resolved_space)
    complete = trials[trials["state"] == "complete"]
    draws, numbers = random.Random(0), np.random.default_rng(0)
    rows = []
    for number in range(count):
        config = space.draw(draws)
        added = added_parameters(config)
        row = complete.iloc[number % len(complete)].to_dict()
        moved = numbers.normal(0, 0.01)
        row |= {name: row[name] + moved for name in ("accuracy", "accuracy_low", "accuracy_high")}
        rows.append(
            row
            | {
                "number": number,
                "name": row["name"] if number < len(complete) else "",
                "config": config.to_json(),
                "config_id": config.id,
                "se_blocks": config.block_count,
                "parameter_overhead": added / backbone_parameters(config.backbone),
                "counted_parameters": added,
                "tied_with": pd.NA,
            }
        )
    table = pd.DataFrame(rows).astype(complete.dtypes)
    ordered = table.sort_values("parameter_overhead")
    best = ordered["accuracy"].cummax()
    table["on_front"] = ordered["accuracy"].eq(best) & best.diff().fillna(1).gt(0)
    history = tuple(float(value) for value in np.linspace(0.1, 0.4, count))
    return render_report(table, replace(run, picks=pick_trials(table), hypervolume_history=history))


@contextmanager
def browser(width: int) -> Iterator[str]:
    """Run headless Chromium; yield the address at which it opens and lists pages."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--remote-debugging-port=0", f"--window-size={width},900"]
        command = [shutil.which("chromium") or "chromium", *options, f"--user-data-dir={profile}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = Path(profile, "DevToolsActivePort")
            while not (port.exists() and port.read_text()):
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        finally:
            process.terminate()
            process.wait()


def open_page(address: str, file: Path) -> tuple[float, float]:
    """Return the seconds from navigation until the first figure is drawn, and all that are visible at first."""
    page = json.load(urlopen(Request(f"{address}/new?{file.as_uri()}", method="PUT")))
    while True:
        time.sleep(0.2)
        (title,) = (one["title"] for one in json.load(urlopen(f"{address}/list")) if one["id"] == page["id"])
        if title.startswith("drawn "):
            urlopen(f"{address}/close/{page['id']}").close()
            first, last = map(float, title.split()[1:])
            return first / 1000, last / 1000


if __name__ == "__main__":
    main()
