"""Render HTML pages: the template environment, and figures as JSON for the page's script."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ..errors import RunFolderError
from ..files import refusing_unwritable, write_text
from .style import DARK


def render_page(template: str, figures: Mapping[str, go.Figure], scripts: tuple[str, ...] = (), **values: Any) -> str:
    """Render a self-contained page.

    Args:
        template: Name of a template that extends ``base.html.jinja``.
        figures: Figures by name; NAME is drawn in the element ``figure-NAME`` when it comes near the viewport.
        scripts: Scripts besides those of tables and figures.
        **values: Variables of the template. ``page`` is JSON data for the scripts. Its optional ``hover`` maps trial
            numbers to hover texts for traces with these numbers as ``customdata``.
    """
    return (
        _environment()
        .get_template(template)
        .render(
            style=_asset("style.css"),
            scripts=[_asset(name) for name in ("tables.js", "figures.js", *scripts)],
            plotly=_plotly() if figures else "",
            figures={name: json.loads(figure.to_json()) for name, figure in figures.items()},
            dark=DARK,
            **values,
        )
    )


def write_page(file: Path, render: Callable[[], str], mark: str, what: str, option: str) -> None:
    """Write a page to a new file, or over an earlier page of its kind.

    Args:
        file: The file.
        render: Returns the page.
        mark: Text that all pages of its kind have.
        what: What such a page is, in words.
        option: The option that names the file.

    Raises:
        RunFolderError: If the file exists and is something else, or cannot be written.
    """
    with refusing_unwritable(file, f": choose another with {option}"):
        if file.exists() and not (file.is_file() and mark in file.read_text(encoding="utf-8", errors="replace")):
            raise RunFolderError(f"{file} exists and is not {what}: choose another file with {option}")
        write_text(file, render())


def script_json(value: Any) -> Markup:
    """Serialise JSON data for a ``script`` element, escaped so that no text can close the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Markup(text)  # noqa: S704  # escaped above


@cache  # it keeps compiled templates: a search writes its report several times
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("se_search.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = script_json
    return environment


@cache
def _plotly() -> Markup:
    """Return Plotly's script, its main function in parentheses: browsers would else parse the 5 MB once more."""
    script = get_plotlyjs().rstrip()
    head, start, body = script.partition("this, () => {")
    if start and body.endswith("}));"):
        script = f"{head}this, (() => {{{body.removesuffix('));')})));"
    return Markup(script)  # noqa: S704  # Plotly's own


@cache
def _asset(name: str) -> Markup:
    return Markup(files("se_search.report").joinpath(name).read_text(encoding="utf-8"))  # noqa: S704  # of this package
