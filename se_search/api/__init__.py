"""The Python calls behind the command line."""

from ..driver.plan import Plan as Plan
from ..export.formats import exporters as exporters
from ..network.configurations import configurations as configurations, load_config as load_config
from ..report.comparison import write_comparison as write_comparison
from ..study.files import list_spaces, list_studies
from .excitation import Excitation as Excitation, analyze_excitation as analyze_excitation
from .live import follow_run as follow_run
from .run import Run as Run, load_run as load_run
from .start import plan as plan, search as search

spaces, studies = list_spaces, list_studies
