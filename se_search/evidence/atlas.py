"""The atlas: what SE costs in every architecture of timm, without PyTorch; ``benchmarks/atlas.py`` makes it."""

import functools
import gzip
import json
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any

RATIOS = (4, 8, 16, 32)
"""Reduction ratios of the costs in the atlas."""

_FILE = "atlas.json.gz"


@dataclass(frozen=True)
class SiteGroupCosts:
    """Costs of SE at all sites of a stage and position.

    Attributes:
        stage: Number of the stage; the stem is 1.
        position: The position.
        sites: Number of sites.
        squares: Sum of the squared channels: the formula is 2/r of it.
        parameters: Counted parameters, with biases and rounded widths, for each of :data:`RATIOS`.
        flops: Counted multiply-additions, likewise.
    """

    stage: int
    position: str
    sites: int
    squares: int
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
        sites: Costs of SE by stage and position.
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


@dataclass(frozen=True)
class Atlas:
    """Costs of SE in the architectures of one version of timm.

    Attributes:
        timm: The version.
        names: All architectures of that version, also those without costs.
    """

    timm: str
    names: frozenset[str]
    rows: dict[str, dict[str, Any]]

    def costs(self, name: str) -> ArchitectureCosts | None:
        """Return the costs of an architecture; ``None`` if they are not known."""
        row = self.rows.get(name)
        if row is None:
            return None
        attention = row.get("attention", {})
        return ArchitectureCosts(
            row["family"],
            row["parameters"],
            row["flops"],
            tuple(row["input_size"]),
            tuple(
                SiteGroupCosts(**one | {"parameters": tuple(one["parameters"]), "flops": tuple(one["flops"])})
                for one in row["sites"]
            ),
            attention.get("sites", 0),
            attention.get("parameters", 0),
            attention.get("flops", 0),
        )


@functools.cache
def atlas() -> Atlas:
    """Return the atlas of this package."""
    content = json.loads(gzip.decompress(resources.files(__package__).joinpath(_FILE).read_bytes()))
    rows = content["architectures"]
    return Atlas(
        content["timm"],
        frozenset(rows),
        {name: row for name, row in rows.items() if row is not None},
    )


def known_costs(backbone: str) -> ArchitectureCosts | None:
    """Return the costs of a backbone if the atlas has them for the installed version of timm."""
    if metadata.version("timm") != atlas().timm:
        return None
    return atlas().costs(backbone.partition(".")[0])
