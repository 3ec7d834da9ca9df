"""The Python calls behind the command line."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from .errors import RunFolderError
from .export.timm_folder import check_target, export_timm
from .files import write_text
from .network.config import SEConfig
from .report.page import render_report
from .search.definitions import load_study
from .search.loop import load_network, run_search
from .search.record import read_results, write_results
from .search.results import PICKS, front_of, pick_trials
from .search.run_folder import REPORT_FILE, read_definition


@dataclass(frozen=True)
class Run:
    """A run folder: what a search has found in it.

    Attributes:
        folder: The run folder.
    """

    folder: Path

    @property
    def trials(self) -> pd.DataFrame:
        """One row for each trial, as in ``trials.csv``."""
        return read_results(self.folder)[0]

    @property
    def front(self) -> pd.DataFrame:
        """The trials on the Pareto front, from the smallest network to the largest."""
        return front_of(self.trials)

    def config(self, pick: str = "knee", trial: int | None = None) -> tuple[int, SEConfig]:
        """Return the trial number and configuration of a picked member of the front or of any complete trial.

        Args:
            pick: ``"knee"``, ``"accurate"``, ``"small"`` or ``"fast"``; not used with ``trial``.
            trial: Number of a complete trial.

        Raises:
            RunFolderError: If there is no such pick or trial.
        """
        if pick not in PICKS:
            raise RunFolderError(f"pick {pick!r} is unknown: choose one of {', '.join(PICKS)}")
        table = self.trials
        complete = table[table["state"] == "complete"]
        if trial is None:
            picks = pick_trials(table)
            if not picks:
                raise RunFolderError(f"{self.folder} has no complete trial within its limits yet: run the search first")
            trial = picks[pick]
        chosen = complete[complete["number"] == trial]
        if chosen.empty:
            numbers = ", ".join(map(str, complete["number"])) or "none"
            raise RunFolderError(f"trial {trial} is not a complete trial of {self.folder}: complete are {numbers}")
        return trial, SEConfig.from_json(str(chosen["config"].iloc[0]))

    def export(self, pick: str = "knee", trial: int | None = None, to: str | os.PathLike[str] = "exported") -> int:
        """Write a found network, with its slice of the shared weights, as a timm folder.

        Args:
            pick: As in :meth:`config`.
            trial: As in :meth:`config`.
            to: Folder to write; new, empty or of an earlier export.

        Returns:
            The number of the exported trial.

        Raises:
            RunFolderError: If there is nothing to export or the folder cannot be used.
        """
        number, config = self.config(pick, trial)
        check_target(Path(to))
        model, data = load_network(self.folder, config)
        export_timm(
            model,
            to,
            input_size=data.input_size,
            mean=data.mean,
            std=data.std,
            interpolation=data.interpolation,
            description=(
                f"{config.backbone} with {len(config.placed)} SE blocks, trial {number} of an se-search run on "
                f"{data.name}; weights are a slice of the search's weight-sharing network, not trained on their own"
            ),
        )
        return number

    def report(self) -> Path:
        """Write ``report.html``, ``trials.csv``, ``pareto.csv`` and ``run.json`` anew and return the report's path."""
        file = self.folder / REPORT_FILE
        try:
            write_text(file, render_report(*write_results(self.folder)))
        except OSError as error:
            raise RunFolderError(f"{file} cannot be written ({error.strerror})") from error
        return file


def search(
    backbone: str | None = None,
    study: str | os.PathLike[str] = "digits",
    budget: int | None = None,
    out: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> Run:
    """Search where SE blocks pay for themselves; what ``se-search run`` calls.

    A folder that holds a part of the same search is gone on with.

    Args:
        backbone: A timm architecture name; the study's own by default.
        study: Name of a shipped study or path of a study file.
        budget: Distinct configurations to complete; the study's own by default.
        out: Run folder; ``runs/<backbone>-<study>`` by default.
        **overrides: ``space``, ``data``, ``seed``, ``device``, ``threads``, ``sampler``, ``max_params`` and
            ``max_latency`` in place of the study's own.

    Raises:
        SeSearchError: If something given is wrong; nothing is written then.
    """
    name = os.fspath(study)
    definition = load_study(name, backbone=backbone, budget=budget, **overrides)
    folder = Path(out) if out is not None else Path("runs") / f"{definition.backbone}-{Path(name).stem}"
    run_search(definition, folder)
    run = Run(folder)
    run.report()
    return run


def load_run(path: str | os.PathLike[str]) -> Run:
    """Open a run folder.

    Raises:
        RunFolderError: If it is none.
    """
    read_definition(Path(path))
    return Run(Path(path))
