"""Questions to a node of an exported program: its arguments, whether it only computes, who writes to it."""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx


def shape_of(node: Any) -> tuple[Any, ...]:
    """Shape of what ``node`` returned where it was traced; nothing if that is no tensor."""
    return tuple(getattr(node.meta.get("val"), "shape", ())) if isinstance(node, fx.Node) else ()


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Arguments of an operation by name, with the defaults of its schema."""
    return {
        parameter.name: (
            node.args[place] if place < len(node.args) else node.kwargs.get(parameter.name, parameter.default_value)
        )
        for place, parameter in enumerate(schema_of(node).arguments)
    }


def schema_of(node: fx.Node) -> Any:
    """Return the schema of an operation of PyTorch."""
    return node.target._schema  # type: ignore[union-attr]  # of an operation of PyTorch


def is_elementwise(node: fx.Node) -> bool:
    """Whether each element of the result depends on one element of each operand."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def is_function(node: fx.Node) -> bool:
    """Whether ``node`` returns the same for the same arguments and does nothing else."""
    return node.target is operator.getitem or (
        isinstance(node.target, torch._ops.OpOverload)
        and not node.target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in node.target.tags
    )


def is_written(value: fx.Node, start: fx.Node, end: fx.Node) -> bool:
    """Whether an operation between two others writes where ``value`` lies."""
    node, storage = start.next, storage_of(value)
    while node is not end:
        if any(storage_of(one) is storage for one in written_by(node)):
            return True
        node = node.next
    return False


def written_by(node: fx.Node) -> Iterator[fx.Node]:
    """What ``node`` writes to in place."""
    if isinstance(node.target, torch._ops.OpOverload):
        for parameter in node.target._schema.arguments:
            if parameter.alias_info is not None and parameter.alias_info.is_write:
                value = arguments_of(node)[parameter.name]
                yield from value if isinstance(value, (list, tuple)) else (value,)


def storage_of(node: fx.Node) -> fx.Node:
    """Return the operation whose result ``node`` is a view of, or the same as."""
    while node.args and isinstance(node.args[0], fx.Node) and _is_alias(node.target):
        node = node.args[0]
    return node


def _is_alias(target: Any) -> bool:
    return target is operator.getitem or (
        isinstance(target, torch._ops.OpOverload)
        and any(returned.alias_info is not None for returned in target._schema.returns)
    )
