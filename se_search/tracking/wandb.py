"""Weights & Biases: one run of the project ``se-search``, or of ``WANDB_PROJECT``."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import wandb

from .tracker import Tracker


class WeightsAndBiases(Tracker):
    """Values over trial numbers, losses over epochs, and interactive figures."""

    def __init__(self, folder: Path, key: str) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "se-search"),
            name=folder.resolve().name,
            id=key or None,
            resume="allow",
            dir=str(folder),
        )
        self.key = self._run.id
        self._run.define_metric("trials/*", step_metric="trial")
        self._run.define_metric("loss/*", step_metric="epoch")

    def log_trial(self, number: int, parameters: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """Log parameters and values over trial numbers."""
        both = {f"parameters/{name}": value for name, value in parameters.items()}
        self._run.log(both | {f"trials/{name}": value for name, value in values.items()} | {"trial": number})

    def log_curve(self, name: str, losses: Sequence[float]) -> None:
        """Log a loss over epochs."""
        for epoch, loss in enumerate(losses, start=1):
            self._run.log({f"loss/{name}": loss, "epoch": epoch})

    def log_figure(self, name: str, figure: go.Figure) -> None:
        """Log an interactive figure."""
        self._run.log({f"figures/{name}": figure})

    def close(self) -> None:
        """End the run."""
        self._run.finish()
