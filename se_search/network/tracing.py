"""Trace one forward pass: module calls, tensor operations and residual additions."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import DropPath, LayerScale, LayerScale2d
from timm.models.metaformer import Scale
from torch import nn
from torch.overrides import TorchFunctionMode

from .axes import IMAGE, Axes, find_grid, follow

BATCH = 2
"""Batch size of the traced pass. With two images, a parameter of batch size 1 never has the shape of an activation."""

ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
ELEMENTWISE = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "div", "div_", "to", "contiguous", "float", "type"}
RESHAPES = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "contiguous"}
SLICES = {"__getitem__", "narrow", "split", "chunk"}

_MOST_PROJECTIONS = 2  # a pointwise convolution, or a separable one

_PASSING = (nn.Identity, nn.Dropout, DropPath, LayerScale, LayerScale2d, Scale)

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_CHANNELS_LAST_NAMES = ("LayerNorm", "RmsNorm", "RMSNorm", "SimpleNorm", "Affine")


class EmptySlot(nn.Identity):
    """Placeholder for an optional layer of timm's block that this network lacks; used only while tracing."""


Made = tuple[int, int]
"""A tensor's identity and version; an in-place operation increments the version."""

Node = tuple[int, int, int]
"""A tensor's identity and version, and how many modules of one frame have returned it unchanged."""


@dataclass(frozen=True)
class Call:
    """One call of a module: its name in the network, its input tensors and the tensor that it returned."""

    name: str
    inputs: tuple[Node, ...]
    output: Node


@dataclass(frozen=True)
class Operation:
    """One tensor operation in a module's own forward, outside its child modules.

    ``inputs`` are its operands without parameters; ``order`` is the permutation if it permutes dimensions.
    """

    name: str
    inputs: tuple[Node, ...]
    order: tuple[int, ...] | None

    @property
    def passes_one_on(self) -> bool:
        """Whether it only reshapes, slices or scales a single tensor."""
        return len(self.inputs) == 1 and self.name in RESHAPES | SLICES | ELEMENTWISE


@dataclass(frozen=True)
class Step:
    """One tensor operation anywhere in the network, with its operands without parameters and its innermost module.

    ``order`` is the permutation if it permutes dimensions.
    """

    name: str
    inputs: tuple[Made, ...]
    within: str
    order: tuple[int, ...] | None


@dataclass
class Addition:
    """A residual addition: it joins a branch to the stream of a block.

    Attributes:
        frame: The module whose forward contains the addition.
        branch: The operand that comes through the branch.
        shortcut: The operand that comes through the shortcut.
        result: The sum.
        calls: Module calls on the branch, latest first.
        skipped: Module calls on the shortcut, latest first.
    """

    frame: "Frame"
    branch: Node
    shortcut: Node
    result: Node
    calls: list[Call]
    skipped: list[Call]


@dataclass
class Frame:
    """A module call in progress.

    Attributes:
        name: The module's name in the network.
        passed: Its input tensors, as nodes of the calling frame.
        streams: Its input tensors as its own nodes, the sums of its residual additions, and reshaped versions of these.
        origins: The call or operation that produced each tensor, in order.
        returned: How many of its child modules have returned each tensor unchanged.
        output: The tensor that it returned, if it returned exactly one.
    """

    name: str
    passed: tuple[Node, ...]
    streams: set[Node]
    origins: dict[Node, Call | Operation] = field(default_factory=dict)
    returned: Counter[Made] = field(default_factory=Counter)
    output: Node | None = None

    def node(self, made: Made) -> Node:
        """Return the current node of a tensor."""
        return (*made, self.returned[made])

    def between(self, starts: Set[Node], end: Node) -> dict[Node, Call | Operation] | None:
        """Return the origins on all paths from ``starts`` to ``end``, latest first; ``None`` if there is no path."""
        reached = set(starts)
        for node, origin in self.origins.items():
            if not reached.isdisjoint(origin.inputs):
                reached.add(node)
        if end not in reached:
            return None
        found, wanted = {}, {end}
        for node, origin in reversed(self.origins.items()):
            if node in wanted and node not in starts:
                wanted.update(reached.intersection(origin.inputs))
                found[node] = origin
        return found

    def shortcut_origins(self, node: Node) -> list[Call | Operation] | None:
        """Return the origins between a stream and ``node``, latest first; ``None`` if ``node`` is not a shortcut."""
        found: list[Call | Operation] = []
        while node not in self.streams:
            origin = self.origins.get(node)
            if origin is None or not origin.inputs or (isinstance(origin, Operation) and not origin.passes_one_on):
                return None
            found.append(origin)
            node = origin.inputs[0]
        return found


class Trace(TorchFunctionMode):
    """Record of one forward pass of ``model`` on the meta device.

    Attributes:
        runs: Number of calls of each module.
        ends: Rank of each module in the order in which modules returned.
        calls: Calls that returned exactly one tensor, in the order of their return.
        steps: The operation that produced each tensor, in order.
        shapes: Shape of every tensor, by identity.
        additions: Residual additions, in forward order.
        returned_one: Modules that returned exactly one tensor.
        named_inputs: Modules that received their first tensor as a keyword argument, which an input hook does not see.
        reads_stream: Modules that read the stream of the enclosing block.
        merged: Modules that disappear when timm merges layers for inference.
        channel_axis: Channel dimension of the tensors that a layer of known layout has read or written.
        axes: Which dimensions of a tensor hold the rows and columns of the image, where that is known.
        mixed: The operation and module after which that is unknown.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = dict(model.named_modules())
        self.runs: Counter[str] = Counter()
        self.ends: dict[str, int] = {}
        self.calls: list[Call] = []
        self.steps: dict[Made, Step] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.additions: list[Addition] = []
        self.returned_one: set[str] = set()
        self.named_inputs: set[str] = set()
        self.reads_stream: set[str] = set()
        self.merged: set[str] = set()
        self.channel_axis: dict[int, int] = {}
        self.axes: dict[int, Axes] = {}
        self.mixed: dict[int, str] = {}
        self._versions: Counter[int] = Counter()
        self._weights = {name: _count_weights(module) for name, module in self.modules.items()}
        self._stack: list[Frame] = []
        self._alive: list[torch.Tensor] = []  # a tensor's id is unique only while the tensor is alive

    def run(self, model: nn.Module, input_size: tuple[int, int, int]) -> "Trace":
        """Run ``model`` once on images of ``input_size``; return this trace."""
        handles = []
        for name, module in self.modules.items():
            handles.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave(name), with_kwargs=True))
        try:
            with torch.no_grad(), self:
                images = torch.empty(BATCH, *input_size, device="meta")
                self._alive.append(images)
                self.axes[id(images)] = IMAGE
                model(images)
        finally:
            for handle in handles:
                handle.remove()
        return self

    @functools.cached_property
    def readers(self) -> dict[Made, list[Step]]:
        """The operations that read each tensor; valid after :meth:`run`."""
        readers: dict[Made, list[Step]] = {}
        for step in self.steps.values():
            for made in step.inputs:
                readers.setdefault(made, []).append(step)
        return readers

    def leads_around(self, starts: Iterable[Node], end: Node, avoided: Callable[[Made, Step], bool]) -> bool:
        """Whether a path from ``starts`` to ``end`` uses no avoided operation."""
        goals, seen, waiting = {start[:2] for start in starts}, {end[:2]}, [end[:2]]
        while waiting:
            made = waiting.pop()
            if made in goals:
                return True
            step = self.steps.get(made)
            if step is not None and not avoided(made, step):
                waiting.extend(before for before in step.inputs if before not in seen)
                seen.update(step.inputs)
        return False

    def passes_on(self, call: Call) -> bool:
        """Whether a module returns its input unchanged, scaled or dropped, so that the branch ends before it."""
        return isinstance(self.modules[call.name], _PASSING)

    def weights_of(self, calls: Iterable[Call]) -> int:
        """Return the number of convolutions and linear layers in the modules of ``calls``."""
        return sum(self._weights[call.name] for call in calls)

    def _now(self, tensor: torch.Tensor) -> Made:
        return id(tensor), self._versions[id(tensor)]

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensors = self._keep((args, kwargs))
            given = tuple(map(self._now, tensors))
            passed = tuple(map(self._stack[-1].node, given)) if self._stack else ()
            self._stack.append(Frame(name, passed, {(*made, 0) for made in given}))
            if tensors:
                self._record_layout(module, tensors[0])
            if not args or not isinstance(args[0], torch.Tensor):
                self.named_inputs.add(name)

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
            frame = self._stack.pop()
            self.runs[name] += 1
            self.ends[name] = len(self.ends)
            made = self._keep(output)
            if isinstance(output, torch.Tensor):
                frame.output = frame.node(self._now(output))
                self._record_layout(module, output)
                if not any(module.children()):
                    self._propagate_layout((args, kwargs), output)
            if not self._stack:
                return
            parent = self._stack[-1]
            if not parent.streams.isdisjoint(frame.passed):
                self.reads_stream.add(name)
            for tensor in made:
                if parent.node(self._now(tensor)) in frame.passed:
                    parent.returned[self._now(tensor)] += 1
                call = Call(name, frame.passed, parent.node(self._now(tensor)))
                parent.origins[call.output] = call
                if isinstance(output, torch.Tensor):
                    self.calls.append(call)
                    self.returned_one.add(name)

        return hook

    def _keep(self, value: object) -> list[torch.Tensor]:
        tensors = list(_tensors(value))
        self._alive.extend(tensors)
        self.shapes.update((id(tensor), tuple(tensor.shape)) for tensor in tensors)
        return tensors

    def _record_layout(self, module: nn.Module, tensor: torch.Tensor) -> None:
        if tensor.dim() < 3:
            return
        kind = type(module).__name__
        leaf = not any(module.children())
        if isinstance(module, _CHANNELS_FIRST) or (leaf and kind.endswith("2d")):
            self.channel_axis.setdefault(id(tensor), 1)
        elif isinstance(module, nn.Linear) or (leaf and kind.startswith(_CHANNELS_LAST_NAMES)):
            self.channel_axis.setdefault(id(tensor), tensor.dim() - 1)

    def _propagate_layout(self, given: object, output: torch.Tensor) -> None:
        first = next(_tensors(given), None)
        if first is not None and first.shape == output.shape and id(first) in self.channel_axis:
            self.channel_axis.setdefault(id(output), self.channel_axis[id(first)])

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if not self._stack or name in ("__get__", "__set__", "size", "dim"):
            return func(*args, **(kwargs or {}))
        frame = self._stack[-1]
        operands = [one for one in _tensors((args, kwargs)) if not isinstance(one, nn.Parameter)]
        inputs = tuple(map(self._now, operands))
        nodes = tuple(map(frame.node, inputs))
        shapes = [tuple(operand.shape) for operand in self._keep(operands)]
        contents = {id(operand): operand._version for operand in operands}
        # On the meta device PyTorch computes a batch norm in Python, a third of the time of a trace.
        result = torch.empty_like(args[0]) if name == "batch_norm" and args else func(*args, **(kwargs or {}))
        for tensor in self._keep(result):
            if contents.get(id(tensor)) == tensor._version:
                continue  # returned unchanged, as by a `contiguous` or `float` that is a no-op
            shape = tuple(tensor.shape)
            order = _order(name, args, kwargs or {}, len(shape))
            self._versions[id(tensor)] += 1
            self.steps[self._now(tensor)] = Step(name, inputs, frame.name, order)
            node = frame.node(self._now(tensor))
            frame.origins[node] = Operation(name, nodes, order)
            self._follow(tensor, name, args, kwargs or {}, operands, shapes, order)
            if name in RESHAPES and nodes and nodes[0] in frame.streams:
                frame.streams.add(node)
            if name in ADDITIONS and shapes == [shape, shape] and len(shape) >= 3 and tensor.is_floating_point():
                self._add(frame, nodes[0], nodes[1], node)
            if order is None and shape in shapes and (name in ADDITIONS or name in ELEMENTWISE):
                axis = next((self.channel_axis[one[0]] for one in nodes if one[0] in self.channel_axis), None)
                if axis is not None:
                    self.channel_axis.setdefault(id(tensor), axis)
        return result

    def _follow(
        self,
        result: torch.Tensor,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[torch.Tensor],
        shapes: list[tuple[int, ...]],
        order: tuple[int, ...] | None,
    ) -> None:
        given = [(shape, self.axes.get(id(one))) for one, shape in zip(operands, shapes, strict=True)]
        axes = follow(name, args, kwargs, given, order, tuple(result.shape))
        self.axes.pop(id(result), None)
        self.mixed.pop(id(result), None)
        if axes is not None:
            self.axes[id(result)] = axes
        if find_grid(result.shape, axes) is None and result.is_floating_point():
            known = any(find_grid(*one) for one in given)
            before = next((self.mixed[id(one)] for one in operands if id(one) in self.mixed), None)
            lost = f"{name} in {self._stack[-1].name or 'the network'}" if known else before
            if lost is not None:
                self.mixed[id(result)] = lost

    def _add(self, frame: Frame, left: Node, right: Node, result: Node) -> None:
        found = [self._residual(frame, left, right, result), self._residual(frame, right, left, result)]
        additions = [addition for addition in found if addition is not None]
        if additions:
            addition = max(additions, key=lambda one: self.weights_of(one.calls))
            self.additions.append(addition)
            frame.streams.update((addition.result, *([] if addition.skipped else [addition.shortcut])))

    def _residual(self, frame: Frame, branch: Node, shortcut: Node, result: Node) -> Addition | None:
        """Return the addition if ``shortcut`` is a stream and ``branch`` comes from it through more layers."""
        calls = _calls(frame.between({shortcut}, branch))
        if any(True for call in calls for _ in self.modules[call.name].parameters()):
            return Addition(frame, branch, shortcut, result, calls, [])
        origins, skipped = frame.between(frame.streams, branch), frame.shortcut_origins(shortcut)
        if origins is None or skipped is None:
            return None
        calls, projections = _calls(origins), [call for call in _calls(skipped) if self.weights_of([call])]
        if self.weights_of(projections) > _MOST_PROJECTIONS or any(call in calls for call in projections):
            return None
        if self.weights_of(calls) <= self.weights_of(projections):
            return None
        # A shortcut with only a batch norm is one of several parallel branches that are merged for inference (RepVGG).
        if not projections and any(isinstance(self.modules[call.name], nn.BatchNorm2d) for call in _calls(skipped)):
            return None
        # Both operands are channel groups of one stream (Res2Net's hierarchy of groups).
        if skipped and _is_slice(skipped[-1]):
            reads = [origin for origin in origins.values() if not frame.streams.isdisjoint(origin.inputs)]
            if all(map(_is_slice, reads)):
                return None
        return Addition(frame, branch, shortcut, result, calls, _calls(skipped))


def _calls(origins: Iterable[Call | Operation] | dict[Node, Call | Operation] | None) -> list[Call]:
    values = origins.values() if isinstance(origins, dict) else origins or ()
    return [origin for origin in values if isinstance(origin, Call)]


def _is_slice(origin: Call | Operation) -> bool:
    return isinstance(origin, Operation) and origin.name in SLICES


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(_tensors, value.values()))
    elif isinstance(value, (list, tuple)):
        yield from itertools.chain.from_iterable(map(_tensors, value))


def _order(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], rank: int) -> tuple[int, ...] | None:
    given = (*args[1:], *(kwargs[key] for key in ("dims", "dim0", "dim1") if key in kwargs))
    if name == "permute":
        dims = given[0] if isinstance(given[0], (tuple, list)) else given
        return tuple(dim % rank for dim in dims)
    if name == "transpose":
        order = list(range(rank))
        first, second = (dim % rank for dim in given)
        order[first], order[second] = second, first
        return tuple(order)
    return None


def _count_weights(module: nn.Module) -> int:
    return sum(isinstance(one, (nn.modules.conv._ConvNd, nn.Linear)) for one in module.modules())
