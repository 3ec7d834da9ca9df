"""The Python calls behind the command line."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go

from .errors import ConfigurationError, DefinitionError, ExportError, RunFolderError, did_you_mean
from .export.card import origin_of_trial
from .export.timm_folder import Exported, Exporter, check_target, export_timm
from .files import write_text
from .network.config import SEConfig
from .plugins import CONFIGURATIONS, EXPORTERS, find_plugin, find_plugins
from .report.figures import accuracy_against_latency, accuracy_against_overhead, hypervolume_figure
from .report.page import render_report
from .search.definitions import (
    FROM_PYTHON,
    OBJECTIVES,
    ListedSpace,
    StudyDefinition,
    list_spaces,
    load_study,
    shipped_names,
)
from .search.evaluators import EvaluatorFactory
from .search.loop import Measure, load_network, run_search
from .search.record import read_results, write_results
from .search.results import PICKS, PREDICTED, front_of, pick_trials
from .search.run_folder import REPORT_FILE, read_definition
from .search.verification import load_verified, run_verification


@dataclass(frozen=True)
class Run:
    """A run folder: what a search has found in it. In a notebook it shows its front.

    Attributes:
        folder: The run folder.
        evaluator: Creates the run's evaluator, where that was given from Python; what exports load weights with.
    """

    folder: Path
    evaluator: EvaluatorFactory | None = field(default=None, repr=False)

    @property
    def trials(self) -> pd.DataFrame:
        """One row for each trial, as in ``trials.csv``."""
        return read_results(self.folder)[0]

    @property
    def front(self) -> pd.DataFrame:
        """The trials on the Pareto front, from the smallest network to the largest."""
        return front_of(self.trials)

    @property
    def figures(self) -> dict[str, go.Figure]:
        """The report's figures by name: ``overhead``, ``latency``, ``hypervolume``; none before a trial is complete."""
        table, run = read_results(self.folder)
        complete = table[table["state"] == "complete"]
        if complete.empty:
            return {}
        return {
            "overhead": accuracy_against_overhead(complete, run["sites"]),
            "latency": accuracy_against_latency(complete, run["sites"]),
            "hypervolume": hypervolume_figure(run["hypervolume_history"]),
        }

    def figure(self, name: str = "overhead") -> go.Figure:
        """Return one of :attr:`figures`.

        Raises:
            RunFolderError: If there is no such figure.
        """
        figures = self.figures
        if name not in figures:
            offered = ", ".join(figures) or "none before a trial is complete"
            raise RunFolderError(f"figure {name!r} is unknown: {self.folder} has {offered}")
        return figures[name]

    def _repr_html_(self) -> str:
        table, run = read_results(self.folder)
        said = "".join(f"<p>{escape(line)}</p>" for line in run["cautions"])
        front = describe_front(table, run)
        shown = "" if front.empty else front.to_html(index=False, border=0)
        report = self.folder / REPORT_FILE
        where = f"Report: {report}" if report.is_file() else f"No report yet: Run.report() writes {report}"
        return f"<p>Pareto front of {escape(run['name'])}</p>{shown}{said}<p>{escape(where)}</p>"

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

    def export(
        self,
        pick: str = "knee",
        trial: int | None = None,
        to: str | os.PathLike[str] = "exported",
        *,
        verified: bool = False,
        plain: bool = False,
        standalone: bool = False,
        onnx: bool = False,
        pt2: bool = False,
        openvino: bool = False,
        optimized: bool = False,
        formats: Sequence[str] = (),
        push_to_hub: str | None = None,
    ) -> Exported:
        """Write a found network as a timm folder, with the weights that the search evaluated or verification trained.

        Args:
            pick: As in :meth:`config`.
            trial: As in :meth:`config`.
            to: Folder to write; new, empty or of an earlier export.
            verified: Take the weights of the longest verification (of its first seed) instead of the search's.
            plain: Name timm's own architecture that is the same network, so that nothing but timm is needed to load it.
            standalone: Also write ``model.py``, which builds the network without this package.
            onnx: Also write ``model.onnx``.
            pt2: Also write ``model.pt2``, a program of ``torch.export``.
            openvino: Also write ``model.xml`` with its ``model.bin``.
            optimized: Write these files of the network as :func:`se_search.optimize_for_inference` rewrites it, and
                ``model.pt2`` if none is asked for.
            formats: Also write these export formats of plugins, each into a folder of its name below ``to``.
            push_to_hub: Also upload the folder to this repository, ``OWNER/NAME``.

        Returns:
            What was written; its ``trial`` is the number of the exported trial.

        Raises:
            ExportError: If the network cannot be written as asked, or not be uploaded.
            RunFolderError: If there is nothing to export or the folder cannot be used.
        """
        number, config = self.config(pick, trial)
        check_target(Path(to))
        if verified:
            model, data = load_verified(self.folder, config)
        else:
            model, data = load_network(self.folder, config, self.evaluator)
        trials, run = read_results(self.folder)
        row = next(row for row in trials.to_dict("records") if row["number"] == number)
        origin = origin_of_trial(row, run, verified)
        exported = export_timm(
            model,
            to,
            input_size=data.input_size,
            mean=data.mean,
            std=data.std,
            interpolation=data.interpolation,
            crop_pct=data.crop_pct,
            crop_mode=data.crop_mode,
            description=(
                f"{config.backbone} with {len(config.placed)} SE blocks, trial {number} of an se-search run on "
                f"{data.name}. {origin.weights}"
            ),
            label_names=data.label_names,
            origin=origin,
            plain=plain,
            standalone=standalone,
            onnx=onnx,
            pt2=pt2,
            openvino=openvino,
            optimized=optimized,
            writers={name: _find_exporter(name) for name in formats},
            push_to_hub=push_to_hub,
        )
        return replace(exported, trial=number)

    def verify(self, members: str | int = "front", seeds: int = 3, epochs: int | None = None) -> pd.DataFrame:
        """Train members of the front by themselves and judge them on the test images; what ``se-search verify`` calls.

        Args:
            members: ``"front"``, ``"all"`` (every complete trial), or how many members of the front.
            seeds: Trainings of each network; the network without SE and the uniform r=16 one are among them.
            epochs: Epochs of each training; by default the study's. Schedules of other lengths that were verified
                before are kept.

        Returns:
            The complete trials that have been verified, with their verified values.

        Raises:
            RunFolderError: If there is nothing to verify or the folder is in use.
        """
        run_verification(self.folder, str(members), seeds, epochs)
        self.report()
        trials = self.trials
        return trials[trials["verified_seeds"].notna()]

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
    evaluator: str | Mapping[str, Any] | EvaluatorFactory | None = None,
    objectives: Sequence[str] | Mapping[str, str | tuple[Measure, str]] | None = None,
    **overrides: Any,
) -> Run:
    """Search where SE blocks pay for themselves; what ``se-search run`` calls.

    A folder that holds a part of the same search is gone on with. Where functions were given, the same names must be
    given again.

    Args:
        backbone: A timm architecture name.
        study: Name of a shipped study or path of a study file.
        budget: Distinct configurations to complete; the study's own by default.
        out: Run folder; ``runs/<backbone>-<study>`` by default, or with the last part of the name of ``data`` where
            that is given.
        evaluator: Name of a shipped evaluator or of a plugin's; the keys of a study's ``evaluator``; or a class or
            function ``(study, space, data)`` that returns a :class:`se_search.evaluation.evaluator.Evaluator`.
        objectives: Two or three. Names as in a study file, or a mapping from each name to its direction
            (``"maximize"`` or ``"minimize"``) or, for an objective of your own, to a function and its direction. The
            function takes the configuration and the network that was evaluated and returns a finite number.
        **overrides: Further keys of a study, and ``max_params``, ``max_latency``, ``epochs``, ``pretrained`` and those
            of its latency such as ``latency_runtime``, in place of the study's own; ``latency="model"`` is its source.

    Raises:
        SeSearchError: If something given is wrong; nothing is written then.
    """
    name = os.fspath(study)
    create: EvaluatorFactory | None = None
    measures: dict[str, Measure] = {}
    if isinstance(evaluator, Mapping):
        evaluator = dict(evaluator)
    elif evaluator is not None and not isinstance(evaluator, str):
        create, evaluator = evaluator, FROM_PYTHON + _name_of(evaluator)
    if isinstance(objectives, Mapping):
        measures, directions = _split(objectives)
        overrides |= {"custom_objectives": directions}
    listed = None if objectives is None else list(objectives)
    definition = load_study(name, backbone=backbone, budget=budget, evaluator=evaluator, objectives=listed, **overrides)
    named = overrides.get("data")
    ending = Path(name).stem if named is None else Path(named).resolve().name
    folder = Path(out) if out is not None else Path("runs") / f"{definition.backbone}-{ending}"
    run_search(definition, folder, create, measures)
    run = Run(folder, create)
    run.report()
    return run


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", "")
    if not callable(function) or not name.isidentifier():
        raise DefinitionError(
            f"evaluator {function!r} has no name to go on by: give a class or a named function (study, space, data)"
        )
    return str(name)


def _split(objectives: Mapping[str, str | tuple[Measure, str]]) -> tuple[dict[str, Measure], dict[str, str]]:
    """Return the functions that measure objectives, and their directions."""
    measures: dict[str, Measure] = {}
    directions: dict[str, str] = {}
    for name, given in objectives.items():
        if isinstance(given, tuple) and len(given) == 2 and callable(given[0]):
            measures[name], directions[name] = given
        elif name not in OBJECTIVES or given != OBJECTIVES[name]:
            right = repr(OBJECTIVES[name]) if name in OBJECTIVES else "a function and its direction"
            raise DefinitionError(f"objective {name!r} is {given!r}: it must be {right}")
    return measures, directions


def load_run(path: str | os.PathLike[str], evaluator: EvaluatorFactory | None = None) -> Run:
    """Open a run folder.

    Args:
        path: The folder.
        evaluator: What was given to :func:`search`, where that was a class or function; only exports need it.

    Raises:
        RunFolderError: If it is none.
    """
    read_definition(Path(path))
    return Run(Path(path), evaluator)


def describe_front(trials: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    """Return the Pareto front in words, one row for each member from the smallest network to the largest.

    Args:
        trials: All trials, in the columns of ``trials.csv``.
        run: The description of the run, as in ``run.json``.
    """
    picks: dict[int, list[str]] = {}
    for pick, number in run["picks"].items():
        picks.setdefault(number, []).append(pick)
    rows = []
    for row in front_of(trials).to_dict("records"):
        remarks = [*picks.get(row["number"], []), *([row["name"]] if row["name"] else [])]
        if not pd.isna(row["tied_with"]):
            remarks.append(f"{run['quality']} not distinguishable from trial {row['tied_with']}'s")
        latency = f"×{row['latency_ratio']:.3f} [{row['latency_low']:.3f}, {row['latency_high']:.3f}]"
        rows.append(
            {
                "trial": str(row["number"]),
                "accuracy": f"{row['accuracy']:.1%} [{row['accuracy_low']:.1%}, {row['accuracy_high']:.1%}]",
                "parameters": f"{row['parameter_overhead']:+.2%}",
                "latency": latency + (" predicted" if row["latency_stopped"] == PREDICTED else ""),
                **{name: f"{row[name]:.4g}" for name in run["objectives"] if name not in OBJECTIVES},
                "SE blocks": str(row["se_blocks"]),
                "": ", ".join(remarks),
            }
        )
    return pd.DataFrame(rows)


def describe_verified(schedule: Mapping[str, Any]) -> pd.DataFrame:
    """Return what one schedule of verification has found in words, one row for each network.

    Args:
        schedule: One of ``verified`` of ``run.json``.
    """
    rows = []
    for member in schedule["members"]:
        (accuracy, low, high), (loss, loss_low, loss_high) = member["accuracy"], member["log_loss"]
        difference, below, above = member["log_loss_difference"]
        against = f"{difference:+.4f} [{below:+.4f}, {above:+.4f}]" if member["name"] != "no SE" else ""
        rows.append(
            {
                "trial": "–" if member["number"] is None else str(member["number"]),
                "accuracy": f"{accuracy:.1%} [{low:.1%}, {high:.1%}]",
                "log-loss": f"{loss:.4f} [{loss_low:.4f}, {loss_high:.4f}]",
                "log-loss against no SE": against,
                "": member["name"],
            }
        )
    return pd.DataFrame(rows)


def describe_latency(measured: pd.DataFrame) -> pd.DataFrame:
    """Return what :func:`se_search.compare_latency` has measured in words.

    Args:
        measured: Its table.
    """
    rows = [
        {
            "configuration": row["name"],
            "runtime": row["runtime"],
            "parameters": f"{row['parameter_overhead']:+.2%}",
            "FLOPs": f"{row['flops_overhead']:+.2%}",
            "latency": f"×{row['latency_ratio']:.4f} [{row['latency_low']:.4f}, {row['latency_high']:.4f}]",
            "pairs": str(row["latency_pairs"]),
            "stopped by": row["latency_stopped"],
        }
        for row in measured.to_dict("records")
    ]
    return pd.DataFrame(rows)


def spaces() -> tuple[ListedSpace, ...]:
    """List the shipped search spaces and those of plugins; what ``se-search spaces`` prints."""
    return list_spaces()


def studies() -> dict[str, StudyDefinition]:
    """Return the shipped studies by name; what ``se-search studies`` prints."""
    return {name: load_study(name) for name in shipped_names("studies")}


def configurations() -> dict[str, str]:
    """Return the names of the configurations that plugins bring, each with its package."""
    return {plugin.name: plugin.package for plugin in find_plugins(CONFIGURATIONS)}


def load_config(name: str) -> SEConfig:
    """Return a configuration that a plugin brings.

    Raises:
        ConfigurationError: If there is none of that name or it cannot be used.
    """
    plugin = find_plugin(CONFIGURATIONS, name)
    if plugin is None:
        known = configurations()
        raise ConfigurationError(
            f"configuration {name!r} is unknown: plugins bring {', '.join(known) or 'none'}{did_you_mean(name, known)}"
        )
    config = plugin.load()
    try:
        config = config() if callable(config) else config
    except Exception as error:  # a foreign function can raise anything
        raise plugin.refusal("cannot be read", error) from error
    if not isinstance(config, SEConfig):
        raise plugin.refusal("cannot be used", TypeError(f"an SEConfig is needed, not {type(config).__name__}"))
    return config


def _find_exporter(name: str) -> Exporter:
    plugin = find_plugin(EXPORTERS, name)
    if plugin is None or Path(name).name != name:  # it becomes the name of a folder
        known = list(exporters())
        offered = f"installed are {', '.join(known)}" if known else "no installed package brings one"
        raise ExportError(f"export format {name!r} is unknown: {offered}{did_you_mean(name, known)}")
    return cast(Exporter, plugin.load())


def exporters() -> dict[str, str]:
    """Return the names of the export formats that plugins bring, each with its package."""
    return {plugin.name: plugin.package for plugin in find_plugins(EXPORTERS)}
