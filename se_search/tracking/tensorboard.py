"""TensorBoard: event files in ``tensorboard/`` of the run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from torch.utils.tensorboard.writer import SummaryWriter

from .tracker import Tracker


class TensorBoard(Tracker):
    """Scalars over trial numbers and epochs, and a table of parameters and values."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder / "tensorboard"
        self._writer = SummaryWriter(str(self._folder))

    def log_trial(self, number: int, parameters: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """Log each value over trial numbers, and a row of the table of hyperparameters."""
        for name, value in values.items():
            self._writer.add_scalar(f"trials/{name}", value, number)
        metrics = {f"final/{name}": value for name, value in values.items()}
        self._writer.add_hparams(dict(parameters), metrics, run_name=f"trial-{number}", global_step=number)
        self._writer.flush()

    def log_curve(self, name: str, losses: Sequence[float]) -> None:
        """Log a scalar over epochs."""
        for epoch, loss in enumerate(losses, start=1):
            self._writer.add_scalar(f"loss/{name}", loss, epoch)

    def log_figure(self, name: str, figure: go.Figure) -> None:
        """Log nothing: TensorBoard cannot show interactive figures, and pictures of them need a browser."""

    def close(self) -> None:
        """Write the rest of the events."""
        self._writer.close()
