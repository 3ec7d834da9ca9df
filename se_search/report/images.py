"""Write figures as PNG files."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import plotly.graph_objects as go
import plotly.io

from ..errors import DefinitionError
from ..files import refusing_unwritable, write_atomically

_IMAGE_WIDTH = 1000


def write_images(figures: Mapping[Path, go.Figure]) -> None:
    """Write each figure to its PNG file.

    Raises:
        DefinitionError: If kaleido or its browser is not installed. No file is written.
        RunFolderError: If a file cannot be written.
    """
    with TemporaryDirectory() as folder:
        drawn = [Path(folder, f"{index}.png") for index in range(len(figures))]
        try:
            # On the page figures are transparent; an image needs a background.
            shown = [go.Figure(figure).update_layout(paper_bgcolor="white") for figure in figures.values()]
            heights = [figure.layout.height for figure in shown]
            plotly.io.write_images(shown, drawn, width=_IMAGE_WIDTH, height=heights, scale=2)
        except (RuntimeError, ValueError) as error:  # which one depends on Plotly's version, with a long message
            needs = 'the format png needs Chrome or Chromium and the package kaleido: pip install "se-search[png]"'
            raise DefinitionError(needs) from error
        for file, image in zip(figures, drawn, strict=True):
            with refusing_unwritable(file):
                write_atomically(file, partial(shutil.copyfile, image))
