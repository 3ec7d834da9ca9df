"""Prior configurations from the excitation analysis of the supernet."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.image_data import ImageData
from ..errors import DefinitionError, RunFolderError, as_given
from ..excitation.analysis import analyze_gates
from ..files import read_text, refusing_unwritable, write_text
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
    """Check that a study with priors from an excitation analysis has a supernet.

    Raises:
        DefinitionError: If it has another evaluator.
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
    """Return configurations without the SE blocks that are idle in the trained supernet, with their names.

    The supernet's widest network is analysed once; the run folder stores the analysis. Each option of a stage gives one
    uniform configuration, unless it is a known answer. With placement by stage, only stages without a working block are
    removed.

    Args:
        folder: The run folder.
        definition: The study.
        space: Its space.
        data: Its data.
        evaluator: The trained supernet.
        render: Renders the analysis as a page, which is written beside it if missing.

    Raises:
        RunFolderError: If the stored analysis is damaged or the page cannot be written.
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
        file.with_name(PAGE_FILE).unlink(missing_ok=True)  # the page of a deleted analysis
        write_text(file, json.dumps(analysis, indent=2, allow_nan=False))
    verdicts, cautions = _read_analysis(file, render)
    sites = [placed.site for placed in widest.placed]
    idle = [site for site in sites if verdicts.get((site.block, site.position)) == "idle"]
    removed = idle
    if space.definition.placement == "stage":
        working = {site.stage for site in sites if site not in idle}
        removed = [site for site in idle if site.stage not in working]
    known = {config.structure for config in space.known_answers().values()}
    found = {
        config: f"{space.label(options)} without idle blocks"
        for options in (space.stage_options() if removed else ())
        if (config := _without(space.uniform(options), removed)).structure not in known
    }
    for caution in cautions:
        say(f"The supernet's excitation: {caution}")
    say(_describe(idle, removed, len(sites), len(found)))
    return found


def _read_analysis(
    file: Path, render: Callable[[dict[str, Any]], str] | None
) -> tuple[Mapping[tuple[str, str], str], list[str]]:
    """Return a stored analysis's verdicts by (block, position), and its cautions; write its page if missing."""
    page = file.with_name(PAGE_FILE)
    try:
        analysis = json.loads(read_text(file))
        verdicts = {(str(one["block"]), str(one["position"])): str(one["verdict"]) for one in analysis["blocks"]}
        cautions = [str(one) for one in analysis["cautions"]]
        text = None if render is None else render(analysis)
    except Exception as error:  # rendering a damaged analysis can raise anything
        raise RunFolderError(f"{file} is damaged: delete it to analyse the supernet again") from error
    if text is not None and not page.is_file():
        with refusing_unwritable(page):
            write_text(page, text)
    return verdicts, cautions


def _without(config: SEConfig, sites: Collection[Site]) -> SEConfig:
    """Return a copy without SE blocks at ``sites``; the backbone's own attention there is removed too."""
    return replace(
        config,
        placed=tuple(placed for placed in config.placed if placed.site not in sites),
        removed=(*config.removed, *(site for site in sites if site.position == "existing")),
    )


def _describe(idle: Collection[Site], removed: Collection[Site], blocks: int, new: int) -> str:
    if not idle:
        return f"None of the supernet's {blocks} SE blocks is significantly idle: no configuration is added."
    names = f"Idle SE blocks of the supernet ({len(idle)} of {blocks}): {', '.join(site.block for site in idle)}"
    if not removed:
        return f"{names}; no stage has idle blocks only, so no configuration is added."
    if len(removed) < len(idle):
        stages = sorted({site.stage for site in removed})
        names += f"; stages with idle blocks only: {', '.join(map(str, stages))}"
    if not new:
        return f"{names}. The configurations without them are known answers, so no configuration is added."
    return f"{names}. The search first tries {counted(new, 'configuration')} without them."
