"""The command line: each command calls one function and reports a user's mistake in one sentence."""

import functools
import importlib
import inspect
import io
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from typer.core import TyperCommand

from . import __version__, completion
from .deployment.deployment import RUNTIMES
from .errors import DefinitionError, SeSearchError, as_given, naming_options, printable
from .export.formats import FORMATS
from .files import plain
from .progress import complain, console, progress_bar, say
from .safe_path import safe_path
from .study.options import OPTIONS, read_settings, shows_parameters

if TYPE_CHECKING:
    from .api.sites import SiteList
    from .study.files import ListedSpace

_RESUMES = " The same command resumes."

_SEARCH, _CLUSTER = "Search", "Cluster"

app = typer.Typer(
    help="Find where attention, such as Squeeze-and-Excitation, is worth its cost in a timm backbone.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Backbone = Annotated[
    str,
    typer.Argument(metavar="BACKBONE", help="Name of a timm architecture.", autocompletion=completion.backbones),
]
ImagesNow = Annotated[
    str | None,
    typer.Option(help="Folder where the run's images are now.  [default: where they were when the run started]"),
]
RunFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Run folder.", autocompletion=completion.run_folders)]

# Of commands that take a trained network.
OfItsClasses = Annotated[
    str | None,
    typer.Option(
        help="Images of the network's classes: embedded dataset, image folder or timm dataset.  [default: the run's]"
    ),
]
OfFront = Annotated[
    str | None, typer.Option(help="Member of a run's front: knee, accurate, small or fast.  [default: knee]")
]
OfRun = Annotated[int | None, typer.Option(help="Number of any complete trial of a run, instead of --pick.")]
Retrained = Annotated[bool, typer.Option("--verified", help="Use the retrained weights of a run's verification.")]
Weights = Annotated[
    str | None,
    typer.Option(help="Weights of a timm architecture: timm, local-dir:FOLDER, hf-hub:NAME or a checkpoint file."),
]


def main() -> None:
    """Run the command line."""
    _limit_spinning()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a log in another encoding must not end a search
    shown = warnings.formatwarning
    warnings.formatwarning = lambda *about, **more: _in_lines(shown(*about, **more))
    try:
        with safe_path():
            app(prog_name="se-search")
    except OSError as error:  # of Typer's own output, such as --help
        complain(f"Error: the output cannot be written ({error.strerror or error})")
        sys.exit(2)
    finally:
        _close_output()


def _limit_spinning() -> None:
    """Let threads that wait for each other sleep sooner, unless the user has chosen; call it before importing PyTorch.

    GNU's OpenMP lets them wait in a loop 30 times as long. While another process has one of two CPUs, training then
    takes up to 26 times as long, and otherwise no less (``benchmarks/busy_machine.py``).
    """
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = "10000"


def _in_lines(text: str) -> str:
    return "".join(f"{printable(line)}\n" for line in text.splitlines())


def _close_output() -> None:
    """Write what is left of the output; if that fails, discard it, or Python would print a traceback at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):  # not a file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Grouped(TyperCommand):
    """A command whose help shows its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group, in the order of their first options."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class _Result(NamedTuple):
    """What a command has found: functions that return it for JSON, and that print it.

    JSON has each item of a list on a line of its own if ``lines``. ``form`` is the option that chose another form.
    """

    content: Callable[[], Any]
    show: Callable[[], None]
    lines: bool = False
    form: str = ""


class _Output(NamedTuple):
    """How a command prints, by the options that every command has."""

    quiet: bool
    verbose: bool
    as_json: bool

    @contextmanager
    def of_progress(self) -> Iterator[None]:
        """Print what precedes the result nowhere if quiet, and to standard error if the result is JSON."""
        console.quiet, console.stderr = self.quiet, self.as_json
        if self.verbose:
            logging.basicConfig(level=logging.INFO)
        try:
            yield
        finally:
            console.quiet = console.stderr = False

    def print(self, result: _Result) -> None:
        """Print the result of a command."""
        if not self.as_json:
            result.show()
            return
        if result.form:
            raise DefinitionError(f"{result.form} and --json are two forms of one result: omit one of them")
        with self.of_progress():  # what only JSON has may be computed now
            content = plain(result.content())
        for one in content if result.lines else [content]:
            for line in json.dumps(one, indent=None if result.lines else 2, allow_nan=False).splitlines():
                say(line, to_copy=True)

    def complain(self, error: SeSearchError) -> None:
        """Print the sentence of an error, after its traceback if verbose."""
        if self.verbose:
            for line in traceback.format_exception(error):
                complain(line.rstrip())
        complain(f"Error: {error}")


def _output_parameters(has_result: bool) -> Iterator[inspect.Parameter]:
    helps = {"quiet": "Print only the result.", "verbose": "Print messages of libraries, and tracebacks of errors."}
    for name, text in (helps | ({"json": "Print the result as JSON."} if has_result else {})).items():
        annotation = Annotated[bool, typer.Option(f"--{name}", help=text, rich_help_panel="Output")]
        argument = "as_json" if name == "json" else name
        yield inspect.Parameter(argument, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)


def _command(
    loads: str = ".terminal", hint: str = ""
) -> Callable[[Callable[..., _Result | None]], Callable[..., None]]:
    """Return a decorator that makes a function a command, with the options of :class:`_Output`.

    Args:
        loads: The module whose import takes seconds, during which a terminal shows a status line.
        hint: Text after ``Stopped.`` when the user interrupts the command.
    """

    def decorate(function: Callable[..., _Result | None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(*args: Any, quiet: bool, verbose: bool, as_json: bool = False, **kwargs: Any) -> None:
            output = _Output(quiet, verbose, as_json)
            try:
                with naming_options():
                    with output.of_progress():
                        _load(loads)
                        _check_text(kwargs)
                        result = function(*args, **kwargs)
                    if result is not None:
                        output.print(result)
            except (SeSearchError, KeyboardInterrupt) as error:
                if isinstance(error, KeyboardInterrupt) or _was_interrupted(error):
                    complain(f"Stopped.{hint}")
                    raise typer.Exit(130) from error
                output.complain(error)
                raise typer.Exit(2) from error
            except (MemoryError, RuntimeError) as error:
                from .memory import out_of_memory

                told = out_of_memory(error)
                if told is None:
                    raise
                complain(f"Error: {told}")
                raise typer.Exit(2) from error
            except OSError as error:
                if error.filename is None:
                    raise
                complain(f"Error: {str(error.filename)[:200]!r} cannot be used: {error.strerror}")
                raise typer.Exit(2) from error

        signature = inspect.signature(function)
        has_result = signature.return_annotation is not None
        parameters = [*signature.parameters.values(), *_output_parameters(has_result)]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        app.command(cls=_Grouped)(command)
        return command

    return decorate


def _was_interrupted(error: BaseException) -> bool:
    """Whether an interruption led to the error, as when PyTorch's export is interrupted and fails to clean up."""
    chain = [error]
    for one in chain:
        chain += [other for other in (one.__cause__, one.__context__) if other is not None and other not in chain]
    return any(isinstance(one, KeyboardInterrupt) for one in chain)


def _load(module: str) -> None:
    """Import a module of the package, with a status line on a terminal if that takes seconds."""
    with console.status("Loading PyTorch and timm"):
        importlib.import_module(module, __package__)


def _check_text(options: Mapping[str, Any]) -> None:
    """Check that all values can be written to a file of text, such as the names of folders."""
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            try:
                str(one).encode()
            except UnicodeEncodeError as error:
                raise DefinitionError(f"{as_given(name)} {str(one)!r} is not UTF-8: rename it") from error


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"se-search {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


_COMPLETED = {"backbone": completion.backbones, "space": completion.spaces}


def _study_parameters() -> Iterator[inspect.Parameter]:
    """Options of ``run`` that set a key of the study; the key's field gives type, choices, default and help."""
    for option in OPTIONS:
        names = (f"{option.flag}/{option.opposite}",) if option.opposite else (option.flag,)
        metavar = f"[{'|'.join(option.choices)}]" if option.choices else None
        info = typer.Option(
            *names,
            help=option.help,
            metavar=metavar,
            rich_help_panel=option.panel,
            autocompletion=_COMPLETED.get(option.argument),
        )
        annotation = Annotated[option.written_as | None, info]  # type: ignore[name-defined]
        yield inspect.Parameter(option.argument, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


@_command(".study.files", hint=_RESUMES)
@shows_parameters(_study_parameters())
def run(
    study: Annotated[
        str,
        typer.Option(
            help="Name of a shipped study or path of a YAML file.",
            rich_help_panel=_SEARCH,
            autocompletion=completion.studies,
        ),
    ] = "digits",
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder.  [default: runs/BACKBONE-STUDY or runs/BACKBONE-DATA]", rich_help_panel=_SEARCH),
    ] = None,
    *,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the plan with exact costs and estimated time, memory and disk, and write nothing.",
            rich_help_panel=_SEARCH,
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set any key of the study, such as evaluator.label_smoothing=0.1; repeatable.",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Trials at once on this machine, run by Ray; latencies are measured while none runs.",
            rich_help_panel=_CLUSTER,
        ),
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="auto|HOST:PORT",
            help="Ray cluster that evaluates; must include this machine.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(
            help="GPUs per trial with --workers or --ray; 0.5: half a GPU.  [default: 1 on a GPU]",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    latency_node: Annotated[
        bool,
        typer.Option(
            "--latency-node",
            help="Measure latency on the node that offers the resource latency.",
            rich_help_panel=_CLUSTER,
        ),
    ] = False,
    **arguments: Any,
) -> _Result:
    """Run a search and write the run folder with its report. The same command resumes it.

    \b
    Example:
      se-search run --backbone resnet50 --budget 50
      se-search run --backbone resnet50 --budget 50 --dry-run
      se-search run --backbone resnet18 --space blocks --max-params 5% \\
        --out runs/small
      se-search run --backbone resnet18 --data path/to/images --image-size 128
      se-search run --backbone resnet18 --evaluator finetune --pretrained timm \\
        --epochs 3
      se-search run --backbone resnet18 --latency-runtime onnxruntime \\
        --latency-size 224 --latency-threads 1
      se-search run --backbone resnet18 --evaluator scratch --workers 4
      se-search run --backbone resnet50 --ray auto
      se-search run --backbone resnet18 --set evaluator.label_smoothing=0.1
    """
    from .study.files import load_study

    given = read_settings(settings or ())
    load_study(study, given, **arguments)  # names a mistake before PyTorch is imported
    _load(".terminal")
    from .api import plan, search
    from .terminal import show_front

    arguments |= {
        "study": study,
        "out": out,
        "settings": given,
        "workers": workers,
        "ray": ray,
        "gpus_per_trial": gpus_per_trial,
        "latency_node": latency_node,
    }
    if dry_run:
        planned = plan(**arguments)
        return _Result(planned.to_json, planned.show)
    found = search(**arguments)
    return _Result(found.to_json, lambda: show_front(found.folder))


@_command(hint=_RESUMES)
def verify(
    folder: RunFolder,
    members: Annotated[
        str,
        typer.Option(
            help="front (with trials not distinguishable from it), all (complete trials), verified (those verified "
            "before) or a number."
        ),
    ] = "front",
    seeds: Annotated[int, typer.Option(help="Number of training seeds of each network.")] = 3,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each training.  [default: the study's]")] = None,
    data: ImagesNow = None,
) -> _Result:
    """Retrain front members independently with several seeds. The same command resumes.

    They are evaluated on the test images. Baselines are retrained with the same seeds and batches: the network without
    attention and, if the space contains them, uniform ones with published options. The report and the tables show
    values, paired differences and the rank agreement with the search.

    \b
    Example:
      se-search verify runs/resnet50-digits
      se-search verify runs/resnet50-digits --members 2 --seeds 5 --epochs 30
    """
    from .api import load_run
    from .terminal import show_verified

    found = load_run(folder)
    found.verify(members, seeds, epochs, data)
    return _Result(found.to_json, lambda: show_verified(found.folder))


@_command()
def report(
    folder: RunFolder,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="NAME", help="html, md, csv or png; repeatable.  [default: html]"),
    ] = None,
) -> _Result:
    """Rewrite a run's report, tables and run.json from its trials.

    Use watch for a running search and compare for several runs.

    \b
    Example:
      se-search report runs/resnet50-digits
      se-search report runs/resnet50-digits --format md --format png
    """
    from .api import load_run
    from .terminal import show_report

    found = load_run(folder)
    files = found.report_as(*(formats or ["html"]))
    return _Result(found.to_json, lambda: show_report(found.folder, files))


@_command()
def watch(folder: RunFolder, every: Annotated[int, typer.Option(help="Interval between reports (s).")] = 10) -> None:
    """Rewrite a run's report at intervals until the run is finished.

    Start it before or during a search in another process. It writes only the report; the page reloads itself.

    \b
    Example:
      se-search watch runs/resnet50-digits
    """
    from .api import follow_run

    say(f"Report: {follow_run(folder, every)}", to_copy=True)


@_command()
def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Run folders, at least two.", autocompletion=completion.run_folders),
    ],
    to: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("comparison.html"),
) -> _Result:
    """Compare the fronts of several runs in one page. Each run's report is rewritten.

    \b
    Example:
      se-search compare runs/first runs/second --to comparison.html
    """
    from .api import load_run, write_comparison
    from .report.comparison import describe_ratios
    from .results.comparison import compare_runs

    with console.status("Comparing the runs"):
        comparison = compare_runs(folders)
        page = write_comparison(comparison, to)
    reports = [load_run(folder).report() for folder in folders]

    def show() -> None:
        for file in reports:
            say(f"Report: {file}", to_copy=True)
        for sentence in (*describe_ratios(comparison), *comparison.cautions):
            say(sentence)
        say(f"Comparison: {page}", to_copy=True)

    return _Result(lambda: comparison.to_json() | {"page": page}, show)


def _format_flags() -> Iterator[inspect.Parameter]:
    for one in FORMATS.values():
        annotation = Annotated[bool, typer.Option(f"--{one.name}", help=f"Also write {one.help}.")]
        yield inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)


@_command()
@shows_parameters(_format_flags())
def export(
    folder: RunFolder,
    pick: Annotated[
        str, typer.Option(help="Member of the front: knee, accurate, small (fewest parameters) or fast.")
    ] = "knee",
    trial: Annotated[int | None, typer.Option(help="Number of any complete trial, instead of --pick.")] = None,
    to: Annotated[Path, typer.Option(help="Folder to write.")] = Path("exported"),
    verified: Annotated[
        bool | None,
        typer.Option(
            "--verified/--search-weights",
            help="Use the retrained weights of verification, or those that the search evaluated.  "
            "[default: the verified ones if the trial has been verified]",
        ),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Use timm's own architecture, if it has the same network.")
    ] = False,
    *,
    optimized: Annotated[
        bool,
        typer.Option(
            "--optimized", help="Optimize SE blocks in the further formats (model.pt2 if none) for inference."
        ),
    ] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar=f"[{'|'.join([*FORMATS, 'NAME'])}]",
            help="Also write this format. NAME is a plugin's format. Repeatable.",
        ),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="REPOSITORY", help="Also upload the folder, with the token of HF_TOKEN or `hf auth login`."
        ),
    ] = None,
    data: ImagesNow = None,
    **flags: bool,
) -> _Result:
    """Export a network as a folder that timm loads, with a model card.

    If the network has been verified, the weights are retrained: those of its best training on the validation images.
    Otherwise, and with --search-weights, they are those that the search evaluated: with the supernet a slice of its
    weights, without retraining.

    \b
    Example:
      se-search export runs/resnet50-digits --pick knee --to exported
      se-search export runs/resnet50-digits --search-weights --to slice
      se-search export runs/resnet50-digits --trial 0 --plain --to plain
      se-search export runs/resnet50-digits --standalone --to standalone
      se-search export runs/resnet50-digits --onnx --pt2 --to graphs
      se-search export runs/resnet50-digits --openvino --to with-openvino
      se-search export runs/resnet50-digits --optimized --onnx --to optimized
      se-search export runs/resnet50-digits --push-to-hub me/my-network
    """
    from .api import load_run
    from .terminal import show_exported

    exported = load_run(folder).export(
        pick,
        trial,
        to,
        verified=verified,
        plain=plain,
        optimized=optimized,
        formats=formats or (),
        push_to_hub=push_to_hub,
        data=data,
        **flags,
    )
    return _Result(lambda: exported, lambda: show_exported(exported, plain))


@_command()
def excitation(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, an exported folder, or a timm architecture name.")
    ],
    data: OfItsClasses = None,
    pick: OfFront = None,
    trial: OfRun = None,
    verified: Retrained = False,
    pretrained: Weights = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="Classes to show, by name or index; a name with a comma needs the index.  "
            "[default: the four that differ most]",
        ),
    ] = None,
    channels: Annotated[int, typer.Option(help="Number of channels to show for each block.")] = 50,
    images: Annotated[
        int | None, typer.Option(help="Number of images to analyse, drawn at random.  [default: all]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the drawn images.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write.  [default: excitation/trial-N in the run folder; excitation/RUN-trial-N-DATA for "
            "other data than the run's; excitation/NAME without a run]"
        ),
    ] = None,
) -> _Result:
    """Analyse the attention blocks of a trained network, and report which are idle.

    The analysis follows section 7.2 of the SENet paper: how much gates differ between classes, which gates are
    constant, and how accuracy changes when a block's gates are replaced by their means. It uses images on which the
    network was not trained.

    \b
    Example:
      se-search excitation runs/resnet50-digits
      se-search excitation runs/resnet50-digits --trial 1 --classes 0,1,7
      se-search excitation exported --data digits --to excitation/exported
      se-search excitation seresnet50 --pretrained timm --data path/to/imagenet
    """
    from .api import analyze_excitation
    from .terminal import show_excitation

    found = analyze_excitation(
        model,
        data,
        pick=pick,
        trial=trial,
        verified=verified,
        pretrained=pretrained,
        classes=None if classes is None else classes.split(","),
        channels=channels,
        images=images,
        seed=seed,
        device=device,
        to=to,
    )
    return _Result(lambda: found.analysis | {"page": found.page}, lambda: show_excitation(found))


@_command()
def thin(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A timm architecture name, an exported folder or a run folder.")
    ],
    data: OfItsClasses = None,
    pretrained: Weights = None,
    pick: OfFront = None,
    trial: OfRun = None,
    verified: Retrained = False,
    images: Annotated[
        int | None, typer.Option(help="Number of validation images, drawn at random.  [default: all]")
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Largest rise of the log-loss of the chosen network (nats).")] = 0.01,
    limit: Annotated[float, typer.Option(help="Time limit of each measurement of latency (s); 0 measures none.")] = 1.0,
    row: Annotated[int | None, typer.Option(help="Row of the table to export.  [default: the chosen one]")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the drawn images.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="NAME", help="Also export this format, as se-search export; repeatable."),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Folder for the export.  [default: no export]")] = None,
) -> _Result:
    """Find which attention blocks of a trained network can become constants. Nothing is trained.

    A block whose gate hardly depends on the image becomes a factor in the weights beside it, and costs nothing. Single
    blocks and growing sets of blocks are compared with the original network, image by image. The smallest network for
    which the interval of the rise of log-loss ends below the tolerance is chosen.

    \b
    Example:
      se-search thin seresnet50 --pretrained timm --data path/to/images
      se-search thin exported --data digits --to thinned
      se-search thin runs/resnet50-digits --trial 1 --limit 0 --json
    """
    from .api.thin import thin as thin_network
    from .export.formats import choose_formats
    from .export.timm_folder import check_target
    from .terminal import show_thinning

    if to is not None:
        check_target(to)
    elif row is not None or formats:
        raise DefinitionError("--row and --format are for an export: give --to FOLDER")
    choose_formats(formats or (), {}, False)
    found = thin_network(
        model,
        data,
        pick=pick,
        trial=trial,
        verified=verified,
        pretrained=pretrained,
        images=images,
        tolerance=tolerance,
        limit=limit,
        seed=seed,
        device=device,
        progress_bar=progress_bar,
    )
    exported = None
    if to is not None and (row is not None or found.chosen is not None):
        exported = found.export(to, row, formats or ())
    return _Result(found.to_json, lambda: show_thinning(found, exported))


@_command(".evidence.power")
def power(
    data: Annotated[str, typer.Option(help="Embedded dataset, image folder or timm dataset.")] = "digits",
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Name of a timm architecture, for the published gains of its family.  [default: all]",
            autocompletion=completion.backbones,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of training seeds of each network in verification.")] = 3,
    budget: Annotated[int, typer.Option(help="Number of configurations of the search.")] = 50,
    images: Annotated[
        int | None, typer.Option(help="Number of validation and of test images, instead of those of --data.")
    ] = None,
) -> _Result:
    """State the smallest differences that data can show, and published gains of SE. Nothing is trained.

    The noise is assumed. The report of a run states the same with the noise seen in it.

    \b
    Example:
      se-search power
      se-search power --data path/to/images --backbone resnet50
      se-search power --images 10000 --seeds 5 --budget 100 --json
    """
    from .evidence.power import power as power_of

    found = power_of(data, backbone, seeds=seeds, budget=budget, images=images)
    return _Result(found.to_json, lambda: _say_all(found.sentences))


@_command(".evidence.text")
def evidence(
    backbone: Annotated[
        str | None,
        typer.Argument(
            metavar="BACKBONE",
            help="Name of a timm architecture.  [default: all families]",
            autocompletion=completion.backbones,
        ),
    ] = None,
) -> _Result:
    """List published results with and without SE, for a backbone, its family or the nearest networks.

    Nothing is trained or downloaded. Accuracies are from the tables of the SENet paper, timm and other repositories.

    \b
    Example:
      se-search evidence
      se-search evidence resnet50
      se-search evidence regnety_032 --json
    """
    from .evidence.known import evidence as evidence_for
    from .evidence.published import published_pairs
    from .evidence.text import show_evidence, show_families

    if backbone is None:
        return _Result(lambda: [pair.to_json() for pair in published_pairs()], show_families)
    found = evidence_for(backbone)
    return _Result(found.to_json, lambda: show_evidence(found))


@_command(".evidence.text")
def atlas(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Names of timm architectures, with wildcards.")
    ] = "*",
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with all architectures, to sort and filter, with figures."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV.")] = False,
) -> _Result:
    """List what SE costs in the architectures of timm. Nothing is run.

    Shares are of the backbone's parameters and FLOPs, with SE blocks at all sites of the default position.

    \b
    Example:
      se-search atlas "resnet*"
      se-search atlas --html atlas.html
      se-search atlas "efficientnet*" --csv
    """
    from .evidence.atlas import architectures, describe, write_csv
    from .evidence.text import show_atlas

    if html is not None:
        if pattern != "*" or as_csv:
            raise DefinitionError("--html writes a page with all architectures: omit the pattern and --csv")
        from .report.atlas_page import write_atlas

        page = write_atlas(html)
        return _Result(lambda: {"page": page}, lambda: say(f"Atlas: {page}", to_copy=True))
    found = architectures(pattern)
    show = functools.partial(write_csv, found, sys.stdout) if as_csv else functools.partial(show_atlas, found)
    return _Result(lambda: [describe(name) for name in found], show, form="--csv" if as_csv else "")


@_command(".evidence.text")
def sites(
    backbone: Backbone,
    position: Annotated[
        str | None,
        typer.Option(help="Only this position: standard, pre, post, identity, 3x3 or existing.  [default: all]"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="List every site instead of sums by stage.")] = False,
    skipped: Annotated[
        bool, typer.Option("--skipped", help="Also list the places without a site, with the reason.")
    ] = False,
) -> _Result:
    """List the sites for attention in a backbone, by stage or one by one, with the cost of SE.

    Costs are for SE with r=16. For the backbone's own attention, "now" shows its weights, and with --all their
    equivalent reduction ratio. Sums by stage are those of the atlas if it is of the installed version of timm.
    Otherwise, and for --all and --skipped, the network is traced.

    \b
    Example:
      se-search sites resnet50
      se-search sites resnet50 --position standard --all
      se-search sites efficientnet_b0 --position existing
    """
    from .evidence.atlas import known_costs
    from .evidence.text import show_stages
    from .network.attention.kind import check_choice
    from .network.positions import POSITIONS

    if position is not None:
        check_choice("position", position, POSITIONS)

    def trace() -> "SiteList":
        _load(".terminal")
        from .api.sites import list_sites

        return list_sites(backbone, position)

    # The network of a tag can differ from the architecture's, and so can its images.
    known = None if everything or skipped or "." in backbone else known_costs(backbone)
    if known is not None:
        show = functools.partial(show_stages, known.sites, known.parameters, position)
        return _Result(lambda: trace().to_json(), show)
    found = trace()
    from .terminal import show_sites

    return _Result(found.to_json, lambda: show_sites(found, position, everything, skipped))


@_command()
def latency(
    backbone: Backbone,
    config: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Configuration in the format of SEConfig.to_json; repeatable."),
    ] = None,
    space: Annotated[
        str,
        typer.Option(help="Without --config: space whose baselines are measured.", autocompletion=completion.spaces),
    ] = "stages",
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(RUNTIMES)}; repeatable.  [default: eager]",
        ),
    ] = None,
    optimized: Annotated[
        bool, typer.Option("--optimized", help="Optimize all networks, including the backbone, for inference first.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Batch size.")] = 1,
    size: Annotated[
        int | None, typer.Option(help="Image height and width (pixels).  [default: the backbone's]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.  [default: PyTorch's choice]")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    memory_format: Annotated[str, typer.Option(help="contiguous or channels_last.")] = "contiguous",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Replay a CUDA graph; only on a GPU.")] = False,
    target: Annotated[
        float,
        typer.Option(
            help="Relative half-width of the confidence interval at which a measurement stops: 0.005 is ±0.5 %."
        ),
    ] = 0.005,
    limit: Annotated[float, typer.Option(help="Time limit of a measurement (s).")] = 5.0,
    model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure what determines the latencies of --space and write it to FILE, for "
            "`run --latency-from FILE` on another machine.",
        ),
    ] = None,
) -> _Result:
    """Measure the latency of networks with attention, relative to the bare backbone, on this machine.

    The row "no SE" ("no ECA" in a space of ECA) compares the backbone with its copy: the interval should contain ×1.

    \b
    Example:
      se-search latency resnet50
      se-search latency resnet50 --runtime eager --runtime compile --optimized \\
        --threads 1
      se-search latency resnet18 --config my_config.json --batch 8 \\
        --memory-format channels_last
      se-search latency resnet18 --model device.json
    """
    from .api.latency import input_size, latency_rows, latency_table, measure_configurations, measure_latency_model
    from .deployment.deployment import Deployment
    from .terminal import show_latency

    deployments = [
        Deployment(
            runtime=one,
            optimized=optimized,
            device=device,
            dtype=dtype,
            memory_format=memory_format,
            batch=batch,
            size=input_size(backbone, size),
            threads=threads,
            cuda_graph=cuda_graph,
        )
        for one in runtime or ("eager",)
    ]
    if model is not None:
        if config or len(deployments) > 1:
            raise DefinitionError("--model measures a space with one runtime: omit --config and further runtimes")
        conditions = measure_latency_model(
            backbone, model, space, deployment=deployments[0], target=target, limit=limit
        )
        told = f"Latency model: {model}, measured with {conditions.description}"
        return _Result(lambda: {"file": model, "conditions": conditions}, lambda: say(told, to_copy=True))
    measured = measure_configurations(backbone, config or (), space, deployments, target=target, limit=limit)
    return _Result(
        lambda: latency_rows(measured), lambda: show_latency(latency_table(measured), target, limit), lines=True
    )


@_command()
def reproduce(
    what: Annotated[
        Literal["all", "params"],
        typer.Argument(metavar="WHAT", help="all: every table; params: the tables of parameters and FLOPs."),
    ] = "all",
) -> _Result:
    """Show the SENet paper's tables: errors, costs beside those counted on timm's networks, and ablations.

    Each ablation has the command that runs it on your images. Nothing is trained.

    \b
    Example:
      se-search reproduce
      se-search reproduce params
    """
    from .evidence.paper import count_figure, published_figures
    from .terminal import show_paper, show_paper_costs

    figures = list(published_figures())
    with progress_bar("Counting", len(figures)) as advance:
        counted = []
        for figure in figures:
            counted.append(count_figure(figure))
            advance()

    def show() -> None:
        if what == "all":
            show_paper(counted)
            say("")
        show_paper_costs(counted)

    return _Result(lambda: [one.to_json() for one in counted], show)


@_command(".study.files")
def spaces() -> _Result:
    """List the shipped search spaces and those of installed plugins.

    \b
    Example:
      se-search spaces
      se-search run --backbone resnet18 --space my_space.yaml
    """
    from .study.files import list_spaces

    found = list_spaces()

    def show() -> None:
        for one in found:
            _say_space(one)

    return _Result(lambda: found, show)


def _say_space(one: "ListedSpace") -> None:
    name = f"{one.name} (of package {one.package})" if one.package else one.name
    if one.definition is None:
        say(f"{name}: cannot be used: {one.problem}")
        return
    say(f"{name}: {one.definition.description}")
    kinds = one.definition.kinds
    choices = {
        "positions": one.definition.positions,
        **{
            key if len(kinds) == 1 else f"{kind} {key}": values
            for kind, own in kinds.items()
            for key, values in own
            if isinstance(values, tuple)
        },
    }
    say("  " + "; ".join(f"{key} {', '.join(map(str, values))}" for key, values in choices.items()))


@_command(".study.files")
def studies() -> _Result:
    """List the shipped studies.

    \b
    Example:
      se-search studies
      se-search run --backbone resnet18 --study my_study.yaml
    """
    from .study.files import list_studies

    found = list_studies()

    def show() -> None:
        for name, study in found.items():
            say(f"{name}: {study.description}")
            say(f"  backbone {study.backbone}; data {study.data}; budget {study.budget}; {', '.join(study.objectives)}")

    return _Result(lambda: found, show)


def _say_all(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        say(sentence)
