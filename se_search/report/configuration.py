"""A configuration in words, as squares for its blocks, and as the cells of a drawing."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ..results.record import SiteRecord
from ..results.table import SE, read_config
from ..words import counted
from .style import SHADES

_SQUARES_IN_A_ROW = 24


@dataclass(frozen=True)
class BlockDrawing:
    """A block of the backbone, with the attention that it has in a configuration.

    Attributes:
        block: Name of the block.
        title: Description of the block.
        label: Options of its attention; empty without attention.
        option: Option of its new attention; empty without one.
        rank: Of the new attention (:class:`~se_search.network.attention.kind.PlacedAttention`); ``None`` without one.
        kept: Whether the backbone's own attention stays, alone or beside a new block.
        position: Position of the attention.
    """

    block: str
    title: str
    label: str
    option: str
    rank: int | None
    kept: bool
    position: str


@dataclass(frozen=True)
class StageDrawing:
    """The blocks of a stage; ``label`` lists their options and unusual positions."""

    stage: int
    label: str
    cells: tuple[BlockDrawing, ...]


def describe_stages(config: str, sites: Sequence[SiteRecord], attention: str = SE) -> str:
    """Describe which stages have attention, with its options and positions.

    Args:
        config: A configuration's JSON.
        sites: Every site of the space.
        attention: The word for the kinds of attention that were searched.
    """
    parts = []
    for row in draw_configuration(config, sites, attention):
        labels = [cell.label for cell in row.cells if cell.label]
        if labels:
            parts.append(f"stage {row.stage}: {counted(len(labels), 'block')}, {', '.join(dict.fromkeys(labels))}")
    return "; ".join(parts) or f"no {attention}"


def draw_configuration(config: str, sites: Sequence[SiteRecord], attention: str = SE) -> tuple[StageDrawing, ...]:
    """Return what to draw of a configuration: one row for each stage, one cell for each block.

    Args:
        config: A configuration's JSON.
        sites: Every site of the space, in forward order.
        attention: The word for the kinds of attention that were searched.
    """
    return _draw(config, tuple(sites), attention)


@functools.lru_cache(maxsize=4096)
def _draw(config: str, sites: tuple[SiteRecord, ...], attention: str) -> tuple[StageDrawing, ...]:
    """Return the same; a report shows each configuration in five places."""
    read = read_config(config)
    placed = {(one.site.block, one.site.position): one for one in read.placed}
    removed = {(site.block, site.position) for site in read.removed}
    constant = {(site.block, site.position) for site in read.constant}
    stages: dict[int, dict[str, list[SiteRecord]]] = {}
    for site in sites:
        stages.setdefault(site.stage, {}).setdefault(site.block, []).append(site)

    def draw_block(own: Sequence[SiteRecord]) -> BlockDrawing:
        option, rank, kept, position = "", None, False, own[0].position
        labels: list[str] = []
        kinds: list[str] = []
        for site in own:
            key = site.block, site.position
            if key in placed:
                one = placed[key]
                option, rank, position = one.label, one.rank, site.position
                usual = site.position in ("standard", "existing")
                labels.insert(0, one.label if usual else f"{one.label} {site.position}")
                kinds.insert(0, ", ".join(filter(None, (one.label, one.gate, site.position))))
            elif key in constant:
                labels.append("constant")
                kinds.append("constant, folded into the weights")
            elif site.position == "existing" and key not in removed:
                kept, position = True, position if option else "existing"
                labels.append("kept")
                kinds.append("kept as in the backbone")
        title = f"{own[0].block} ({own[0].channels} channels): {'; '.join(kinds) or f'no {attention}'}"
        return BlockDrawing(own[0].block, title, " + ".join(labels), option, rank, kept, position)

    drawn = []
    for stage, blocks in stages.items():
        cells = tuple(map(draw_block, blocks.values()))
        used = sorted({(not cell.rank, cell.rank or 0, cell.label) for cell in cells if cell.label})
        drawn.append(StageDrawing(stage, ", ".join(label for _, _, label in used) or "–", cells))
    return tuple(drawn)


def shade(rank: int) -> str:
    """Return the colour of a block of some rank on a light page: the more parameters, the darker."""
    return SHADES[min(max(rank.bit_length() - 1, 0), len(SHADES) - 1)]


def draw_squares(cells: Sequence[BlockDrawing]) -> str:
    """Draw a stage's blocks as squares; adjacent ones of one colour share a tag."""
    squares = [(shade(cell.rank), "■") if cell.rank else ("", "▨" if cell.kept else "□") for cell in cells]
    lines = []
    for start in range(0, len(squares), _SQUARES_IN_A_ROW):
        line = ""
        for colour, run in groupby(squares[start : start + _SQUARES_IN_A_ROW], key=lambda square: square[0]):
            text = "".join(square for _, square in run)
            line += f'<span style="color:{colour}">{text}</span>' if colour else text
        lines.append(line)
    return "<br>".join(lines)
