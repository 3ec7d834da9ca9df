"""Rewrite a network for inference: the same outputs with cheaper SE blocks.

``torch.export`` traces the network, and exact algebra rewrites its graph of ATen operations.
"""

import copy
import math
import operator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..errors import ExportError, first_reason
from ..network.backbones import default_input_size
from .aten import (
    arguments_of,
    averaged,
    free_name,
    is_elementwise,
    is_function,
    is_written,
    shape_of,
    storage_of,
    written_by,
)
from .fusion import fuse_for_gpu
from .graph import trace
from .layers import FixedSize, PooledLinear
from .scaling import scale_in_passing

_ATEN = torch.ops.aten
_CONV, _LINEAR, _MEAN = _ATEN.conv2d.default, _ATEN.linear.default, _ATEN.mean.dim
_SAME_ELEMENTS = {
    _ATEN.flatten.using_ints,
    _ATEN.reshape.default,
    _ATEN.slice.Tensor,
    _ATEN.squeeze.dim,
    _ATEN.squeeze.dims,
    _ATEN.unsqueeze.default,
    _ATEN.view.default,
}
"""Operations that keep the order of the elements; a slice may drop some."""


def optimize_for_inference(
    model: nn.Module, input_size: tuple[int, int, int] | None = None, cuda_graph: bool = False
) -> nn.Module:
    """Return a network with the outputs of ``model`` in evaluation mode and cheaper SE blocks.

    Outputs agree to 1e-5 of the largest one in single precision. The graph is rewritten as follows:

    - Values that depend on no image are computed once. Batch norm is folded into the convolution before it.
    - Where an SE block squeezes the output of a 1×1 convolution (or linear layer) that has fewer input than output
      channels, the input is averaged instead: averages commute with an affine map, which is merged into the first layer
      of the excitation. Maxima and windows are squeezed as they are.
    - The layers of the excitation operate on vectors; when one image is compiled, as sums that a compiler fuses.
    - A gate scales in the same pass over memory as the sum that follows, or in place.
    - For a CUDA graph, two kernels do a whole SE block with the sum and the ReLU that follow.

    The network takes images of one size in batches of any size, on the device and in the precision of ``model``.
    Convert that first: ``optimize_for_inference(model.bfloat16())``. The new weights are copies without gradients.

    Args:
        model: A network, plain or with SE blocks, that returns one tensor; it is not changed.
        input_size: ``(channels, height, width)`` of the images; timm's size for the network by default.
        cuda_graph: Whether the network will be recorded in a CUDA graph, after at least one call that is not recorded.
            Without a graph, Python launches those kernels more slowly than PyTorch its own operations.

    Raises:
        ExportError: If ``torch.export`` cannot trace the network. The returned network raises it for images of another
            size.
    """
    optimized_size = next((one.input_size for one in model.modules() if isinstance(one, FixedSize)), None)
    channels, height, width = input_size or optimized_size or default_input_size(model)
    size = (channels, height, width)
    try:
        with torch.no_grad():
            module = trace(copy.deepcopy(model).eval(), size).module()
            return _rewrite(module, size, cuda_graph)
    # Tracing may raise any exception.
    except Exception as error:
        raise ExportError(
            f"this {type(model).__name__} cannot be optimized for inference: {first_reason(error)}"
        ) from error


@dataclass(frozen=True)
class _Layer:
    """A convolution or linear layer with constant weights.

    ``name`` has underscores. ``weight`` and ``bias`` are in double precision; ``like`` has the weights' own precision.
    """

    name: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    like: torch.Tensor


def _rewrite(module: fx.GraphModule, size: tuple[int, int, int], cuda_graph: bool) -> fx.GraphModule:
    _take_one_tensor(module, size)
    _drop_idle(module.graph)
    _fold_constants(module)
    _fold_norms(module)
    _squeeze_narrow(module)
    _drop_unused(module.graph)
    if cuda_graph:
        fuse_for_gpu(module)
    scale_in_passing(module)
    _drop_unused(module.graph)
    graph = fx.Graph()  # without attributes of torch.export that prevent pickling
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.nodes:
        node.meta.clear()
    return fx.GraphModule(module, graph, "OptimizedNetwork").eval().requires_grad_(False)


def _take_one_tensor(module: fx.GraphModule, size: tuple[int, int, int]) -> None:
    """Make it a function from one tensor to one tensor that checks the size."""
    graph = module.graph
    (images,), output = graph.find_nodes(op="placeholder"), graph.output_node()
    output.args = (output.all_input_nodes[0],)
    for guards in graph.find_nodes(op="call_module", target="_guards_fn"):
        graph.erase_node(guards)
    name = free_name(module, "fixed_size")
    module.add_module(name, FixedSize(size))
    with graph.inserting_after(images):
        checked = graph.call_module(name, (images,))
    checked.meta = dict(images.meta)
    images.replace_all_uses_with(checked, lambda user: user is not checked)


def _drop_idle(graph: fx.Graph) -> None:
    """Remove operations that do nothing in evaluation mode."""
    for node in list(graph.nodes):
        idle = (node.target is _ATEN.dropout.default and not node.args[2]) or (
            node.target is _ATEN.to.dtype
            and not arguments_of(node)["copy"]
            and arguments_of(node)["self"].meta["val"].dtype == arguments_of(node)["dtype"]
        )
        if idle:
            node.replace_all_uses_with(node.args[0])
        if idle or node.target is _ATEN._assert_tensor_metadata.default:
            graph.erase_node(node)


def _drop_unused(graph: fx.Graph) -> None:
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or any(written_by(node)))


def _fold_constants(module: fx.GraphModule) -> None:
    """Compute values that depend on weights only."""
    written = {storage_of(one) for node in module.graph.nodes for one in written_by(node)}
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = operator.attrgetter(node.target)(module)
            if isinstance(value, torch.Tensor):
                values[node] = value
        elif (
            is_function(node) and all(one in values for one in node.all_input_nodes) and storage_of(node) not in written
        ):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    for node, value in values.items():
        if node.op != "get_attr" and isinstance(value, torch.Tensor) and not all(one in values for one in node.users):
            with module.graph.inserting_before(node):
                constant = _add_constant(module, node.name, value.clone())
            constant.meta = dict(node.meta)
            node.replace_all_uses_with(constant)


def _fold_norms(module: fx.GraphModule) -> None:
    """Fold batch norms into the convolutions before them."""
    graph = module.graph
    for norm in graph.find_nodes(op="call_function", target=_ATEN.batch_norm.default):
        given = arguments_of(norm)
        conv, affine = given["input"], [given[name] for name in ("running_mean", "running_var", "weight", "bias")]
        if (
            given["training"]
            or len(conv.users) > 1
            or not _is_layer(module, conv, _CONV)
            or not all(one is None or _is_constant(module, one) for one in affine)
        ):
            continue
        layer = _layer(module, conv)
        mean, variance, scale, shift = (one and _exactly(_value(module, one)) for one in affine)
        folded = fuse_conv_bn_weights(layer.weight, layer.bias, mean, variance, given["eps"], scale, shift)
        with graph.inserting_before(conv):
            constants = [
                _add_constant(module, f"{layer.name}_{name}", value.to(layer.like))
                for name, value in zip(("weight", "bias"), folded, strict=True)
            ]
        conv.args = (conv.args[0], *constants, *conv.args[3:])
        norm.replace_all_uses_with(conv)
        graph.erase_node(norm)


def _squeeze_narrow(module: fx.GraphModule) -> None:
    """Apply excitations to vectors, and the first layer to the average of the narrower tensor."""
    graph = module.graph
    vectors: dict[fx.Node, fx.Node] = {}  # of shape (N, C), for tensors of shape (N, C, 1, 1) that hold the same
    for node in list(graph.nodes):
        source: Any = node.args[0] if node.args else None
        if _is_pointwise(module, node) and shape_of(source)[2:] == (1, 1):
            layer, vector = _layer(module, node), vectors.get(source)
            if vector is None:
                layer, vector = _squeeze(module, layer, source)
            with graph.inserting_before(node):
                result = graph.call_module(_add_layer(module, layer), (vector,))
        elif source in vectors and node.all_input_nodes == [source] and is_elementwise(node):
            with graph.inserting_before(node):
                result = graph.call_function(node.target, (vectors[source], *node.args[1:]), node.kwargs)
        else:
            continue
        with graph.inserting_before(node):
            shaped = graph.call_function(_ATEN.reshape.default, (result, [-1, *shape_of(node)[1:]]))
        shaped.meta = dict(node.meta)
        node.replace_all_uses_with(shaped)
        graph.erase_node(node)
        vectors[shaped] = result


def _squeeze(module: fx.GraphModule, excitation: _Layer, pooled: fx.Node) -> tuple[_Layer, fx.Node]:
    """Return the first layer of an excitation and its input vector, for the narrower tensor if there is one.

    The original first layer is ``excitation``, its input ``pooled`` of shape ``(N, C, 1, 1)``.
    """
    graph = module.graph
    mean: Any = pooled
    while mean.target in _SAME_ELEMENTS and len(mean.users) == 1:
        mean = mean.args[0]
    wide, axes = averaged(mean)
    before, after = shape_of(mean), shape_of(pooled)
    whole = before[:1] == after[:1] and math.prod(before[1:]) == math.prod(after[1:])
    if wide is None or len(mean.users) > 1 or not whole:
        with graph.inserting_after(pooled):
            return excitation, graph.call_function(_ATEN.flatten.using_ints, (pooled, 1))
    by_conv = _is_pointwise(module, wide) and axes == (2, 3)
    by_linear = _is_layer(module, wide, _LINEAR) and axes == tuple(range(1, len(shape_of(wide)) - 1))
    if by_conv or by_linear:
        layer = _layer(module, wide)
        if layer.weight.shape[1] < layer.weight.shape[0] and not is_written(wide, wide, mean):
            with graph.inserting_before(wide):
                vector = graph.call_function(_MEAN, (wide.args[0], list(axes)))
            matrix, bias = excitation.weight.flatten(1), excitation.bias
            if layer.bias is not None:
                bias = matrix @ layer.bias + (0 if bias is None else bias)
            return replace(excitation, weight=matrix @ layer.weight.flatten(1), bias=bias), vector
    with graph.inserting_before(mean):
        return excitation, graph.call_function(_MEAN, (wide, list(axes)))


def _is_pointwise(module: fx.GraphModule, node: Any) -> bool:
    """Whether ``node`` is a 1×1 convolution with stride 1, one group and no padding."""
    if not _is_layer(module, node, _CONV):
        return False
    given = arguments_of(node)
    return (
        tuple(_value(module, given["weight"]).shape[2:]) == (1, 1)
        and given["groups"] == 1
        and set(given["stride"]) == {1}
        and set(given["padding"]) == {0}
    )


def _is_layer(module: fx.GraphModule, node: Any, kind: Any) -> bool:
    if not isinstance(node, fx.Node) or node.target is not kind:
        return False
    given = arguments_of(node)
    return _is_constant(module, given["weight"]) and (given["bias"] is None or _is_constant(module, given["bias"]))


def _layer(module: fx.GraphModule, node: fx.Node) -> _Layer:
    given = arguments_of(node)
    weight, bias = (one and _value(module, one) for one in (given["weight"], given["bias"]))
    name = given["weight"].name.removesuffix("_weight")
    return _Layer(name, _exactly(weight), None if bias is None else _exactly(bias), weight)


def _add_layer(module: fx.GraphModule, layer: _Layer) -> str:
    name = free_name(module, layer.name)
    bias = None if layer.bias is None else layer.bias.to(layer.like)
    module.add_module(name, PooledLinear(layer.weight.flatten(1).to(layer.like), bias))
    return name


def _add_constant(module: fx.GraphModule, name: str, value: torch.Tensor) -> fx.Node:
    name = free_name(module, name)
    module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    return module.graph.get_attr(name)


def _is_constant(module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "get_attr" and isinstance(_value(module, node), torch.Tensor)


def _value(module: fx.GraphModule, node: fx.Node) -> Any:
    return operator.attrgetter(str(node.target))(module)


def _exactly(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu().double()
