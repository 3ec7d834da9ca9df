"""What SE blocks cost on this machine: configurations of one backbone, measured without a search."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..deployment.runtimes import Deployment, check
from ..errors import ConfigurationError
from ..files import read_text
from ..latency.meter import LatencyMeter, describe_conditions
from ..latency.stopping import LIMIT, TARGET
from ..network.backbones import create_on_meta, default_input_size, network_options
from ..network.config import SEConfig
from ..network.insertion import create_model
from ..network.overhead import flops_overhead, parameter_share
from ..progress import progress_bar
from ..study.files import load_space
from ..study.space import SearchSpace


def compare_latency(
    backbone: str,
    configs: Sequence[SEConfig | str | os.PathLike[str]] = (),
    space: str = "stages",
    *,
    runtimes: Sequence[str] = ("eager",),
    optimized: bool = False,
    batch: int = 1,
    size: int | None = None,
    threads: int | None = None,
    dtype: str = "float32",
    memory_format: str = "contiguous",
    device: str = "cpu",
    cuda_graph: bool = False,
    target: float = TARGET,
    limit: float = LIMIT,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure configurations against their bare backbone; what ``se-search latency`` prints.

    Args:
        backbone: A timm architecture name.
        configs: Configurations of it, or files that :meth:`SEConfig.to_json` wrote; by default those of ``space`` that
            everybody knows, the network without SE among them.
        space: Name of a space or path of a space file.
        runtimes: Any of ``"eager"``, ``"compile"``, ``"onnxruntime"`` and ``"openvino"``.
        optimized: Whether all networks, the backbone too, go through :func:`se_search.optimize_for_inference` first.
        batch: Images in one forward pass.
        size: Height and width of the images; the backbone's own by default.
        threads: Threads of a CPU operation; PyTorch's present number by default.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        memory_format: ``"contiguous"`` or ``"channels_last"``.
        device: A torch device.
        cuda_graph: Whether a CUDA graph is replayed.
        target: Half-width of the interval at which a measurement stops, as a share of the ratio.
        limit: Seconds after which it stops.
        seed: Fixes the order of calls.

    Returns:
        One row for each runtime and configuration.

    Raises:
        SeSearchError: If something given is wrong, which is found before anything is measured, or a runtime refuses a
            network.
    """
    named = _read(backbone, configs) or SearchSpace(backbone, load_space(space)).known_answers()
    channels, height, width = default_input_size(create_on_meta(backbone))
    input_size = (channels, height, width) if size is None else (channels, size, size)
    options = network_options(backbone, input_size)
    deployments = [
        Deployment(
            runtime=runtime,
            optimized=optimized,
            device=device,
            dtype=dtype,
            memory_format=memory_format,
            batch=batch,
            size=input_size,
            threads=threads,
            cuda_graph=cuda_graph,
        )
        for runtime in dict.fromkeys(runtimes)
    ]
    for deployment in deployments:
        check(deployment)
    costs = {
        name: {
            "parameter_overhead": parameter_share(config),
            "flops_overhead": flops_overhead(config, input_size),
        }
        for name, config in named.items()
    }
    rows = []
    with progress_bar("Measuring", len(deployments) * len(named)) as advance:
        for deployment in deployments:
            meter = LatencyMeter(create_model(SEConfig(backbone), **options), deployment, target, limit, seed)
            for name, config in named.items():
                ratio = meter.measure(create_model(config, **options))
                conditions = describe_conditions(ratio.conditions.to_dict())
                named_row = {"name": name, "runtime": deployment.runtime, "conditions": conditions}
                rows.append(named_row | costs[name] | ratio.to_columns())
                advance()
    return pd.DataFrame(rows)


def _read(backbone: str, configs: Sequence[SEConfig | str | os.PathLike[str]]) -> dict[str, SEConfig]:
    named = {}
    for one in configs:
        if isinstance(one, SEConfig):
            name, config = one.id, one
        else:
            name = Path(one).stem
            try:
                config = SEConfig.from_json(read_text(Path(one)))
            except ConfigurationError as error:
                raise ConfigurationError(f"{one}: {error}") from error
            except (OSError, ValueError) as error:
                raise ConfigurationError(f"{one} cannot be read as text: {error}") from error
        if config.backbone != backbone:
            raise ConfigurationError(f"configuration {name} is one of {config.backbone}, not of {backbone}")
        named[str(one) if name in named else name] = config
    return named
