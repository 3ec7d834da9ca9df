"""The command line: parses, calls one function, turns a user's mistake into one sentence."""

import functools
import importlib
import inspect
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer

from . import __version__
from .errors import DefinitionError, SeSearchError, naming_options
from .export.formats import FORMATS
from .progress import console, progress_bar, say
from .study.options import OPTIONS, read_settings, shows_parameters

P = ParamSpec("P")
_GOES_ON = " The same command goes on from here."

_COMPARISON = Path("comparison.html")

app = typer.Typer(
    help="Find where Squeeze-and-Excitation blocks are worth their cost in a timm backbone.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Backbone = Annotated[str, typer.Argument(metavar="BACKBONE", help="A timm architecture name.")]
RunFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a run.")]


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a log in another encoding must not end a search
    app(prog_name="se-search")


def _command(loads: str = ".terminal", goes_on: str = "") -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Return a decorator that makes a function a command.

    Args:
        loads: The module that imports all that the command needs, which takes seconds; a terminal says so meanwhile.
        goes_on: What is said after an interruption.
    """

    def decorate(function: Callable[P, None]) -> Callable[P, None]:
        @app.command()
        @functools.wraps(function)
        def command(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                with console.status("Loading PyTorch and timm"):
                    importlib.import_module(loads, __package__)
                with naming_options():
                    function(*args, **kwargs)
            except SeSearchError as error:
                typer.echo(f"Error: {error}", err=True)
                raise typer.Exit(2) from error
            except OSError as error:
                if error.filename is None:
                    raise
                typer.echo(f"Error: {str(error.filename)[:200]!r} cannot be used: {error.strerror}", err=True)
                raise typer.Exit(2) from error
            except KeyboardInterrupt as error:
                typer.echo(f"Stopped.{goes_on}", err=True)
                raise typer.Exit(130) from error

        return command

    return decorate


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


def _study_parameters() -> Iterator[inspect.Parameter]:
    """Options of ``run`` that set a key of the study: types, choices, defaults and what they mean are its field's."""
    for option in OPTIONS:
        names = (f"{option.flag}/{option.opposite}",) if option.opposite else (option.flag,)
        metavar = f"[{'|'.join(option.choices)}]" if option.choices else None
        info = typer.Option(*names, help=option.help, metavar=metavar)
        annotation = Annotated[option.written_as | None, info]  # type: ignore[name-defined]
        yield inspect.Parameter(option.argument, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


@_command(goes_on=_GOES_ON)
@shows_parameters(_study_parameters())
def run(
    study: Annotated[str, typer.Option(help="How to search: a shipped study or a YAML file.")] = "digits",
    out: Annotated[
        Path | None, typer.Option(help="Run folder.  [default: runs/BACKBONE-STUDY or runs/BACKBONE-DATA]")
    ] = None,
    *,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any key of the study, such as evaluator.label_smoothing=0.1; may be given more than once.",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Processes here that evaluate; they share the CPU threads and pause while latency is measured. "
            "0, with --storage, leaves all to others."
        ),
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            envvar="SE_SEARCH_STORAGE",
            help="Optuna storage through which workers of other machines join: postgresql://…, mysql+pymysql://…, "
            "journal:FILE, redis://… or grpc://HOST:PORT.",
        ),
    ] = None,
    study_name: Annotated[
        str | None, typer.Option(help="The study's name in the storage.  [default: the run folder's]")
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            help="Where workers of other machines find files: a folder that all see, s3://BUCKET or gs://BUCKET.  "
            "[default: artifacts in the run folder]"
        ),
    ] = None,
    latency_device: Annotated[
        str | None,
        typer.Option(help="Part of the name of the device whose latency counts.  [default: that of this process]"),
    ] = None,
    worker_timeout: Annotated[
        float, typer.Option(help="Seconds without a sign of life after which a worker counts as gone.")
    ] = 60.0,
    **arguments: Any,
) -> None:
    """Search and write the run folder with its report. The same command resumes.

    \b
    Example:
      se-search run --backbone resnet50 --budget 50
      se-search run --backbone resnet18 --space blocks --max-params 5% \\
        --out runs/small
      se-search run --backbone resnet18 --data path/to/images --image-size 128
      se-search run --backbone resnet18 --evaluator finetune --pretrained timm \\
        --epochs 3
      se-search run --backbone resnet18 --latency-runtime onnxruntime \\
        --latency-size 224 --latency-threads 1
      se-search run --backbone resnet18 --evaluator scratch --workers 4
      se-search run --backbone resnet50 --storage postgresql://me@host/studies \\
        --artifacts /shared/files
      se-search run --backbone resnet18 --set evaluator.label_smoothing=0.1
    """
    from .api import search
    from .terminal import show_front

    found = search(
        study=study,
        out=out,
        settings=read_settings(settings or ()),
        workers=workers,
        storage=storage,
        study_name=study_name,
        artifacts=artifacts,
        latency_device=latency_device,
        worker_timeout=worker_timeout,
        **arguments,
    )
    show_front(found.folder)


@_command(loads=".cluster.worker")
def worker(
    study: Annotated[
        str, typer.Option(help="Name of the study in the storage: that of the run folder, if none was given.")
    ],
    storage: Annotated[
        str, typer.Option(envvar="SE_SEARCH_STORAGE", help="The Optuna storage that the search was given.")
    ],
    artifacts: Annotated[
        str | None, typer.Option(help="Where files are handed over.  [default: where the search says]")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The study's images, where they are elsewhere here.  [default: the study's]")
    ] = None,
    data_root: Annotated[
        str | None, typer.Option(help="The same for a dataset of timm's.  [default: the study's]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.  [default: the study's]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.  [default: PyTorch's choice]")] = None,
    patience: Annotated[
        float, typer.Option(help="Seconds without a sign of the search after which the worker gives up.")
    ] = 600.0,
    name: Annotated[str | None, typer.Option(hidden=True)] = None,
    run_folder: Annotated[Path | None, typer.Option(hidden=True)] = None,
    parent: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Evaluate configurations for a search that runs elsewhere. It ends with that search.

    Workers may be started before the search, and join or leave at any time. A password in SE_SEARCH_STORAGE is not seen
    in the list of processes.

    \b
    Example:
      se-search worker --storage postgresql://me@host/studies \\
        --study resnet50-digits
      se-search worker --storage journal:/shared/study.log \\
        --study resnet50-digits --device cuda:1
    """
    from .cluster.worker import WorkerOptions, run_worker

    run_worker(
        WorkerOptions(storage, study, artifacts, data, data_root, device, threads, patience, name, run_folder, parent)
    )


@_command(goes_on=_GOES_ON)
def verify(
    folder: RunFolder,
    members: Annotated[
        str, typer.Option(help="front, all (every complete trial), or how many members of the front.")
    ] = "front",
    seeds: Annotated[int, typer.Option(help="Trainings of each network.")] = 3,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each training.  [default: the study's]")] = None,
) -> None:
    """Train members of the front by themselves, with several seeds. The same command resumes.

    They are judged on the test images. The network without SE and, where the space holds it, the uniform r=16 one are
    trained beside them, with the same seeds and batches. Values, paired differences and the agreement with the search's
    ranking go to the report and the tables.

    \b
    Example:
      se-search verify runs/resnet50-digits
      se-search verify runs/resnet50-digits --members 2 --seeds 5 --epochs 30
    """
    from .api import load_run
    from .terminal import show_verified

    found = load_run(folder)
    found.verify(members, seeds, epochs)
    show_verified(found.folder)


@_command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="The folder of a run.")],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="NAME", help="html, md, csv or png; may be given more than once.  [default: html]"
        ),
    ] = None,
    live: Annotated[bool, typer.Option("--live", hidden=True)] = False,
    every: Annotated[int | None, typer.Option(hidden=True)] = None,
    to: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Write a run's report and tables anew.

    The report, the tables and run.json are written from the study. For a search that is under way there is watch, for
    several runs compare.

    \b
    Example:
      se-search report runs/resnet50-digits
      se-search report runs/resnet50-digits --format md --format png
    """
    from .api import load_run

    if live or every is not None or to is not None or len(folders) > 1:
        _report_as_before(folders, formats, live, every, to)
        return
    for file in load_run(folders[0]).report_as(*(formats or ["html"])):
        say(f"Report: {file}", to_copy=True)


def _report_as_before(
    folders: list[Path], formats: list[str] | None, live: bool, every: int | None, to: Path | None
) -> None:
    """Do what ``report`` did before ``watch`` and ``compare``; to be dropped with the release after the next."""
    several, html = len(folders) > 1, formats in (None, ["html"])
    if several and (live or not html):
        raise DefinitionError("several runs are compared in one HTML page: give --live or --format with one run")
    if to is not None and not several:
        raise DefinitionError("--to names the page that compares runs: give two folders or more")
    if every is not None and not live:
        raise DefinitionError("--every is the time between two reports of --live: give that too")
    if live and not html:
        raise DefinitionError("--live writes the HTML report: give --format without it")
    typer.echo(f"Type se-search {'compare' if several else 'watch'} instead; this spelling will be dropped.", err=True)
    if several:
        _compare(folders, to or _COMPARISON)
    else:
        _watch(folders[0], 10 if every is None else every)


@_command()
def watch(folder: RunFolder, every: Annotated[int, typer.Option(help="Seconds between two reports.")] = 10) -> None:
    """Write a run's report again and again until the run is finished.

    Beside a search that is under way in another process, or before it. Only the report is written; the page reloads
    itself.

    \b
    Example:
      se-search watch runs/resnet50-digits
    """
    _watch(folder, every)


def _watch(folder: Path, every: int) -> None:
    from .api import follow_run

    say(f"Report: {follow_run(folder, every)}", to_copy=True)


@_command()
def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="The folders of two runs or more.")],
    to: Annotated[Path, typer.Option(help="The page to write.")] = _COMPARISON,
) -> None:
    """Compare the fronts of several runs in one page. The report of each is written anew.

    \b
    Example:
      se-search compare runs/first runs/second --to comparison.html
    """
    _compare(folders, to)


def _compare(folders: list[Path], to: Path) -> None:
    from .api import load_run, write_comparison
    from .report.comparison import describe_ratios
    from .results.comparison import compare_runs

    with console.status("Comparing the runs"):
        comparison = compare_runs(folders)
        page = write_comparison(comparison, to)
    for folder in folders:
        say(f"Report: {load_run(folder).report()}", to_copy=True)
    for sentence in (*describe_ratios(comparison), *comparison.cautions):
        say(sentence)
    say(f"Comparison: {page}", to_copy=True)


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
        bool, typer.Option("--verified", help="With the weights of its verification, not the search's.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Name timm's own architecture, where it is the same network.")
    ] = False,
    *,
    optimized: Annotated[
        bool,
        typer.Option("--optimized", help="Write these (model.pt2 if none) with SE blocks that cost less time."),
    ] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar=f"[{'|'.join([*FORMATS, 'NAME'])}]",
            help="Also write this format. NAME is that of a plugin. May be given more than once.",
        ),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="REPOSITORY", help="Also upload the folder, with the token of HF_TOKEN or `hf auth login`."
        ),
    ] = None,
    **flags: bool,
) -> None:
    """Write a found network as a folder that timm loads. It has a model card.

    The weights are those that the search evaluated: with the supernet a slice of its weights, not retrained ones. With
    --verified they are those of its verification.

    \b
    Example:
      se-search export runs/resnet50-digits --pick knee --to exported
      se-search export runs/resnet50-digits --verified --to verified
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
        **flags,
    )
    show_exported(exported, plain)


@_command()
def excitation(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run folder, an exported folder, or a timm architecture name.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Images of the network's classes: embedded, a folder of classes, or timm's name of a dataset.  "
            "[default: the run's]"
        ),
    ] = None,
    pick: Annotated[str | None, typer.Option(help="Of a run: knee, accurate, small or fast.  [default: knee]")] = None,
    trial: Annotated[int | None, typer.Option(help="Of a run: number of any complete trial.")] = None,
    verified: Annotated[
        bool, typer.Option("--verified", help="Of a run: with the weights of the trial's verification.")
    ] = False,
    pretrained: Annotated[
        str | None,
        typer.Option(help="Weights of a timm architecture: timm, local-dir:FOLDER or a checkpoint file."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…",
            help="Classes to show, by name or index; one with a comma in its name by index.  "
            "[default: the four that differ most]",
        ),
    ] = None,
    channels: Annotated[int, typer.Option(help="Channels of each block to show.")] = 50,
    images: Annotated[int | None, typer.Option(help="Images to analyse, drawn at random.  [default: all]")] = None,
    seed: Annotated[int, typer.Option(help="Fixes what is drawn.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write.  [default: excitation/trial-N in the run folder, or excitation/NAME; with other "
            "data than the run's excitation/RUN-trial-N-DATA]"
        ),
    ] = None,
) -> None:
    """Analyse what the SE blocks of a trained network do. It also says which could be left out.

    After section 7.2 of the SENet paper: how much the gates tell classes apart, which are constant, and what is lost
    when a block's gates are replaced by their means. Images are those that the network was not trained on.

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
    show_excitation(found)


@_command()
def sites(
    backbone: Backbone,
    position: Annotated[
        str | None, typer.Option(help="Only this: standard, pre, post, identity, 3x3 or existing.  [default: all]")
    ] = None,
    skipped: Annotated[
        bool, typer.Option("--skipped", help="Also list the places that are left out, and why.")
    ] = False,
) -> None:
    """List where a backbone can have SE blocks and what each costs.

    Costs are those of r=16. Where the backbone has attention already, "now" shows its weights and the reduction ratio
    that they amount to.

    \b
    Example:
      se-search sites resnet50 --position standard
      se-search sites efficientnet_b0 --position existing
    """
    from .network.attention.kind import check_choice
    from .network.discovery import POSITIONS
    from .terminal import show_sites

    if position is not None:
        check_choice("position", position, POSITIONS)
    show_sites(backbone, position, skipped)


@_command()
def latency(
    backbone: Backbone,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="A configuration, as SEConfig.to_json writes it; may be given more than once."
        ),
    ] = None,
    space: Annotated[
        str, typer.Option(help="Without --config: the space whose well-known configurations are measured.")
    ] = "stages",
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="eager, compile, onnxruntime or openvino; may be given more than once.  [default: eager]",
        ),
    ] = None,
    optimized: Annotated[
        bool, typer.Option("--optimized", help="Optimize all networks for inference first, the backbone too.")
    ] = False,
    batch: Annotated[int, typer.Option(help="Images in a forward pass.")] = 1,
    size: Annotated[int | None, typer.Option(help="Height and width of the images.  [default: the backbone's]")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.  [default: PyTorch's choice]")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    memory_format: Annotated[str, typer.Option(help="contiguous or channels_last.")] = "contiguous",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="On a GPU, replay a CUDA graph.")] = False,
    target: Annotated[
        float, typer.Option(help="Half-width of the interval at which a measurement stops: 0.005 is ±0.5 %.")
    ] = 0.005,
    limit: Annotated[float, typer.Option(help="Seconds after which a measurement stops.")] = 5.0,
) -> None:
    """Measure what SE blocks cost on this machine. Each network is compared with the bare backbone.

    The row of the network without SE compares the backbone with a copy of itself: its interval should hold ×1.

    \b
    Example:
      se-search latency resnet50
      se-search latency resnet50 --runtime eager --runtime compile --optimized \\
        --threads 1
      se-search latency resnet18 --config my_config.json --batch 8 \\
        --memory-format channels_last
    """
    from .api.latency import compare_latency, input_size
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
    measured = compare_latency(backbone, config or (), space, deployments=deployments, target=target, limit=limit)
    show_latency(measured, target, limit)


@_command()
def reproduce(
    what: Annotated[
        Literal["params"], typer.Argument(metavar="WHAT", help="params: the paper's tables of parameters and FLOPs.")
    ],
) -> None:
    """Print the SENet paper's cost tables beside counted costs. They are counted on timm's networks.

    \b
    Example:
      se-search reproduce params
    """
    from .network.paper import count_figure, published_figures
    from .terminal import show_paper

    figures = list(published_figures())
    with progress_bar("Counting", len(figures)) as advance:
        counted = []
        for figure in figures:
            counted.append(count_figure(figure))
            advance()
    show_paper(counted)


@_command()
def spaces() -> None:
    """List the shipped search spaces and those of installed plugins.

    \b
    Example:
      se-search spaces
      se-search run --backbone resnet18 --space my_space.yaml
    """
    from . import api

    for one in api.spaces():
        name = f"{one.name} (of package {one.package})" if one.package else one.name
        if one.definition is None:
            typer.echo(f"{name}: cannot be used: {one.problem}")
            continue
        typer.echo(f"{name}: {one.definition.description}")
        choices = {
            "positions": one.definition.positions,
            **{key: values for key, values in one.definition.choices if isinstance(values, tuple)},
        }
        typer.echo("  " + "; ".join(f"{key} {', '.join(map(str, values))}" for key, values in choices.items()))


@_command()
def studies() -> None:
    """List the shipped studies.

    \b
    Example:
      se-search studies
      se-search run --backbone resnet18 --study my_study.yaml
    """
    from . import api

    for name, study in api.studies().items():
        typer.echo(f"{name}: {study.description}")
        typer.echo(
            f"  backbone {study.backbone}; data {study.data}; budget {study.budget}; {', '.join(study.objectives)}"
        )
