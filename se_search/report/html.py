"""What the HTML pages share: their template environment, and figures as data that the page's script draws."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from .measures import in_words
from .style import DARK


def render_page(template: str, figures: Mapping[str, go.Figure], scripts: tuple[str, ...] = (), **values: Any) -> str:
    """Return a whole page that needs no network.

    Args:
        template: Name of a template that extends ``base.html.jinja``; where it has an element ``figure-NAME``, the
            figure of that name is drawn as soon as it comes near the window.
        figures: Figures by name.
        scripts: Names of the scripts of the page, besides those of tables and figures.
        **values: What the template shows; ``page`` is plain data for the scripts. Where it has a text for each trial's
            number, ``hover``, traces with such numbers as ``customdata`` show that.
    """
    environment = Environment(
        loader=PackageLoader("se_search.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"script_json": script_json, "in_words": in_words}
    return environment.get_template(template).render(
        style=_asset("style.css"),
        scripts=[_asset(name) for name in ("tables.js", "figures.js", *scripts)],
        plotly=Markup(get_plotlyjs()) if figures else "",  # noqa: S704  # Plotly's own script
        figures={name: json.loads(figure.to_json()) for name, figure in figures.items()},
        dark=DARK,
        **values,
    )


def script_json(value: Any) -> Markup:
    """Write plain data so that it can stand in an element ``script``: no text in it can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Markup(text)  # noqa: S704  # as said above


@cache
def _asset(name: str) -> Markup:
    return Markup(files("se_search.report").joinpath(name).read_text(encoding="utf-8"))  # noqa: S704  # of this package
