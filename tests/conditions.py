"""Conditions of a latency measurement that none was made under."""

from se_search.latency.meter import LatencyConditions

CONDITIONS = LatencyConditions(
    device="cpu",
    processor="a processor",
    threads=1,
    affinity=(0, 1),
    dtype="float32",
    memory_format="contiguous",
    runtime="eager, torch 2.14.1",
    optimized=False,
    cuda_graph=False,
    copies=True,
    clock_mhz=None,
    batch=1,
    size=(3, 32, 32),
    target=0.005,
    limit=5.0,
)
