"""Read and write YAML from untrusted sources, without aliases, deep nesting or huge integers."""

import re
from typing import Any

import yaml

from ..errors import DefinitionError

MOST_LEVELS = 20
"""Maximum nesting depth of lists and mappings."""

_MOST_DIGITS = 30


def read_yaml(text: str, source: str) -> Any:
    """Read plain data from YAML, or JSON.

    Args:
        text: The text.
        source: Name of the text in error messages.

    Raises:
        DefinitionError: If it is malformed or exceeds the limits.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # restricts PyYAML's safe loader
    except (yaml.YAMLError, ValueError) as error:  # PyYAML raises ValueError for invalid characters
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        verdict = "is not accepted" if isinstance(error, _LimitError) else "is not valid YAML"
        raise DefinitionError(f"{source} {verdict}{where}: {problem}") from error


def write_yaml(content: Any) -> str:
    """Write plain data as YAML that :func:`read_yaml` reads back unchanged."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


class _LimitError(yaml.MarkedYAMLError):
    """Valid YAML that exceeds the limits of this module."""


class _Loader(yaml.SafeLoader):
    """Rejects what lets a short text expand without bound, and reports the position of invalid values."""

    level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node with its children."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        problem = ""
        if isinstance(event, yaml.AliasEvent):
            problem = "replace the alias by its value"
        elif isinstance(event, yaml.CollectionStartEvent) and self.level == MOST_LEVELS:
            problem = f"lists and mappings are nested more than {MOST_LEVELS} levels"
        if problem:
            raise _LimitError(problem=problem, problem_mark=event.start_mark)
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Convert a node to a Python value."""
        tag = node.tag.rpartition(":")[2]
        try:
            if tag == "int" and len(node.value) > _MOST_DIGITS:
                raise ValueError
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"{node.value!r} is not a valid {tag}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


class _Dumper(yaml.SafeDumper):
    """Quotes strings that the loader would read as numbers."""


# JSON writes 1e-06, which YAML 1.1 reads as a string because it requires a decimal point.
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
