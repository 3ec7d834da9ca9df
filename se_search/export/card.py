"""The model card of an exported network: what it is, what it is worth, how its weights were made."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from .. import __version__
from ..errors import BackboneError
from ..markdown import escape_code, escape_text
from ..network.config import PlacedSE, SEConfig
from ..network.overhead import parameter_overhead
from ..network.sites import Site, default_position, find_sites
from ..words import counted, percent

_NONE, _KEPT, _REMOVED = "·", "o", "x"


@dataclass(frozen=True)
class Result:
    """A measured value as the card shows it.

    Attributes:
        name: What was measured.
        value: The value with its interval.
        conditions: What it was measured on.
    """

    name: str
    value: str
    conditions: str


@dataclass(frozen=True)
class Origin:
    """Where the weights of a network come from.

    Attributes:
        weights: How they were made, in a sentence.
        license: Licence of published weights that they started from, if there were any and it is known.
        results: What was measured of them.
    """

    weights: str
    license: str | None = None
    results: tuple[Result, ...] = ()


@dataclass(frozen=True)
class Files:
    """What a folder holds besides ``config.json`` and ``model.safetensors``, and how it is loaded.

    Attributes:
        source: What ``timm.create_model`` is given, such as ``"local-dir:exported"``.
        twin: timm's own architecture that is the same network, if there is one.
        plain: Whether ``config.json`` names that architecture.
        others: Names of the other files.
        formats: Names of the folders that plugins have written.
        optimized: Whether those for other runtimes are of the network optimized for inference.
    """

    source: str
    twin: str | None
    plain: bool
    others: tuple[str, ...]
    formats: tuple[str, ...]
    optimized: bool


def unknown_origin(model: Any, description: str) -> Origin:
    """Return what is known of the weights of a network that a user has made.

    Args:
        model: The network.
        description: What the user says the weights are.
    """
    published: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    said = description or "How they were made is not known: nothing was said when the folder was written."
    if not published.get("tag"):
        return Origin(said)
    name = f"{published.get('architecture')}.{published['tag']}"
    licence = published.get("license") or "not known to timm"
    return Origin(
        f"{said.rstrip('.')}. If they started from timm's published weights {name}, the licence of those ({licence}) "
        "holds for them too."
    )


def render_card(
    config: SEConfig,
    origin: Origin,
    files: Files,
    title: str,
    input_config: Mapping[str, Any],
    label_names: Sequence[str] | None = None,
) -> str:
    """Return the model card in Markdown, with metadata for model hubs at its top.

    Args:
        config: The network.
        origin: Where its weights come from.
        files: What the folder holds.
        title: The card's title.
        input_config: ``pretrained_cfg`` as written: input size, mean, std, interpolation and number of classes.
        label_names: Names of the classes.
    """
    front = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "squeeze-and-excitation", "se-search"],
    }
    if origin.license:
        front["license"] = origin.license
    environment = Environment(
        loader=PackageLoader("se_search.export", ""),
        autoescape=False,  # noqa: S701  # Markdown, not HTML: whatever comes from outside goes through text, code or python
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": escape_text, "code": escape_code, "python": _python_string, "percent": percent}
    return environment.get_template("card.md.jinja").render(
        front_matter=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        title=title,
        config=config,
        drawing=draw_configuration(config),
        overhead=parameter_overhead(config),
        origin=origin,
        files=files,
        data=input_config,
        label_names=label_names,
        versions={
            "se-search": __version__,
            "timm": timm.__version__,
            "torch": torch.__version__,
            "safetensors": metadata.version("safetensors"),
            "Python": platform.python_version(),
        },
    )


def draw_configuration(config: SEConfig) -> str:
    """Draw a configuration as text: a line for each stage, a letter for each block, and what the letters mean."""
    here: dict[str, list[str]] = {}
    letters: dict[PlacedSE, str] = {}
    for placed in config.placed:
        kind = _kind(placed)
        here.setdefault(placed.site.block, []).append(letters.setdefault(kind, _letter(len(letters))))
    for site in config.removed:
        here.setdefault(site.block, []).append(_REMOVED)
    sites = _drawn_sites(config)
    for site in sites:
        if site.position == "existing" and site not in config.sites:
            here.setdefault(site.block, []).append(_KEPT)
    blocks = {site.block: site.stage for site in sites}
    cells = {block: "+".join(here.get(block, [_NONE])) for block in blocks}
    width = max(map(len, cells.values()), default=1)
    stages = sorted(set(blocks.values()))
    lines = [
        f"stage {stage:<2} "
        + " ".join(f"{cells[block]:<{width}}" for block, its_stage in blocks.items() if its_stage == stage).rstrip()
        for stage in stages
    ]
    used = {part for cell in cells.values() for part in cell.split("+")}
    legend = [f"{letter}  {_describe(kind)}" for kind, letter in letters.items()]
    marks = {
        _KEPT: "the backbone's own attention, as timm has it",
        _REMOVED: "the backbone's own attention taken out",
        _NONE: "no SE block",
    }
    return "\n".join([*lines, "", *legend, *(f"{mark}  {meaning}" for mark, meaning in marks.items() if mark in used)])


def _python_string(text: object) -> str:
    return json.dumps(str(text))


def _drawn_sites(config: SEConfig) -> list[Site]:
    """Sites of the positions that the configuration uses, and those of own attention, in forward order."""
    try:
        positions = {site.position for site in config.sites} or {default_position(config.backbone)}
        return [site for site in find_sites(config.backbone) if site.position in positions | {"existing"}]
    except BackboneError:
        return list(config.sites)


def _kind(placed: PlacedSE) -> PlacedSE:
    """The block without what depends on where it stands, but for the position."""
    return replace(placed, site=Site("", 1, placed.site.position, 1, ""))


def _describe(kind: PlacedSE) -> str:
    words = [f"r={kind.ratio}", f"gate {kind.gate}", f"position {kind.site.position}"]
    words += [] if kind.bias else ["no biases"]
    words += [] if kind.rounding == 8 else [f"hidden width a multiple of {kind.rounding}"]
    words += ["started without an effect"] if kind.start == "identity" else []
    return ", ".join(words)


def _letter(index: int) -> str:
    before, here = divmod(index, 26)
    return (_letter(before - 1) if before else "") + chr(ord("A") + here)


def title_of(config: SEConfig, folder: Path) -> str:
    """Return the card's title."""
    return f"{folder.absolute().name}: {config.backbone} with {counted(config.block_count, 'SE block')}"
