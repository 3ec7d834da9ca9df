"""Measured latencies of the atlas, without PyTorch; ``se-search latency --json`` writes rows of this form."""

import functools
import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from typing import Any

UNIFORM = "uniform r=16"
"""The configuration by which architectures are compared."""

_FILE = "latencies.json.gz"


@dataclass(frozen=True)
class LatencyRow:
    """A measured latency ratio.

    Attributes:
        backbone: The architecture.
        configuration: What it was compared with: ``"uniform r=16"``, ``"stage 2 only"``, a file's name.
        parameter_overhead: Parameters that this adds, as a share of the backbone's.
        flops_overhead: The same of multiply-additions.
        latency_ratio: Latency of the network with attention over that of its backbone.
        latency_low: Lower end of its 95 % interval.
        latency_high: Upper end.
        latency_pairs: Paired calls of both networks.
        latency_stopped: ``"target"`` or ``"limit"``.
        latency_interruptions: Preemptions of the process per second; ``None`` where the platform does not count them.
        pooled: Whether the ratio is estimated from the measurements of all configurations of the backbone together.
        runtime: Name of the runtime, such as ``"eager"``.
        version: The runtime with its version.
        optimized: Whether both networks were optimized for inference.
        cuda_graph: Whether a CUDA graph was replayed.
        batch: Batch size.
        size: ``(channels, height, width)``.
        dtype: Type of the numbers.
        memory_format: ``"contiguous"`` or ``"channels_last"``.
        device: PyTorch's name of the device.
        processor: Name of the processor or GPU.
        threads: Number of CPU threads.
        timm: Version of timm.
        date: Day of the measurement, as ``2026-11-29``.
    """

    backbone: str
    configuration: str
    parameter_overhead: float
    flops_overhead: float
    latency_ratio: float
    latency_low: float
    latency_high: float
    latency_pairs: int
    latency_stopped: str
    latency_interruptions: float | None
    pooled: bool
    runtime: str
    version: str
    optimized: bool
    cuda_graph: bool
    batch: int
    size: tuple[int, int, int]
    dtype: str
    memory_format: str
    device: str
    processor: str
    threads: int
    timm: str
    date: str

    def to_json(self) -> str:
        """Return one line of JSON that :meth:`from_dict` reads."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "LatencyRow":
        """Return the row of the JSON of :meth:`to_json`; other keys are ignored."""
        values = {one.name: plain[one.name] for one in fields(cls)}
        return cls(**values | {"size": tuple(plain["size"])})


@functools.cache
def atlas_latencies() -> tuple[LatencyRow, ...]:
    """Return the measured latencies of this package."""
    file = resources.files(__package__).joinpath(_FILE)
    if not file.is_file():
        return ()
    return tuple(map(LatencyRow.from_dict, json.loads(gzip.decompress(file.read_bytes()))))
