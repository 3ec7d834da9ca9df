"""What SE costs in every architecture of timm: the atlas that the package ships.

    python benchmarks/atlas.py costs --out atlas                 # all of the installed timm, on the meta device
    python benchmarks/atlas.py costs --out atlas --shard 2/4     # the second of four machines
    python benchmarks/atlas.py costs --out atlas --seconds 240   # stop after this time; the same command resumes
    python benchmarks/atlas.py costs --out atlas 'resnet*'       # these only
    python benchmarks/atlas.py latency --out atlas               # one to three members of each family, on this machine
    python benchmarks/atlas.py pack --out atlas                  # the costs of all shards, to se_search/evidence/

Each architecture is one line of ``OUT/costs-K-of-N.jsonl`` or ``OUT/latency-K-of-N.jsonl``. A line that is there is not
computed again, whatever shard wrote it, so the files of several machines can be put into one folder.

Costs are those at timm's input size. For each stage and position: the number of sites, the sum of their squared
channels (the formula is 2/r of it), and for r = 4, 8, 16, 32 the counted parameters (biases, widths rounded to 8) and
multiply-additions. For the backbone's own attention also the parameters and multiply-additions that removing it saves.

Latency is that of uniform r=16, of each stage alone and of r=16 without the last stage, over that of the bare backbone,
at timm's input size, eager and compiled, at batch 1 and 8. A measurement is one row with its interval and conditions.
"""

import argparse
import gzip
import json
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import timm
import torch

from se_search import SEConfig, measure_latency
from se_search.api.latency import input_size
from se_search.deployment.deployment import Deployment
from se_search.errors import SeSearchError
from se_search.evidence.atlas import RATIOS
from se_search.network.attention.se import PlacedSE
from se_search.network.insertion import create_model
from se_search.network.overhead import SiteCosts, backbone_costs
from se_search.network.sites import Site

PACKED = Path(__file__).parents[1] / "se_search" / "evidence" / "atlas.json.gz"
MEMBERS = 3
"""Most architectures of a family whose latency is measured."""

Row = dict[str, Any]


def families() -> dict[str, str]:
    """Return the family of every architecture: the module of timm that defines it."""
    modules = set(timm.list_modules()) - {"registry"}  # registered by this package
    return {name: family for family in modules for name in timm.list_models(module=family)}


def costs(name: str, family: str) -> Row:
    """Return the costs of SE in one architecture."""
    found = backbone_costs(name)
    row: Row = {
        "name": name,
        "family": family,
        "parameters": found.parameters,
        "flops": found.flops,
        "input_size": list(found.input_size),
    }
    groups: dict[tuple[int, str], list[tuple[Site, SiteCosts]]] = {}
    for site, cost in found.sites.items():
        groups.setdefault((site.stage, site.position), []).append((site, cost))
    row["sites"] = [group_costs(group, sites) for group, sites in sorted(groups.items())]
    own = [cost for site, cost in found.sites.items() if site.position == "existing"]
    if own:
        row["attention"] = {
            "sites": len(own),
            "parameters": sum(cost.attention_parameters for cost in own),
            "flops": sum(cost.attention_flops for cost in own),
        }
    return row


def group_costs(group: tuple[int, str], sites: Sequence[tuple[Site, SiteCosts]]) -> Row:
    """Return the costs of SE at all sites of a stage and position."""
    stage, position = group
    placed = {ratio: [(PlacedSE(site, ratio), cost) for site, cost in sites] for ratio in RATIOS}
    return {
        "stage": stage,
        "position": position,
        "sites": len(sites),
        "squares": sum(site.channels**2 for site, _ in sites),
        "parameters": [sum(block.parameters for block, _ in blocks) for blocks in placed.values()],
        "flops": [sum(block.flops(cost.elements) for block, cost in blocks) for blocks in placed.values()],
    }


def chosen_for_latency(known: dict[str, str], folder: Path) -> dict[str, str]:
    """Return the smallest, the middle and the largest member of each family, by the parameters of the costs."""
    parameters = {row["name"]: row["parameters"] for row in rows_of(folder, "costs") if "parameters" in row}
    chosen = {}
    for family in sorted(set(known.values())):
        members = sorted(
            (name for name, one in known.items() if one == family and name in parameters), key=parameters.get
        )
        picked = (
            {members[round(index * (len(members) - 1) / (MEMBERS - 1))] for index in range(MEMBERS)} if members else ()
        )
        chosen |= dict.fromkeys(sorted(picked), family)
    return chosen


def latency(name: str, family: str) -> Row:
    """Return measured latency ratios of one architecture on this machine."""
    uniform = SEConfig.uniform(name, 16, position="default")
    stages = sorted({site.stage for site in uniform.sites})
    configs = {"uniform r=16": uniform}
    configs |= {
        f"stage {stage} only": SEConfig.uniform(name, 16, stages=[stage], position="default") for stage in stages
    }
    configs |= {"without the last stage": uniform.without_stage(stages[-1])} if len(stages) > 1 else {}
    measured = []
    for runtime in ("eager", "compile"):
        for batch in (1, 8):
            deployment = Deployment(runtime=runtime, batch=batch, size=input_size(name))
            for label, config in configs.items():
                try:
                    ratio = measure_latency(create_model(config), create_model(SEConfig(name)), deployment=deployment)
                except SeSearchError as error:
                    measured.append({"configuration": label, "runtime": runtime, "batch": batch, "reason": str(error)})
                    continue
                values = ratio.to_columns() | {"conditions": ratio.conditions.to_dict()}
                measured.append({"configuration": label, "config": config.to_dict()} | values)
    return {"name": name, "family": family, "date": date.today().isoformat(), "measured": measured}


def rows_of(folder: Path, what: str) -> Iterator[Row]:
    """Yield the rows of all shards; a line that a killed run left incomplete is not one."""
    for file in sorted(folder.glob(f"{what}-*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def write_rows(make: Callable[[str, str], Row], wanted: dict[str, str], what: str, options: argparse.Namespace) -> None:
    """Append the missing rows of a shard until the time is over."""
    shard, shards = options.shard
    names = sorted(wanted)[shard - 1 :: shards]
    options.out.mkdir(parents=True, exist_ok=True)
    done = {row["name"] for row in rows_of(options.out, what)}
    missing = [name for name in names if name not in done]
    start = time.perf_counter()
    file = options.out / f"{what}-{shard}-of-{shards}.jsonl"
    if file.exists() and not file.read_bytes().endswith(b"\n"):
        with file.open("a", encoding="utf-8") as stream:
            stream.write("\n")
    for number, name in enumerate(missing):
        if time.perf_counter() - start > options.seconds:
            print(f"{len(missing) - number} of {len(names)} are missing: run the same command again")
            return
        before = time.perf_counter()
        try:
            row = make(name, wanted[name])
        except Exception as error:  # a network that cannot be counted is a result
            row = {
                "name": name,
                "family": wanted[name],
                "reason": f"{type(error).__name__}: {error}".partition("\n")[0],
            }
        row |= {"seconds": round(time.perf_counter() - before, 2)}
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
    print(f"all {len(names)} of this shard are done")


def pack(folder: Path, packed: Path) -> None:
    """Write the costs of all shards as one compressed file; an architecture without costs has ``null``."""
    rows: dict[str, Row | None] = dict.fromkeys(sorted(families()))
    seconds = 0.0
    for row in rows_of(folder, "costs"):
        seconds += row.pop("seconds")
        if "reason" in row:
            print(f"{row['name']}: {row['reason']}")
        else:
            rows[row.pop("name")] = row
    content = {"timm": timm.__version__, "architectures": rows}
    text = json.dumps(content, separators=(",", ":"))
    packed.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    missing = sum(row is None for row in rows.values())
    print(f"{len(rows)} architectures, {missing} without costs; {packed.stat().st_size:,} bytes; {seconds:.0f} s")


def _shard(text: str) -> tuple[int, int]:
    shard, shards = map(int, text.split("/"))
    if not 1 <= shard <= shards:
        raise argparse.ArgumentTypeError(f"{text} is not a shard, such as 2/4")
    return shard, shards


def main() -> None:
    """Compute the part of the atlas that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["costs", "latency", "pack"])
    parser.add_argument("names", nargs="*", default=["*"], help="architectures, with wildcards; all by default")
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="K/N", help="the K-th of N machines")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    options = parser.parse_intermixed_args()
    known = families()
    named = {name: known[name] for pattern in options.names for name in timm.list_models(pattern) if name in known}
    if options.part == "pack":
        pack(options.out, PACKED)
    elif options.part == "costs":
        torch.set_num_threads(1)
        write_rows(costs, named, "costs", options)
    else:
        write_rows(latency, chosen_for_latency(named, options.out), "latency", options)


if __name__ == "__main__":
    main()
