"""Size and loading time of a report by the number of trials, and of the page of the atlas.

    python benchmarks/report_page.py runs/resnet50-digits --trials 50 1000
    python benchmarks/report_page.py --atlas

The trials are those of a finished run, repeated with random configurations of its space and perturbed values.
Baselines are not repeated, because the figures label them. The page of the atlas is that of `se-search atlas --html`,
with all architectures. Loading is timed in a new window of headless Chromium (Playwright, no GPU), from navigation
until the first figure is drawn and the page responds. The pages are opened in turn.
"""

import argparse
import random
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from playwright.sync_api import Browser, sync_playwright

from se_search.evidence.atlas import architectures
from se_search.network.overhead import added_parameters, backbone_parameters
from se_search.report.atlas_page import write_atlas
from se_search.report.page import render_report
from se_search.results.picks import pick_trials
from se_search.results.record import read_results
from se_search.study.space import SearchSpace
from se_search.trials.folder import read_definition
from se_search.words import counted


def main() -> None:
    """Write the pages, open each several times in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="run folder whose trials are repeated")
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 50, 1000])
    parser.add_argument("--atlas", action="store_true", help="also the page of the atlas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--width", type=int, default=1400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        files: dict[str, Path] = {}
        for count in arguments.trials if arguments.run else ():
            files[counted(count, "trial")] = file = Path(folder, f"{count}.html")
            file.write_text(write_page(arguments.run, count), encoding="utf-8")
        if arguments.atlas:
            files[f"atlas of {len(architectures())} architectures"] = write_atlas(Path(folder, "atlas.html"))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        seconds: dict[str, list[float]] = {name: [] for name in files}
        for _ in range(arguments.repeats):
            for name, file in files.items():
                seconds[name].append(open_page(browser, file, arguments.width))
        browser.close()
        for name, file in files.items():
            print(
                f"{name}: {file.stat().st_size / 1e6:.2f} MB, ready after {statistics.median(seconds[name]):.2f} s "
                f"[{min(seconds[name]):.2f}, {max(seconds[name]):.2f}]"
            )


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


def open_page(browser: Browser, file: Path, width: int) -> float:
    """Return the seconds until a page is usable."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    begun = time.perf_counter()
    page.goto(file.as_uri())
    page.wait_for_selector("#figure-overhead .point, #figure-costs .point", state="attached")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    seconds = time.perf_counter() - begun
    page.close()
    return seconds


if __name__ == "__main__":
    main()
