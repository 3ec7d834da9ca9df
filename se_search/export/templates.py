"""Jinja templates of Markdown and Python files."""

from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment(**filters: Callable[..., str]) -> Environment:
    """Return an environment for the templates beside this file, with filters through which untrusted text must pass."""
    made = Environment(
        loader=PackageLoader("se_search.export", ""),
        autoescape=False,  # noqa: S701  # Markdown and Python, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= filters
    return made
