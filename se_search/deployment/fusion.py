"""Operations of SE that one kernel of a GPU does together."""

import importlib.util
from typing import Any

import torch
from torch import fx

from .aten import arguments_of, is_written, replace_by_module, shape_of, storage_of
from .layers import Excitation, PooledLinear, ScaleAddReLU
from .scaling import factors_of

_ATEN = torch.ops.aten
_RELU = (_ATEN.relu.default, _ATEN.relu_.default)
_SIGMOID = (_ATEN.sigmoid.default, _ATEN.sigmoid_.default)


def fuse_for_gpu(module: fx.GraphModule) -> None:
    """Replace excitations, and ``relu(x * gate + other)`` with or without a gate, by modules with kernels.

    Nothing changes unless the network was traced on an NVIDIA GPU and Triton is there.
    """
    (images,) = module.graph.find_nodes(op="placeholder")
    if not _has_kernels(images.meta["val"].device):
        return
    for node in list(module.graph.nodes):
        if node.target in _RELU:
            _fuse_tail(module, node)
        elif node.target in _SIGMOID:
            _fuse_excitation(module, node)


def _has_kernels(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.cuda is not None and importlib.util.find_spec("triton") is not None


def _fuse_tail(module: fx.GraphModule, relu: fx.Node) -> None:
    added: Any = relu.args[0]
    if not _is_alone(added) or added.target not in (_ATEN.add.Tensor, _ATEN.add_.Tensor):
        return
    x, other = arguments_of(added)["self"], arguments_of(added)["other"]
    if len(shape_of(added)) != 4 or arguments_of(added)["alpha"] != 1 or shape_of(x) != shape_of(other):
        return
    if added.target is _ATEN.add_.Tensor and not (_is_alone(x) and storage_of(x) is x):
        return
    gate, first = None, added
    for scaled, rest in ((x, other), (other, x)):
        if found := _scaled(scaled):
            (x, gate), other, first = found, rest, scaled
            break
    for one in (x, gate, other):
        if one and ((first is not added and is_written(one, first, added)) or is_written(one, added, relu)):
            return
    replace_by_module(module, list(dict.fromkeys((relu, added, first))), ScaleAddReLU(), (x, gate, other))


def _scaled(node: fx.Node) -> tuple[Any, Any] | None:
    """Return a tensor of shape ``(N, C, H, W)`` and its gate of shape ``(N, C, 1, 1)`` if ``node`` multiplies them."""
    factors = factors_of(node) if _is_alone(node) else None
    return factors if factors and shape_of(factors[1]) == (*shape_of(node)[:2], 1, 1) else None


def _fuse_excitation(module: fx.GraphModule, sigmoid: fx.Node) -> None:
    after: Any = sigmoid.args[0]
    second = _layer(module, after)
    if second is None:
        return
    relu = after.args[0]
    if not _is_alone(relu) or relu.target not in _RELU:
        return
    before = relu.args[0]
    if first := _layer(module, before):
        replace_by_module(module, [sigmoid, after, relu, before], Excitation(first, second), before.args)


def _layer(module: fx.GraphModule, node: fx.Node) -> PooledLinear | None:
    """Return the layer whose output only one operation uses, if ``node`` is one."""
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" and _is_alone(node) else None
    return layer if isinstance(layer, PooledLinear) else None


def _is_alone(node: fx.Node) -> bool:
    return len(node.users) == 1
