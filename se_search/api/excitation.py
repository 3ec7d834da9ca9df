"""Analysis of excitation in a trial, an exported folder, a timm architecture or a given network."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from torch import nn

from ..data.image_data import ImageData
from ..errors import RunFolderError
from ..excitation.analysis import SHOWN_CHANNELS, analyze_gates
from ..files import refusing_unwritable, remove_unfinished, write_text
from ..progress import progress_bar
from ..report.excitation_page import render_excitation
from ..trials.folder import ANALYSIS_FILE, PAGE_FILE, STUDY_FILE, check_links
from .networks import find_network
from .run import Run

_ANOTHER = ": choose another folder with --to"


@dataclass(frozen=True)
class Excitation:
    """An analysis of the role of excitation: the content of ``excitation.json``, and its folder."""

    folder: Path
    analysis: dict[str, Any] = field(repr=False)

    @property
    def page(self) -> Path:
        """Path of the HTML page."""
        return self.folder / PAGE_FILE


def analyze_excitation(  # noqa: PLR0913
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
    """Analyse the role of excitation in a trained network, as ``se-search excitation`` does.

    A trial with the search's weights is analysed on the run's validation images, everything else on test images. All
    arguments but the first two are independent options.

    Args:
        model: A run folder, an exported folder, a timm architecture name, or a network.
        data: Images of the network's classes, named as in a study; by default those of the run.
        pick: For a run, as in :meth:`Run.config`; ``"knee"`` by default.
        trial: For a run, as in :meth:`Run.config`.
        verified: For a run, use the weights of the longest verification instead of the search's.
        pretrained: Weights of a timm architecture: ``"timm"``, ``"local-dir:FOLDER"``, ``"hf-hub:NAME"`` or the path
            of a checkpoint.
        classes: Names or indices of the classes to show; by default the four that differ most.
        channels: Number of channels to show per block.
        images: Number of images to analyse, drawn at random; by default all.
        seed: Seed of the draw.
        device: A torch device.
        to: Output folder. The default is ``excitation/trial-N`` in the run folder for a run on its own data; in the
            current directory, ``excitation/RUN-trial-N-DATA`` for a run on other data, and otherwise
            ``excitation/NAME``.

    Raises:
        SeSearchError: If an argument is invalid or the network has no block to analyse. Nothing is written.
    """
    found = find_network(model, data, pick, trial, verified, pretrained)
    target = Path(to) if to is not None else found.folder
    run = target.parent.parent
    if to is None and (run / STUDY_FILE).is_file():
        check_links(run)
    with _created_folder(target):
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
        # All slow steps precede the first write, so that an interruption leaves no partial result.
        text, page = json.dumps(analysis, indent=2, allow_nan=False), render_excitation(analysis)
        with refusing_unwritable(target, _ANOTHER):
            write_text(target / ANALYSIS_FILE, text)
            write_text(target / PAGE_FILE, page)
    return Excitation(target, analysis)


@contextmanager
def _created_folder(target: Path) -> Iterator[None]:
    """Create a writable folder; remove the new folders if the body fails before it writes."""
    if any(parent.exists() and not parent.is_dir() for parent in (target, *target.parents)):
        raise RunFolderError(f"{target} is not a folder: choose another with --to")
    new = [folder for folder in (target, *target.parents) if not folder.exists()]
    try:
        with refusing_unwritable(target, _ANOTHER):
            target.mkdir(parents=True, exist_ok=True)
            remove_unfinished(target)
            TemporaryFile(dir=target).close()
        yield
    except BaseException:
        with suppress(OSError):  # keep folders that are not empty
            for folder in new:
                folder.rmdir()
        raise
