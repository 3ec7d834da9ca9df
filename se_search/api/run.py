"""A run folder: its results, reports, networks and exports."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import plotly.graph_objects as go
from rich.status import Status
from torch import nn

from ..data.image_data import ImageData
from ..data.load import published_name
from ..driver.loop import load_network
from ..driver.verification import load_verified, run_verification
from ..errors import DefinitionError, RunFolderError, SeSearchError
from ..export.formats import choose_formats
from ..export.timm_folder import Exported, check_target, export_timm
from ..files import plain, refusing_unwritable, remove_unfinished, write_text
from ..network.config import SEConfig
from ..progress import console
from ..report.figures import report_figures
from ..report.images import write_images
from ..report.page import render_report
from ..report.summary import name_front
from ..report.tables import describe_front
from ..report.text import render_markdown
from ..results.decision import Decision, decide
from ..results.picks import PICKS
from ..results.record import RunRecord, read_results, write_results
from ..results.verified import VerifiedWeights, find_weights
from ..tracking.tracking import Tracking
from ..trials.evaluators import EvaluatorFactory
from ..trials.folder import CURVES_FILE, PARETO_FILE, REPORT_FILE, TRIALS_FILE, load_trials, read_definition
from ..words import counted
from .origin import image_settings, origin_of_trial


@dataclass(frozen=True, repr=False)
class Run:
    """A run folder and its results. A notebook shows its front.

    Attributes:
        folder: The run folder.
        evaluator: Creates the run's evaluator if that was given from Python; exports load weights with it.
    """

    folder: Path
    evaluator: EvaluatorFactory | None = field(default=None, repr=False)

    @property
    def trials(self) -> pd.DataFrame:
        """One row for each trial, as in ``trials.csv``."""
        return read_results(self.folder)[0]

    @property
    def front(self) -> pd.DataFrame:
        """The trials that picks are taken from, from the smallest network to the largest.

        They are the Pareto front of the search's estimates, or of the verified networks once there are any.
        """
        trials, run = read_results(self.folder)
        return trials.set_index("number", drop=False).rename_axis(None).loc[list(run.picks.front)]

    @property
    def decision(self) -> Decision:
        """The verdict, three figures against the network without attention, and what to do next."""
        return decide(*read_results(self.folder))

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON: the decision, the front, verified networks and cautions; ``run.json`` has all."""
        results, run = read_results(self.folder)
        found: dict[str, Any] = plain(
            {
                "folder": self.folder,
                "report": self.folder / REPORT_FILE,
                "trials": len(results),
                "failed": int((results["state"] == "failed").sum()),
                "decision": decide(results, run),
                "front": self.front,
                "verified": run.verified,
                "cautions": run.cautions,
            }
        )
        return found

    @property
    def figures(self) -> dict[str, go.Figure]:
        """The figures of the report by name, from :func:`se_search.report.figures.report_figures`."""
        return report_figures(*read_results(self.folder))

    def figure(self, name: str = "overhead") -> go.Figure:
        """Return one of :attr:`figures`.

        Raises:
            RunFolderError: If there is no such figure.
        """
        figures = self.figures
        if name not in figures:
            raise RunFolderError(f"figure {name!r} is unknown: {self.folder} has {', '.join(figures)}")
        return figures[name]

    def _repr_html_(self) -> str:
        table, run = read_results(self.folder)
        said = "".join(f"<p>{escape(line)}</p>" for line in run.cautions)
        front = describe_front(table, run)
        shown = "" if front.empty else front.to_html(index=False, border=0)
        report = self.folder / REPORT_FILE
        where = f"Report: {report}" if report.is_file() else f"No report yet: Run.report() writes {report}"
        return f"<p>{escape(run.name)}: {escape(name_front(run))}</p>{shown}{said}<p>{escape(where)}</p>"

    @property
    def study(self) -> optuna.Study:
        """The Optuna study with all trials, for ``optuna.visualization`` and Optuna's other tools."""
        return load_trials(self.folder)

    def summary(self) -> str:
        """Return what was found in a few sentences: the verdict, its figures, the front, failures and cautions."""
        results, run = read_results(self.folder)
        decision = decide(results, run)
        complete, failed = (int((results["state"] == state).sum()) for state in ("complete", "failed"))
        lines = [
            f"{run.name}: {run.backbone} on {run.data.name}, {complete} of {run.budget} trials complete"
            + (f", {failed} failed." if failed else "."),
            f"{decision.title}. {decision.headline}.",
        ]
        if decision.figures:
            figures = ", ".join(f"{one.name} {one.text} {one.interval}" for one in decision.figures)
            lines.append(f"Against no {run.attention}, {decision.network}: {figures}.")
        lines.append(f"{name_front(run)}: {counted(len(run.picks.front) if run.picks else 0, 'member')}.")
        return "\n".join([*lines, *run.cautions])

    def __repr__(self) -> str:
        """Return what was found in one line; only the folder before there is anything."""
        try:
            results, run = read_results(self.folder)
            found = f"{run.backbone} on {run.data.name}: {decide(results, run).headline}"
        except SeSearchError:
            found = "no results yet"
        return f"Run({str(self.folder)!r}, {found})"

    def number(self, pick: str = "knee", trial: int | None = None) -> int:
        """Return the trial number of a picked member of the front, or of any complete trial.

        Args:
            pick: ``"knee"``, ``"accurate"``, ``"small"`` or ``"fast"``; not used with ``trial``.
            trial: Number of a complete trial.

        Raises:
            RunFolderError: If there is no such pick or trial.
        """
        return int(self._find(pick, trial)[0]["number"])

    def config(self, pick: str = "knee", trial: int | None = None) -> SEConfig:
        """Return the configuration of a picked member of the front or of any complete trial.

        Args:
            pick: As in :meth:`number`.
            trial: As in :meth:`number`.

        Raises:
            RunFolderError: If there is no such pick or trial.
        """
        return SEConfig.from_json(self._find(pick, trial)[0]["config"])

    def _find(self, pick: str, trial: int | None) -> tuple[dict[str, Any], RunRecord]:
        if pick not in PICKS:
            raise RunFolderError(f"pick {pick!r} is unknown: choose one of {', '.join(PICKS)}")
        table, run = read_results(self.folder)
        complete = table[table["state"] == "complete"]
        if trial is None and not run.picks:
            raise RunFolderError(f"{self.folder} has no complete trial within its limits yet: run the search first")
        trial = run.picks[pick] if trial is None else trial
        chosen = complete[complete["number"] == trial]
        if chosen.empty:
            numbers = ", ".join(map(str, complete["number"])) or "none"
            raise RunFolderError(f"trial {trial} is not a complete trial of {self.folder}: choose one of {numbers}")
        (row,) = chosen.to_dict("records")
        return {str(name): value for name, value in row.items()}, run

    def load(
        self, pick: str = "knee", trial: int | None = None, verified: bool | None = None, data: str | None = None
    ) -> tuple[nn.Module, ImageData]:
        """Load the network of a trial with trained weights, and the run's images.

        Args:
            pick: As in :meth:`number`.
            trial: As in :meth:`number`.
            verified: ``True`` for the weights of the longest verification, of the training that is best on the
                validation images; ``False`` for those that the search evaluated; by default the verified ones if the
                trial has been verified.
            data: The folder where the run's images are now, if they have moved.

        Returns:
            The network in evaluation mode and its images.

        Raises:
            RunFolderError: If there is no such trial, its weights are missing or damaged, or the images are others.
        """
        row, run = self._find(pick, trial)
        return self._load(row, self._verified(row, run, verified), data)

    def _verified(self, row: Mapping[str, Any], run: RunRecord, wanted: bool | None) -> VerifiedWeights | None:
        found = None if wanted is False else find_weights(run.verified, row["config_id"])
        if found is not None and found.member.exported.error:
            if wanted:
                raise RunFolderError(
                    f"all trainings of trial {row['number']} of {self.folder} in verification diverged: there are no "
                    "weights to load"
                )
            return None
        if wanted and found is None:
            raise RunFolderError(
                f"trial {row['number']} of {self.folder} has not been verified with the seeds of the network without "
                f"{run.attention}: se-search verify does that"
            )
        return found

    def _load(
        self, row: Mapping[str, Any], weights: VerifiedWeights | None, images: str | None
    ) -> tuple[nn.Module, ImageData]:
        config = SEConfig.from_json(row["config"])
        if weights is None:
            return load_network(self.folder, config, self.evaluator, images)
        return load_verified(self.folder, config, weights.epochs, weights.member.exported, images)

    def export(  # noqa: PLR0913
        self,
        pick: str = "knee",
        trial: int | None = None,
        to: str | os.PathLike[str] = "exported",
        *,
        formats: Sequence[str] = (),
        verified: bool | None = None,
        plain: bool = False,
        optimized: bool = False,
        push_to_hub: str | None = None,
        data: str | None = None,
        **flags: bool,
    ) -> Exported:
        """Export the network of a trial as a timm folder.

        Args:
            pick: As in :meth:`number`.
            trial: As in :meth:`number`.
            to: Output folder; new, empty or of an earlier export.
            formats: Additional formats, such as ``("onnx", "pt2")``; see :func:`se_search.export_timm`.
            verified: As in :meth:`load`: by default the verified weights if the trial has been verified.
            plain: Name timm's own architecture of the same network, so that the export loads without se_search.
            optimized: As in :func:`se_search.export_timm`.
            push_to_hub: Also upload the folder to this repository, ``OWNER/NAME``.
            data: The folder where the run's images are now, if they have moved.
            **flags: As in :func:`se_search.export_timm`.

        Returns:
            The export; its ``trial`` is the number of the exported trial.

        Raises:
            ExportError: If the network cannot be exported in this form, or cannot be uploaded.
            RunFolderError: If there is nothing to export or the folder cannot be used.
        """
        row, run = self._find(pick, trial)
        check_target(Path(to))
        choose_formats(formats, flags, optimized)  # fail before weights are loaded
        weights = self._verified(row, run, verified)
        model, images = self._load(row, weights, data)
        origin = origin_of_trial(row, run, weights)
        exported = export_timm(
            model,
            to,
            description=(
                f"{run.backbone} with {counted(row['se_blocks'], f'{run.attention} block')}, trial {row['number']} of "
                f"an se-search run on {published_name(images.name)}. {origin.weights}"
            ),
            origin=origin,
            formats=formats,
            plain=plain,
            optimized=optimized,
            push_to_hub=push_to_hub,
            **(image_settings(images) | flags),
        )
        remark = "" if row["se_blocks"] else f"This is {run.backbone} without {run.attention}. {self._found()}"
        return replace(exported, trial=row["number"], weights=origin.weights, remark=remark)

    def _found(self) -> str:
        decision = self.decision
        return f"{decision.title}. {decision.headline}."

    def verify(
        self, members: str | int = "front", seeds: int = 3, epochs: int | None = None, data: str | None = None
    ) -> pd.DataFrame:
        """Retrain front members and evaluate them on the test images; ``se-search verify`` calls this.

        The network without attention and the published uniform ones are always among the networks. Earlier results of
        other lengths are kept.

        Args:
            members: ``"front"`` (with the trials not distinguishable from it), ``"all"`` (every complete trial),
                ``"verified"`` (those verified before with as many epochs), or a number of them, members of the front
                first.
            seeds: Number of trainings of each network.
            epochs: Epochs of each training; the study's by default.
            data: The folder where the run's images are now, if they have moved.

        Returns:
            The verified trials with their verified values.

        Raises:
            RunFolderError: If there is nothing to verify or the folder is in use.
        """
        with closing(Tracking(read_definition(self.folder).track, self.folder)) as tracking:
            run_verification(self.folder, str(members), seeds, epochs, data)
            with _writing():
                trials, run = self._write_results()
                write_report(self.folder / REPORT_FILE, render_report(trials, run))
            tracking.log_results(run.curves, lambda: report_figures(trials, run))
        return trials[trials["verified_seeds"].notna()]

    def report(self) -> Path:
        """Write ``report.html``, the tables as CSV files and ``run.json``, and return the report's path.

        Raises:
            RunFolderError: If the folder cannot be read or written.
        """
        with _writing():
            return write_report(self.folder / REPORT_FILE, render_report(*self._write_results()))

    def report_as(self, *forms: str) -> tuple[Path, ...]:
        """Write the report in other formats and return the paths.

        Args:
            forms: ``"html"`` (as :meth:`report`), ``"md"`` (``report.md``), ``"csv"`` (``trials.csv``,
                ``pareto.csv`` and ``curves.csv``) or ``"png"`` (each of :attr:`figures` as ``report-NAME.png``).

        Raises:
            DefinitionError: If a format is unknown, or images of figures cannot be drawn here.
            RunFolderError: If the folder cannot be read or written.
        """
        for form in forms:
            if form not in _FORMS:
                raise DefinitionError(f"the report's format {form!r} is unknown: choose one of {', '.join(_FORMS)}")
        return tuple(file for form in dict.fromkeys(forms) for file in _FORMS[form](self))

    def _write_markdown(self) -> list[Path]:
        with _writing():
            return [write_report(self.folder / "report.md", render_markdown(*read_results(self.folder)))]

    def _write_tables(self) -> list[Path]:
        with _writing():
            self._write_results()
        return [self.folder / name for name in (TRIALS_FILE, PARETO_FILE, CURVES_FILE)]

    def _write_images(self) -> list[Path]:
        with _writing():
            written = {self.folder / f"report-{name}.png": figure for name, figure in self.figures.items()}
            write_images(written)
        return list(written)

    def _write_results(self) -> tuple[pd.DataFrame, RunRecord]:
        with refusing_unwritable(self.folder):
            remove_unfinished(self.folder)
            return write_results(self.folder)


def write_report(file: Path, text: str) -> Path:
    """Write a report and return its path.

    Raises:
        RunFolderError: If the file cannot be written.
    """
    with refusing_unwritable(file):
        write_text(file, text)
    return file


def _writing() -> Status:
    """Return a status line for the terminal: with thousands of trials a report takes half a minute."""
    return console.status("Writing the report")


_FORMS: Mapping[str, Callable[[Run], list[Path]]] = {
    "html": lambda run: [run.report()],
    "md": Run._write_markdown,
    "csv": Run._write_tables,
    "png": Run._write_images,
}


def load_run(path: str | os.PathLike[str], evaluator: EvaluatorFactory | None = None) -> Run:
    """Open a run folder.

    Args:
        path: The folder.
        evaluator: The class or function that was given to :func:`search`, if any; only exports need it.

    Raises:
        RunFolderError: If it is not a run folder.
    """
    read_definition(Path(path))
    return Run(Path(path), evaluator)
