"""Operations of SE that few kernels of a GPU do together."""

import importlib.util
from typing import Any, NamedTuple

import torch
from torch import fx

from .aten import arguments_of, averaged, is_written, replace_by_module, shape_of, storage_of
from .layers import PooledLinear, ScaleAddReLU, SqueezeExcite
from .scaling import factors_of

_ATEN = torch.ops.aten
_ADD = (_ATEN.add.Tensor, _ATEN.add_.Tensor)
_RELU = (_ATEN.relu.default, _ATEN.relu_.default)
_SIGMOID = (_ATEN.sigmoid.default, _ATEN.sigmoid_.default)


def fuse_for_gpu(module: fx.GraphModule) -> None:
    """Replace SE blocks, and ``relu(x * gate + other)`` with or without a gate, by modules with kernels.

    Nothing changes unless the network was traced on an NVIDIA GPU and Triton is there.
    """
    (images,) = module.graph.find_nodes(op="placeholder")
    if not _has_kernels(images.meta["val"].device):
        return
    for product in module.graph.find_nodes(op="call_function", target=_ATEN.mul.Tensor):
        _fuse_block(module, product)
    for relu in _RELU:
        for node in module.graph.find_nodes(op="call_function", target=relu):
            _fuse_tail(module, node)


def _has_kernels(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.cuda is not None and importlib.util.find_spec("triton") is not None


def _fuse_block(module: fx.GraphModule, product: fx.Node) -> None:
    """Fuse a block from its squeeze to the scaling, and to the sum and the ReLU that follow if they do."""
    factors = factors_of(product)
    block = factors and _block(module, factors[1])
    if not factors or not block or len(shape_of(factors[0])) != len(shape_of(factors[1])):
        return
    x, other, nodes = factors[0], None, [product]
    if _is_alone(product) and (addends := _addends(following := next(iter(product.users)))):
        other = addends[1] if addends[0] is product else addends[0]
        nodes.insert(0, following)
        if _is_alone(following) and (relu := next(iter(following.users))).target in _RELU:
            nodes.insert(0, relu)
    activated = nodes[0].target in _RELU
    if is_written(block.source, block.nodes[-1], nodes[0]) or is_written(x, product, nodes[0]):
        return
    if other and is_written(other, nodes[-2], nodes[0]):
        return
    layer = SqueezeExcite(block.first, block.second, block.axis, activated)
    replace_by_module(module, [*nodes, *block.nodes], layer, (block.source, x, other))


class _Block(NamedTuple):
    """Squeeze and excitation: the layers, the squeezed tensor, its dimension of channels, and the operations."""

    first: PooledLinear
    second: PooledLinear
    source: Any
    axis: int
    nodes: list[fx.Node]


def _block(module: fx.GraphModule, gate: fx.Node) -> _Block | None:
    """Return the block that computes a gate, if nothing else reads what it computes."""
    nodes: list[Any] = [gate]
    while nodes[-1].target is _ATEN.reshape.default:
        nodes.append(nodes[-1].args[0])
    layers = []
    for targets in (_SIGMOID, (), _RELU, ()):
        layer = _layer(module, nodes[-1])
        if layer is None and nodes[-1].target not in targets:
            return None
        layers += [layer] if layer else []
        nodes.append(nodes[-1].args[0])
    source, axes = averaged(nodes[-1])
    if len(layers) != 2 or source is None or not all(_is_alone(node) for node in nodes):
        return None
    rank = len(shape_of(source))
    (axis,) = set(range(1, rank)) - set(axes)
    expected = [1] * rank
    expected[axis] = layers[0].weight.shape[0]
    if shape_of(gate)[1:] != tuple(expected[1:]):
        return None
    return _Block(layers[1], layers[0], source, axis, nodes)


def _layer(module: fx.GraphModule, node: fx.Node) -> PooledLinear | None:
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return layer if isinstance(layer, PooledLinear) else None


def _fuse_tail(module: fx.GraphModule, relu: fx.Node) -> None:
    added: Any = relu.args[0]
    if not _is_alone(added) or len(shape_of(added)) != 4 or not (addends := _addends(added)):
        return
    (x, other), gate, first = addends, None, added
    for scaled, rest in (addends, addends[::-1]):
        if found := _scaled(scaled):
            (x, gate), other, first = found, rest, scaled
            break
    for one in (x, gate, other):
        if one and (is_written(one, first, added) or is_written(one, added, relu)):
            return
    replace_by_module(module, list(dict.fromkeys((relu, added, first))), ScaleAddReLU(), (x, gate, other))


def _addends(added: fx.Node) -> tuple[Any, Any] | None:
    """Return the two tensors of one shape that are added, in place only if nothing else reads the first."""
    if added.target not in _ADD:
        return None
    x, other = arguments_of(added)["self"], arguments_of(added)["other"]
    if arguments_of(added)["alpha"] != 1 or x is other or shape_of(x) != shape_of(other):
        return None
    if added.target is _ATEN.add_.Tensor and not (_is_alone(x) and storage_of(x) is x):
        return None
    return x, other


def _scaled(node: fx.Node) -> tuple[Any, Any] | None:
    """Return a tensor of shape ``(N, C, H, W)`` and its gate of shape ``(N, C, 1, 1)`` if ``node`` multiplies them."""
    factors = factors_of(node) if _is_alone(node) else None
    return factors if factors and shape_of(factors[1]) == (*shape_of(node)[:2], 1, 1) else None


def _is_alone(node: fx.Node) -> bool:
    return len(node.users) == 1
