"""How Sphinx builds the documentation: ``make docs``."""

from pathlib import Path
from typing import Any

import se_search
from se_search.evidence.known import points
from se_search.evidence.published import published_pairs
from se_search.report.atlas_page import write_atlas
from se_search.report.published import published_gains

project = "se-search"
author = "se-search maintainers"
copyright = author
version = release = se_search.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"se-search {release}"
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_use_ivar = True

# Names of other projects: looking them up would need the network.
_OTHERS = "collections|contextlib|fractions|nn|numpy|optuna|os|pandas|pathlib|pd|plotly|pydantic|random|torch"
# Sphinx splits the types of a class that is a dataclass and a mapping at their commas.
_SPLIT = r"typing\.Literal\['search'|tuple\[int"
_CHECKS = "AllowInfNan|FieldInfo|Ge|Gt|Le|NoneType|.*\\._\\w+"  # what pydantic's fields are annotated with
nitpick_ignore_regex = [("py:.*", rf"({_OTHERS})\..*|Any|Iterable|Path|Sequence|{_SPLIT}|{_CHECKS}")]


def _keep_colon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    # Napoleon takes what stands before a colon in a property's first line for its type, unless the line ends there.
    if what == "property":
        lines[:1] = lines[0].replace(": ", ":\n", 1).split("\n")


def _find_by_last_name(app: Any, env: Any, node: Any, text: Any) -> Any:
    # A docstring names what its own module defines by the last name alone; here it is documented under another.
    if node.get("refdomain") != "py":
        return None
    node["refspecific"] = True
    target = node["reftarget"]
    return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, node["reftype"], target, node, text)


def _add_published_results(app: Any, docname: str, source: list[str]) -> None:
    # The table of evidence.md is that of the package.
    if docname != "evidence":
        return
    lines = [
        "| without | with | recipe | pixels | without | with | difference | what else differs | source |",
        "|---" * 9 + "|",
    ]
    for pair in published_pairs():
        low, high = map(points, pair.interval)
        cells = (
            pair.without,
            f"{pair.with_attention} ({pair.varies or pair.attention})",
            pair.recipe if pair.dataset == "ImageNet-1k" else f"{pair.recipe}, {pair.dataset}",
            pair.image_size,
            f"{pair.top1_without:.{pair.decimals}f}",
            f"{pair.top1_with:.{pair.decimals}f}",
            f"{points(pair.gain)} [{low}, {high}]",
            pair.what_else_differs,
            pair.source,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    source[0] = source[0].replace("<!-- published results -->", "\n".join(lines))


def _write_figure(app: Any, error: Exception | None) -> None:
    # The figure of evidence.md and the page of atlas.md, which need no network.
    if error is None and app.builder.format == "html":
        gains = published_gains(se_search.published_results())
        gains.write_html(Path(app.outdir, "published-gains.html"), config={"displaylogo": False, "responsive": True})
        write_atlas(Path(app.outdir, "all-architectures.html"))


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.connect("source-read", _add_published_results)
    app.connect("build-finished", _write_figure)
    app.connect("autodoc-process-docstring", _keep_colon, priority=400)
    app.connect("missing-reference", _find_by_last_name)
