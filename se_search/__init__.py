"""Finds where attention, such as Squeeze-and-Excitation, is worth its cost in a timm backbone.

Importing the package is light: torch and timm are loaded when a name that needs them is used. It also registers the
architecture ``se_search`` with timm as soon as timm is imported, so that exported folders load with
``timm.create_model("local-dir:FOLDER", pretrained=True)``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from wrapt import register_post_import_hook

__version__ = "1.0.0"

if TYPE_CHECKING:
    from .api import (
        Excitation as Excitation,
        Plan as Plan,
        Run as Run,
        analyze_excitation as analyze_excitation,
        load_run as load_run,
        plan as plan,
        search as search,
    )
    from .api.latency import compare_latency as compare_latency
    from .api.thin import Thinning as Thinning, thin as thin
    from .deployment.deployment import Deployment as Deployment
    from .deployment.inference import optimize_for_inference as optimize_for_inference
    from .errors import SeSearchError as SeSearchError
    from .evidence.power import Power as Power, power as power
    from .evidence.published import published_results as published_results
    from .export.loading import load_exported as load_exported
    from .export.timm_folder import export_timm as export_timm
    from .latency.meter import Ratio as Ratio, measure_latency as measure_latency
    from .network.attention.eca import PlacedECA as PlacedECA
    from .network.attention.local import PlacedLocal as PlacedLocal
    from .network.attention.se import PlacedSE as PlacedSE
    from .network.config import SEConfig as SEConfig
    from .network.insertion import create_model as create_model, insert as insert
    from .network.overhead import Overhead as Overhead, parameter_overhead as parameter_overhead
    from .network.sites import Site as Site, find_sites as find_sites
    from .results.comparison import compare_runs as compare_runs
    from .sampling.ehvi import EHVISampler as EHVISampler

_HOMES = {
    "Deployment": ".deployment.deployment",
    "EHVISampler": ".sampling.ehvi",
    "Excitation": ".api",
    "Overhead": ".network.overhead",
    "Ratio": ".latency.meter",
    "Run": ".api",
    "PlacedECA": ".network.attention.eca",
    "PlacedLocal": ".network.attention.local",
    "PlacedSE": ".network.attention.se",
    "Plan": ".api",
    "Power": ".evidence.power",
    "SEConfig": ".network.config",
    "SeSearchError": ".errors",
    "Site": ".network.sites",
    "Thinning": ".api.thin",
    "analyze_excitation": ".api",
    "compare_latency": ".api.latency",
    "compare_runs": ".results.comparison",
    "create_model": ".network.insertion",
    "published_results": ".evidence.published",
    "export_timm": ".export.timm_folder",
    "find_sites": ".network.sites",
    "insert": ".network.insertion",
    "load_exported": ".export.loading",
    "load_run": ".api",
    "measure_latency": ".latency.meter",
    "optimize_for_inference": ".deployment.inference",
    "parameter_overhead": ".network.overhead",
    "plan": ".api",
    "power": ".evidence.power",
    "search": ".api",
    "thin": ".api.thin",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return list(__all__)


def _register_with_timm(timm: Any) -> None:
    importlib.import_module(".export.registry", __name__)


register_post_import_hook(_register_with_timm, "timm")
