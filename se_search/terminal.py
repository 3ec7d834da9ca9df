"""Terminal output of the commands: tables and sentences."""

import shlex
import shutil
import sysconfig
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from .api import Excitation
from .api.sites import SiteList
from .api.thin import Thinning
from .evidence.known import points
from .evidence.paper import ABLATIONS, CountedFigure, command_for, paper_pairs
from .evidence.published import PublishedPair
from .evidence.text import show_stages, show_totals
from .export.timm_folder import Exported
from .latency.meter import remarks
from .progress import console, print_table, say, width_of_table
from .report.summary import in_words, name_front
from .report.tables import (
    describe_excitation,
    describe_front,
    describe_latency,
    describe_sites,
    describe_thinned_blocks,
    describe_thinning,
    describe_verified,
)
from .results.decision import decide
from .results.record import RunRecord, read_results
from .statistics import difference_in_words
from .trials.folder import REPORT_FILE
from .words import counted, percent

_SPECIAL_IN_QUOTES = set('"$`\\!')


def show_front(folder: Path) -> None:
    """Show the Pareto front of a run folder, its cautions, and the decision."""
    results, run = read_results(folder)
    say("")
    say(f"{name_front(run)} ({run.quality.words} estimated by {run.evaluator.method}, 95 % intervals):")
    _print_table(describe_front(results, run))
    for sentence in run.cautions:
        say(sentence)
    failed = int((results["state"] == "failed").sum())
    if failed:
        say(f"{counted(failed, 'trial')} failed; trials.csv has the reasons.")
    if run.data.unreadable:
        say(f"Skipped unreadable images: {len(run.data.unreadable)}; run.json names them.")
    _show_decision(results, run)


def show_verified(folder: Path) -> None:
    """Show the results of verification in a run folder, and the decision."""
    results, run = read_results(folder)
    for schedule in run.verified:
        say("")
        say(f"{in_words(schedule).capitalize()}, evaluated on {schedule.images} test images (95 % intervals):")
        _print_table(describe_verified(schedule))
        for sentence in (schedule.finding, *schedule.failures, *schedule.ranking):
            say(sentence)
    _show_decision(results, run)


def show_report(folder: Path, files: Sequence[Path]) -> None:
    """Show the written files of a report, and the decision of its run."""
    for file in files:
        say(f"Report: {file}", to_copy=True)
    _show_decision(*read_results(folder), report=False)


def _show_decision(results: pd.DataFrame, run: RunRecord, report: bool = True) -> None:
    decision = decide(results, run)
    say("")
    say(f"{decision.title}. {decision.headline}.")
    if decision.figures:
        figures = ", ".join(f"{one.name} {one.text} {one.interval}" for one in decision.figures)
        say(f"Against no {run.attention}, {decision.network}: {figures}.")
    if run.focus:
        say(run.focus)
    say(decision.known)
    if report:
        say(f"Report: {Path(run.folder) / REPORT_FILE}", to_copy=True)
    for number, step in enumerate(decision.next):
        say(f"{'      ' if number else 'Next: '}{step.reason}")
        if step.command:
            say(f"        {_with_own_name(step.command)}", to_copy=True)


def show_exported(exported: Exported, plain: bool) -> None:
    """Show the files of an export and how to load them.

    Args:
        exported: The export.
        plain: Whether it names timm's own architecture.
    """
    say(f"Exported trial {exported.trial} to {exported.folder} ({', '.join(exported.files)}). Load it:")
    say(f"  {_load_command(exported, plain)}", to_copy=True)
    if exported.remark:
        say(exported.remark)
    if exported.weights:
        say(exported.weights)
    if exported.timm_architecture and not plain:
        say(f"timm has this network as {exported.timm_architecture}: an export with --plain loads without se_search.")
    if exported.repository:
        say(f"Uploaded to {exported.repository}.")


def show_thinning(found: Thinning, exported: Exported | None) -> None:
    """Show the result of thinning a network, and its export if there is one."""
    say(f"{found.name} on {found.images} validation images of {found.data} (95 % intervals):")
    _print_table(describe_thinned_blocks(found.blocks))
    say("Spread: how much the gate varies between images. Log-loss change: this block alone is constant.")
    for block, reason in found.skipped.items():
        say(f"{block} cannot become constant: {reason}.")
    say("")
    say("Networks with constant blocks: the front of log-loss and cost.")
    _print_table(describe_thinning(found.table))
    if found.conditions:
        say(f"Latency against the original network; {found.conditions}.")
    if found.caution:
        say(found.caution)
        return
    if found.chosen is None:
        say(f"No network is chosen: none has a {found.criterion}.")
        return
    assert found.confirmed is not None  # noqa: S101  # for mypy: a chosen network is confirmed
    say(f"Chosen: row {found.chosen}, the smallest network with a {found.criterion}.")
    say(f"On the test images its log-loss changes by {difference_in_words('log_loss', found.confirmed)}.")
    if exported is None:
        say("Next: export it with the same command and")
        say("        --to thinned", to_copy=True)
        return
    say(f"Exported to {exported.folder} ({', '.join(exported.files)}). Load it:")
    say(f"  {_load_command(exported, plain=False)}", to_copy=True)


def show_excitation(found: Excitation) -> None:
    """Show the results of an analysis of excitation."""
    analysis = found.analysis
    used, blocks = analysis["data"], len(analysis["blocks"])
    say(f"{analysis['source']} on {used['images']} {used['split']} images of {used['name']} (95 % intervals):")
    _print_table(describe_excitation(analysis))
    say(f"Log-loss change: the block's gates replaced by their means; corrected for {counted(blocks, 'block')}.")
    for sentence in analysis["cautions"]:
        say(sentence)
    for one in analysis["skipped"]:
        say(f"{one['block']} is skipped: {one['reason']}.")
    for one in analysis["observations"]:
        say(f"{one['found']}: {one['paper']} {one['evidence']}")
    say(f"Page: {found.page}", to_copy=True)


def _load_command(exported: Exported, plain: bool) -> str:
    modules = "timm" if plain else "timm, se_search"
    code = f"import {modules}; timm.create_model({f'local-dir:{exported.folder}'!r}, pretrained=True)"
    quoted = shlex.quote(code) if set(code) & _SPECIAL_IN_QUOTES else f'"{code}"'
    return f"python -c {quoted}"


def show_sites(found: SiteList, position: str | None, everything: bool, skipped: bool) -> None:
    """Show the sites of a backbone, by stage or one by one, with the parameters of SE blocks there.

    Args:
        found: The sites.
        position: The position that they are listed for; ``None`` for all.
        everything: Show each site instead of the sums of each stage and position.
        skipped: Also show the skipped places.
    """
    if everything:
        _print_table(describe_sites(found.sites), right=_NUMBERS_OF_SITES)
        show_totals(found.stages, found.parameters)
    else:
        show_stages(found.stages, found.parameters, position)
    if not skipped:
        return
    say("")
    if found.skipped.empty:
        say("No place is skipped.")
    else:
        _print_table(found.skipped.rename(columns={"reason": "reason for skipping"}))


_NUMBERS_OF_SITES = ("channels", "2C²/16", "now")


def show_latency(measured: pd.DataFrame, target: float, limit: float) -> None:
    """Show the table of :func:`se_search.compare_latency` with remarks.

    Args:
        measured: The table.
        target: Target half-width of the intervals.
        limit: Time limit of a measurement in seconds.
    """
    _print_table(describe_latency(measured))
    for conditions in measured["conditions"].unique():
        say(f"95 % intervals; {conditions}.")
    for sentence in remarks(measured, target, limit):
        say(sentence)


def show_paper(figures: Sequence[CountedFigure]) -> None:
    """Show the SENet paper's tables of errors, and its ablations with the commands that run them on other data.

    Args:
        figures: All networks of the paper with counted costs.
    """
    say("Tables 2 to 5: networks without and with SE")
    rows = []
    for pair in paper_pairs():
        errors = _errors(pair.top1_without, pair.top5_without), _errors(pair.top1_with, pair.top5_with)
        rows.append((pair.without, pair.dataset, *errors[0], *errors[1], *_gain(pair)))
    numbers = ("error (%)\ntop-1", "\ntop-5", "with SE\ntop-1", "\ntop-5", "gain\npoints", "\n95 %")
    print_table(("network", "dataset", *numbers), rows, numbers, gap=1)
    for varies in ABLATIONS:
        of_ablation = [one for one in figures if one.figure.varies == varies]
        tables = ", ".join(dict.fromkeys(one.figure.table for one in of_ablation))
        say("")
        say(f"By {varies} (table {tables})")
        _print_ablations(of_ablation)
        say("The same on your images:")
        say(f"  {command_for(varies)}", to_copy=True)
    say("")
    say(
        "Errors are the paper's, of one training each. The ablations train longer than tables 2 to 5. Gains are in "
        "points of top-1 accuracy. Their 95 % intervals are binomial and do not include the variation between "
        "trainings."
    )


def _print_ablations(figures: Sequence[CountedFigure]) -> None:
    rows = []
    for one in figures:
        figure, pair = one.figure, one.figure.pair
        if pair is None:
            first = next(other.figure.pair for other in figures if other.figure.pair)
            published = (*_errors(first.top1_without, first.top5_without), "", "")
        else:
            published = (*_errors(pair.top1_with, pair.top5_with), *_gain(pair))
        millions = "" if figure.millions is None else f"{figure.millions:.1f}"
        giga_flops = "" if figure.giga_flops is None else f"{figure.giga_flops:.2f}"
        costs = (millions, f"{one.formula:.2f}", giga_flops, f"{one.giga_flops:.3f}")
        rows.append((figure.name, *published, *costs))
    errors = ("error (%)\ntop-1", "\ntop-5", "gain\npoints", "\n95 %")
    numbers = (*errors, "paper\nM", "2C²/r\nM", "paper\nGFLOPs", "counted\nGFLOPs")
    print_table(("SE", *numbers), rows, numbers, gap=1)


def _errors(top1: float, top5: float | None) -> tuple[str, str]:
    return f"{100 - top1:.2f}", "" if top5 is None else f"{100 - top5:.2f}"


def _gain(pair: PublishedPair) -> tuple[str, str]:
    low, high = map(points, pair.interval)
    return points(pair.gain), f"[{low}, {high}]"


def show_paper_costs(figures: Sequence[CountedFigure]) -> None:
    """Show the SENet paper's tables of costs beside counted costs."""
    told = [one for one in figures if one.figure.millions is not None or one.figure.giga_flops is not None]
    for name in dict.fromkeys(one.figure.varies for one in told if one.figure.pair):
        of_table = [one for one in told if one.figure.varies == name]
        rows = []
        for one in of_table:
            millions, giga_flops = one.figure.millions, one.figure.giga_flops
            rows.append(
                (
                    one.figure.name,
                    "" if millions is None else f"{millions:.1f}",
                    f"{one.formula:.2f}",
                    "" if millions is None else f"{one.formula - millions:+.2f}",
                    f"{one.counted:.2f}",
                    "" if millions is None else f"{one.counted - millions:+.2f}",
                    "" if giga_flops is None else f"{giga_flops:.4g}",
                    f"{one.giga_flops:.3f}",
                    "" if giga_flops is None else percent(one.giga_flops / giga_flops - 1, 1, "+"),
                )
            )
        numbers = ("paper\nM", "2C²/r\nM", "diff.", "counted\nM", "diff.", "paper\nGFLOPs", "counted", "diff.")
        say(f"By {name}")
        print_table(("network", *numbers), rows, numbers, gap=1)
        say("")
    say("M: parameters in millions, classifier included; counted: with timm's biases and rounding.")
    say(
        "GFLOPs: multiply-additions of one image. The paper's ResNets stride in the first 1×1 convolution of a block, "
        "timm's in the 3×3, which costs more. It is not known why the paper's Inception-ResNet-v2 is cheaper."
    )


def _print_table(shown: pd.DataFrame, right: Collection[str] = ()) -> None:
    """Print a table of texts; on a narrow terminal the remarks (the column without a heading) follow below."""
    rows = [list(row) for row in shown.itertuples(index=False)]
    if "" not in shown or width_of_table(list(shown.columns), rows) <= console.width:
        print_table(list(shown.columns), rows, right)
        return
    others = shown.drop(columns="")
    print_table(list(others.columns), [list(row) for row in others.itertuples(index=False)], right, gap=1)
    heading = shown.columns[0]
    for name, remark in zip(shown[heading], shown[""], strict=True):
        if remark:
            say(f"{heading} {name}: {remark}")


def _with_own_name(command: str) -> str:
    """Return a command with the path of this program if the environment is not activated."""
    if shutil.which("se-search"):
        return command
    script = Path(sysconfig.get_path("scripts"), "se-search")
    program = str(script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script)
    return shlex.quote(program) + command.removeprefix("se-search")
