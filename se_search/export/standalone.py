"""One readable Python file that builds a network without this package."""

import runpy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..errors import ExportError
from ..network.attention.gates import GATES
from ..network.backbones import create_on_meta
from ..network.config import SEConfig
from ..network.insertion import attach
from ..network.sites import find_places
from .templates import environment
from .twin import bare_arguments, outputs


def render_standalone(model: nn.Module, config: SEConfig) -> str:
    """Return the source of a module that needs torch, timm and safetensors only and builds the network of ``config``.

    Its ``load(folder)`` reads ``model.safetensors``. The arguments of the backbone are those of ``model``.
    """
    arguments = bare_arguments(model)
    bare = create_on_meta(config.backbone, **arguments)
    places = {(site.block, site.position): place for site, place in find_places(bare).items()} if config.sites else {}
    steps: list[dict[str, Any]] = []
    for site in (*config.removed, *config.constant):
        steps.append({"put": "replace", "host": places[site.block, site.position].host, "block": None})
    on_grids = [one.on_grid(places[one.site.block, one.site.position].known_grid) for one in config.placed]
    for placed in on_grids:
        site, place, block = placed.site, places[placed.site.block, placed.site.position], placed.create()
        attach(bare, site, place, block)
        name = next(name for name, module in bare.named_modules() if module is block)
        steps.append(
            {
                "put": {"output": "scale_output", "input": "scale_input"}.get(place.side, "replace"),
                "host": place.host,
                "name": name.rpartition(".")[2],
                "block": placed.standalone_call(),
            }
        )
    templates = environment(repr=repr)
    kinds = dict.fromkeys(type(placed) for placed in config.placed)
    classes = [
        templates.from_string(kind.standalone_source()).render(
            blocks=[placed for placed in config.placed if type(placed) is kind]
        )
        for kind in kinds
    ]
    gates = GATES if any(placed.gate for placed in config.placed) else {}
    return templates.get_template("standalone.py.jinja").render(
        backbone=config.backbone, arguments=arguments, steps=steps, classes=classes, gates=gates, version=__version__
    )


def check_standalone(folder: Path, model: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Check that ``model.py`` in ``folder`` loads the weights beside it and gives the outputs of ``model`` to the bit.

    Raises:
        ExportError: If it does not.
    """
    module = runpy.run_path(str(folder / "model.py"))
    if not torch.equal(outputs(module["load"](folder), input_size), outputs(model, input_size)):
        raise ExportError(f"model.py gives other outputs than this {type(model).__name__}: it was not kept")
