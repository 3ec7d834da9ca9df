"""Properties of a node of an exported program: arguments, purity, writes in place; new modules in place of nodes."""

import operator
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

_ATEN = torch.ops.aten


def shape_of(node: Any) -> tuple[Any, ...]:
    """Return the traced shape of the result of ``node``; empty if that is not a tensor."""
    return tuple(getattr(node.meta.get("val"), "shape", ())) if isinstance(node, fx.Node) else ()


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of a PyTorch operation by name, with the defaults of its schema."""
    parameters = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((one.name for one in parameters), node.args, strict=False)) | node.kwargs
    return {one.name: given.get(one.name, one.default_value) for one in parameters}


def averaged(node: fx.Node) -> tuple[fx.Node | None, tuple[int, ...]]:
    """Return the input and dimensions of an average over all dimensions but the batch and one more."""
    if node.target is _ATEN.mean.dim and arguments_of(node)["dtype"] is None:
        given = arguments_of(node)
        source = given["self"]
        rank = len(shape_of(source))
        axes = tuple(sorted(axis % rank for axis in given["dim"] or range(rank)))
    elif node.target is _ATEN.adaptive_avg_pool2d.default and set(arguments_of(node)["output_size"]) == {1}:
        source = arguments_of(node)["self"]
        rank = len(shape_of(source))
        axes = (rank - 2, rank - 1)
    else:
        return None, ()
    return (source, axes) if len(axes) == rank - 2 and 0 not in axes else (None, ())


def is_elementwise(node: fx.Node) -> bool:
    """Whether each element of the result depends on one element of each operand."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags


def is_function(node: fx.Node) -> bool:
    """Whether ``node`` is a pure function of its arguments."""
    return node.target is operator.getitem or (
        isinstance(node.target, torch._ops.OpOverload)
        and not node.target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in node.target.tags
    )


def is_written(value: fx.Node, start: fx.Node, end: fx.Node) -> bool:
    """Whether an operation between two others writes to the storage of ``value``."""
    node, storage = start, storage_of(value)
    while node is not end and (node := node.next) is not end:
        if any(storage_of(one) is storage for one in written_by(node)):
            return True
    return False


def written_by(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the values that ``node`` writes to in place."""
    if isinstance(node.target, torch._ops.OpOverload):
        for parameter in node.target._schema.arguments:
            if parameter.alias_info is not None and parameter.alias_info.is_write:
                value = arguments_of(node)[parameter.name]
                yield from value if isinstance(value, (list, tuple)) else (value,)


def storage_of(node: fx.Node) -> fx.Node:
    """Return the node whose result ``node`` is, or is a view of."""

    def is_alias(target: Any) -> bool:
        return target is operator.getitem or (
            isinstance(target, torch._ops.OpOverload)
            and any(returned.alias_info is not None for returned in target._schema.returns)
        )

    while node.args and isinstance(node.args[0], fx.Node) and is_alias(node.target):
        node = node.args[0]
    return node


def replace_by_module(module: fx.GraphModule, nodes: list[fx.Node], layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Compute the value of the first of ``nodes`` by a new layer; the others are what only it used, last one first."""
    name = free_name(module, re.sub("(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower())
    module.add_module(name, layer)
    with module.graph.inserting_before(nodes[0]):
        result = module.graph.call_module(name, args)
    result.meta = dict(nodes[0].meta)
    nodes[0].replace_all_uses_with(result)
    for node in nodes:
        module.graph.erase_node(node)


def free_name(module: nn.Module, name: str) -> str:
    """Return ``name`` with as many underscores behind it as make it new in ``module``."""
    while hasattr(module, name):
        name += "_"
    return name
