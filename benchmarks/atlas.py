"""What SE costs in every architecture of timm: the atlas that the package ships.

    python benchmarks/atlas.py costs --out atlas                 # all of the installed timm, on the meta device
    python benchmarks/atlas.py costs --out atlas --shard 2/4     # the second of four machines
    python benchmarks/atlas.py costs --out atlas --seconds 240   # stop after this time; the same command resumes
    python benchmarks/atlas.py costs --out atlas 'resnet*'       # these only
    python benchmarks/atlas.py latency --out atlas               # one to three members of each family, on this machine
    python benchmarks/atlas.py pack --out atlas                  # the rows of all shards, to se_search/evidence/

Rows are lines of ``OUT/costs-K-of-N.jsonl`` and ``OUT/latency-K-of-N.jsonl``. What is there is not computed again,
whatever shard wrote it, so the files of several machines can be put into one folder.

Costs are those at timm's input size. For each stage and position: the number of sites, the sum of their squared
channels (the formula is 2/r of it), and for r = 4, 8, 16, 32 the counted parameters (biases, widths rounded to 8) and
multiply-additions. For the backbone's own attention also the parameters and multiply-additions that removing it saves.

Latency is that of uniform r=16, of each stage alone and of r=16 without the last stage, over that of the bare backbone,
at timm's input size. Each is measured for about a second, up to four times while an interval is wide, and the additive
model of the search pools the measurements of an architecture. The packed costs say which architectures there are. Eager
at batch 1 comes first for all families, then batch 8, then compiled, and then a second and a third member of each;
within these, small networks come first.
Rows have the form of ``se-search latency --json``.
"""

import argparse
import gzip
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import timm
import torch

from se_search import SEConfig
from se_search.api.latency import input_size, latency_row
from se_search.deployment.deployment import Deployment
from se_search.evidence.atlas import atlas
from se_search.evidence.counted import count_costs
from se_search.evidence.latencies import UNIFORM, LatencyRow
from se_search.latency.additive import MeasuredLatency
from se_search.latency.meter import LatencyMeter, Ratio
from se_search.latency.pooled import pool_latencies
from se_search.latency.stopping import LOOK
from se_search.network.insertion import create_model

EVIDENCE = Path(__file__).parents[1] / "se_search" / "evidence"

MOST_PARAMETERS = 30_000_000
"""Of an architecture whose latency is measured."""

RUNS = (("eager", 1), ("eager", 8), ("compile", 1), ("compile", 8))
"""Runtimes and batch sizes, in order."""

LEAST_LOOKS = 4
"""Measurements of an architecture, of about a second each."""

WIDEST, MOST_ROUNDS = 0.1, 4
"""Half-width of a pooled interval, as a share, above which every configuration is measured again, and how often."""

KEYS = {"costs": ("name", "family"), "latency": ("backbone", "runtime", "batch")}
"""What the rows of a part are of."""

Row = dict[str, Any]


def families() -> dict[str, str]:
    """Return the family of every architecture: the module of timm that defines it."""
    modules = set(timm.list_modules()) - {"registry"}  # registered by this package
    return {name: family for family in modules for name in timm.list_models(module=family)}


def costs(name: str, family: str) -> Row:
    """Return the costs of SE in one architecture, as the atlas has them."""
    row = {"name": name} | asdict(count_costs(name, family))
    own = {key: row.pop(f"attention_{key}") for key in ("sites", "parameters", "flops")}
    return row | ({"attention": own} if own["sites"] else {})


def cells(known: dict[str, str]) -> Iterator[tuple[str, str, int]]:
    """Yield architectures with a runtime and a batch size, in the order in which they are measured.

    Architectures without attention of their own stand for their families where there are such.
    """
    families_of: dict[str, list[str]] = {}
    costs_of = {name: found for name in sorted(known) if (found := atlas().costs(name))}
    for name, found in costs_of.items():
        if found.parameters <= MOST_PARAMETERS and not name.startswith("test_"):
            families_of.setdefault(found.family, []).append(name)
    members: tuple[list[str], ...] = ([], [], [])
    for names in families_of.values():
        bare = [name for name in names if not costs_of[name].attention_sites] or names
        bare.sort(key=lambda name: costs_of[name].parameters)
        for rank, place in zip(members, dict.fromkeys((0, len(bare) - 1, len(bare) // 2)), strict=False):
            rank.append(bare[place])
    for rank in members:
        rank.sort(key=lambda name: costs_of[name].flops)
        for runtime, batch in RUNS:
            yield from ((name, runtime, batch) for name in rank)


def named_configs(name: str) -> dict[str, SEConfig]:
    """Return the configurations whose latency is measured."""
    uniform = SEConfig.uniform(name, 16, position="default")
    configs = {UNIFORM: uniform}
    stages = sorted({site.stage for site in uniform.sites})
    if len(stages) > 1:
        for stage in stages:
            configs[f"stage {stage} only"] = SEConfig.uniform(name, 16, stages=[stage], position="default")
        configs["without the last stage"] = uniform.without_stage(stages[-1])
    return configs


def latency(name: str, runtime: str, batch: int) -> Iterator[Row]:
    """Yield the rows of one architecture in one way to run it on this machine."""
    deployment = Deployment(runtime=runtime, batch=batch, size=input_size(name))
    configs = named_configs(name)
    meter = LatencyMeter(create_model(SEConfig(name)), deployment)
    looks: dict[SEConfig, list[Ratio]] = {config: [] for config in configs.values()}
    for rounds in itertools.count(1):
        for config, ratios in looks.items():
            ratios.append(meter.measure(create_model(config), LOOK))
        pooled = pool_latencies([MeasuredLatency(config, one) for config, ratios in looks.items() for one in ratios])
        predicted = [pooled.predict(config) for config in configs.values()]
        widest = max((one.high - one.low) / 2 / one.value for one in predicted)
        if rounds == MOST_ROUNDS or (rounds * len(looks) >= LEAST_LOOKS and widest <= WIDEST):
            break
    for (label, config), ratio_pooled in zip(configs.items(), predicted, strict=True):
        ratio = replace(looks[config][-1], pairs=sum(one.pairs for one in looks[config]))
        yield json.loads(latency_row(label, config, deployment, ratio, ratio_pooled).to_json())


def rows_of(folder: Path, what: str) -> Iterator[Row]:
    """Yield the rows of all shards; a line that a killed run left incomplete is not one."""
    for file in sorted(folder.glob(f"{what}-*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue


def write_rows(
    make: Callable[..., Iterator[Row]], wanted: Iterable[Any], what: str, options: argparse.Namespace
) -> None:
    """Append the missing rows of a shard until the time is over.

    Args:
        make: Makes the rows of a thing that is wanted: of the values of ``KEYS[what]`` in them.
        wanted: The things, in order.
        what: ``"costs"`` or ``"latency"``.
        options: The command line.
    """
    shard, shards = options.shard
    mine = list(wanted)[shard - 1 :: shards]
    options.out.mkdir(parents=True, exist_ok=True)
    keys = KEYS[what]
    done = {tuple(row[key] for key in keys) for row in rows_of(options.out, what)}
    missing = [one for one in mine if one not in done]
    start = time.perf_counter()
    file = options.out / f"{what}-{shard}-of-{shards}.jsonl"
    if file.exists() and not file.read_bytes().endswith(b"\n"):
        with file.open("a", encoding="utf-8") as stream:
            stream.write("\n")
    for number, one in enumerate(missing):
        if time.perf_counter() - start > options.seconds:
            print(f"{len(missing) - number} of {len(mine)} are missing: run the same command again")
            return
        before = time.perf_counter()
        try:
            rows = list(make(*one))
        except Exception as error:  # a network that cannot be counted or run is a result
            rows = [
                dict(zip(keys, one, strict=True)) | {"reason": f"{type(error).__name__}: {error}".partition("\n")[0]}
            ]
        seconds = round(time.perf_counter() - before, 2)
        with file.open("a", encoding="utf-8") as stream:  # all rows or none: a killed run repeats them
            stream.write("".join(json.dumps(row | {"seconds": seconds}) + "\n" for row in rows))
        print(*one, f"{seconds:.1f} s", rows[0].get("reason", ""), flush=True)
    print(f"all {len(mine)} of this shard are done")


def pack(folder: Path) -> None:
    """Write the rows of all shards as compressed files of the package."""
    known = families()
    rows: dict[str, Row] = {name: {"family": known[name], "reason": "not counted yet"} for name in sorted(known)}
    for row in rows_of(folder, "costs"):
        del row["seconds"]
        rows[row.pop("name")] = row
    _write_packed("atlas.json.gz", {"timm": timm.__version__, "architectures": rows})
    for name, row in rows.items():
        if "reason" in row:
            print(f"{name}: {row['reason']}")
    print(f"{len(rows)} architectures, {sum('reason' in row for row in rows.values())} without costs")
    measured = [asdict(LatencyRow.from_dict(row)) for row in rows_of(folder, "latency") if "reason" not in row]
    if measured:
        _write_packed("latencies.json.gz", measured)
        print(f"{len(measured)} latencies in {len({known[row['backbone']] for row in measured})} families")


def _write_packed(name: str, content: Any) -> None:
    file = EVIDENCE / name
    file.write_bytes(gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0))
    print(f"{file.name}: {file.stat().st_size:,} bytes")


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
        pack(options.out)
    elif options.part == "costs":
        torch.set_num_threads(1)
        write_rows(lambda *one: iter([costs(*one)]), sorted(named.items()), "costs", options)
    else:
        write_rows(latency, cells(named), "latency", options)


if __name__ == "__main__":
    main()
