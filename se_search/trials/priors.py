"""Prior configurations from the excitation analysis of the supernet."""

import json
from collections.abc import Callable, Collection, Mapping
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
    kind = _gated_kind(space)
    widest = space.largest(kind)
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
        working = {space.stage_of(site) for site in sites if site not in idle}
        removed = [site for site in idle if space.stage_of(site) not in working]
    known = {config.structure for config in space.known_answers().values()}
    found = {
        config: f"{space.label(block)} without idle blocks"
        for block in (space.blocks() if removed else ())
        if block.kind == kind and (config := space.uniform(block).without_sites(removed)).structure not in known
    }
    for caution in cautions:
        say(f"The supernet's excitation: {caution}")
    say(
        _describe(
            idle, removed, len(sites), len(found), sorted({space.stage_of(site) for site in removed}), space.attention
        )
    )
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


def _gated_kind(space: SearchSpace) -> str:
    """Return the first kind of the space whose blocks have a gate.

    Raises:
        DefinitionError: If there is none.
    """
    for block in space.blocks():
        if space.place(space.sites[0], block).gate:
            return block.kind
    raise DefinitionError(
        f"{as_given('priors')} is 'excitation', which analyses gates, and the space has only attention without gates: "
        f"choose {as_given('priors')} known"
    )


def _describe(
    idle: Collection[Site], removed: Collection[Site], blocks: int, new: int, stages: Collection[int], attention: str
) -> str:
    if not idle:
        return f"None of the supernet's {blocks} {attention} blocks is significantly idle: no configuration is added."
    names = (
        f"Idle {attention} blocks of the supernet ({len(idle)} of {blocks}): {', '.join(site.block for site in idle)}"
    )
    if not removed:
        return f"{names}; no stage has idle blocks only, so no configuration is added."
    if len(removed) < len(idle):
        names += f"; stages with idle blocks only: {', '.join(map(str, stages))}"
    if not new:
        return f"{names}. The configurations without them are known answers, so no configuration is added."
    return f"{names}. The search first tries {counted(new, 'configuration')} without them."
