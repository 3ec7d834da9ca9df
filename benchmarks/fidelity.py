"""How well the supernet ranks configurations, compared with stand-alone training.

    python benchmarks/fidelity.py --seeds 3 --out fidelity.json
    python benchmarks/fidelity.py --study digits-context --epochs 6 --seeds 2 --supernet-epochs 8 \\
        --supernet-seeds 1 --rule sandwich halves grown first-half

All placements of SE by stage at one reduction ratio, or other configurations of a study, are trained stand-alone with
several seeds, and evaluated by supernets of several seeds, which train for the study's space. The result is Kendall's
tau of each supernet against the mean of the stand-alone seeds, the tau that a perfect evaluator would reach with the
noise of these seeds, and the cost of both. Rules choose the networks of each step of a supernet's training; its ranking
after each epoch is compared with that of the epoch before, and with the tau that another sample of images would give.
The JSON file stores finished trainings: the same command resumes.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from se_search import SEConfig
from se_search.data.image_data import ImageData
from se_search.data.load import load_data
from se_search.files import write_text
from se_search.statistics import Estimate, noise_ceiling, rank_agreement
from se_search.study.files import load_study
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.training.evaluator import Evaluation, evaluate_network
from se_search.training.protocols import ConfigurationSource
from se_search.training.recipe import Losses, Training, TrainingRecipe
from se_search.training.stand_alone import Scratch
from se_search.training.supernet import Supernet

Rule = Callable[[SEConfig, SEConfig, SEConfig, int, int], tuple[SEConfig, ...]]
"""The networks of a step, from no attention, a drawn configuration, its widest relative, the step and all steps."""

SANDWICH = "sandwich"
RULES: dict[str, Rule] = {
    "halves": lambda bare, drawn, widest, step, steps: (widest, drawn if step % 4 else bare),
    "grown": lambda bare, drawn, widest, step, steps: (
        (widest,) if step < steps / 2 else (widest, drawn if step % 4 else bare)
    ),
    "drawn": lambda bare, drawn, widest, step, steps: (drawn,),
    "in-turn": lambda bare, drawn, widest, step, steps: ((bare, drawn, widest, drawn)[step % 4],),
    "rotated": lambda bare, drawn, widest, step, steps: (
        (bare, widest, drawn, widest, drawn, widest, drawn, widest)[step % 8],
    ),
    "widest-first": lambda bare, drawn, widest, step, steps: (
        widest if step < steps / 3 else (bare, drawn, widest, drawn)[step % 4],
    ),
    "first-half": lambda bare, drawn, widest, step, steps: (
        widest if step < steps / 2 else drawn if step % 4 else bare,
    ),
}
"""Rules with half the passes of the supernet's own: the networks of a step share the images of its batch."""

PROBES = 8


def main() -> None:
    """Run the missing trainings and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", help="a study, instead of data, ratio and learning rate")
    parser.add_argument("--configurations", type=int, help="instead of placements, so many: none, all, others drawn")
    parser.add_argument("--backbone", help="resnet10t, or the study's, by default")
    parser.add_argument("--data", default="digits-hard")
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each stand-alone training")
    parser.add_argument(
        "--supernet-epochs", type=int, nargs="+", help="epochs of each supernet; as --epochs by default"
    )
    parser.add_argument("--seeds", type=int, default=3, help="stand-alone trainings per configuration")
    parser.add_argument("--supernet-seeds", type=int, default=2)
    parser.add_argument("--distillation", type=float, nargs="+", default=[0.0], help="shares to compare, with sandwich")
    parser.add_argument("--rule", nargs="+", default=[SANDWICH], choices=[SANDWICH, *RULES], help="rules to compare")
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("fidelity.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    if arguments.study:
        study = load_study(arguments.study, backbone=arguments.backbone)
        space = SearchSpace(study.backbone, study.space)
        data, rate, batch = load_data(study.data), study.evaluator.learning_rate, study.evaluator.batch
        prefix = f"{arguments.study} {space.backbone}"
    else:
        definition = SpaceDefinition(placement="stage", ratios=(arguments.ratio,), gates=("sigmoid",), rounding=1)
        space = SearchSpace(arguments.backbone or "resnet10t", definition)
        data, rate, batch = load_data(arguments.data), arguments.learning_rate, 64
        prefix = f"{arguments.data} {space.backbone} r={arguments.ratio} at {rate}"
    configs = list_configurations(space, arguments.ratio, arguments.configurations)
    recipe = TrainingRecipe(epochs=arguments.epochs, batch=batch, learning_rate=rate)
    kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}

    for seed in range(arguments.seeds):
        for config in configs:
            key = f"{prefix} stand-alone {arguments.epochs} {seed} {config.id}"
            if key not in kept:
                kept[key] = train_alone(space.backbone, config, data, replace(recipe, seed=seed))
                keep(kept, arguments.out)
    for epochs in arguments.supernet_epochs or [arguments.epochs]:
        seeds = range(arguments.supernet_seeds)
        for rule, distillation, seed in product(arguments.rule, arguments.distillation, seeds):
            key = f"{prefix} supernet {epochs} {seed} {distillation} {rule}"
            if key not in kept:
                once = replace(recipe, epochs=epochs, seed=seed)
                kept[key] = train_supernet(Ruled(rule, space, data, once, distillation), configs)
                keep(kept, arguments.out)
    report(kept, prefix, arguments.epochs, arguments.seeds, configs)


def list_configurations(space: SearchSpace, ratio: int, drawn: int | None) -> list[SEConfig]:
    """Return all placements by stage of one ratio; or none, the largest configuration, and others drawn."""
    if drawn is None:
        stages = sorted({site.stage for site in space.sites})
        subsets = chain.from_iterable(combinations(stages, count) for count in range(len(stages) + 1))
        block = space.block("se", {"ratio": ratio, "gate": "sigmoid"})
        return [space.uniform(block, [site for site in space.sites if site.stage in subset]) for subset in subsets]
    configs = dict.fromkeys((SEConfig.without_attention(space.backbone), space.largest()))
    rng = random.Random(0)
    while len(configs) < drawn:
        configs[space.draw(rng)] = None
    return list(configs)


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


class Ruled(Supernet):
    """A supernet with another rule of training, whose configurations are evaluated after each epoch."""

    def __init__(
        self, rule: str, space: SearchSpace, data: ImageData, recipe: TrainingRecipe, distillation: float
    ) -> None:
        super().__init__(space.backbone, space.widest_blocks(), data, recipe, distillation=distillation)
        self.rule = rule
        self.space = space

    def _losses(self, training: Training, space: ConfigurationSource) -> Losses:
        if self.rule == SANDWICH:
            return super()._losses(training, space)
        bare, steps = SEConfig.without_attention(self.backbone), self.recipe.epochs * training.steps

        def losses(images: torch.Tensor, targets: torch.Tensor) -> Iterator[torch.Tensor]:
            drawn = space.draw(random.Random(int(torch.randint(2**62, ()))))
            networks = RULES[self.rule](bare, drawn, space.widen(drawn), training.step, steps)
            count = len(networks)
            for config, shown, labels in zip(networks, images.chunk(count), targets.chunk(count), strict=True):
                self.select(config)
                yield F.cross_entropy(self.model(shown), labels)

        return losses

    def epochs(self, configs: list[SEConfig]) -> Iterator[tuple[float, list[Evaluation]]]:
        """Train; yield the seconds of each epoch and the evaluations after it."""
        training = Training(self.model, self.recipe, self.data, self.device)
        for _ in training.epochs(self._losses(training, self.space)):
            self._forget()
            yield training.history[-1]["seconds"], [self.evaluate(config) for config in configs]


def train_supernet(supernet: Ruled, configs: list[SEConfig]) -> dict[str, Any]:
    """Train one supernet and evaluate all configurations with it."""
    recipe, rule = supernet.recipe, supernet.rule
    epochs, seconds, noise = [], 0.0, []
    with timed() as whole:
        for spent, evaluations in supernet.epochs(configs):
            seconds += spent
            losses = np.concatenate([one.losses for one in evaluations])
            epochs.append([float(one) for one in losses.mean(1)])
            noise.append([tau_by_images(losses[:PROBES]), tau_by_images(losses)])
    print(f"{rule}, {recipe.epochs} epochs, seed {recipe.seed}: {seconds:.1f} of {whole[0]:.1f} s", flush=True)
    return {
        "losses": {config.id: loss for config, loss in zip(configs, epochs[-1], strict=True)},
        "accuracies": [one.accuracy.value for one in evaluations],
        "epochs": epochs,
        "noise": noise,
        "training": seconds,
        "evaluation": (whole[0] - seconds) / recipe.epochs,
    }


def tau_by_images(losses: npt.NDArray[np.float32], draws: int = 100) -> float:
    """Return the mean tau of rankings on two samples of as many images."""
    rng = np.random.default_rng(0)
    images = losses.shape[1]
    means = losses @ rng.multinomial(images, np.full(images, 1 / images), 2 * draws).T
    return float(np.mean([rank_agreement(one, other).value for one, other in means.T.reshape(draws, 2, -1)]))


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
    print(
        "\nsupernet epochs  distillation  seed  rule          tau [95 %]            of ceiling  cost of alone  ", end=""
    )
    print("training/plain  best - none")
    named = {key: one for key, one in kept.items() if key.startswith(f"{prefix} supernet ")}
    for key, one in named.items():
        length, seed, distillation, rule = key.removeprefix(f"{prefix} supernet ").split()
        tau = rank_agreement(np.array([one["losses"][config.id] for config in configs]), mean)
        share = (one["training"] + one["evaluation"]) / cost
        relative = one["training"] / int(length) / (plain / epochs)
        gain = 100 * (max(one["accuracies"]) - one["accuracies"][none])
        print(
            f"{length:>15s}  {distillation:12s}  {seed:4s}  {rule:12s}  {show(tau):20s}  "
            f"{tau.value / ceiling.value:10.2f}  1/{1 / share:11.1f}  {relative:14.2f}  {gain:+.1f} points"
        )
    print(
        f"\nafter each epoch: tau against stand-alone, against the epoch before, by images; of {PROBES} configurations"
    )
    for key, one in named.items():
        print(key.removeprefix(f"{prefix} supernet "))
        curve = np.array(one["epochs"])
        for epoch, (losses, noise) in enumerate(zip(curve, one["noise"], strict=True)):
            before = rank_agreement(losses[:PROBES], curve[epoch - 1, :PROBES]).value if epoch else float("nan")
            against = rank_agreement(losses, mean).value
            print(f"  {epoch + 1:2d}: {against:.2f}  {before:.2f}  {noise[0]:.2f}")


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
