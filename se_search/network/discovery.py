"""Find the places for SE blocks in a traced network."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from .attention.grid import LAYOUTS, Grid
from .axes import find_grid
from .positions import POSITIONS
from .tracing import BATCH, ELEMENTWISE, SLICES, Addition, Call, EmptySlot, Node, Operation, Trace

ATTENTION = frozenset(
    {
        "SEModule",
        "SqueezeExcite",
        "SqueezeExciteCl",
        "SEWithNorm",
        "EffectiveSEModule",
        "EcaModule",
        "CecaModule",
        "GlobalContext",
    }
)
"""timm's channel attention classes that only scale their input or add to it, and so can be removed."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ReLU6, nn.LeakyReLU)
_LAYOUTS = {(4, 1): "NCHW", (4, 3): "NHWC", (3, 2): "NLC", (3, 1): "NCL"}


@dataclass(frozen=True)
class Place:
    """Where in the network the SE block of a site is attached.

    Attributes:
        host: Name of a module or of an empty slot.
        side: ``"slot"``: the SE block becomes ``host``. ``"output"`` or ``"input"``: it scales the output or the first
            input of ``host``. ``"existing"``: ``host`` is the backbone's own attention.
        parameters: Parameters of the backbone's own attention.
        weights: The same without biases: 2·C·h for an SE block of hidden width h, or 2C²/r for r = C/h.
        grid: The rows and columns of the positions in the traced pass, or the reason why they are unknown.
    """

    host: str
    side: Literal["slot", "output", "input", "existing"]
    parameters: int = 0
    weights: int = 0
    grid: Grid | str = ""

    @property
    def known_grid(self) -> Grid | None:
        """The grid if it is known."""
        return None if isinstance(self.grid, str) else self.grid


@dataclass(frozen=True)
class Found:
    """A candidate site: its place, or the reason why it has none.

    Attributes:
        order: Sort key in forward order.
        size: Channels and number of pixels of the block's stream.
        place: Where the SE block is attached; ``None`` if it cannot be.
        reason: Why there is no place; empty if there is one.
    """

    order: tuple[int, int]
    size: tuple[int, int]
    block: str
    position: str
    channels: int = 0
    layout: str = ""
    place: Place | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Tensor:
    """A place with the shape, the channel dimension and the identity of its tensor."""

    place: Place
    shape: tuple[int, ...]
    axis: int
    tensor: int


def discover(trace: Trace) -> list[Found]:
    """Return all candidates in forward order: residual additions and attention, or repeated units if neither exists."""
    found = [*_residual_places(trace), *_existing_places(trace)]
    if not any(one.place for one in found):
        found += _unit_places(trace)
    found.sort(key=lambda one: (one.order, POSITIONS.index(one.position)))
    taken: set[tuple[str, str, str]] = set()
    for index, one in enumerate(found):
        if one.place:
            key = one.position, one.place.side, one.place.host
            if key in taken:
                found[index] = replace(one, place=None, reason=f"{one.place.host} is used by another block")
            taken.add(key)
    return found


def name_blocks(trace: Trace) -> list[str]:
    """Name the block of each addition.

    The name is that of the module whose forward contains the addition. If it contains several, the name is that of the
    module in which the branch ends. Branches that end in one module are numbered: ``"blocks.0.mlp"`` and
    ``"blocks.0.mlp#2"``.
    """
    several = Counter(id(addition.frame) for addition in trace.additions)
    names: list[str] = []
    for addition in trace.additions:
        name = addition.frame.name
        if several[id(addition.frame)] > 1:
            calls = [call for call in addition.calls if not trace.passes_on(call)]
            weighted = (call.name for call in calls if trace.weights_of([call]))
            name = next(weighted, calls[0].name if calls else name)
        number = sum(other.partition("#")[0] == name for other in names) + 1
        names.append(name if number == 1 else f"{name}#{number}")
    return names


def stream_of(trace: Trace, addition: Addition) -> tuple[int, str] | None:
    """Return channels and layout of the stream at an addition; ``None`` if the layout is unknown."""
    shape, axis = trace.shapes[addition.result[0]], _stream_axis(trace, addition)
    layout = None if axis is None else _LAYOUTS.get((len(shape), axis))
    return None if axis is None or layout is None else (shape[axis], layout)


def _residual_places(trace: Trace) -> Iterator[Found]:
    last = {id(addition.frame): addition for addition in trace.additions}
    occupied = [name for name in trace.modules if _is_attention(trace, name)]
    for index, (addition, block) in enumerate(zip(trace.additions, name_blocks(trace), strict=True)):
        frame = addition.frame
        axis = _stream_axis(trace, addition)
        shape = trace.shapes[addition.result[0]]
        channels = shape[axis] if axis is not None else 0
        order = trace.ends[frame.name], index
        size = channels, math.prod(shape[1:]) // max(channels, 1)
        reached: dict[str, _Tensor | str] = {}
        if axis is None:
            reached = dict.fromkeys(POSITIONS[:-1], "the channel dimension is unknown")
        elif trace.runs[frame.name] != 1:
            reached = dict.fromkeys(POSITIONS[:-1], f"{frame.name} runs {trace.runs[frame.name]} times per forward")
        else:
            attention = next((name for name in occupied if _is_behind(name, addition.calls)), None)
            reached["standard"] = f"{attention} is on the branch" if attention else _standard(trace, addition, axis)
            reached["pre"] = _pre(trace, addition, axis)
            if last[id(frame)] is addition:
                reached["post"] = _post(trace, addition, axis)
            reached["identity"] = _identity(trace, addition, axis)
            reached["3x3"] = _spatial(trace, addition)
        for position, there in reached.items():
            name = frame.name if position == "post" else block
            if isinstance(there, str):
                yield Found(order, size, name, position, reason=there)
                continue
            layout = _LAYOUTS.get((len(there.shape), there.axis))
            if layout is None:
                yield Found(order, size, name, position, reason=f"its tensor has {len(there.shape)} dimensions")
            elif there.shape[0] != BATCH:
                yield Found(order, size, name, position, reason="images are split or mixed there")
            else:
                grid = _grid(trace, layout, there.shape, there.tensor, addition.result[0])
                place = replace(there.place, grid=grid)
                yield Found(order, size, name, position, there.shape[there.axis], layout, place)


def _grid(trace: Trace, layout: str, shape: tuple[int, ...], *tensors: int) -> Grid | str:
    """Return the grid of a tensor from what is known of it and of others with the same positions, or a reason."""
    positions = math.prod(shape[1:]) // shape[LAYOUTS[layout]]
    for tensor in tensors:
        grid = find_grid(trace.shapes[tensor], trace.axes.get(tensor))
        if grid is not None and grid.prefix + grid.positions == positions:
            return grid
    lost = next((trace.mixed[tensor] for tensor in reversed(tensors) if tensor in trace.mixed), None)
    return f"the rows and columns of the image are unknown {f'after {lost}' if lost else 'there'}"


def _stream_axis(trace: Trace, addition: Addition) -> int | None:
    """Return the channel dimension of a sum, from adjacent layers or as the one that differs from height and width."""
    shape = trace.shapes[addition.result[0]]
    for node in (addition.result, addition.shortcut, addition.branch):
        if node[0] in trace.channel_axis:
            return trace.channel_axis[node[0]]
    if len(shape) == 4 and (shape[1] == shape[2]) != (shape[2] == shape[3]):
        return 1 if shape[2] == shape[3] else 3
    readers = [
        trace.channel_axis[node[0]]
        for node in addition.frame.streams
        if node[0] in trace.channel_axis and trace.shapes[node[0]] == shape
    ]
    return readers[0] if readers else None


def _standard(trace: Trace, addition: Addition, axis: int) -> _Tensor | str:
    """Find the module in which the branch ends: an empty slot, or the last one that does more than drop or scale.

    Between it and the addition, operations only permute dimensions, scale all channels or drop channels, and nothing
    else reads the branch.
    """
    candidates: list[tuple[Call, int]] = []
    frame, node = addition.frame, addition.branch
    pixels = math.prod(trace.shapes[node[0]]) // trace.shapes[node[0]][axis]
    while node not in frame.streams:
        readers = trace.readers.get(node[:2], [])
        if len(readers) > 1 and not all(step.name in SLICES for step in readers):
            return "the branch has another reader"
        origin = frame.origins.get(node)
        if isinstance(origin, Call):
            shape = trace.shapes[node[0]]
            if axis < len(shape) and math.prod(shape) == pixels * shape[axis]:
                candidates.append((origin, axis))
            if not trace.passes_on(origin) or not origin.inputs:
                break
            node = origin.inputs[0]
            continue
        before = _before(trace, node, origin, axis)
        if before is None:
            break
        node, axis = before
    for call, channel_axis in candidates:
        if isinstance(trace.modules[call.name], EmptySlot) and trace.runs[call.name] == 1:
            return _Tensor(Place(call.name, "slot"), trace.shapes[call.output[0]], channel_axis, call.output[0])
    # Prefer the branch's own module. Batch norms come last: freezing or synchronising replaces them. For drop path and
    # layer scale, the SE block scales their input.
    for call, channel_axis in sorted(candidates, key=lambda one: _preference(trace, one[0])):
        inner = not trace.passes_on(call)
        host = _output_host(trace, call.name) if inner else _input_host(trace, call.name)
        if host is not None:
            place = Place(host, "output" if inner else "input")
            return _Tensor(place, trace.shapes[call.output[0]], channel_axis, call.output[0])
    return "no module that runs exactly once returns the branch"


def _preference(trace: Trace, call: Call) -> int:
    if trace.passes_on(call):
        return 1
    host = _output_host(trace, call.name)
    return 2 if host is not None and isinstance(trace.modules[host], nn.modules.batchnorm._BatchNorm) else 0


def _before(trace: Trace, node: Node, origin: Operation | None, axis: int) -> tuple[Node, int] | None:
    """Follow the branch back through one operation; ``None`` if that does not commute with a scale per channel."""
    if origin is None or not origin.inputs:
        return None
    if origin.order is not None:
        return origin.inputs[0], origin.order[axis]
    shape = trace.shapes[node[0]]
    if origin.name in ELEMENTWISE:
        same = [one for one in origin.inputs if trace.shapes[one[0]] == shape]
        return (same[0], axis) if len(same) == 1 else None
    if origin.name in SLICES:
        before = trace.shapes[origin.inputs[0][0]]
        others = [one != other for dim, (one, other) in enumerate(zip(before, shape, strict=False)) if dim != axis]
        return (origin.inputs[0], axis) if len(before) == len(shape) and not any(others) else None
    return None


def _pre(trace: Trace, addition: Addition, axis: int) -> _Tensor | str:
    """Find the only module through which the branch reads the stream, if the shortcut does not use it."""
    frame = addition.frame
    streams = set(frame.streams)
    for node, origin in frame.origins.items():
        if isinstance(origin, Call) and type(trace.modules[origin.name]) is nn.Identity and origin.inputs[0] in streams:
            streams.add(node)
    readers = {call.name: call for call in addition.calls if call.inputs and call.inputs[0] in streams}
    if len(readers) != 1:
        return f"{len(readers)} modules of the branch read the stream"
    ((name, call),) = readers.items()
    if call in addition.skipped:
        return f"the shortcut also uses the output of {name}"
    if trace.leads_around(streams, addition.branch, lambda _, step: _is_inside(step.within, name)):
        return "the branch also reads the stream outside that module"
    identity = call.inputs[0][0]
    shape = trace.shapes[identity]
    if len(shape) != len(trace.shapes[addition.result[0]]):
        return "the branch's input has another number of dimensions than the sum"
    host = _input_host(trace, name)
    if host is None:
        return f"{name} runs more than once or is merged for inference"
    return _Tensor(Place(host, "input"), shape, trace.channel_axis.get(identity, axis), identity)


def _post(trace: Trace, addition: Addition, axis: int) -> _Tensor | str:
    frame = addition.frame
    if frame.output is None:
        return "the block returns more than one tensor"
    if not frame.name or _output_host(trace, frame.name) != frame.name:
        return "no module returns the block's output"
    before, shape = trace.shapes[addition.result[0]], trace.shapes[frame.output[0]]
    if shape == before:
        return _Tensor(Place(frame.name, "output"), shape, axis, frame.output[0])
    if math.prod(shape) == math.prod(before) and len(shape) in (3, 4) and shape[-1] == before[axis] == before[-1]:
        return _Tensor(Place(frame.name, "output"), shape, len(shape) - 1, frame.output[0])
    return "the block's output has another shape than the sum"


def _identity(trace: Trace, addition: Addition, axis: int) -> _Tensor | str:
    shape = trace.shapes[addition.result[0]]
    for call in addition.skipped[:1]:
        if trace.shapes[call.output[0]] != shape or trace.runs[call.name] != 1:
            continue
        if isinstance(trace.modules[call.name], EmptySlot):
            return _Tensor(Place(call.name, "slot"), shape, axis, call.output[0])
        if host := _output_host(trace, call.name):
            return _Tensor(Place(host, "output"), shape, axis, call.output[0])
    return "the shortcut has no module that runs exactly once"


def _spatial(trace: Trace, addition: Addition) -> _Tensor | str:
    inside = [
        call
        for call in trace.calls
        if isinstance(trace.modules[call.name], nn.Conv2d)
        and max(trace.modules[call.name].kernel_size) > 1
        and _is_behind(call.name, addition.calls)
    ]
    if not inside:
        return "the branch has no spatial convolution"
    for call in reversed(inside):
        result = call.output[:2]
        if not trace.leads_around(addition.frame.streams, addition.branch, lambda made, _: made == result):  # noqa: B023  # used at once
            if _output_host(trace, call.name) is None:
                return f"{call.name} runs more than once or is merged for inference"
            return _Tensor(Place(call.name, "output"), trace.shapes[call.output[0]], 1, call.output[0])
    return "the branch has a path around each of its spatial convolutions"


def _is_behind(name: str, calls: list[Call]) -> bool:
    return any(_is_inside(name, call.name) for call in calls)


def _is_inside(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _existing_places(trace: Trace) -> Iterator[Found]:
    outputs = {call.name: call for call in trace.calls}
    attention = [name for name in trace.modules if _is_attention(trace, name)]
    around = {name: _block_around(trace, name) for name in attention}
    shared = Counter(around.values())
    for name in attention:
        block = around[name] if around[name] and shared[around[name]] == 1 else name
        if trace.runs[name] != 1 or name not in outputs:
            order = trace.ends.get(name, len(trace.ends)), 0
            yield Found(order, (0, 0), block, "existing", reason=f"it runs {trace.runs[name]} times per forward")
            continue
        shape = trace.shapes[outputs[name].output[0]]
        stream = trace.shapes[outputs[around[name] or name].output[0]]
        axis = 3 if type(trace.modules[name]).__name__ == "SqueezeExciteCl" else 1
        order = trace.ends[around[name] or name], 0
        if len(shape) != 4 or len(stream) != 4:
            reason = f"its tensor has {min(len(shape), len(stream))} dimensions"
            yield Found(order, (0, 0), block, "existing", reason=reason)
            continue
        size = stream[axis], math.prod(stream[1:]) // stream[axis]
        parameters = list(trace.modules[name].parameters())
        weights = sum(parameter.numel() for parameter in parameters if parameter.dim() > 1)
        count, layout = sum(parameter.numel() for parameter in parameters), _LAYOUTS[4, axis]
        place = Place(name, "existing", count, weights, _grid(trace, layout, shape, outputs[name].output[0]))
        yield Found(order, size, block, "existing", shape[axis], layout, place)


def _block_around(trace: Trace, name: str) -> str:
    """Return the innermost module around ``name`` that returns one tensor and is no container; ``""`` if none does."""
    block = name.rpartition(".")[0]
    while block and (block not in trace.returned_one or isinstance(trace.modules[block], _CONTAINERS)):
        block = block.rpartition(".")[0]
    return block


def _is_attention(trace: Trace, name: str) -> bool:
    kind = type(trace.modules[name])
    return kind.__name__ in ATTENTION and kind.__module__.startswith("timm.")


def _unit_places(trace: Trace) -> Iterator[Found]:
    """Yield the outputs of repeated units as places, for networks without residual branches.

    A unit is an innermost module with at least two convolutions whose class occurs at least twice. Networks without
    such modules use the activations after convolutions.
    """
    outputs = {
        call.name: call
        for call in trace.calls
        if len(trace.shapes[call.output[0]]) == 4 and call.name and trace.runs[call.name] == 1
    }
    composite = [
        name
        for name in outputs
        if trace.weights_of([outputs[name]]) >= 2 and not isinstance(trace.modules[name], _CONTAINERS)
    ]
    kinds = Counter(type(trace.modules[name]) for name in composite)
    units = [name for name in composite if kinds[type(trace.modules[name])] >= 2 and _output_host(trace, name)]
    units = [name for name in units if not any(other.startswith(f"{name}.") for other in units)]
    if not units:
        units = [
            name
            for name, call in outputs.items()
            if isinstance(trace.modules[name], _ACTIVATIONS) and trace.shapes[call.output[0]][2] > 1
        ]
    for name in units:
        _, channels, height, width = trace.shapes[outputs[name].output[0]]
        size, order = (channels, height * width), (trace.ends[name], 0)
        tensor = outputs[name].output[0]
        place = Place(name, "output", grid=_grid(trace, "NCHW", trace.shapes[tensor], tensor))
        yield Found(order, size, name, "post", channels, "NCHW", place)


def _output_host(trace: Trace, name: str) -> str | None:
    """Return the module whose output hook sees the output of ``name``; ``None`` if there is none."""
    host = _inner(trace, name, last=True)
    return host if host in trace.returned_one else None


def _input_host(trace: Trace, name: str) -> str | None:
    """Return the module whose input hook sees the input of ``name``; ``None`` if there is none."""
    host = _inner(trace, name, last=False)
    return None if host in trace.named_inputs else host


def _inner(trace: Trace, name: str, last: bool) -> str | None:
    """Return a module that runs exactly once, whenever ``name`` does, and that timm does not merge; else ``None``.

    Of a container this is the first or last child, because timm sometimes calls the children one by one.
    """
    module = trace.modules[name]
    while isinstance(module, _CONTAINERS):
        children = list(module._modules)
        if not children or type(module).forward is not nn.Sequential.forward:
            return None
        name = f"{name}.{children[-1 if last else 0]}"
        module = trace.modules[name]
    return name if trace.runs[name] == 1 and name not in trace.merged else None
