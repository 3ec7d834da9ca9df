"""Forward passes that begin where a configuration first differs from those that were evaluated before."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..network.config import SEConfig
from ..network.sites import Site

MOST_BYTES = 2**30
"""Memory for outputs of modules, on the device of the network."""


class SharedPasses(nn.Module):
    """The shared network, without computing again what earlier configurations computed for the same images.

    Up to the first site at which two configurations differ, they have the same activations and, after the same batches,
    the same normalisation statistics. Both are kept at the network's boundaries, the modules through which everything
    before them reaches the output, for the configurations that were evaluated last. Outputs and buffers after a pass
    are those of the network itself, with any kept data or none.

    Args:
        model: The network.
        blocks: The module at each site that configurations switch.
        most_bytes: Memory for what is kept.
    """

    _config: SEConfig

    def __init__(self, model: nn.Module, blocks: Mapping[Site, nn.Module], most_bytes: int = MOST_BYTES) -> None:
        super().__init__()
        self.model = model
        self._blocks = dict(blocks)
        self._most_bytes = most_bytes
        self.forget()

    def forget(self) -> None:
        """Forget everything, as when the weights have changed."""
        self._boundaries: dict[bool, tuple[_Boundary, ...]] = {}  # in training and in evaluation mode
        self._stand_ins: dict[torch.Size, _StandIns] = {}
        # By boundary and structure up to it, in the order of their last use; then by batch.
        self._kept: dict[Any, dict[Any, _Kept]] = {}
        self._bytes = 0
        self._keys: dict[_Boundary, Any] = {}  # of this configuration

    def start(self, images: str, config: SEConfig) -> "SharedPasses":
        """Start a pass over images with the configuration that is selected, and return this module.

        In training mode, running statistics must have been reset.

        Args:
            images: A name for the images, which must come in the same batches each time.
            config: The configuration.
        """
        if self._keys and config != self._config:
            self._keys = {}
        self._images, self._config, self._number = images, config, 0
        return self

    def forward(self, images: torch.Tensor) -> Any:
        """Return the network's output for the next batch."""
        try:
            with torch.no_grad():
                return self._pass(images)
        except BaseException:
            self.forget()  # also if memory ran out
            raise

    def _pass(self, images: torch.Tensor) -> Any:
        training = self.model.training
        if training not in self._boundaries:
            self._boundaries[training] = _find_boundaries(self.model, self._blocks, images[:2])
        boundaries = self._boundaries[training]
        batch = self._images, self._number, images.shape
        self._number += 1
        entries = [self._entry(boundary) for boundary in boundaries]
        begun = max((place + 1 for place, entry in enumerate(entries) if batch in entry), default=0)
        with _outputs_of(boundary.module for boundary in boundaries[begun:]) as outputs:
            if begun:
                kept = entries[begun - 1][batch]
                output = boundaries[begun - 1].run(self.model, images, kept, self._stand_ins_for(images))
            else:
                output = self.model(images)
        for boundary, entry in zip(boundaries[begun:], entries[begun:], strict=True):
            self._keep(entry, batch, boundary.keep(outputs[boundary.module], training))
        return output

    def _entry(self, boundary: "_Boundary") -> "dict[Any, _Kept]":
        """Return what is kept at a boundary for configurations that do not differ before it."""
        if boundary not in self._keys:
            key = self._keys[boundary] = boundary, self._config.structure_at(boundary.sites)
            self._kept[key] = self._kept.pop(key, {})
        return self._kept[self._keys[boundary]]

    def _stand_ins_for(self, images: torch.Tensor) -> "_StandIns":
        if images.shape not in self._stand_ins:
            self._stand_ins[images.shape] = _stand_ins(_trace(self.model, images))
        return self._stand_ins[images.shape]

    def _keep(self, entry: "dict[Any, _Kept]", batch: Any, kept: "_Kept") -> None:
        """Keep an output, if need be instead of those used longest ago, but not of those of this configuration."""
        while self._bytes + kept.bytes > self._most_bytes and len(self._kept) > len(self._keys):
            oldest = self._kept.pop(next(iter(self._kept)))
            self._bytes -= sum(one.bytes for one in oldest.values())
        if self._bytes + kept.bytes <= self._most_bytes:
            entry[batch] = kept
            self._bytes += kept.bytes


_StandIns = Mapping[nn.Module, list[torch.Tensor | None]]
"""Outputs of each module, in the order of its calls, with the right shapes and without values or memory."""


@dataclass(frozen=True, eq=False)
class _Kept:
    """The output of a module for a batch and, after a pass in training mode, the buffers of all up to it."""

    output: torch.Tensor
    buffers: tuple[torch.Tensor, ...]

    @property
    def bytes(self) -> int:
        return self.output.untyped_storage().nbytes() + sum(one.nbytes for one in self.buffers)


@dataclass(frozen=True, eq=False)
class _Boundary:
    """A module through whose output alone everything before it reaches the network's output.

    Attributes:
        module: The module.
        before: How often each of the outermost modules that run before it runs until then.
        parents: Where these modules are, the boundary last: parent, name and the module itself.
        sites: Sites of the blocks that run up to its end.
    """

    module: nn.Module
    before: Mapping[nn.Module, int]
    parents: tuple[tuple[nn.Module, str, nn.Module], ...]
    sites: frozenset[Site]

    def run(self, model: nn.Module, images: torch.Tensor, kept: _Kept, stand_ins: _StandIns) -> Any:
        """Run the network from the boundary on, with its output and the buffers before it as they were kept."""
        outputs = {module: stand_ins[module][:count] for module, count in self.before.items()}
        outputs[self.module] = [kept.output]
        try:
            for parent, name, module in self.parents:
                setattr(parent, name, _Replaced(module, outputs[module]))
            output = model(images)
        finally:
            for parent, name, module in self.parents:
                setattr(parent, name, module)
        for buffer, value in zip(self._buffers() if kept.buffers else (), kept.buffers, strict=True):
            buffer.copy_(value)
        return output

    def keep(self, output: torch.Tensor, training: bool) -> _Kept:
        """Keep the output of the module after a pass."""
        return _Kept(output, tuple(one.clone() for one in self._buffers()) if training else ())

    def _buffers(self) -> Iterator[torch.Tensor]:
        return (buffer for module in (*self.before, self.module) for buffer in module.buffers())


class _Replaced(nn.Module):
    """A module that returns given outputs, one with each call, before it computes any."""

    def __init__(self, module: nn.Module, outputs: Iterable[Any]) -> None:
        super().__init__()
        self.module = module
        self._outputs = list(outputs)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return the next output."""
        return self._outputs.pop(0) if self._outputs else self.module(*inputs, **options)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module, for networks that read some."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a module, with the modules that were running and a stand-in for its output."""

    module: nn.Module
    within: tuple[nn.Module, ...]
    stand_in: torch.Tensor | None


def _find_boundaries(model: nn.Module, blocks: Mapping[Site, nn.Module], images: torch.Tensor) -> tuple[_Boundary, ...]:
    """Return the boundaries in forward order; none of a network that cannot be taken apart.

    A boundary is tried on a few images: with NaN in place of all outputs before it, the network's output and buffers
    must be the usual ones. They are not if anything before it is used after it, or if the network draws random numbers.
    """
    buffers = [one.clone() for one in model.buffers()]

    def results(run: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)
        return [run().clone(), *(buffer.clone() for buffer in model.buffers())]

    def is_exact(boundary: _Boundary) -> bool:
        kept = boundary.keep(outputs[boundary.module], model.training)
        before = kept.output.clone()
        try:
            found = results(lambda: boundary.run(model, images, kept, stand_ins))
        except Exception:  # a network can raise anything if a module of it is replaced
            return False
        return _are_close([kept.output, *found], [before, *usual])

    try:
        calls = _trace(model, images)
        stand_ins = _stand_ins(calls)
        candidates = list(_candidates(model, blocks, calls))
        with _outputs_of(boundary.module for boundary in candidates) as outputs:
            usual = results(lambda: model(images))
        return tuple(boundary for boundary in candidates if is_exact(boundary))
    except Exception:  # the pass itself tells what is wrong
        return ()
    finally:
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)


def _candidates(model: nn.Module, blocks: Mapping[Site, nn.Module], calls: list[_Call]) -> Iterator[_Boundary]:
    """Yield the outermost modules with some of the blocks but not all, as stages, in forward order."""
    parents = {module: (parent, name, module) for parent in model.modules() for name, module in parent.named_children()}
    parts = set(_parts(model, set(blocks.values())))
    for place, call in enumerate(calls):
        if call.module in parts and call.stand_in is not None:
            earlier = calls[:place]
            done = {one.module for one in earlier}
            before = Counter(one.module for one in earlier if one.within == call.within[: len(one.within)])
            sites = frozenset(site for site, block in blocks.items() if block in done)
            if len(sites) < len(blocks):  # else there is nothing to share
                replaced = tuple(parents[module] for module in (*before, call.module))
                yield _Boundary(call.module, before, replaced, sites)


def _parts(module: nn.Module, blocks: Collection[nn.Module]) -> Iterator[nn.Module]:
    for child in module.children():
        inside = sum(one in blocks for one in child.modules())
        if inside == len(blocks):
            yield from _parts(child, blocks)
        elif inside:
            yield child


def _trace(model: nn.Module, images: torch.Tensor) -> list[_Call]:
    """Return the calls of all modules in the order of their ends, from a pass in evaluation mode."""
    calls: list[_Call] = []
    running: list[nn.Module] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        running.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        running.pop()
        calls.append(_Call(module, tuple(running), _stand_in(output)))

    hooks: list[RemovableHandle] = []
    training = model.training
    model.eval()
    try:
        for module in model.modules():
            hooks += [module.register_forward_pre_hook(enter, prepend=True), module.register_forward_hook(leave)]
        model(images)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return calls


def _stand_in(output: Any) -> torch.Tensor | None:
    if not isinstance(output, torch.Tensor) or not output.is_floating_point():
        return None
    return torch.full((), torch.nan, dtype=output.dtype, device=output.device).expand(output.shape)


def _stand_ins(calls: Iterable[_Call]) -> _StandIns:
    found: dict[nn.Module, list[torch.Tensor | None]] = {}
    for call in calls:
        found.setdefault(call.module, []).append(call.stand_in)
    return found


@contextmanager
def _outputs_of(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Any]]:
    """Collect the last output of each module."""
    outputs: dict[nn.Module, Any] = {}

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs[module] = output

    hooks = [module.register_forward_hook(leave) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _are_close(found: Iterable[torch.Tensor], expected: Iterable[torch.Tensor]) -> bool:
    """Whether all values are finite and equal but for the rounding of a device that adds in any order."""
    pairs = [(one.float(), other.float()) for one, other in zip(found, expected, strict=True)]
    return all(
        torch.allclose(one, other, 1e-3, 1e-3 * float(other.abs().amax())) for one, other in pairs if other.numel()
    )
