"""Escape untrusted text for GitHub's Markdown."""

import re

_MARKUP = re.compile(r"([\\`*_\[\]<>#|~&$@!]|:(?=//)|(?<=www)\.|^[-+=](?=[-+= ]|$))", re.IGNORECASE)
_NUMBERED = re.compile(r"^(\d+)([.)])(?= |$)")


def escape_text(text: object) -> str:
    """Return ``text`` as one line that Markdown shows unchanged: no markup, HTML, links or line breaks."""
    return _NUMBERED.sub(r"\1\\\2", _MARKUP.sub(r"\\\1", one_line(text)))


def escape_code(text: object) -> str:
    """Return ``text`` as a code span on one line; it may contain backquotes and stand in a table."""
    line = one_line(text).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if "`" in line or not line.strip() else ""
    return f"{fence}{space}{line}{space}{fence}"


def one_line(text: object) -> str:
    """Return ``text`` on one line, without what is not printable."""
    return " ".join("".join(one if one.isprintable() else " " for one in str(text)).split())
