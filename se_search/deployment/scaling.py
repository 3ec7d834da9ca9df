"""Scaling by a gate without a pass over memory of its own: within the sum that follows, or in place."""

from typing import Any

import torch
from torch import fx

from .aten import arguments_of, is_elementwise, is_written, replace_by_module, shape_of, storage_of
from .layers import ScaledSum

_ATEN = torch.ops.aten
_ADD = (_ATEN.add.Tensor, _ATEN.add_.Tensor)
_NEW = {
    _ATEN.adaptive_avg_pool2d.default,
    _ATEN.batch_norm.default,
    _ATEN.conv1d.default,
    _ATEN.conv2d.default,
    _ATEN.conv2d.padding,
    _ATEN.group_norm.default,
    _ATEN.layer_norm.default,
    _ATEN.linear.default,
    _ATEN.matmul.default,
    _ATEN.scaled_dot_product_attention.default,
}
"""Composite operations that never return their input itself; others may, as dropout does in evaluation mode."""


def scale_in_passing(module: fx.GraphModule) -> None:
    """Merge products with a smaller tensor, such as a gate, into sums that follow, or compute them in place."""
    for product in module.graph.find_nodes(op="call_function", target=_ATEN.mul.Tensor):
        if factors := factors_of(product):
            x, gate = factors
            if not _merge_with_sum(module, product, x, gate) and _may_overwrite(x, product, gate):
                product.target, product.args = _ATEN.mul_.Tensor, (x, gate)


def factors_of(node: fx.Node) -> tuple[Any, Any] | None:
    """Return the factors of a product: one of the shape of the product, and a smaller one of the same precision."""
    if node.target is _ATEN.mul.Tensor:
        for x, gate in (node.args, node.args[::-1]):
            if shape_of(x) == shape_of(node) != shape_of(gate) and _precision(x) == _precision(gate) is not None:
                return x, gate
    return None


def _merge_with_sum(module: fx.GraphModule, product: fx.Node, x: Any, gate: Any) -> bool:
    added = next(iter(product.users))
    if len(product.users) > 1 or added.target not in _ADD or arguments_of(added)["alpha"] != 1:
        return False
    first, second = added.args[:2]
    other: Any = second if first is product else first
    if (added.target is _ADD[1] and first is not product) or shape_of(other) != shape_of(product):
        return False
    if _precision(other) != _precision(x) or any(is_written(one, product, added) for one in (x, gate, other)):
        return False
    replace_by_module(module, [added, product], ScaledSum(_may_overwrite(x, added, gate, other)), (x, gate, other))
    return True


def _may_overwrite(value: Any, at: fx.Node, *others: Any) -> bool:
    """Whether the operation ``at`` may write its result over ``value``, which no later operation reads.

    Its other operands must lie elsewhere in memory.
    """
    root = storage_of(value)
    if not _returns_new(root) or any(storage_of(one) is root for one in others):
        return False
    later = False
    for node in at.graph.nodes:
        aliases = any(storage_of(one) is root for one in node.all_input_nodes)
        if aliases and (later or not (node is at or node.op == "call_module" or _is_known(node))):
            return False
        later = later or node is at
    return True


def _is_known(node: fx.Node) -> bool:
    """Whether the result is new, or known to be a view of an input."""
    return storage_of(node) is not node or _returns_new(node)


def _returns_new(node: fx.Node) -> bool:
    """Whether the result is a new tensor, which shares no memory with another one."""
    if not isinstance(node.target, torch._ops.OpOverload) or storage_of(node) is not node:
        return False
    name = node.target.name()  # type: ignore[no-untyped-call]
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")
    return is_elementwise(node) or node.target in _NEW or not composite


def _precision(node: Any) -> torch.dtype | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dtype if isinstance(value, torch.Tensor) and value.is_floating_point() else None
