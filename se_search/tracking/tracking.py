"""Track a run: log what is new in its folder, once, also across processes that resume it."""

import json
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from ..errors import DefinitionError, as_given, first_reason
from ..files import read_json, write_text
from ..progress import say
from ..results.curves import Curve
from ..study.objectives import OBJECTIVES
from .tracker import Tracker

TRACKED_FILE = "tracked.json"

_CLASSES = {"tensorboard": "TensorBoard", "wandb": "WeightsAndBiases", "mlflow": "MLflow"}


class Tracking:
    """Logs a run with a tracking package; with ``None`` it logs nothing.

    ``tracked.json`` in the run folder names what has been logged. The package starts with the first value, so that a
    search that is refused leaves nothing behind. A package that fails is left alone; the search goes on.

    Args:
        package: ``"tensorboard"``, ``"wandb"``, ``"mlflow"`` or ``None``.
        folder: The run folder.

    Raises:
        DefinitionError: If the package is not installed.
    """

    def __init__(self, package: str | None, folder: Path) -> None:
        self._package = package
        self._folder = folder
        self._create = None if package is None else _find(package)
        self._tracker: Tracker | None = None
        self._logged: dict[str, Any] = {"key": "", "trials": [], "curves": []}

    def log_trials(self, study: optuna.Study) -> None:
        """Log the complete trials that are new."""

        def log(tracker: Tracker) -> None:
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                if trial.number not in self._logged["trials"]:
                    tracker.log_trial(trial.number, trial.params, _values(study, trial))
                    self._logged["trials"].append(trial.number)

        self._use(log)

    def log_results(self, curves: Iterable[Curve], figures: Callable[[], Mapping[str, go.Figure]]) -> None:
        """Log the training curves that are new, and the figures of the report, which are drawn if they are needed."""

        def log(tracker: Tracker) -> None:
            for curve in curves:
                if curve.name not in self._logged["curves"]:
                    tracker.log_curve(curve.name, curve.losses)
                    self._logged["curves"].append(curve.name)
            for name, figure in figures().items():
                tracker.log_figure(name, figure)

        self._use(log)

    def close(self) -> None:
        """Write what is left."""
        self._use(lambda tracker: tracker.close(), starts=False)

    def _use(self, use: Callable[[Tracker], None], starts: bool = True) -> None:
        """Use the tracker, started if need be, and note what it has logged; if it fails, say so and stop tracking."""
        file = self._folder / TRACKED_FILE
        try:
            if self._create is not None and self._tracker is None and starts:
                before = read_json(file).get(str(self._package), {})
                self._logged |= {name: before[name] for name in self._logged if name in before}
                self._tracker = self._create(self._folder, self._logged["key"])
                self._logged["key"] = self._tracker.key
            if self._tracker is not None:
                use(self._tracker)
                write_text(file, json.dumps(read_json(file) | {str(self._package): self._logged}))
        except Exception as error:  # a package or its server can raise anything
            self._create = self._tracker = None
            say(f"{self._package} no longer tracks this run: {first_reason(error)}")


def _values(study: optuna.Study, trial: FrozenTrial) -> dict[str, float]:
    """Return the values of a trial: all known objectives, and the study's own."""
    known = {name: trial.user_attrs[name] for name in OBJECTIVES if name in trial.user_attrs}
    return known | dict(zip(study.metric_names or (), trial.values, strict=False))


def _find(package: str) -> Callable[[Path, str], Tracker]:
    try:
        found: Callable[[Path, str], Tracker] = getattr(import_module(f".{package}", __package__), _CLASSES[package])
    except ImportError as error:
        raise DefinitionError(
            f'{as_given("track")} {package} needs the package {package}: pip install "se-search[{package}]"'
        ) from error
    return found
