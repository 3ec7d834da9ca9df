"""Latency of configurations of a backbone on this machine, without a search."""

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import timm

from ..deployment.deployment import Deployment
from ..deployment.prepare import check
from ..errors import ConfigurationError
from ..evidence.latencies import LatencyRow
from ..files import read_text
from ..latency.meter import LatencyConditions, LatencyMeter, Ratio
from ..latency.stopping import LIMIT, TARGET
from ..network.backbones import create_on_meta, default_input_size, network_options
from ..network.config import SEConfig
from ..network.insertion import copy_with_blocks, create_model
from ..network.overhead import flops_overhead, parameter_share
from ..progress import progress_bar
from ..statistics import Estimate
from ..study.files import load_space
from ..study.space import SearchSpace
from ..trials.latency import configurations_to_measure, measure_for_model


def compare_latency(
    backbone: str,
    configs: Sequence[SEConfig | str | os.PathLike[str]] = (),
    space: str = "stages",
    *,
    deployments: Sequence[Deployment] = (),
    target: float = TARGET,
    limit: float = LIMIT,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure the latency of configurations relative to their bare backbone; ``se-search latency`` prints this table.

    Args:
        backbone: A timm architecture name.
        configs: Configurations of it, or files that :meth:`SEConfig.to_json` wrote; the baselines of ``space`` by
            default.
        space: Name of a space or path of a space file.
        deployments: How the networks and the backbone run; by default in eager mode, one image of the backbone's own
            size at a time.
        target: Half-width of the interval at which a measurement stops, as a share of the ratio.
        limit: Time limit of a measurement in seconds.
        seed: Seed of the order of calls.

    Returns:
        One row for each deployment and configuration.

    Raises:
        SeSearchError: If an argument is invalid (checked before any measurement), or a runtime cannot run a network.
    """
    return latency_table(
        measure_configurations(backbone, configs, space, deployments, target=target, limit=limit, seed=seed)
    )


class Measured(NamedTuple):
    """A measured configuration with its name, and how it was run."""

    deployment: Deployment
    name: str
    config: SEConfig
    ratio: Ratio


def measure_configurations(
    backbone: str,
    configs: Sequence[SEConfig | str | os.PathLike[str]] = (),
    space: str = "stages",
    deployments: Sequence[Deployment] = (),
    *,
    target: float = TARGET,
    limit: float = LIMIT,
    seed: int = 0,
) -> list[Measured]:
    """Measure what :func:`compare_latency` measures; the arguments are the same."""
    named = _read(backbone, configs) or SearchSpace(backbone, load_space(space)).known_answers()
    deployments = deployments or [Deployment(size=input_size(backbone))]
    options = {deployment: network_options(backbone, deployment.size) for deployment in deployments}
    for deployment in options:
        check(deployment)
    measured = []
    with progress_bar("Measuring", len(options) * len(named)) as advance:
        for deployment, of_size in options.items():
            bare = create_model(SEConfig(backbone), **of_size)
            meter = LatencyMeter(bare, deployment, target, limit, seed)
            for name, config in named.items():
                ratio = meter.measure(copy_with_blocks(bare, config, **of_size))
                measured.append(Measured(deployment, name, config, ratio))
                advance()
    return measured


def latency_table(measured: Sequence[Measured]) -> pd.DataFrame:
    """Return measured configurations as the table of :func:`compare_latency`."""
    return pd.DataFrame(
        {
            "name": one.name,
            "runtime": one.deployment.runtime,
            "conditions": one.ratio.conditions.description,
            "parameter_overhead": parameter_share(one.config),
            "flops_overhead": flops_overhead(one.config, one.deployment.size),
            **one.ratio.to_columns(),
        }
        for one in measured
    )


def latency_rows(measured: Sequence[Measured]) -> list[LatencyRow]:
    """Return measured configurations as rows of the atlas's latencies."""
    return [latency_row(one.name, one.config, one.deployment, one.ratio) for one in measured]


def latency_row(
    name: str, config: SEConfig, deployment: Deployment, ratio: Ratio, pooled: Estimate | None = None
) -> LatencyRow:
    """Return a row of the atlas's table of latencies.

    Args:
        name: Name of the configuration.
        config: The configuration.
        deployment: How the networks were run.
        ratio: Its measurement.
        pooled: The ratio that the measurements of several configurations give together, if that is to be told.
    """
    conditions = ratio.conditions
    return LatencyRow(
        backbone=config.backbone,
        configuration=name,
        parameter_overhead=parameter_share(config),
        flops_overhead=flops_overhead(config, deployment.size),
        latency_ratio=pooled.value if pooled else ratio.median,
        latency_low=pooled.low if pooled else ratio.low,
        latency_high=pooled.high if pooled else ratio.high,
        latency_pairs=ratio.pairs,
        latency_stopped=ratio.stopped,
        latency_interruptions=ratio.interruptions,
        pooled=pooled is not None,
        runtime=deployment.runtime,
        version=conditions.runtime,
        optimized=conditions.optimized,
        cuda_graph=conditions.cuda_graph,
        batch=conditions.batch,
        size=conditions.size,
        dtype=conditions.dtype,
        memory_format=conditions.memory_format,
        device=conditions.device,
        processor=conditions.processor,
        threads=int(conditions.threads or 0),
        timm=timm.__version__,
        date=date.today().isoformat(),
    )


def measure_latency_model(
    backbone: str,
    file: str | os.PathLike[str],
    space: str = "stages",
    *,
    deployment: Deployment | None = None,
    target: float = TARGET,
    limit: float = LIMIT,
    seed: int = 0,
) -> LatencyConditions:
    """Measure what determines the latencies of a space on this device, for a search on another one.

    ``se-search latency BACKBONE --model FILE`` calls this; ``latency_from`` of :func:`se_search.search` reads the file.
    Measurements that the file has are not made again.

    Args:
        backbone: A timm architecture name.
        file: The file to write.
        space: Name of a space or path of a space file: that of the search.
        deployment: How the networks run; by default as for :func:`compare_latency`.
        target: Half-width of the interval at which a measurement stops, as a share of the ratio.
        limit: Time limit of a measurement in seconds.
        seed: Seed of the configurations and of the order of calls.

    Returns:
        The conditions of the measurements, which name the device.

    Raises:
        SeSearchError: If an argument is invalid, or the file is damaged or of another device or space.
    """
    deployment = deployment or Deployment(size=input_size(backbone))
    options = network_options(backbone, deployment.size)
    check(deployment)
    wanted = configurations_to_measure(SearchSpace(backbone, load_space(space)), seed)
    bare = create_model(SEConfig(backbone), **options)
    meter = LatencyMeter(bare, deployment, target, limit, seed)

    def measure(config: SEConfig) -> Ratio:
        return meter.measure(copy_with_blocks(bare, config, **options))

    measure_for_model(Path(file), wanted, meter.conditions, measure)
    return meter.conditions


def input_size(backbone: str, side: int | None = None) -> tuple[int, int, int]:
    """Return ``(channels, height, width)`` of a backbone's images.

    Args:
        backbone: A timm architecture name.
        side: Height and width, in place of the backbone's own.
    """
    channels, height, width = default_input_size(create_on_meta(backbone))
    return (channels, height, width) if side is None else (channels, side, side)


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
            raise ConfigurationError(f"configuration {name} is for {config.backbone}, not for {backbone}")
        named[str(one) if name in named else name] = config
    return named
