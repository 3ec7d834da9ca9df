"""A configuration in words, as squares for its blocks, and as the cells of a drawing."""

from collections.abc import Iterable, Sequence
from typing import Any

from ..results.record import SiteRecord
from ..results.table import read_config
from ..words import counted
from .style import SHADES

_SQUARES_IN_A_ROW = 24


def describe_stages(config: str, sites: Sequence[SiteRecord]) -> str:
    """Say in a few words which stages have blocks, of which options and where.

    Args:
        config: A configuration's JSON.
        sites: Every site of the space.
    """
    parts = []
    for row in draw_configuration(config, sites):
        used = [cell for cell in row["cells"] if cell["label"]]
        if used:
            kinds = ", ".join(dict.fromkeys(cell["label"] for cell in used))
            parts.append(f"stage {row['stage']}: {counted(len(used), 'block')}, {kinds}")
    return "; ".join(parts) or "no SE"


def draw_configuration(config: str, sites: Sequence[SiteRecord]) -> list[dict[str, Any]]:
    """Return what to draw of a configuration: one row for each stage, one cell for each block.

    Args:
        config: A configuration's JSON.
        sites: Every site of the space, in forward order.

    Returns:
        Rows of ``stage``, ``label`` (its options and, where it is not the usual one, their position) and ``cells``, one
        for each block; a cell has ``block``, ``title``, ``label``, ``option`` and ``rank``
        (:class:`~se_search.network.attention.kind.PlacedAttention`; ``None``: no block of the search),
        ``kept`` (the backbone's own attention stays, alone or beside a new block) and ``position``.
    """
    read = read_config(config)
    placed = {(one.site.block, one.site.position): one for one in read.placed}
    removed = {(site.block, site.position) for site in read.removed}
    rows: dict[int, dict[str, dict[str, Any]]] = {}
    for site in sites:
        key = site.block, site.position
        cell = rows.setdefault(site.stage, {}).setdefault(site.block, _bare_cell(site))
        if key in placed:
            one = placed[key]
            cell |= {"option": one.label, "rank": one.rank, "position": site.position}
            cell["labels"].insert(0, f"{one.label}{_where(site)}")
            cell["kinds"].insert(0, ", ".join(filter(None, (one.label, one.gate, site.position))))
        elif site.position == "existing" and key not in removed:
            cell["kept"] = True
            if cell["rank"] is None:
                cell["position"] = "existing"
            cell["labels"].append("kept")
            cell["kinds"].append("kept as in the backbone")
    drawn = []
    for stage, cells in rows.items():
        finished = [_finish_cell(cell) for cell in cells.values()]
        used = sorted({(not cell["rank"], cell["rank"] or 0, cell["label"]) for cell in finished if cell["label"]})
        label = ", ".join(label for _, _, label in used) or "–"
        drawn.append({"stage": stage, "label": label, "cells": finished})
    return drawn


def shade(rank: int) -> str:
    """Return the colour of a block of some rank on a light page: the more parameters, the darker."""
    return SHADES[min(max(rank.bit_length() - 1, 0), len(SHADES) - 1)]


def _bare_cell(site: SiteRecord) -> dict[str, Any]:
    return {
        "block": site.block,
        "channels": site.channels,
        "position": site.position,
        "option": None,
        "rank": None,
        "kept": False,
        "labels": [],
        "kinds": [],
    }


def _finish_cell(cell: dict[str, Any]) -> dict[str, Any]:
    kind = "; ".join(cell["kinds"]) or "no SE"
    return {
        "block": cell["block"],
        "title": f"{cell['block']} ({cell['channels']} channels): {kind}",
        "label": " + ".join(cell["labels"]),
        "option": cell["option"],
        "rank": cell["rank"],
        "kept": cell["kept"],
        "position": cell["position"],
    }


def _where(site: SiteRecord) -> str:
    return "" if site.position in ("standard", "existing") else f" {site.position}"


def draw_squares(cells: list[dict[str, Any]]) -> str:
    """Draw a stage's blocks as squares; those of one colour that stand together share a tag."""
    kinds = [(shade(cell["rank"]), "■") if cell["rank"] else ("", "▨" if cell["kept"] else "□") for cell in cells]
    lines = [kinds[start : start + _SQUARES_IN_A_ROW] for start in range(0, len(kinds), _SQUARES_IN_A_ROW)]
    return "<br>".join("".join(_span(*run) for run in _runs(line)) for line in lines)


def _runs(kinds: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    runs: list[tuple[str, str]] = []
    for colour, square in kinds:
        if runs and runs[-1][0] == colour:
            runs[-1] = (colour, runs[-1][1] + square)
        else:
            runs.append((colour, square))
    return runs


def _span(colour: str, squares: str) -> str:
    return f'<span style="color:{colour}">{squares}</span>' if colour else squares
