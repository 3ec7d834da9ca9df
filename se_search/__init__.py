"""Finds where Squeeze-and-Excitation blocks pay for themselves in a timm backbone.

Importing the package is light: torch and timm are loaded when a name that needs them is used. It also registers the
architecture ``se_search`` with timm as soon as timm is imported, so that exported folders load with
``timm.create_model("local-dir:FOLDER", pretrained=True)``.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .errors import SeSearchError
    from .network.config import PlacedSE, SEConfig
    from .network.insertion import create_model, insert
    from .network.overhead import Overhead, parameter_overhead
    from .network.sites import Site, find_sites

_HOMES = {
    "Overhead": ".network.overhead",
    "PlacedSE": ".network.config",
    "SEConfig": ".network.config",
    "SeSearchError": ".errors",
    "Site": ".network.sites",
    "create_model": ".network.insertion",
    "find_sites": ".network.sites",
    "insert": ".network.insertion",
    "parameter_overhead": ".network.overhead",
}

__all__ = [
    "Overhead",
    "PlacedSE",
    "SEConfig",
    "SeSearchError",
    "Site",
    "__version__",
    "create_model",
    "find_sites",
    "insert",
    "parameter_overhead",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
