"""How well the supernet ranks configurations, compared with stand-alone training.

    python benchmarks/fidelity.py --seeds 3 --out fidelity.json

All placements of SE by stage at one reduction ratio are trained stand-alone with several seeds, and evaluated by
supernets of several seeds. The result is Kendall's tau of each supernet against the mean of the stand-alone seeds, the
tau that a perfect evaluator would reach with the noise of these seeds, and the cost of both.
The JSON file stores finished trainings: the same command resumes.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from se_search import SEConfig
from se_search.data.image_data import ImageData
from se_search.data.load import load_data
from se_search.files import write_text
from se_search.statistics import Estimate, noise_ceiling, rank_agreement
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.training.evaluator import evaluate_network
from se_search.training.protocols import no_progress
from se_search.training.recipe import TrainingRecipe
from se_search.training.stand_alone import Scratch
from se_search.training.supernet import Supernet


def main() -> None:
    """Run the missing trainings and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--data", default="digits-hard")
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each stand-alone training")
    parser.add_argument(
        "--supernet-epochs", type=int, nargs="+", help="epochs of each supernet; as --epochs by default"
    )
    parser.add_argument("--seeds", type=int, default=3, help="stand-alone trainings per configuration")
    parser.add_argument("--supernet-seeds", type=int, default=2)
    parser.add_argument("--distillation", type=float, nargs="+", default=[0.0], help="shares to compare")
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("fidelity.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    data = load_data(arguments.data)
    space = SearchSpace(
        arguments.backbone,
        SpaceDefinition(placement="stage", ratios=(arguments.ratio,), gates=("sigmoid",), rounding=1),
    )
    configs = list(dict.fromkeys(space.to_config(parameters) for parameters in space.enumerate()))
    recipe = TrainingRecipe(epochs=arguments.epochs, batch=64, learning_rate=arguments.learning_rate)
    kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}

    prefix = f"{arguments.data} {arguments.backbone} r={arguments.ratio} at {arguments.learning_rate}"
    for seed in range(arguments.seeds):
        for config in configs:
            key = f"{prefix} stand-alone {arguments.epochs} {seed} {config.id}"
            if key not in kept:
                kept[key] = train_alone(arguments.backbone, config, data, replace(recipe, seed=seed))
                keep(kept, arguments.out)
    for epochs in arguments.supernet_epochs or [arguments.epochs]:
        for distillation in arguments.distillation:
            for seed in range(arguments.supernet_seeds):
                key = f"{prefix} supernet {epochs} {seed} {distillation}"
                if key not in kept:
                    once = replace(recipe, epochs=epochs, seed=seed)
                    kept[key] = train_supernet(space, configs, data, once, distillation)
                    keep(kept, arguments.out)
    report(kept, prefix, arguments.epochs, arguments.seeds, configs)


def train_alone(backbone: str, config: SEConfig, data: ImageData, recipe: TrainingRecipe) -> dict[str, Any]:
    """Train and evaluate one network; return validation and test log-losses, and the seconds of both parts."""
    with timed() as training_time:
        training = Scratch(backbone, data, recipe).training(config, recipe.seed)
        network = training.finish()
    with timed() as evaluation_time:
        validation = evaluate_network(network, data.validation).log_loss.value
    test = evaluate_network(network, data.test).log_loss.value
    print(f"alone {config.id}, seed {recipe.seed}: {validation:.4f}, {training_time[0]:.1f} s", flush=True)
    return {
        "validation": validation,
        "test": test,
        "training": training_time[0],
        "evaluation": evaluation_time[0],
        "loss": training.history[-1]["loss"],
    }


def train_supernet(
    space: SearchSpace, configs: list[SEConfig], data: ImageData, recipe: TrainingRecipe, distillation: float
) -> dict[str, Any]:
    """Train one supernet and evaluate all configurations with it."""
    supernet = Supernet(space.backbone, space.widest_blocks(), data, recipe, distillation=distillation)
    with tempfile.TemporaryDirectory() as folder, timed() as training_time:
        supernet.prepare(Path(folder), space, no_progress)
    with timed() as evaluation_time:
        losses = {config.id: supernet.evaluate(config).log_loss.value for config in configs}
    print(
        f"supernet of {recipe.epochs} epochs, seed {recipe.seed}, distillation {distillation}: "
        f"{training_time[0]:.1f} s and {evaluation_time[0]:.1f} s",
        flush=True,
    )
    return {"losses": losses, "training": training_time[0], "evaluation": evaluation_time[0]}


def report(kept: dict[str, Any], prefix: str, epochs: int, seeds: int, configs: list[SEConfig]) -> None:
    """Print agreement, noise ceiling and costs."""
    alone = [[kept[f"{prefix} stand-alone {epochs} {seed} {config.id}"] for config in configs] for seed in range(seeds)]
    scores = np.array([[one["validation"] for one in row] for row in alone])
    test = np.array([[one["test"] for one in row] for row in alone]).mean(0)
    cost = sum(one["training"] + one["evaluation"] for row in alone for one in row)
    mean = scores.mean(0)
    print(f"\n{prefix}: {len(configs)} configurations, {epochs} epochs, {seeds} stand-alone seeds, {cost:.0f} s")
    print(f"log-loss {mean.min():.4f} to {mean.max():.4f}; to no SE, mean over seeds (standard error):")
    none = next(place for place, config in enumerate(configs) if not config.placed)
    against = scores - scores[:, [none]]
    for config, row in zip(configs, against.T, strict=True):
        stages = ",".join(str(stage) for stage in sorted({placed.site.stage for placed in config.placed})) or "none"
        error = row.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else float("nan")
        print(f"  stages {stages:9s} {row.mean():+.4f} ({error:.4f})")
    ceiling = noise_ceiling(scores) if seeds > 1 else Estimate(float("nan"), float("nan"), float("nan"))
    print(f"ceiling by the seeds' noise: tau {show(ceiling)}")
    pairs = [rank_agreement(scores[a], scores[b]).value for a in range(seeds) for b in range(a)]
    if pairs:
        print(f"one stand-alone seed against another: tau {np.mean(pairs):.2f}")
    print(f"validation against test images: tau {show(rank_agreement(mean, test))}")
    largest = max(range(len(configs)), key=lambda place: len(configs[place].placed))
    plain = float(np.median([row[largest]["training"] for row in alone]))
    print("\nsupernet epochs  distillation  seed  tau [95 %]            of ceiling  cost of alone  training/plain")
    for key, one in kept.items():
        if key.startswith(f"{prefix} supernet "):
            length, seed, distillation = key.removeprefix(f"{prefix} supernet ").split()
            tau = rank_agreement(np.array([one["losses"][config.id] for config in configs]), mean)
            share = (one["training"] + one["evaluation"]) / cost
            relative = one["training"] / int(length) / (plain / epochs)
            print(
                f"{length:>15s}  {distillation:12s}  {seed:4s}  {show(tau):20s}  {tau.value / ceiling.value:10.2f}  "
                f"1/{1 / share:11.1f}  {relative:8.2f}"
            )


def show(estimate: Any) -> str:
    """Format an estimate with its interval."""
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def keep(kept: dict[str, Any], file: Path) -> None:
    """Write all results so far."""
    write_text(file, json.dumps(kept, indent=1))


@contextmanager
def timed() -> Iterator[list[float]]:
    """Yield a list that receives the duration of the block in seconds."""
    seconds: list[float] = []
    start = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - start)


if __name__ == "__main__":
    main()
