"""Follow the rows and columns of the image through tensor operations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .attention.grid import Grid

Axis = Literal["rows", "columns"] | Grid | None
"""What a dimension holds: rows or columns of the image, both as tokens, or something else."""

Axes = tuple[Axis, ...]
"""What each dimension of a tensor holds."""

Known = tuple[tuple[int, ...], Axes | None]
"""Shape of a tensor, and what its dimensions hold if that is known."""

IMAGE: Axes = (None, None, "rows", "columns")

_RESHAPES = {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze"}
_SPLITS = {"split", "chunk", "narrow", "tensor_split", "split_with_sizes"}
_PLANAR = {
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "blur_pool2d",
    "conv2d",
    "interpolate",
    "max_pool2d",
    "upsample",
}
_ELEMENTWISE = {
    "add", "sub", "rsub", "mul", "div", "pow", "neg", "abs", "exp", "sqrt", "square", "clamp", "maximum", "minimum",
    "__add__", "__radd__", "__iadd__", "__sub__", "__mul__", "__rmul__", "__imul__", "__truediv__",
    "relu", "relu6", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu",
    "mish", "softplus", "prelu", "dropout", "dropout2d", "to", "float", "type", "type_as", "contiguous", "clone",
    "detach", "layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "addcmul", "lerp", "where",
}  # fmt: skip


def follow(
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    given: Sequence[Known],
    order: tuple[int, ...] | None,
    shape: tuple[int, ...],
) -> Axes | None:
    """Return what the dimensions of a result hold; ``None`` if that is unknown.

    Args:
        name: Name of the operation.
        args: Its arguments.
        kwargs: Its keyword arguments.
        given: Its operands without parameters.
        order: The permutation if it permutes dimensions.
        shape: Shape of the result.
    """
    name = name if name.startswith("__") else name.strip("_")
    before, axes = next((one for one in given if one[1] and find_grid(*one)), ((), None))
    if axes is None:
        return None
    if order is not None:
        return tuple(axes[dim] for dim in order)
    if name in _RESHAPES:
        return _regroup(before, axes, shape)
    if name in _ELEMENTWISE:
        return axes if shape == before else None
    if name == "linear":
        return (*axes[:-1], None)
    if name in ("cat", "concat"):
        return _join(args, kwargs, given, shape)
    if len(shape) != len(before):
        return None
    if name in _PLANAR:
        return axes if axes == IMAGE else None
    if name == "__getitem__":
        return _slice(args[1], before, axes)
    same = all(one == other or not isinstance(axis, Grid) for one, other, axis in zip(before, shape, axes, strict=True))
    return axes if name == "pad" and same else axes if name in _SPLITS and _keeps(axes, before, shape) else None


def find_grid(shape: Sequence[int], axes: Axes | None) -> Grid | None:
    """Return the grid of a tensor; ``None`` if it has none."""
    if axes is None:
        return None
    if axes.count("rows") == axes.count("columns") == 1 and axes.index("rows") < axes.index("columns"):
        return Grid(0, shape[axes.index("rows")], shape[axes.index("columns")])
    return next((axis for axis in axes if isinstance(axis, Grid)), None)


def _keeps(axes: Axes, before: Sequence[int], after: Sequence[int]) -> bool:
    return all(axis is None or one == other for axis, one, other in zip(axes, before, after, strict=True))


def _regroup(before: Sequence[int], axes: Axes, after: Sequence[int]) -> Axes:
    """Match the dimensions before and after a reshape by the products of their sizes, from the left."""
    found: list[Axis] = []
    left = right = 0
    while left < len(before) and right < len(after):
        start, begin = left, right
        left, right = left + 1, right + 1
        while math.prod(before[start:left]) != math.prod(after[begin:right]):
            if math.prod(before[start:left]) < math.prod(after[begin:right]):
                left += 1
            else:
                right += 1
        # Dimensions of size 1 belong to this group if the other side has none to match them.
        while left < len(before) and before[left] == 1 and (right == len(after) or after[right] != 1):
            left += 1
        while right < len(after) and after[right] == 1 and (left == len(before) or before[left] != 1):
            right += 1
        found += _regroup_one(before[start:left], axes[start:left], after[begin:right])
    return (*found, *(None,) * (len(after) - right))


def _regroup_one(before: Sequence[int], axes: Axes, after: Sequence[int]) -> list[Axis]:
    kept = [(size, axis) for size, axis in zip(before, axes, strict=True) if size > 1 or axis is not None]
    nothing: list[Axis] = [None] * len(after)
    if [axis for _, axis in kept] == ["rows", "columns"]:
        whole = Grid(0, kept[0][0], kept[1][0])
    elif len(kept) == 1 and isinstance(kept[0][1], Grid):
        whole = kept[0][1]
    elif len(kept) == 1:
        return [kept[0][1], *nothing[1:]]
    else:
        return nothing
    sizes = [index for index, size in enumerate(after) if size > 1] or list(range(len(after)))[:1]
    if len(sizes) == 1 and (len(after) == 1 or whole.positions > 1):
        nothing[sizes[0]] = whole
        return nothing
    if whole.prefix:
        return nothing
    for end in range(1, len(after)):
        if math.prod(after[:end]) == whole.rows:
            return ["rows", *nothing[1:end], "columns", *nothing[end + 1 :]]
    return nothing


def _join(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], given: Sequence[Known], shape: Sequence[int]
) -> Axes | None:
    """Concatenation: prefix tokens before a grid of tokens, or channels of one grid."""
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))) % len(shape)
    *others, (last, axes) = given
    if axes is None:
        return None
    if all(one == axes for _, one in others) and axes[dim] is None:
        return axes
    joined = axes[dim]
    if not isinstance(joined, Grid) or any(find_grid(*one) for one in others):
        return None
    grid = Grid(joined.prefix + shape[dim] - last[dim], joined.rows, joined.columns)
    return (*axes[:dim], grid, *axes[dim + 1 :])


def _slice(index: Any, before: Sequence[int], axes: Axes) -> Axes | None:
    """Slices of rows, columns and channels; of tokens, those that drop prefix tokens only."""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in [one for one in index if not hasattr(one, "shape")]:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (len(before) - len(index) + 1), *index[at + 1 :])
    found = list(axes)
    for dim, one in enumerate(index):
        if not isinstance(one, slice):
            return None
        start, stop, step = one.indices(before[dim])
        axis = axes[dim]
        if step != 1:
            return None
        if isinstance(axis, Grid):
            if start > axis.prefix or stop < before[dim]:
                return None
            found[dim] = Grid(axis.prefix - start, axis.rows, axis.columns)
    return tuple(found)
