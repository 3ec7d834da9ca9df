"""The Python calls behind the command line."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, Literal, cast

import pandas as pd
import plotly.graph_objects as go
import plotly.io
import timm
from torch import nn

from .errors import (
    ConfigurationError,
    DataError,
    DefinitionError,
    ExportError,
    RunFolderError,
    SeSearchError,
    did_you_mean,
)
from .evaluation.data import EMBEDDED, load_data
from .evaluation.excitation import SHOWN_CHANNELS, analyze_gates
from .evaluation.image_data import ImageData
from .evaluation.stand_alone import check_pretrained, load_pretrained
from .evaluation.training import TrainingRecipe
from .export.card import origin_of_trial, published_name
from .export.timm_folder import Exported, Exporter, check_target, export_timm, load_exported
from .files import write_atomically, write_text
from .network.backbones import default_input_size, network_options
from .network.config import SEConfig
from .plugins import CONFIGURATIONS, EXPORTERS, find_plugin, find_plugins
from .progress import progress_bar, say
from .report.comparison import MARK, render_comparison
from .report.excitation_page import render_excitation
from .report.figures import report_figures
from .report.page import render_report
from .report.text import render_markdown
from .search.comparison import Comparison
from .search.definitions import (
    FROM_PYTHON,
    OBJECTIVES,
    ListedSpace,
    StudyDefinition,
    list_spaces,
    load_study,
    shipped_names,
)
from .search.evaluators import EvaluatorFactory, training_recipe
from .search.excitation import ANALYSIS_FILE, EXCITATION, PAGE_FILE, analysis_folder
from .search.fleet_search import Spread
from .search.loop import load_network, run_search
from .search.record import read_results, write_results
from .search.results import PICKS, PREDICTED, front_of
from .search.run_folder import (
    PARETO_FILE,
    REPORT_FILE,
    STORAGE_FILE,
    STUDY_FILE,
    TRIALS_FILE,
    load_trials,
    read_definition,
)
from .search.trials import Measure
from .search.verification import load_verified, run_verification
from .search.worker import WorkerOptions, run_worker
from .words import by

_IMAGE_WIDTH = 1000


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
        """The report's figures by name, as :func:`se_search.report.figures.report_figures` has them."""
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
        table, run = read_results(self.folder)
        complete = table[table["state"] == "complete"]
        if trial is None:
            picks = run["picks"]
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
                f"{published_name(data.name)}. {origin.weights}"
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

    def report(self, live: int | None = None) -> Path:
        """Write ``report.html``, ``trials.csv``, ``pareto.csv`` and ``run.json`` anew and return the report's path.

        Args:
            live: Write the report alone, as a page that reads itself anew after so many seconds; for a run that another
                process is making and whose other files are that process's.
        """
        results = self._write_results() if live is None else read_results(self.folder)
        return self._write(REPORT_FILE, render_report(*results, live=live))

    def report_as(self, *forms: str) -> tuple[Path, ...]:
        """Write the report in other forms and return the paths of what was written.

        Args:
            forms: ``"html"`` (as :meth:`report`), ``"md"`` (``report.md``), ``"csv"`` (``trials.csv`` and
                ``pareto.csv``) or ``"png"`` (each of :attr:`figures` as ``report-NAME.png``).

        Raises:
            DefinitionError: If there is no such form, or figures cannot be drawn here.
            RunFolderError: If the folder cannot be read or written.
        """
        for form in forms:
            if form not in _FORMS:
                raise DefinitionError(f"the report's format {form!r} is unknown: choose one of {', '.join(_FORMS)}")
        return tuple(file for form in dict.fromkeys(forms) for file in _FORMS[form](self))

    def _write_markdown(self) -> list[Path]:
        trials, run = read_results(self.folder)
        verified = [(schedule, describe_verified(schedule)) for schedule in run["verified"]]
        return [self._write("report.md", render_markdown(trials, run, describe_front(trials, run), verified))]

    def _write_tables(self) -> list[Path]:
        self._write_results()
        return [self.folder / TRIALS_FILE, self.folder / PARETO_FILE]

    def _write_images(self) -> list[Path]:
        written = {self.folder / f"report-{name}.png": figure for name, figure in self.figures.items()}
        write_images(written)
        return list(written)

    def _write_results(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        try:
            return write_results(self.folder)
        except OSError as error:
            raise RunFolderError(f"{self.folder} cannot be written ({error.strerror})") from error

    def _write(self, name: str, text: str) -> Path:
        file = self.folder / name
        try:
            write_text(file, text)
        except OSError as error:
            raise RunFolderError(f"{file} cannot be written ({error.strerror})") from error
        return file


_FORMS: Mapping[str, Callable[[Run], list[Path]]] = {
    "html": lambda run: [run.report()],
    "md": Run._write_markdown,
    "csv": Run._write_tables,
    "png": Run._write_images,
}


def write_images(figures: Mapping[Path, go.Figure]) -> None:
    """Draw figures as PNG files.

    Args:
        figures: Figures by the file that each shall be in.

    Raises:
        DefinitionError: If what draws them is not installed; nothing is written then.
        RunFolderError: If a file cannot be written.
    """
    with TemporaryDirectory() as folder:
        drawn = [Path(folder, f"{index}.png") for index in range(len(figures))]
        try:
            # The page is the ground of its figures; an image needs one of its own.
            shown = [go.Figure(figure).update_layout(paper_bgcolor="white") for figure in figures.values()]
            heights = [figure.layout.height for figure in shown]
            plotly.io.write_images(shown, drawn, width=_IMAGE_WIDTH, height=heights, scale=2)
        except (RuntimeError, ValueError) as error:  # by Plotly's version; a page of text about package and browser
            needs = 'the format png needs Chrome or Chromium and the package kaleido: pip install "se-search[png]"'
            raise DefinitionError(needs) from error
        for file, image in zip(figures, drawn, strict=True):
            try:
                write_atomically(file, partial(shutil.copyfile, image))
            except OSError as error:
                raise RunFolderError(f"{file} cannot be written ({error.strerror})") from error


def follow_run(path: str | os.PathLike[str], every: int = 10) -> Path:
    """Write a run's report again and again while another process makes it; what ``se-search report --live`` calls.

    It waits for a run that has not begun. Only ``report.html`` is written: everything else is the other process's. The
    report reads itself anew until the run is finished or this is interrupted.

    Args:
        path: The run folder.
        every: Seconds between two reports.

    Returns:
        The report's path.

    Raises:
        RunFolderError: If the folder holds something else or is damaged.
    """
    if every < 1:
        raise DefinitionError(f"--every is {every}: it must be at least 1 second")
    run = Run(Path(path))
    told = ""
    try:
        while True:
            state, finished = _write_live(run, every)
            if state != told:
                say(told := state)
            if finished:
                break
            time.sleep(every)
    except KeyboardInterrupt:
        with suppress(SeSearchError):  # of a folder that is gone or damaged by now
            _write_last(run)
        raise
    _write_last(run)
    return run.folder / REPORT_FILE


def _write_last(run: Run) -> None:
    """Write the report of a run, where it has begun, as a page that does not read itself anew."""
    if _has_begun(run.folder):
        run._write(REPORT_FILE, render_report(*read_results(run.folder)))


def _write_live(run: Run, every: int) -> tuple[str, bool]:
    """Write the report of a run that is under way; a line about it, and whether it is finished."""
    waiting = f"Waiting for a run in {run.folder}; Ctrl-C ends this.", False
    try:
        if not _has_begun(run.folder):
            return waiting
        trials, description = read_results(run.folder)
    except RunFolderError:
        if _has_begun(run.folder):  # else it was deleted while it was read
            raise
        return waiting
    try:
        run._write(REPORT_FILE, render_report(trials, description, live=every))
    except RunFolderError as error:
        # A run that goes on clears away the unfinished files of killed processes, and with them this one's.
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    done = int((trials["state"] != "failed").sum())
    return f"{done} of {description['budget']}: {run.folder / REPORT_FILE}", bool(description["finished"])


def _has_begun(folder: Path) -> bool:
    """Whether a run folder has what a report shows; it is refused where it holds something else."""
    if not folder.exists() or (
        folder.is_dir()
        and not (folder / STUDY_FILE).exists()
        and all(entry.name.startswith(".") for entry in folder.iterdir())
    ):
        return False
    read_definition(folder)
    return (folder / STORAGE_FILE).exists() and "data" in load_trials(folder).user_attrs


def write_comparison(comparison: Comparison, to: str | os.PathLike[str] = "comparison.html") -> Path:
    """Write the page that shows runs beside each other.

    Args:
        comparison: From :func:`se_search.compare_runs`.
        to: The file; new or an earlier such page.

    Raises:
        RunFolderError: If the file is another one or cannot be written.
    """
    file = Path(to)
    try:
        if file.exists() and MARK not in file.read_text(encoding="utf-8", errors="replace"):
            raise RunFolderError(f"{file} exists and is no comparison of runs: choose another file with --to")
        write_text(file, render_comparison(comparison))
    except OSError as error:
        raise RunFolderError(f"{file} cannot be written ({error.strerror}): choose another with --to") from error
    return file


def search(
    backbone: str | None = None,
    study: str | os.PathLike[str] = "digits",
    budget: int | None = None,
    out: str | os.PathLike[str] | None = None,
    evaluator: str | Mapping[str, Any] | EvaluatorFactory | None = None,
    objectives: Sequence[str] | Mapping[str, str | tuple[Measure, str]] | None = None,
    *,
    workers: int = 1,
    storage: str | None = None,
    study_name: str | None = None,
    artifacts: str | None = None,
    latency_device: str | None = None,
    worker_timeout: float = 60.0,
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
        workers: Processes of this machine that evaluate; 1 is this process itself where there is no ``storage``, and 0
            leaves the work to others. They share the CPU threads, and pause while latency is measured.
        storage: URL of an Optuna storage through which workers of other machines join (:func:`work`):
            ``postgresql://…``, ``mysql+pymysql://…``, ``journal:FILE``, ``redis://…`` or ``grpc://HOST:PORT``.
        study_name: The study's name there; the run folder's by default.
        artifacts: Where workers find and leave files: a folder that all machines see, ``s3://BUCKET`` or
            ``gs://BUCKET``; ``artifacts`` in the run folder by default.
        latency_device: Part of the name of the device whose latency counts; by default this process measures it.
        worker_timeout: Seconds without a sign of life after which a worker counts as gone.
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
    spread = Spread(workers, storage, study_name, artifacts, latency_device, worker_timeout)
    run_search(definition, folder, create, measures, render_excitation, spread)
    run = Run(folder, create)
    run.report()
    return run


def work(
    storage: str,
    study: str,
    *,
    artifacts: str | None = None,
    data: str | None = None,
    data_root: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    patience: float = 600.0,
) -> int:
    """Evaluate configurations for a search of another process until it has ended; what ``se-search worker`` calls.

    Args:
        storage: As in :func:`search`.
        study: Name of the study there.
        artifacts: As in :func:`search`; by default the place that the search names.
        data: Folder or name of the study's images, where they have another one here.
        data_root: The same for a dataset of timm's.
        device: A torch device; the study's by default.
        threads: Threads of a CPU operation; PyTorch's own choice by default.
        patience: Seconds without a sign of the search after which it gives up.

    Returns:
        The number of tasks that were done.

    Raises:
        SeSearchError: If it cannot take part, or the search is not seen.
    """
    return run_worker(WorkerOptions(storage, study, artifacts, data, data_root, device, threads, patience))


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


@dataclass(frozen=True)
class Excitation:
    """An analysis of the role of excitation that was written.

    Attributes:
        folder: Where ``excitation.json`` and the page ``excitation.html`` are.
        analysis: The content of ``excitation.json``.
    """

    folder: Path
    analysis: dict[str, Any] = field(repr=False)

    @property
    def page(self) -> Path:
        """The page."""
        return self.folder / PAGE_FILE


def analyze_excitation(
    model: str | os.PathLike[str] | Run | nn.Module,
    data: str | ImageData | None = None,
    *,
    pick: str | None = None,
    trial: int | None = None,
    verified: bool = False,
    pretrained: str | None = None,
    classes: Sequence[str | int] | None = None,
    channels: int = SHOWN_CHANNELS,
    images: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    to: str | os.PathLike[str] | None = None,
) -> Excitation:
    """Analyse what the SE blocks of a trained network do; what ``se-search excitation`` calls.

    A member of a run with the weights that the search evaluated is analysed on the run's validation images, everything
    else on the test images.

    Args:
        model: A run folder, an exported folder, a timm architecture name, or a network.
        data: Images of the network's classes, as a study names them; by default those of the run.
        pick: Of a run, as in :meth:`Run.config`, ``"knee"`` by default.
        trial: Of a run, as in :meth:`Run.config`.
        verified: Of a run, take the weights of the longest verification instead of the search's.
        pretrained: Weights of a timm architecture: ``"timm"``, ``"local-dir:FOLDER"`` or the path of a checkpoint.
        classes: Names or indices of the classes to show; by default four that differ most.
        channels: Channels of each block to show.
        images: Images to analyse, drawn at random; by default all.
        seed: Fixes what is drawn.
        device: A torch device.
        to: Folder to write; by default ``excitation/trial-N`` in the run folder, or else ``excitation/NAME`` in the
            current one, for other data than the run's own ``excitation/RUN-trial-N-DATA``.

    Raises:
        SeSearchError: If something given is wrong or the network has no SE block; nothing is written then.
    """
    found = _find_network(model, data, pick, trial, verified, pretrained)
    target = Path(to) if to is not None else found.folder
    with _made(target):
        analysis = analyze_gates(
            found.network,
            found.data,
            found.split,
            classes=classes,
            channels=channels,
            images=images,
            seed=seed,
            device=device,
            recipe=found.recipe,
            progress_bar=progress_bar,
        )
        analysis |= {"model": found.name, "backbone": found.backbone or analysis["backbone"], "source": found.source}
        # All that takes time comes before the first file, so that an interruption leaves no half of a result.
        text, page = json.dumps(analysis, indent=2, allow_nan=False), render_excitation(analysis)
        try:
            write_text(target / ANALYSIS_FILE, text)
            write_text(target / PAGE_FILE, page)
        except OSError as error:
            raise _not_written(target, error) from error
    return Excitation(target, analysis)


@contextmanager
def _made(target: Path) -> Iterator[None]:
    """Make a folder that can be written to; what was made goes again where the body fails before it writes."""
    if any(parent.exists() and not parent.is_dir() for parent in (target, *target.parents)):
        raise RunFolderError(f"{target} is not a folder: choose another with --to")
    new = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        try:
            target.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=target).close()
        except OSError as error:
            raise _not_written(target, error) from error
        yield
    except BaseException:
        with suppress(OSError):  # one that holds something by now stays
            for folder in new:
                folder.rmdir()
        raise


def _not_written(target: Path, error: OSError) -> RunFolderError:
    return RunFolderError(f"{target} cannot be written ({error.strerror}): choose another folder with --to")


@dataclass(frozen=True)
class _Network:
    """A network to analyse, and what is known of it.

    Attributes:
        network: The network.
        data: Images of its classes.
        split: Those that it was not trained on.
        name: What it is called.
        source: Where it is from.
        folder: Where its analysis goes if nothing else is said.
        backbone: Its timm architecture, where that is known.
        recipe: How it is evaluated, where that is known.
    """

    network: nn.Module
    data: ImageData
    split: Literal["validation", "test"]
    name: str
    source: str
    folder: Path
    backbone: str | None = None
    recipe: TrainingRecipe | None = None


def _find_network(
    model: str | os.PathLike[str] | Run | nn.Module,
    data: str | ImageData | None,
    pick: str | None,
    trial: int | None,
    verified: bool,
    pretrained: str | None,
) -> _Network:
    if not isinstance(model, Run | nn.Module) and (Path(model) / STUDY_FILE).is_file():
        model = load_run(model)
    called = type(model).__name__ if isinstance(model, nn.Module) else str(getattr(model, "folder", model))
    if pretrained is not None and (isinstance(model, Run | nn.Module) or Path(model).is_dir()):
        raise ConfigurationError(
            f"--pretrained gives weights to an architecture of timm, and {called} has its own: leave it out"
        )
    if isinstance(model, Run):
        return _member(model, data, pick or "knee", trial, verified)
    for option, given in (("--pick", pick is not None), ("--trial", trial is not None), ("--verified", verified)):
        if given:
            raise ConfigurationError(f"{option} chooses from a run, and {called} is none: leave it out")
    if isinstance(model, nn.Module):
        kind = type(model).__name__
        size = default_input_size(model)[1]
        return _Network(model, _images(data, kind, size), "test", kind, f"a {kind}", Path(EXCITATION) / kind)
    name, folder = os.fspath(model), Path(model)
    if folder.is_dir():
        network = load_exported(folder)
        config = getattr(network, "se_config", None)
        published: Any = network.pretrained_cfg
        backbone = config.backbone if isinstance(config, SEConfig) else str(published["architecture"])
        taken = default_input_size(network)
        images = _images(data, backbone, taken[1])
        if images.input_size != taken:
            raise DataError(f"{folder} takes images of {by(taken)} and {images.name} has {by(images.input_size)}")
        called = folder.resolve().name
        return _Network(
            network, images, "test", called, f"exported folder {called}", Path(EXCITATION) / called, backbone
        )
    if not timm.is_model(name):
        raise ConfigurationError(
            f"model {name!r} is neither a run folder nor an exported folder nor an architecture of timm"
            f"{did_you_mean(name, timm.list_models())}"
        )
    if pretrained is None:
        raise ConfigurationError(f"{name} has no weights yet: give --pretrained timm, local-dir:FOLDER or a checkpoint")
    check_pretrained(pretrained)
    images = _images(data, name, None)
    network = load_pretrained(name, pretrained, network_options(name, images.input_size))
    source = f"timm's {name}, weights {pretrained}"
    return _Network(network, images, "test", name, source, Path(EXCITATION) / name, name)


def _member(run: Run, data: str | ImageData | None, pick: str, trial: int | None, verified: bool) -> _Network:
    number, config = run.config(pick, trial)
    if verified:
        network, images = load_verified(run.folder, config)
    else:
        network, images = load_network(run.folder, config, run.evaluator)
    study = read_definition(run.folder)
    name, folder = run.folder.resolve().name, analysis_folder(run.folder, number, verified)
    own = data is None or data == study.data
    if not own:
        images = _images(data, study.backbone, study.image_size)
        folder = Path(EXCITATION) / f"{name}-{folder.name}-{Path(images.name).resolve().name}"
    return _Network(
        network,
        images,
        "validation" if own and not verified else "test",
        f"{name}, trial {number}{', verified' if verified else ''}",
        f"trial {number} of run {name}, weights of {'its verification' if verified else 'the search'}",
        folder,
        study.backbone,
        training_recipe(study),
    )


def _images(data: str | ImageData | None, backbone: str, size: int | None) -> ImageData:
    if data is None:
        raise DataError("--data is missing: name the images of the network's classes, such as digits or a folder")
    if isinstance(data, ImageData):
        return data
    return load_data(data, backbone, None if data in EMBEDDED else size)


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
                **({"log-loss": _log_loss(row)} if run["quality"] == "log-loss" else {}),
                "parameters": f"{row['parameter_overhead']:+.2%}",
                "latency": latency + (" predicted" if row["latency_stopped"] == PREDICTED else ""),
                **{name: f"{row[name]:.4g}" for name in run["objectives"] if name not in OBJECTIVES},
                "SE blocks": str(row["se_blocks"]),
                "": ", ".join(remarks),
            }
        )
    return pd.DataFrame(rows)


def _log_loss(row: Mapping[Any, Any]) -> str:
    return f"{row['log_loss']:.4f} [{row['log_loss_low']:.4f}, {row['log_loss_high']:.4f}]"


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


def describe_excitation(analysis: Mapping[str, Any]) -> pd.DataFrame:
    """Return what an analysis of excitation has found in words, one row for each SE block.

    Args:
        analysis: The content of ``excitation.json``.
    """
    rows = []
    for block in analysis["blocks"]:
        loss, low, high = block["log_loss_change"]
        shares = {
            word: f"{block[name][0]:.1%} [{block[name][1]:.1%}, {block[name][2]:.1%}]"
            for name, word in (
                ("specificity", "class-specific"),
                ("near_one", "near one"),
                ("constant", "constant"),
                ("similarity", "alike up to scale"),
            )
        }
        rows.append(
            {
                "block": block["block"],
                "stage": "–" if block["stage"] is None else str(block["stage"]),
                **shares,
                "log-loss without": f"{loss:+.4f} [{low:+.4f}, {high:+.4f}]",
                "": block["verdict"],
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
