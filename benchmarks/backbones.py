"""Complete searches on ten kinds of backbones with the embedded data.

    python benchmarks/backbones.py --out backbones.json

Each search must finish, and its front must contain two different costs or explain why not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

BACKBONES = (
    "convnext_atto",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "regnetx_002",
    "vit_tiny_patch16_224",
    "vgg11",
    "densenet121",
    "repvgg_a0",
    "mobilenetv2_100",
    "swin_tiny_patch4_window7_224",
)
BUDGET = 8


def search(backbone: str, folder: Path) -> dict[str, object]:
    """Run one search and return a summary of its front."""
    command = ["run", "--backbone", backbone, "--budget", str(BUDGET), "--space", "stages", "--out", str(folder)]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "se_search", *command], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{backbone}: exit code {done.returncode}\n{done.stderr}")
    front = pd.read_csv(folder / "pareto.csv")
    trials = pd.read_csv(folder / "trials.csv")
    run = json.loads((folder / "run.json").read_text())
    return {
        "backbone": backbone,
        "seconds": round(seconds),
        "complete": int((trials["state"] == "complete").sum()),
        "front": len(front),
        "costs": int(front["counted_parameters"].nunique()),
        "overheads": sorted({round(100 * value, 2) for value in front["parameter_overhead"]}),
        "accuracies": sorted({round(100 * value, 1) for value in front["accuracy"]}),
        "said": run["cautions"],
    }


def main() -> None:
    """Run all searches and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", default=BACKBONES, help="architectures; the ten by default")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    rows = []
    for backbone in options.backbones:
        with tempfile.TemporaryDirectory() as folder:
            row = search(backbone, Path(folder, "run"))
        rows.append(row)
        print(
            f"{backbone:<30} {row['seconds']:>4} s  {row['complete']} complete  {row['front']} on the front  "
            f"{row['costs']} costs: {row['overheads']} %  accuracy {row['accuracies']} %",
            flush=True,
        )
        if row["costs"] == 1:
            print(f"  {' '.join(row['said'])}")
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
