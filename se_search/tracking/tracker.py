"""Interface of trackers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go


class Tracker(ABC):
    """An open run of a tracking package.

    Attributes:
        key: What resumes it in another process; empty if the run folder suffices.
    """

    key: str = ""

    @abstractmethod
    def log_trial(self, number: int, parameters: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """Log a complete trial; ``parameters`` are those of the Optuna trial."""

    @abstractmethod
    def log_curve(self, name: str, losses: Sequence[float]) -> None:
        """Log the training loss of each epoch of a training."""

    @abstractmethod
    def log_figure(self, name: str, figure: go.Figure) -> None:
        """Log a figure of the report, if the package can show interactive ones."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""
