"""Triton kernels of SE for NVIDIA GPUs; importing this file needs Triton."""

import torch
import triton
import triton.language as tl

_ELEMENTS = 1024
"""Of a program that scales."""

_CHANNELS = 64
"""That a program of the excitation reads at once."""


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
def _excite(  # type: ignore[no-untyped-def]  # noqa: PLR0913
    pooled,
    weight,
    bias,
    weight2,
    bias2,
    gate,
    inputs: tl.constexpr,
    hidden: tl.constexpr,
    outputs: tl.constexpr,
    rows: tl.constexpr,
    step: tl.constexpr,
):
    image = tl.program_id(0)
    row = tl.arange(0, rows)
    known = row < hidden
    sums = tl.load(bias + row, mask=known, other=0.0).to(tl.float32)
    for start in range(0, inputs, step):
        column = start + tl.arange(0, step)
        given = tl.load(pooled + image * inputs + column, mask=column < inputs, other=0.0).to(tl.float32)
        both = known[:, None] & (column < inputs)[None, :]
        weights = tl.load(weight + row[:, None] * inputs + column[None, :], mask=both, other=0.0).to(tl.float32)
        sums += tl.sum(weights * given[None, :], 1)
    sums = tl.maximum(sums, 0.0)
    for start in range(0, outputs, step):
        column = start + tl.arange(0, step)
        both = (column < outputs)[:, None] & known[None, :]
        weights = tl.load(weight2 + column[:, None] * hidden + row[None, :], mask=both, other=0.0).to(tl.float32)
        values = tl.sum(weights * sums[None, :], 1)
        values += tl.load(bias2 + column, mask=column < outputs, other=0.0).to(tl.float32)
        tl.store(gate + image * outputs + column, tl.sigmoid(values), mask=column < outputs)


def excite(
    pooled: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, weight2: torch.Tensor, bias2: torch.Tensor
) -> torch.Tensor:
    """Return ``sigmoid(weight2 @ relu(weight @ pooled + bias) + bias2)``, one program for each image.

    Args:
        pooled: Shape ``(N, inputs)``, contiguous.
        weight: Shape ``(hidden, inputs)``.
        bias: Shape ``(hidden,)``.
        weight2: Shape ``(outputs, hidden)``.
        bias2: Shape ``(outputs,)``.
    """
    gate = pooled.new_empty(len(pooled), len(weight2))
    hidden, inputs = weight.shape
    with torch.cuda.device_of(pooled):  # type: ignore[no-untyped-call]
        _excite[(len(pooled),)](
            pooled,
            weight,
            bias,
            weight2,
            bias2,
            gate,
            inputs,
            hidden,
            len(weight2),
            rows=triton.next_power_of_2(hidden),
            step=_CHANNELS,
            num_warps=8,
        )
    return gate
