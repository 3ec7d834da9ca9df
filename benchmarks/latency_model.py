"""Accuracy of the additive latency model: predicted against measured latency of held-out configurations.

python benchmarks/latency_model.py --out latency_model.json
python benchmarks/latency_model.py --backbone resnet10t --size 32
"""

import argparse
import json
import math
import random
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from se_search import SEConfig, create_model
from se_search.deployment.deployment import RUNTIMES, Deployment
from se_search.latency.additive import MeasuredLatency, measurements_to_json
from se_search.latency.meter import LatencyMeter, Ratio
from se_search.latency.pooled import pool_latencies
from se_search.latency.stopping import LIMIT, TARGET
from se_search.network.backbones import network_options
from se_search.progress import progress_bar
from se_search.statistics import Estimate, rank_agreement
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.trials.latency import configurations_to_measure


def main() -> None:
    """Measure, fit, measure held-out configurations, and print the prediction errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--space", default="stages")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runtime", choices=RUNTIMES, default="eager")
    parser.add_argument("--optimized", action="store_true")
    parser.add_argument("--memory-format", choices=("contiguous", "channels_last"), default="contiguous")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--target", type=float, default=TARGET)
    parser.add_argument("--limit", type=float, default=LIMIT)
    parser.add_argument("--held-out", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for all measurements")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    space = SearchSpace(arguments.backbone, load_space(arguments.space))
    deployment = Deployment(
        runtime=arguments.runtime,
        optimized=arguments.optimized,
        memory_format=arguments.memory_format,
        batch=arguments.batch,
        size=(3, arguments.size, arguments.size),
        threads=torch.get_num_threads(),
    )
    options = network_options(arguments.backbone, deployment.size)
    bare = create_model(SEConfig(arguments.backbone), **options)
    meter = LatencyMeter(bare, deployment, arguments.target, arguments.limit, arguments.seed)

    def measure(configs: list[SEConfig], what: str) -> tuple[list[MeasuredLatency], float]:
        start = time.perf_counter()
        measured = []
        with progress_bar(what, len(configs)) as advance:
            for config in configs:
                measured.append(MeasuredLatency(config, meter.measure(create_model(config, **options))))
                advance()
        return measured, time.perf_counter() - start

    learned, seconds_to_learn = measure(configurations_to_measure(space, arguments.seed), "Measuring what SE costs")
    model = pool_latencies(learned)
    held_out, seconds_held_out = measure(
        unseen(space, learned, arguments.held_out, arguments.seed + 1), "Measuring those held out"
    )
    predictions = [model.predict(one.config) for one in held_out]
    summary = summarize(predictions, [one.ratio for one in held_out]) | {
        "configurations": len(learned),
        "costs": len(model.terms),
        "misfit": model.deviation,
        "seconds_to_learn": seconds_to_learn,
        "seconds_held_out": seconds_held_out,
    }
    print_table(held_out, predictions, summary)
    if arguments.out:
        arguments.out.write_text(
            json.dumps(
                {
                    "backbone": arguments.backbone,
                    "space": arguments.space,
                    "conditions": meter.conditions.to_dict(),
                    "summary": summary,
                    "learned": json.loads(measurements_to_json(learned)),
                    "held_out": json.loads(measurements_to_json(held_out)),
                    "predictions": [asdict(one) for one in predictions],
                },
                indent=1,
            )
        )


def unseen(space: SearchSpace, learned: list[MeasuredLatency], number: int, seed: int) -> list[SEConfig]:
    """Draw distinct configurations from the space that the model was not fitted to."""
    seen = {one.config.structure for one in learned}
    drawn: list[SEConfig] = []
    rng = random.Random(seed)
    for _ in range(1000 * number):
        config = space.draw(rng)
        if len(drawn) < number and config.structure not in seen:
            seen.add(config.structure)
            drawn.append(config)
    return drawn


def summarize(predictions: list[Estimate], ratios: list[Ratio]) -> dict[str, float]:
    """Return errors in percentage points, the share of covered differences, and Kendall's τ with its interval.

    A difference is covered if its square is at most the sum of the squared half-widths of both intervals.
    """
    predicted = np.array([one.value for one in predictions])
    measured = np.array([one.median for one in ratios])
    errors = np.abs(predicted - measured)
    allowed = [
        math.hypot(one.high - one.value, (ratio.high - ratio.low) / 2)
        for one, ratio in zip(predictions, ratios, strict=True)
    ]
    agreement = rank_agreement(predicted, measured)
    return {
        "held_out": len(ratios),
        "mean_error": 100 * float(errors.mean()),
        "percentile_95": 100 * float(np.quantile(errors, 0.95)),
        "largest_error": 100 * float(errors.max()),
        "bias": 100 * float((predicted - measured).mean()),
        "standard_deviation_of_measured": 100 * float(measured.std(ddof=1)),
        "covered": float((errors <= allowed).mean()),
        "half_width_predicted": 100 * float(np.mean([one.high - one.value for one in predictions])),
        "half_width_measured": 100 * float(np.mean([(one.high - one.low) / 2 for one in ratios])),
        "kendall": agreement.value,
        "kendall_low": agreement.low,
        "kendall_high": agreement.high,
    }


def print_table(held_out: list[MeasuredLatency], predictions: list[Estimate], summary: dict[str, float]) -> None:
    """Print each held-out configuration, then the errors."""
    print(f"{'configuration':14s} {'SE blocks':>9s}  {'predicted':26s} {'measured':26s} error in points")
    for one, predicted in zip(held_out, predictions, strict=True):
        measured = one.ratio
        print(
            f"{one.config.id:14s} {len(one.config.placed):9d}  "
            f"{f'×{predicted.value:.4f} [{predicted.low:.4f}, {predicted.high:.4f}]':26s} "
            f"{f'×{measured.median:.4f} [{measured.low:.4f}, {measured.high:.4f}]':26s} "
            f"{100 * (predicted.value - measured.median):+.2f}"
        )
    print(
        f"\n{summary['configurations']} configurations measured in {summary['seconds_to_learn']:.0f} s determine "
        f"{summary['costs']} costs; misfit {100 * summary['misfit']:.2f} points\n"
        f"{summary['held_out']} held out, measured in {summary['seconds_held_out']:.0f} s: error "
        f"{summary['mean_error']:.2f} points on average, {summary['percentile_95']:.2f} at the 95th percentile, "
        f"{summary['largest_error']:.2f} at most; bias {summary['bias']:+.2f}\n"
        f"measured ratios spread by {summary['standard_deviation_of_measured']:.2f} points (standard deviation); "
        f"half-width of intervals {summary['half_width_predicted']:.2f} predicted, "
        f"{summary['half_width_measured']:.2f} measured\n"
        f"{summary['covered']:.0%} of the differences lie within both intervals combined; Kendall's τ "
        f"{summary['kendall']:.2f} [{summary['kendall_low']:.2f}, {summary['kendall_high']:.2f}]"
    )


if __name__ == "__main__":
    main()
