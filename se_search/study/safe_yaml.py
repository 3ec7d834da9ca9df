"""YAML of others: a safe loader that refuses besides what a short text can make endless, and how it is written."""

import re
from typing import Any

import yaml

from ..errors import DefinitionError

MOST_LEVELS = 20
"""Lists and mappings that may lie in each other."""

_MOST_DIGITS = 30


def read_yaml(text: str, source: str) -> Any:
    """Read plain data from YAML, or JSON.

    Args:
        text: The text.
        source: What to call it in messages.

    Raises:
        DefinitionError: If it is malformed, or YAML that is not taken here.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # PyYAML's safe loader, which takes less here
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets a ValueError pass for a character that is none
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable"
        verdict = "is not taken" if isinstance(error, _Refusal) else "is not valid YAML"
        raise DefinitionError(f"{source} {verdict}{where}: {problem}") from error


def write_yaml(content: Any) -> str:
    """Write plain data as :func:`read_yaml` reads them."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


class _Refusal(yaml.MarkedYAMLError):
    """What YAML allows and is not taken here."""


class _Loader(yaml.SafeLoader):
    """Refuses besides what a short text can make endless, and tells the place of every value that it cannot read."""

    level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read one value with all that lies in it."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        problem = ""
        if isinstance(event, yaml.AliasEvent):
            problem = "write out what the alias stands for"
        elif isinstance(event, yaml.CollectionStartEvent) and self.level == MOST_LEVELS:
            problem = f"more than {MOST_LEVELS} lists and mappings lie in each other"
        if problem:
            raise _Refusal(problem=problem, problem_mark=event.start_mark)
        self.level += 1
        node = super().compose_node(parent, index)
        self.level -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make a Python value of one that was read."""
        tag = node.tag.rpartition(":")[2]
        try:
            if tag == "int" and len(node.value) > _MOST_DIGITS:
                raise ValueError
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"{node.value!r} is no {tag} that can be read"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


class _Dumper(yaml.SafeDumper):
    """Quotes texts that the loader would take for numbers."""


# JSON's 1e-06, which in YAML 1.1 is a text: it wants a point in every such number.
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
