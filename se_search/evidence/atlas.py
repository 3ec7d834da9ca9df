"""The atlas: what SE costs in every architecture of timm, without PyTorch; ``benchmarks/atlas.py`` makes it."""

import csv
import functools
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import metadata, resources
from typing import Any, TextIO

from ..errors import BackboneError
from ..network.positions import default_among
from ..network.stages import StageSites
from ..words import by

RATIOS = (4, 8, 16, 32)
"""Reduction ratios of the costs in the atlas."""

_FILE = "atlas.json.gz"


@dataclass(frozen=True)
class SiteGroupCosts(StageSites):
    """Costs of SE at all sites of a stage and position.

    Attributes:
        parameters: Counted parameters, with biases and rounded widths, for each of :data:`RATIOS`.
        flops: Counted multiply-additions, likewise.
    """

    parameters: tuple[int, ...]
    flops: tuple[int, ...]


@dataclass(frozen=True)
class ArchitectureCosts:
    """Costs of an architecture at timm's input size.

    Attributes:
        family: The module of timm that defines it.
        parameters: Its parameters.
        flops: Its multiply-additions for one image.
        input_size: ``(channels, height, width)``.
        sites: Costs of SE by stage and position, in forward order.
        attention_sites: Number of sites of its own attention.
        attention_parameters: Parameters that removing this attention saves.
        attention_flops: Multiply-additions that this saves.
    """

    family: str
    parameters: int
    flops: int
    input_size: tuple[int, ...]
    sites: tuple[SiteGroupCosts, ...]
    attention_sites: int
    attention_parameters: int
    attention_flops: int

    def at(self, position: str) -> tuple[SiteGroupCosts, ...]:
        """Return the costs of SE by stage at a position."""
        return tuple(group for group in self.sites if group.position == position)

    @property
    def default_position(self) -> str:
        """The position of SE if none is named, as in a search."""
        return default_among({group.position for group in self.sites})

    def uniform(self, ratio: int, last_stage: bool = True) -> tuple[int, int]:
        """Return parameters and multiply-additions of SE blocks with one ratio at the default position.

        Args:
            ratio: One of :data:`RATIOS`.
            last_stage: Whether the last stage has blocks.
        """
        groups, place = self.at(self.default_position), RATIOS.index(ratio)
        last = max(group.stage for group in groups)
        chosen = [group for group in groups if last_stage or group.stage < last]
        return sum(group.parameters[place] for group in chosen), sum(group.flops[place] for group in chosen)


@dataclass(frozen=True)
class Atlas:
    """Costs of SE in the architectures of one version of timm.

    Attributes:
        timm: The version.
        rows: The row of each architecture: costs, or the reason why there are none.
    """

    timm: str
    rows: dict[str, dict[str, Any]]

    @property
    def names(self) -> frozenset[str]:
        """All architectures, also those without costs."""
        return frozenset(self.rows)

    def reason(self, name: str) -> str:
        """Return why there are no costs of an architecture; empty if there are."""
        return str(self.rows[name].get("reason", ""))

    def costs(self, name: str) -> ArchitectureCosts | None:
        """Return the costs of an architecture; ``None`` if they are not known."""
        row = self.rows.get(name, {"reason": ""})
        if "reason" in row:
            return None
        attention = row.get("attention", {})
        return ArchitectureCosts(
            row["family"],
            row["parameters"],
            row["flops"],
            tuple(row["input_size"]),
            tuple(
                SiteGroupCosts(**group | {name: tuple(group[name]) for name in ("channels", "parameters", "flops")})
                for group in row["sites"]
            ),
            attention.get("sites", 0),
            attention.get("parameters", 0),
            attention.get("flops", 0),
        )


@functools.cache
def atlas() -> Atlas:
    """Return the atlas of this package."""
    content = json.loads(gzip.decompress(resources.files(__package__).joinpath(_FILE).read_bytes()))
    return Atlas(content["timm"], content["architectures"])


def known_costs(backbone: str) -> ArchitectureCosts | None:
    """Return the costs of a backbone if the atlas has them for the installed version of timm."""
    if metadata.version("timm") != atlas().timm:
        return None
    return atlas().costs(backbone.partition(".")[0])


def architectures(pattern: str = "*") -> dict[str, ArchitectureCosts | None]:
    """Return the costs of the architectures whose names match, in order; ``None`` without costs.

    Args:
        pattern: A name, with wildcards as in file names.

    Raises:
        BackboneError: If there is none.
    """
    found = {name: atlas().costs(name) for name in sorted(atlas().rows) if fnmatchcase(name, pattern)}
    if not found:
        raise BackboneError(f"no architecture of timm {atlas().timm} matches {pattern!r}")
    return found


def describe(name: str) -> dict[str, Any]:
    """Return the costs of an architecture by stage and position for JSON, or the reason why there are none."""
    return {"architecture": name} | atlas().rows[name] | {"ratios": RATIOS}


def write_csv(found: Mapping[str, ArchitectureCosts | None], stream: TextIO) -> None:
    """Write a table of costs of SE at the default position."""
    rows = [_table_row(name, costs) for name, costs in found.items()]
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(stream, sorted(columns, key=lambda column: column == "reason"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _table_row(name: str, costs: ArchitectureCosts | None) -> dict[str, Any]:
    row = {"architecture": name, "family": atlas().rows[name]["family"], "reason": atlas().reason(name)}
    if costs is None:
        return row
    parameters = {f"se_parameters_r{ratio}": costs.uniform(ratio)[0] for ratio in RATIOS}
    flops = {f"se_flops_r{ratio}": costs.uniform(ratio)[1] for ratio in RATIOS}
    rest = costs.uniform(16, last_stage=False)
    return row | {
        "parameters": costs.parameters,
        "flops": costs.flops,
        "input_size": by(costs.input_size),
        "position": costs.default_position,
        "sites": sum(group.sites for group in costs.at(costs.default_position)),
        **parameters,
        **flops,
        "se_parameters_r16_without_last_stage": rest[0],
        "se_flops_r16_without_last_stage": rest[1],
        "attention_sites": costs.attention_sites,
        "attention_parameters": costs.attention_parameters,
        "attention_flops": costs.attention_flops,
    }
