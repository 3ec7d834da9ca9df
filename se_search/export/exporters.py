"""Export formats that plugins bring."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from ..errors import ExportError, SeSearchError, did_you_mean
from ..files import is_name
from ..plugins import EXPORTERS, find_plugin, find_plugins

Exporter = Callable[[nn.Module, Path, tuple[int, int, int]], object]
"""Writes a network, which takes images of the given size, into a folder that is there and empty."""


def find_exporter(name: str) -> Exporter:
    """Return an export format that a plugin brings. Where that fails, the error names the plugin.

    Raises:
        ExportError: If there is none of that name, or it cannot be imported or called.
    """
    plugin = find_plugin(EXPORTERS, name)
    if plugin is None or not is_name(name):  # it becomes the name of a folder
        known = list(exporters())
        offered = f"installed are {', '.join(known)}" if known else "no installed package brings one"
        raise ExportError(f"export format {name!r} is unknown: {offered}{did_you_mean(name, known)}")
    write = plugin.load()
    if not callable(write):
        raise plugin.refusal("cannot be used", TypeError(f"a function is needed, not {type(write).__name__}"))

    def write_or_refuse(model: nn.Module, folder: Path, input_size: tuple[int, int, int]) -> None:
        try:
            write(model, folder, input_size)
        except SeSearchError:
            raise
        except Exception as error:  # a foreign function can raise anything
            raise plugin.refusal("cannot write the network", error) from error

    return write_or_refuse


def exporters() -> dict[str, str]:
    """Return the names of the export formats that plugins bring, each with its package."""
    return {plugin.name: plugin.package for plugin in find_plugins(EXPORTERS)}
