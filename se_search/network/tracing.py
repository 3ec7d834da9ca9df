"""One traced forward pass: which modules ran, what they made, and which additions join a branch to a stream."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import DropPath, LayerScale, LayerScale2d
from timm.models.metaformer import Scale
from torch import nn
from torch.overrides import TorchFunctionMode

BATCH = 2
"""Images in the traced pass: with two, a parameter of batch size 1 is no operand of equal shape."""

ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
ELEMENTWISE = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "div", "div_", "to", "contiguous", "float", "type"}
RESHAPES = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "contiguous"}
SLICES = {"__getitem__", "narrow", "split", "chunk"}

_MOST_PROJECTIONS = 2  # a pointwise convolution, or a separable one

_PASSING = (nn.Identity, nn.Dropout, DropPath, LayerScale, LayerScale2d, Scale)

_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
_CHANNELS_LAST_NAMES = ("LayerNorm", "RmsNorm", "RMSNorm", "SimpleNorm", "Affine")


class EmptySlot(nn.Identity):
    """Stands, while a network is traced, where timm's block has an optional layer and this network has none."""


Node = tuple[int, int]
"""A tensor's identity and how often something was made of it: an operation in place makes it anew."""


@dataclass(frozen=True)
class Call:
    """One run of a module.

    Attributes:
        name: The module's name in the network.
        inputs: Tensors that it was given.
        output: Tensor that it returned.
    """

    name: str
    inputs: tuple[Node, ...]
    output: Node


@dataclass(frozen=True)
class Operation:
    """One operation on tensors outside any child module.

    Attributes:
        name: The function's name.
        inputs: Its operands, parameters left out.
        order: How it permutes dimensions, where it does.
    """

    name: str
    inputs: tuple[Node, ...]
    order: tuple[int, ...] | None

    @property
    def passes_one_on(self) -> bool:
        """Whether it only reshapes, slices or scales one tensor."""
        return len(self.inputs) == 1 and self.name in RESHAPES | SLICES | ELEMENTWISE


@dataclass
class Addition:
    """An addition that joins a branch to the stream of a block.

    Attributes:
        frame: The module in whose forward it stands.
        branch: What is added.
        shortcut: What it is added to.
        result: The sum.
        calls: Calls that the branch runs through, the latest first.
        skipped: Calls that the shortcut runs through, the latest first.
    """

    frame: "Frame"
    branch: Node
    shortcut: Node
    result: Node
    calls: list[Call]
    skipped: list[Call]


@dataclass
class Frame:
    """One run of a module that has children, as it goes on.

    Attributes:
        name: The module's name in the network.
        inputs: Tensors that it was given.
        streams: Its inputs and the sums of its residual additions, also reshaped.
        origins: What made each tensor, in order.
        versions: How often something was made of each tensor.
        output: Identity of what it returned, if that was one tensor.
    """

    name: str
    inputs: set[Node]
    streams: set[Node]
    origins: dict[Node, Call | Operation] = field(default_factory=dict)
    versions: Counter[int] = field(default_factory=Counter)
    output: int | None = None

    def now(self, tensor: torch.Tensor) -> Node:
        """The tensor as it is at this moment."""
        return id(tensor), self.versions[id(tensor)]

    def next(self, tensor: torch.Tensor) -> Node:
        """The tensor as it will be once it is made anew."""
        return id(tensor), self.versions[id(tensor)] + 1

    def made(self, tensor: torch.Tensor, by: Call | Operation) -> Node:
        """Record that ``tensor`` was made."""
        self.versions[id(tensor)] += 1
        self.origins[self.now(tensor)] = by
        return self.now(tensor)

    def calls_between(self, starts: Set[Node], end: Node) -> list[Call] | None:
        """Return the calls on all ways from ``starts`` to ``end``, the latest first; ``None`` if there is no way."""
        reached = set(starts)
        for node, origin in self.origins.items():
            if not reached.isdisjoint(origin.inputs):
                reached.add(node)
        if end not in reached:
            return None
        calls, wanted = [], {end}
        for node, origin in reversed(self.origins.items()):
            if node in wanted and node not in starts:
                wanted.update(reached.intersection(origin.inputs))
                if isinstance(origin, Call):
                    calls.append(origin)
        return calls

    def shortcut_calls(self, node: Node) -> list[Call] | None:
        """Return the calls between the stream and a shortcut, the latest first; ``None`` if it is no shortcut."""
        calls: list[Call] = []
        while node not in self.streams:
            origin = self.origins.get(node)
            if isinstance(origin, Call) and origin.inputs:
                calls.append(origin)
            elif not (isinstance(origin, Operation) and origin.passes_one_on):
                return None
            node = origin.inputs[0]
        return calls


class Trace(TorchFunctionMode):
    """Records one forward pass of ``model`` on the meta device.

    Attributes:
        runs: How often each module ran.
        ends: For each module, its place in the order in which modules ended.
        calls: Every run of a module that returned one tensor, in order of its end.
        shapes: Shape of every tensor, by its identity.
        additions: Residual additions, in forward order.
        returned_one: Modules that returned one tensor.
        reads_stream: Modules that were given the stream of the block around them.
        merged: Modules that go when timm merges layers for inference.
        channel_axis: For tensors that a layer with known layout has read or written, the dimension of the channels.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = dict(model.named_modules())
        self.runs: Counter[str] = Counter()
        self.ends: dict[str, int] = {}
        self.calls: list[Call] = []
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.additions: list[Addition] = []
        self.returned_one: set[str] = set()
        self.reads_stream: set[str] = set()
        self.merged: set[str] = set()
        self.channel_axis: dict[int, int] = {}
        self._weights = {name: _count_weights(module) for name, module in self.modules.items()}
        self._stack: list[Frame] = []
        self._alive: list[torch.Tensor] = []  # an identity stays unique only while its tensor lives

    def run(self, model: nn.Module, input_size: tuple[int, int, int]) -> None:
        """Run ``model`` once on images of ``input_size``."""
        handles = []
        for name, module in self.modules.items():
            handles.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave(name)))
        try:
            with torch.no_grad(), self:
                model(torch.empty(BATCH, *input_size, device="meta"))
        finally:
            for handle in handles:
                handle.remove()

    def passes_on(self, call: Call) -> bool:
        """Whether a module hands a branch on, possibly scaled or dropped: what stands before it is the branch."""
        return isinstance(self.modules[call.name], _PASSING)

    def weights_of(self, calls: list[Call]) -> int:
        """Number of convolutions and linear layers in the modules of ``calls``."""
        return sum(self._weights[call.name] for call in calls)

    def _enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tensors = self._keep((args, kwargs))
            frame = Frame(name, set(), set())
            frame.inputs.update(frame.now(tensor) for tensor in tensors)
            frame.streams.update(frame.inputs)
            self._stack.append(frame)
            if tensors:
                self._learn_layout(module, tensors[0])

        return hook

    def _leave(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
            frame = self._stack.pop()
            self.runs[name] += 1
            self.ends[name] = len(self.ends)
            made = self._keep(output)
            if isinstance(output, torch.Tensor):
                frame.output = id(output)
                self._learn_layout(module, output)
                if not any(module.children()):
                    self._hand_layout_on(args, output)
            if not self._stack:
                return
            parent = self._stack[-1]
            inputs = tuple(parent.now(tensor) for tensor in _tensors(args))
            if not parent.streams.isdisjoint(inputs):
                self.reads_stream.add(name)
            for tensor in made:
                call = Call(name, inputs, parent.next(tensor))
                parent.made(tensor, call)
                if isinstance(output, torch.Tensor):
                    self.calls.append(call)
                    self.returned_one.add(name)

        return hook

    def _keep(self, value: object) -> list[torch.Tensor]:
        tensors = list(_tensors(value))
        self._alive.extend(tensors)
        self.shapes.update((id(tensor), tuple(tensor.shape)) for tensor in tensors)
        return tensors

    def _learn_layout(self, module: nn.Module, tensor: torch.Tensor) -> None:
        if tensor.dim() < 3:
            return
        kind = type(module).__name__
        leaf = not any(module.children())
        if isinstance(module, _CHANNELS_FIRST) or (leaf and kind.endswith("2d")):
            self.channel_axis.setdefault(id(tensor), 1)
        elif isinstance(module, nn.Linear) or (leaf and kind.startswith(_CHANNELS_LAST_NAMES)):
            self.channel_axis.setdefault(id(tensor), tensor.dim() - 1)

    def _hand_layout_on(self, args: tuple[Any, ...], output: torch.Tensor) -> None:
        first = next(_tensors(args), None)
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
        nodes = tuple(frame.now(operand) for operand in operands)
        shapes = [tuple(operand.shape) for operand in self._keep(operands)]
        result = func(*args, **(kwargs or {}))
        for tensor in self._keep(result):
            shape = tuple(tensor.shape)
            order = _order(name, args, len(shape))
            node = frame.made(tensor, Operation(name, nodes, order))
            if name in RESHAPES and nodes and nodes[0] in frame.streams:
                frame.streams.add(node)
            if name in ADDITIONS and shapes == [shape, shape] and len(shape) >= 3 and tensor.is_floating_point():
                self._add(frame, nodes[0], nodes[1], node)
            if order is None and shape in shapes and (name in ADDITIONS or name in ELEMENTWISE):
                axis = next((self.channel_axis[one[0]] for one in nodes if one[0] in self.channel_axis), None)
                if axis is not None:
                    self.channel_axis.setdefault(id(tensor), axis)
        return result

    def _add(self, frame: Frame, left: Node, right: Node, result: Node) -> None:
        found = [self._residual(frame, left, right, result), self._residual(frame, right, left, result)]
        additions = [addition for addition in found if addition is not None]
        if additions:
            addition = max(additions, key=lambda one: self.weights_of(one.calls))
            self.additions.append(addition)
            frame.streams.update((addition.result, *([] if addition.skipped else [addition.shortcut])))

    def _residual(self, frame: Frame, branch: Node, shortcut: Node, result: Node) -> Addition | None:
        """Return the addition if ``shortcut`` is a stream and ``branch`` comes from the same stream through more."""
        calls = frame.calls_between({shortcut}, branch)
        if calls and self._learn_anything(calls):
            return Addition(frame, branch, shortcut, result, calls, [])
        calls, skipped = frame.calls_between(frame.streams, branch), frame.shortcut_calls(shortcut)
        if calls is None or skipped is None:
            return None
        projections = [call for call in skipped if self.weights_of([call])]
        if self.weights_of(projections) > _MOST_PROJECTIONS or any(call in calls for call in projections):
            return None
        if self.weights_of(calls) <= self.weights_of(projections):
            return None
        # A shortcut that is normalised only is one of several parallel branches, to be merged for inference (RepVGG).
        if not projections and any(isinstance(self.modules[call.name], nn.BatchNorm2d) for call in skipped):
            return None
        return Addition(frame, branch, shortcut, result, calls, skipped)

    def _learn_anything(self, calls: list[Call]) -> bool:
        return any(True for call in calls for _ in self.modules[call.name].parameters())


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(_tensors, value.values()))
    elif isinstance(value, (list, tuple)):
        yield from itertools.chain.from_iterable(map(_tensors, value))


def _order(name: str, args: tuple[Any, ...], rank: int) -> tuple[int, ...] | None:
    if name == "permute":
        given = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
        return tuple(dim % rank for dim in given)
    if name == "transpose" and len(args) == 3:
        order = list(range(rank))
        first, second = args[1] % rank, args[2] % rank
        order[first], order[second] = second, first
        return tuple(order)
    return None


def _count_weights(module: nn.Module) -> int:
    return sum(isinstance(one, (nn.modules.conv._ConvNd, nn.Linear)) for one in module.modules())
