"""The analysis of excitation in a run folder, and the priors that follow from that of the supernet."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.image_data import ImageData
from ..errors import DefinitionError, RunFolderError, as_given
from ..excitation.analysis import analyze_gates
from ..files import read_text, write_text
from ..network.config import SEConfig
from ..network.sites import Site
from ..progress import progress_bar, say
from ..study.definitions import StudyDefinition
from ..study.space import SearchSpace
from ..training.evaluator import Evaluator
from ..words import counted
from .evaluators import training_recipe
from .folder import ANALYSIS_FILE, EXCITATION, PAGE_FILE

SUPERNET = "supernet"


def check_priors(definition: StudyDefinition) -> None:
    """Check that the study's evaluator has what its priors are taken from.

    Raises:
        DefinitionError: If it has not.
    """
    if definition.priors == "excitation" and not definition.evaluator.shares_weights:
        raise DefinitionError(
            f"{as_given('priors')} is 'excitation', which analyses a supernet, and the evaluator is "
            f"{definition.evaluator.name!r}: "
            f"choose {as_given('evaluator')} supernet or {as_given('priors')} known"
        )


def priors_from_excitation(
    folder: Path,
    definition: StudyDefinition,
    space: SearchSpace,
    data: ImageData,
    evaluator: Evaluator,
    render: Callable[[dict[str, Any]], str] | None = None,
) -> dict[SEConfig, str]:
    """Return configurations without the SE blocks that idle in the trained supernet, with their names.

    The supernet's network with the widest block at every site is analysed once; the analysis is kept in the run folder.
    There is one configuration for each choice of a stage, but those that are known answers already. Where blocks are
    placed by stage, a stage is left out if all of its blocks idle.

    Args:
        folder: The run folder.
        definition: The study.
        space: Its space.
        data: Its data.
        evaluator: The supernet, trained.
        render: Gives the analysis's page, which is written beside it where it is missing.

    Raises:
        RunFolderError: If a kept analysis is damaged.
    """
    file = folder / EXCITATION / SUPERNET / ANALYSIS_FILE
    widest = space.largest()
    if not file.exists():
        analysis = analyze_gates(
            evaluator.network(widest),
            data,
            "validation",
            seed=definition.seed,
            device=definition.device,
            recipe=training_recipe(definition),
            progress_bar=progress_bar,
        )
        analysis |= {
            "model": f"supernet of {definition.backbone}",
            "source": "the supernet, widest blocks at every site",
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_name(PAGE_FILE).unlink(missing_ok=True)  # of an analysis that was deleted
        write_text(file, json.dumps(analysis, indent=2, allow_nan=False))
    verdicts, cautions = _read_analysis(file, render)
    idle = _idle_sites(widest, verdicts)
    gone = idle
    if space.definition.placement == "stage":
        working = {placed.site.stage for placed in widest.placed if placed.site not in idle}
        gone = [site for site in idle if site.stage not in working]
    known = {config.structure for config in space.known_answers().values()}
    found = {
        config: f"{space.label(options)} without idle blocks"
        for options in (space.stage_options() if gone else ())
        if (config := _without(space.uniform(options), gone)).structure not in known
    }
    for caution in cautions:
        say(f"The supernet's excitation: {caution}")
    say(_describe(idle, gone, len(widest.placed), len(found)))
    return found


def _read_analysis(
    file: Path, render: Callable[[dict[str, Any]], str] | None
) -> tuple[Mapping[tuple[str, str], str], list[str]]:
    """Return the verdict on each block, by its name and position, and the cautions of a kept analysis.

    Its page is written where it is missing.

    Raises:
        RunFolderError: If the analysis is damaged, or the page cannot be written.
    """
    page = file.with_name(PAGE_FILE)
    try:
        analysis = json.loads(read_text(file))
        verdicts = {(str(one["block"]), str(one["position"])): str(one["verdict"]) for one in analysis["blocks"]}
        cautions = [str(one) for one in analysis["cautions"]]
        text = None if render is None else render(analysis)
    except Exception as error:  # what a page is made of can be damaged in any way
        raise RunFolderError(f"{file} is damaged: delete it to analyse the supernet again") from error
    if text is not None and not page.is_file():
        try:
            write_text(page, text)
        except OSError as error:
            raise RunFolderError(f"{page} cannot be written ({error.strerror})") from error
    return verdicts, cautions


def _idle_sites(config: SEConfig, verdicts: Mapping[tuple[str, str], str]) -> list[Site]:
    sites = (placed.site for placed in config.placed)
    return [site for site in sites if verdicts.get((site.block, site.position)) == "idle"]


def _without(config: SEConfig, sites: Collection[Site]) -> SEConfig:
    """Return a copy without SE blocks at some sites; where they took the place of attention, none is left."""
    return replace(
        config,
        placed=tuple(placed for placed in config.placed if placed.site not in sites),
        removed=(*config.removed, *(site for site in sites if site.position == "existing")),
    )


def _describe(idle: Collection[Site], gone: Collection[Site], blocks: int, new: int) -> str:
    if not idle:
        return f"None of {blocks} SE blocks of the supernet surely idles: no configuration is added."
    named = f"Of {blocks} SE blocks of the supernet these idle: {', '.join(site.block for site in idle)}"
    if not gone:
        return f"{named}; no stage consists of such blocks alone, so no configuration is added."
    if len(gone) < len(idle):
        stages = sorted({site.stage for site in gone})
        named += f"; of whole stages {', '.join(map(str, stages))}"
    if not new:
        return f"{named}. What is left without them is among the known answers, so no configuration is added."
    return f"{named}. Before others, {counted(new, 'configuration')} without them {'is' if new == 1 else 'are'} tried."
