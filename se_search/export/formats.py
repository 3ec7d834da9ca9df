"""Export formats: what a folder may hold besides what timm reads. Packages can add more as plugins."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ExportError, SeSearchError, did_you_mean
from ..files import is_name
from ..plugins import EXPORTERS, find_plugin, find_plugins

if TYPE_CHECKING:  # PyTorch with it, which the help of the command line does without
    from torch import nn

    from ..network.config import SEConfig


@dataclass(frozen=True)
class ExportedNetwork:
    """A network as formats write it, in evaluation mode.

    ``single`` is the network on the CPU in single precision, ``config`` what was inserted into it, and ``input_size``
    ``(channels, height, width)`` of its images. With ``optimized`` other runtimes get it optimized for inference.
    """

    model: "nn.Module"
    single: "nn.Module"
    config: "SEConfig"
    input_size: tuple[int, int, int]
    optimized: bool

    @cached_property
    def deployed(self) -> "nn.Module":
        """The network as other runtimes get it.

        Raises:
            ExportError: If it cannot be optimized.
        """
        if not self.optimized:
            return self.model
        import torch

        from ..deployment.graph import compare
        from ..deployment.inference import optimize_for_inference

        optimized = optimize_for_inference(self.single, self.input_size)
        with torch.no_grad():
            compare(self.single, optimized, self.input_size, "an optimized network")
        return optimized


@dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        name: How it is asked for.
        files: Names of the files that it may write, the first one always; or of a folder, with a ``/`` at its end.
        help: What it writes, for the command line.
        write: Writes the network into a folder.
        for_runtimes: Whether it writes the network for other runtimes, which may be optimized for inference.
    """

    name: str
    files: tuple[str, ...]
    help: str
    write: Callable[[ExportedNetwork, Path], None]
    for_runtimes: bool = True


def _write_standalone(network: ExportedNetwork, folder: Path) -> None:
    from .standalone import check_standalone, render_standalone

    (folder / "model.py").write_text(render_standalone(network.model, network.config), encoding="utf-8")
    check_standalone(folder, network.single, network.input_size)


def _write_graph(network: ExportedNetwork, folder: Path, name: str) -> None:
    from ..deployment.graph import export_graph

    export_graph(network.deployed, folder / name, network.input_size)


FORMATS = {
    one.name: one
    for one in (
        Format(
            "standalone",
            ("model.py",),
            "model.py, which builds the network without se_search",
            _write_standalone,
            for_runtimes=False,
        ),
        Format("onnx", ("model.onnx", "model.onnx.data"), "model.onnx", partial(_write_graph, name="model.onnx")),
        Format("pt2", ("model.pt2",), "model.pt2, for torch.export.load", partial(_write_graph, name="model.pt2")),
        Format(
            "openvino",
            ("model.xml", "model.bin"),
            "model.xml with its model.bin",
            partial(_write_graph, name="model.xml"),
        ),
    )
}
"""The formats that travel with the package, in the order in which they are written."""


def choose_formats(names: Iterable[str], flags: Mapping[str, bool], optimized: bool) -> tuple[Format, ...]:
    """Return the formats that ``names``, those of plugins among them, and flags ask for, without a format twice.

    Where a network ``optimized`` for inference has no other format it is written as ``pt2``.

    Raises:
        ExportError: If there is no such format, or a plugin cannot be used.
    """
    for name in flags:
        if name not in FORMATS:
            raise ExportError(f"export got an unexpected argument {name!r}{did_you_mean(name, FORMATS)}")
    wanted = dict.fromkeys([*names, *(name for name, given in flags.items() if given)])
    if optimized and not any(FORMATS[name].for_runtimes for name in wanted if name in FORMATS):
        wanted["pt2"] = None
    shipped = [one for one in FORMATS.values() if one.name in wanted]
    return (*shipped, *(_format_of_plugin(name) for name in wanted if name not in FORMATS))


def _format_of_plugin(name: str) -> Format:
    plugin = find_plugin(EXPORTERS, name)
    if plugin is None or not is_name(name):  # it becomes the name of a folder
        known = [*FORMATS, *exporters()]
        raise ExportError(f"export format {name!r} is unknown: known are {', '.join(known)}{did_you_mean(name, known)}")
    write = plugin.load()
    if not callable(write):
        raise plugin.refusal("cannot be used", TypeError(f"a function is needed, not {type(write).__name__}"))

    def write_or_refuse(network: ExportedNetwork, folder: Path) -> None:
        target = folder / name
        target.mkdir()
        try:
            write(network.model, target, network.input_size)
        except SeSearchError:
            raise
        except Exception as error:  # a foreign function can raise anything
            raise plugin.refusal("cannot write the network", error) from error

    return Format(name, (f"{name}/",), f"what {plugin} writes", write_or_refuse, for_runtimes=False)


def exporters() -> dict[str, str]:
    """Return the names of the export formats that plugins bring, each with its package."""
    return {plugin.name: plugin.package for plugin in find_plugins(EXPORTERS)}
