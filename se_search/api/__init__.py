"""The Python calls behind the command line."""

from ..export.formats import exporters
from ..network.configurations import configurations, load_config
from ..report.comparison import write_comparison
from ..study.files import list_spaces as spaces
from .excitation import Excitation, analyze_excitation
from .live import follow_run
from .run import Run, load_run
from .start import search, studies

__all__ = [
    "Excitation",
    "Run",
    "analyze_excitation",
    "configurations",
    "exporters",
    "follow_run",
    "load_config",
    "load_run",
    "search",
    "spaces",
    "studies",
    "write_comparison",
]
