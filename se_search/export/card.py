"""The model card of an exported network: its configuration, results, and the origin of its weights."""

import json
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import timm
import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData

from .. import __version__
from ..errors import BackboneError
from ..markdown import escape_code, escape_text
from ..network.attention import DEFAULT_KIND, KINDS
from ..network.attention.kind import PlacedAttention
from ..network.config import SEConfig
from ..network.overhead import parameter_overhead
from ..network.sites import Site, default_position, find_sites
from ..words import percent
from .templates import environment

_NONE, _KEPT, _REMOVED, _CONSTANT = "·", "o", "x", "="


@dataclass(frozen=True)
class Metric:
    """A value of the exported weights for the card's metadata: the Hub's name of the metric, on a dataset's split."""

    type: str
    value: float
    dataset: str
    split: str


@dataclass(frozen=True)
class Result:
    """A measured value with its interval as the card shows it, and its data or device and settings as conditions.

    ``metric`` is the same value for programs, if it is a quality of the exported weights.
    """

    name: str
    value: str
    conditions: str
    metric: Metric | None = None


@dataclass(frozen=True)
class Origin:
    """A sentence on how a network's weights were trained, and measured values of the network.

    ``license`` is that of the published weights that training started from, and ``base_model`` their repository on the
    Hub; ``None`` if there are none or timm does not know it.
    """

    weights: str
    license: str | None = None
    results: tuple[Result, ...] = ()
    base_model: str | None = None


@dataclass(frozen=True)
class Files:
    """The other files of an exported folder, and how to load it.

    ``source`` is the model name for ``timm.create_model``, such as ``"local-dir:exported"``. ``twin`` is timm's own
    architecture that is the same network, if there is one; in a ``plain`` folder ``config.json`` names it. ``others``
    are files besides ``config.json``, ``model.safetensors`` and the card, ``formats`` the folders that plugins wrote.
    With ``optimized`` the files for other runtimes hold the network optimized for inference.
    """

    source: str
    twin: str | None
    plain: bool
    others: tuple[str, ...]
    formats: tuple[str, ...]
    optimized: bool


def unknown_origin(model: Any, description: str) -> Origin:
    """Return the origin of the weights of a user's own network, with the user's description of them."""
    published: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    said = description or "Their origin is unknown: no description was given at export."
    if not published.get("tag"):
        return Origin(said)
    name = f"{published.get('architecture')}.{published['tag']}"
    licence = published.get("license") or "not known to timm"
    return Origin(
        f"{said.rstrip('.')}. If training started from timm's published weights {name}, their licence ({licence}) "
        "applies too."
    )


def render_card(
    config: SEConfig,
    origin: Origin,
    files: Files,
    title: str,
    input_config: Mapping[str, Any],
    label_names: Sequence[str] | None = None,
) -> str:
    """Return the model card in Markdown, with a YAML header for model hubs.

    ``input_config`` is ``pretrained_cfg`` as written: input size, mean, std, interpolation and number of classes.
    """
    measured = [
        EvalResult(
            task_type="image-classification",
            dataset_type=one.metric.dataset,
            dataset_name=one.metric.dataset,
            dataset_split=one.metric.split,
            metric_type=one.metric.type,
            metric_name=one.name,
            metric_value=one.metric.value,
        )
        for one in origin.results
        if one.metric is not None
    ]
    metadata_of_hub = ModelCardData(
        model_name=title.partition(":")[0] if measured else None,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "squeeze-and-excitation", "se-search"],
        license=origin.license,
        base_model=origin.base_model,
        eval_results=measured or None,
    )
    front: dict[str, Any] = metadata_of_hub.to_dict()  # type: ignore[no-untyped-call]
    templates = environment(text=escape_text, code=escape_code, python=_python_string, percent=percent)
    return templates.get_template("card.md.jinja").render(
        front_matter=yaml.safe_dump(front, sort_keys=False, allow_unicode=True),
        title=title,
        config=config,
        drawing=draw_configuration(config),
        formula=" + ".join(dict.fromkeys(one.formula for one in config.placed)) or KINDS[DEFAULT_KIND].formula,
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
    """Draw a configuration as text: one line per stage, one letter per block, and a legend."""
    here: defaultdict[str, list[str]] = defaultdict(list)
    letters: dict[PlacedAttention, str] = {}
    for placed in config.placed:
        # With only the position of its site, equal blocks share a letter.
        kind = replace(placed, site=Site("", 1, placed.site.position, 1, ""))
        here[placed.site.block].append(letters.setdefault(kind, _letter(len(letters))))
    for site in config.removed:
        here[site.block].append(_REMOVED)
    for site in config.constant:
        here[site.block].append(_CONSTANT)
    sites = _drawn_sites(config)
    for site in sites:
        if site.position == "existing" and site not in config.sites:
            here[site.block].append(_KEPT)
    blocks = {site.block: site.stage for site in sites}
    cells = {block: "+".join(here.get(block, [_NONE])) for block in blocks}
    width = max(map(len, cells.values()), default=1)
    lines = [
        f"stage {stage:<2} "
        + " ".join(f"{cells[block]:<{width}}" for block, its_stage in blocks.items() if its_stage == stage).rstrip()
        for stage in sorted(set(blocks.values()))
    ]
    used = {part for cell in cells.values() for part in cell.split("+")}
    legend = [f"{letter}  {kind.description}" for kind, letter in letters.items()]
    marks = {
        _KEPT: "the backbone's own attention, unchanged",
        _REMOVED: "the backbone's own attention, removed",
        _CONSTANT: "the backbone's own attention, constant: its gate is folded into the weights",
        _NONE: f"no {config.attention} block",
    }
    return "\n".join([*lines, "", *legend, *(f"{mark}  {meaning}" for mark, meaning in marks.items() if mark in used)])


def _python_string(text: object) -> str:
    return json.dumps(str(text))


def _drawn_sites(config: SEConfig) -> list[Site]:
    """Sites of the positions that the configuration uses, and of the backbone's own attention, in forward order."""
    try:
        positions = {site.position for site in config.sites} or {default_position(config.backbone)}
        return [site for site in find_sites(config.backbone) if site.position in positions | {"existing"}]
    except BackboneError:
        return list(config.sites)


def _letter(index: int) -> str:
    before, here = divmod(index, 26)
    return (_letter(before - 1) if before else "") + chr(ord("A") + here)
