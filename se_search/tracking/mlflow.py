"""MLflow: a run of the experiment ``se-search``, or of ``MLFLOW_EXPERIMENT_NAME``, with a child for each trial."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import plotly.graph_objects as go

from .tracker import Tracker


class MLflow(Tracker):
    """Values over trial numbers, losses over epochs, a nested run for each trial, and interactive figures."""

    def __init__(self, folder: Path, key: str) -> None:
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "se-search"))
        self.key = mlflow.start_run(run_id=key or None, run_name=folder.resolve().name).info.run_id

    def log_trial(self, number: int, parameters: Mapping[str, Any], values: Mapping[str, float]) -> None:
        """Log values over trial numbers, and a nested run with parameters and values."""
        named = {_allowed(f"trials/{name}"): value for name, value in values.items()}
        mlflow.log_metrics(named, step=number)
        with mlflow.start_run(run_name=f"trial {number}", nested=True):
            mlflow.log_params(dict(parameters))
            mlflow.log_metrics({_allowed(name): value for name, value in values.items()})

    def log_curve(self, name: str, losses: Sequence[float]) -> None:
        """Log a loss over epochs."""
        for epoch, loss in enumerate(losses, start=1):
            mlflow.log_metric(_allowed(f"loss/{name}"), loss, step=epoch)

    def log_figure(self, name: str, figure: go.Figure) -> None:
        """Log an interactive figure as an artifact."""
        mlflow.log_figure(figure, f"figures/{name}.html")

    def close(self) -> None:
        """End the run."""
        mlflow.end_run()


def _allowed(name: str) -> str:
    """Return a name with only the characters that MLflow's metrics may have."""
    return re.sub(r"[^\w\-. /]", "_", name)
