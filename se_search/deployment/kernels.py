"""Triton kernels of SE for NVIDIA GPUs; importing this file needs Triton."""

import torch
import triton
import triton.language as tl

_ELEMENTS = 1024
"""Of a program that scales by given gates."""

_LEAST = 1024
"""Elements of an image that a program averages."""

_PROGRAMS = 1024
"""That average at least, where they have enough elements."""

_AT_ONCE = 4096
"""Elements that a program reads at once to average them, or weights."""


# Triton reads the annotations: only those of its own are allowed.
@triton.jit
def _scale_add_relu(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    x,
    gate,
    other,
    out,
    total,
    channels: tl.constexpr,
    pixels: tl.constexpr,
    channels_last: tl.constexpr,
    gated: tl.constexpr,
    elements: tl.constexpr,
):
    places = tl.program_id(0) * elements + tl.arange(0, elements)
    inside = places < total
    values = tl.load(x + places, mask=inside).to(tl.float32)
    if gated:
        gates = places // (channels * pixels) * channels + places % channels if channels_last else places // pixels
        values *= tl.load(gate + gates, mask=inside).to(tl.float32)
    values += tl.load(other + places, mask=inside).to(tl.float32)
    tl.store(out + places, tl.maximum(values, 0.0), mask=inside)


def scale_add_relu(x: torch.Tensor, gate: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    """Return ``relu(x * gate + other)``, computed in single precision and rounded once.

    Args:
        x: Shape ``(N, C, H, W)``, dense in either memory format, with fewer than 2^31 elements.
        gate: Shape ``(N, C, 1, 1)``; ``None`` for one.
        other: Of the shape, strides and precision of ``x``.
    """
    out = torch.empty_like(x)
    total, channels, pixels = x.numel(), x.shape[1], x.shape[2] * x.shape[3]
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # on which Triton launches
        _scale_add_relu[(triton.cdiv(total, _ELEMENTS),)](
            x,
            x if gate is None else gate.reshape(-1),
            other,
            out,
            total,
            channels,
            pixels,
            channels_last=not x.is_contiguous(),
            gated=gate is not None,
            elements=_ELEMENTS,
        )
    return out


@triton.jit
def _squeeze(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    x,
    weight,
    parts,
    inputs: tl.constexpr,
    pixels: tl.constexpr,
    hidden: tl.constexpr,
    channels_last: tl.constexpr,
    channels: tl.constexpr,
    width: tl.constexpr,
    rows: tl.constexpr,
):
    image, part = tl.program_id(0), tl.program_id(1)
    channel = part * channels + tl.arange(0, channels)
    sums = tl.zeros((channels, width), tl.float32)
    for start in range(0, pixels, width):
        pixel = start + tl.arange(0, width)
        inside = (channel < inputs)[:, None] & (pixel < pixels)[None, :]
        places = pixel[None, :] * inputs + channel[:, None] if channels_last else _grid(channel * pixels, pixel)
        sums += tl.load(x + image * inputs * pixels + places, mask=inside, other=0.0).to(tl.float32)
    means = tl.sum(sums, 1) / pixels
    for start in range(0, hidden, rows):
        row = start + tl.arange(0, rows)
        both = (row < hidden)[:, None] & (channel < inputs)[None, :]
        weights = tl.load(weight + _grid(row * inputs, channel), mask=both, other=0.0).to(tl.float32)
        place = (image * tl.num_programs(1) + part) * hidden + row
        tl.store(parts + place, tl.sum(weights * means[None, :], 1), mask=row < hidden)


@triton.jit
def _grid(row, column):  # type: ignore[no-untyped-def]
    return row[:, None] + column[None, :]


@triton.jit
def _excite_and_scale(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    parts,
    bias,
    weight,
    bias2,
    x,
    other,
    out,
    count: tl.constexpr,
    hidden: tl.constexpr,
    outputs: tl.constexpr,
    pixels: tl.constexpr,
    channels_last: tl.constexpr,
    activated: tl.constexpr,
    channels: tl.constexpr,
    width: tl.constexpr,
    slots: tl.constexpr,
    rows: tl.constexpr,
):
    image = tl.program_id(0)
    channel = tl.program_id(1) * channels + tl.arange(0, channels)
    pixel = tl.program_id(2) * width + tl.arange(0, width)
    known = channel < outputs
    inside = known[:, None] & (pixel < pixels)[None, :]
    places = pixel[None, :] * outputs + channel[:, None] if channels_last else _grid(channel * pixels, pixel)
    places += image * outputs * pixels
    values = tl.load(x + places, mask=inside).to(tl.float32)
    if other is not None:
        added = tl.load(other + places, mask=inside).to(tl.float32)
    slot = tl.arange(0, slots)
    gates = tl.zeros((channels,), tl.float32)
    if bias2 is not None:
        gates += tl.load(bias2 + channel, mask=known, other=0.0).to(tl.float32)
    for start in range(0, hidden, rows):
        row = start + tl.arange(0, rows)
        some = (slot < count)[:, None] & (row < hidden)[None, :]
        sums = tl.sum(tl.load(parts + _grid((image * count + slot) * hidden, row), mask=some, other=0.0), 0)
        if bias is not None:
            sums += tl.load(bias + row, mask=row < hidden, other=0.0).to(tl.float32)
        both = known[:, None] & (row < hidden)[None, :]
        weights = tl.load(weight + _grid(channel * hidden, row), mask=both, other=0.0).to(tl.float32)
        gates += tl.sum(weights * tl.maximum(sums, 0.0)[None, :], 1)
    values *= tl.sigmoid(gates)[:, None]
    if other is not None:
        values += added
    if activated:
        values = tl.maximum(values, 0.0)
    tl.store(out + places, values, mask=inside)


def squeeze_excite(  # noqa: PLR0913
    source: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weight2: torch.Tensor,
    bias2: torch.Tensor | None,
    x: torch.Tensor,
    other: torch.Tensor | None,
    axis: int,
    activated: bool,
) -> torch.Tensor:
    """Return ``x * sigmoid(weight2 @ relu(weight @ mean(source) + bias) + bias2) + other``, with ReLU if ``activated``.

    Two kernels compute in single precision and round once. In the first, each program averages some channels of an
    image and multiplies them by their columns of ``weight``. In the second, each program adds these parts in a fixed
    order, computes the gates of some channels and scales those.

    Args:
        source: Shape ``(N, inputs, …)``, dense, either contiguous or with the channels last in memory; fewer than 2^31
            elements.
        weight: Shape ``(hidden, inputs)``.
        bias: Shape ``(hidden,)``.
        weight2: Shape ``(outputs, hidden)``.
        bias2: Shape ``(outputs,)``.
        x: Shape ``(N, outputs, …)``, otherwise like ``source``.
        other: Of the shape, strides and precision of ``x``.
        axis: Dimension of the channels in ``source`` and ``x``: 1, or the last.
        activated: Whether ReLU follows.
    """
    images, (hidden, inputs), outputs = len(x), weight.shape, len(weight2)
    squeezed, pixels = source.numel() // (images * inputs), x.numel() // (images * outputs)
    last, last2 = (axis != 1 or not one.is_contiguous() for one in (source, x))
    channels = _channels_to_average(images, inputs, squeezed, last)
    count = triton.cdiv(inputs, channels)
    parts = torch.empty(images, count, hidden, device=x.device)
    out = torch.empty_like(x)
    rows = triton.next_power_of_2(hidden)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        _squeeze[(images, count)](
            source,
            weight,
            parts,
            inputs,
            squeezed,
            hidden,
            channels_last=last,
            channels=channels,
            width=min(triton.next_power_of_2(squeezed), max(_AT_ONCE // channels, 1)),
            rows=min(rows, max(_AT_ONCE // channels, 1)),
            num_warps=8,
        )
        width = min(triton.next_power_of_2(pixels), 64 if last2 else _ELEMENTS)
        channels = min(triton.next_power_of_2(outputs), 64 if last2 else 2 * _ELEMENTS // width)
        slots = triton.next_power_of_2(count)
        _excite_and_scale[(images, triton.cdiv(outputs, channels), triton.cdiv(pixels, width))](
            parts,
            bias,
            weight2,
            bias2,
            x,
            other,
            out,
            count,
            hidden,
            outputs,
            pixels,
            channels_last=last2,
            activated=activated,
            channels=channels,
            width=width,
            slots=slots,
            rows=min(rows, max(_AT_ONCE // max(channels, slots), 1)),
        )
    return out


def _channels_to_average(images: int, inputs: int, pixels: int, channels_last: bool) -> int:
    """Return how many channels a program averages: few enough for all multiprocessors, and not too few elements."""
    channels = 16 if channels_last else 1
    while channels < inputs and (channels * pixels < _LEAST or images * triton.cdiv(inputs, 2 * channels) >= _PROGRAMS):
        channels *= 2
    return channels
