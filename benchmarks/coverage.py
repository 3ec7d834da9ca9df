"""Coverage of timm: discovery of sites in every architecture, and insertion of SE blocks at all of them.

    python benchmarks/coverage.py --jobs 2 --out coverage.json     # every architecture of the installed timm
    python benchmarks/coverage.py resnet18 'convnext*'             # these only

Each architecture is created on the meta device and gets an SE block at every free site of every position at once.
The checks are: the backbone's parameter names and shapes stay, each block runs exactly once per forward pass, and the
formula equals the counted parameters (without biases and rounding, with a ratio that divides all widths). The
backbone's own attention is removed from another copy, whose parameters must decrease by exactly those of the attention.
The smallest member of each family (a timm module), if it has fewer than 30 million parameters, also runs on the CPU
with random weights: after an identity start its outputs must equal the bare backbone's to 1e-5 of the largest.
"""

import argparse
import json
import os
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import timm
import torch
from timm.utils import random_seed
from torch import nn

from se_search import PlacedSE, SEConfig, insert
from se_search.errors import SeSearchError
from se_search.network.backbones import create_on_meta, default_input_size
from se_search.network.insertion import count_parameters
from se_search.network.overhead import added_parameters, formula_by_stage
from se_search.network.sites import find_places

RATIOS = (16, 8, 4, 2, 1)
TOLERANCE = 1e-5
SMALL = 30_000_000


@dataclass
class Coverage:
    """Results for one architecture; ``None`` if a check does not apply or was not made."""

    name: str
    family: str
    parameters: int = 0
    sites: dict[str, int] = field(default_factory=dict)
    names_kept: bool = False
    run_once: bool = False
    formula_counted: bool = False
    thinned: bool | None = None
    difference: float | None = None
    reason: str = ""
    seconds: float = 0.0

    @property
    def inserted(self) -> bool:
        """Whether every site has an SE block that runs once, and the rest is unchanged."""
        return self.names_kept and self.run_once and self.formula_counted and self.thinned is not False


def everywhere(name: str) -> SEConfig:
    """Place an SE block at every site except those of the backbone's own attention."""
    sites = [site for site in find_places(name) if site.position != "existing"]
    ratio = next(ratio for ratio in RATIOS if all(site.channels % ratio == 0 for site in sites))
    return SEConfig(name, tuple(PlacedSE(site, ratio, bias=False, rounding=1) for site in sites))


def tensors(output: object) -> list[torch.Tensor]:
    """Return the tensors of a network's output."""
    return [output] if isinstance(output, torch.Tensor) else [one for part in output for one in tensors(part)]


def runs_of(model: nn.Module, names: set[str], input_size: tuple[int, int, int]) -> Counter[str]:
    """Count the calls of the named modules in one forward pass on the meta device."""
    runs: Counter[str] = Counter()
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: runs.update([name]))
    with torch.no_grad():
        model(torch.empty(2, *input_size, device="meta"))
    return runs


def check(name: str, family: str) -> Coverage:
    """Check one architecture on the meta device."""
    start = time.perf_counter()
    found = Coverage(name, family)
    try:
        bare = create_on_meta(name)
        found.parameters = count_parameters(bare)
        found.sites = dict(Counter(site.position for site in find_places(name)))
        config = everywhere(name)
        model = insert(create_on_meta(name), config)
        shapes = {key: value.shape for key, value in bare.state_dict().items()}
        kept = {key: value.shape for key, value in model.state_dict().items() if key in shapes}
        found.names_kept = kept == shapes
        added = count_parameters(model) - found.parameters
        found.formula_counted = sum(formula_by_stage(config).values()) == added
        known = {key for key, _ in bare.named_modules()}
        new = {key for key, _ in model.named_modules()} - known
        blocks = {key for key in new if key.rpartition(".")[0] not in new}
        runs = runs_of(model, blocks, default_input_size(model))
        found.run_once = len(blocks) == len(config.placed) and all(runs[key] == 1 for key in blocks)
        thinned = SEConfig.without_attention(name)
        if thinned.removed:
            dropped = count_parameters(insert(create_on_meta(name), thinned)) - found.parameters
            own = sum(place.parameters for site, place in find_places(name).items() if site.position == "existing")
            found.thinned = dropped == -own == added_parameters(thinned)
    except SeSearchError as error:
        found.reason = str(error)
    except Exception as error:  # a failing check is a result
        found.reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    found.seconds = time.perf_counter() - start
    return found


def identity_difference(name: str) -> float:
    """Return the largest change of the outputs by blocks with identity start, relative to the largest output."""
    random_seed(0)
    model = timm.create_model(name).eval()
    for parameter in model.parameters():  # many start near zero, which would hide the effect of a branch
        if parameter.dim() <= 1:
            nn.init.uniform_(parameter, 0.2, 0.6)
    images = torch.randn(2, *default_input_size(model))
    with torch.no_grad():
        before = tensors(model(images))
        after = tensors(insert(model, everywhere(name), identity_start=True)(images))
    largest = max(float(one.abs().max()) for one in before)
    return max(float((one - other).abs().max()) for one, other in zip(before, after, strict=True)) / largest


def families() -> dict[str, str]:
    """Return the family of every architecture: the module of timm that defines it."""
    modules = set(timm.list_modules()) - {"registry"}  # registered by this package
    return {name: family for family in modules for name in timm.list_models(module=family)}


def report(results: list[Coverage], seconds: float) -> None:
    """Print a table of families, then the architectures skipped by a check, with the reason."""
    by_family = defaultdict(list)
    for one in results:
        by_family[one.family].append(one)
    columns = ("family", "known", "discovered", "inserted", "names kept", "run once", "formula", "thinned", "identity")
    print(("{:<24}" + "{:>11}" * 7 + "{:>20}").format(*columns))
    for family, members in sorted(by_family.items()):
        counts = (
            len(members),
            sum(bool(one.sites) for one in members),
            sum(one.inserted for one in members),
            sum(one.names_kept for one in members),
            sum(one.run_once for one in members),
            sum(one.formula_counted for one in members),
        )
        thinnable = [one.thinned for one in members if one.thinned is not None]
        thinned = f"{sum(thinnable)}/{len(thinnable)}" if thinnable else "-"
        measured = [one.difference for one in members if one.difference is not None]
        equal = sum(difference <= TOLERANCE for difference in measured)
        identity = f"{equal}/{len(measured)} ({max(measured):.0e})" if measured else "-"
        print(("{:<24}" + "{:>11}" * 7 + "{:>20}").format(family, *counts, thinned, identity))
    print()
    print(f"{len(results)} architectures of timm {timm.__version__} in {seconds:.0f} s")
    print(f"discovered {sum(bool(one.sites) for one in results)}, inserted {sum(one.inserted for one in results)}")
    for position in ("standard", "pre", "post", "identity", "3x3", "existing"):
        print(f"  {position}: {sum(position in one.sites for one in results)}")
    for one in results:
        if not one.inserted or (one.difference or 0) > TOLERANCE:
            failed = ", ".join(
                label
                for label, ok in (("names", one.names_kept), ("runs", one.run_once), ("formula", one.formula_counted))
                if not ok
            )
            print(f"{one.family}/{one.name}: {one.reason or failed or f'differs by {one.difference}'}")


def main() -> None:
    """Check the architectures named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["*"], help="architectures, with wildcards; all by default")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()

    torch.set_num_threads(1)
    known = families()
    names = sorted({name for pattern in options.names for name in timm.list_models(pattern) if name in known})
    start = time.perf_counter()
    with ProcessPoolExecutor(options.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        results = list(pool.map(check, names, [known[name] for name in names], chunksize=4))
        smallest: dict[str, Coverage] = {}
        for one in sorted(results, key=lambda one: one.parameters):
            if one.inserted and one.parameters < SMALL:
                smallest.setdefault(one.family, one)
        for one, difference in zip(
            smallest.values(),
            pool.map(identity_difference, [one.name for one in smallest.values()]),
            strict=True,
        ):
            one.difference = difference
    report(results, time.perf_counter() - start)
    if options.out:
        rows = [asdict(one) | {"inserted": one.inserted} for one in results]
        options.out.write_text(json.dumps({"timm": timm.__version__, "architectures": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
