"""Training curves: the loss of each epoch of every training in a run folder."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd

from ..errors import RunFolderError
from ..files import read_json
from ..trials.notes import converting_foreign_trial_errors
from .trainings import read_outcomes

SHARED = ("backbone", "supernet")


@dataclass(frozen=True)
class Curve:
    """The training losses of one training, one for each epoch.

    Attributes:
        training: What was trained: ``backbone`` or ``supernet``, ``trial`` (by the search) or ``verification``.
        losses: Mean training loss of each epoch.
        trial: Number of the trial; ``None`` for what all share, and for networks that the search did not evaluate.
        config_id: Id of its configuration; empty for what all share.
        seed: The training's seed; ``None`` for what all share.
        epochs: Planned epochs of a verification, which tell its schedules apart.
    """

    training: str
    losses: tuple[float, ...]
    trial: int | None = None
    config_id: str = ""
    seed: int | None = None
    epochs: int | None = None

    @property
    def name(self) -> str:
        """A name that no other curve of the run has, such as ``trial 3 seed 0``."""
        if self.seed is None:
            return self.training
        which = self.config_id if self.trial is None else f"trial {self.trial}"
        schedule = f"verification {self.epochs} epochs " if self.training == "verification" else ""
        return f"{schedule}{which} seed {self.seed}"


def read_curves(folder: Path, study: optuna.Study, seed: int) -> tuple[Curve, ...]:
    """Return the curves of all finished trainings of a run folder.

    Args:
        folder: The run folder.
        study: Its trials.
        seed: The study's seed, which is the first seed of each configuration's trainings.

    Raises:
        RunFolderError: If a file is damaged.
    """
    found = [Curve(name, losses) for name in SHARED if (losses := _shared(folder / f"{name}.json"))]
    numbers: dict[str, int] = {}
    with converting_foreign_trial_errors():
        for trial in study.get_trials(deepcopy=False):
            trained = trial.user_attrs.get("training_losses", ())
            if trial.values is not None:
                numbers.setdefault(trial.user_attrs["config_id"], trial.number)
            for number, losses in enumerate(trained):
                which = trial.number, str(trial.user_attrs["config_id"]), seed + number
                found.append(Curve("trial", _checked(losses), *which))
    for epochs, networks in sorted(read_outcomes(folder).items()):
        for config_id, trainings in networks.items():
            for one, outcomes in sorted(trainings.items()):
                if outcomes.training_losses:
                    number_of_trial = numbers.get(config_id)
                    found.append(
                        Curve("verification", outcomes.training_losses, number_of_trial, config_id, one, epochs)
                    )
    return tuple(found)


def curves_table(curves: Iterable[Curve]) -> pd.DataFrame:
    """Return one row for each epoch of each training, the content of ``curves.csv``."""
    columns = {
        "training": "str",
        "trial": "Int64",
        "config_id": "str",
        "seed": "Int64",
        "planned_epochs": "Int64",
        "epoch": "int64",
        "loss": "float64",
    }
    rows = [
        (one.training, one.trial, one.config_id, one.seed, one.epochs, epoch, loss)
        for one in curves
        for epoch, loss in enumerate(one.losses, start=1)
    ]
    return pd.DataFrame(rows, columns=list(columns)).astype(columns)


def _shared(file: Path) -> tuple[float, ...]:
    epochs: list[Mapping[str, Any]] = read_json(file).get("epochs", [])
    try:
        return _checked(epoch["loss"] for epoch in epochs)
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{file} is damaged ({error!r}): restore it from a copy") from error


def _checked(losses: Iterable[Any]) -> tuple[float, ...]:
    checked = tuple(float(loss) for loss in losses)
    if not all(map(math.isfinite, checked)):
        raise ValueError("a training loss is not finite")
    return checked
