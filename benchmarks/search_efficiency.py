"""Cost of a search and quality of its front: se-search against hand-written alternatives.

    python benchmarks/search_efficiency.py --out search_efficiency.json       # hours; the same command resumes
    python benchmarks/search_efficiency.py --data digits-context --position post --learning-rate 0.004 --epochs 6 \\
        --supernet-epochs 6 --methods se-search hand-written --budget 20 --members 4 --verify-seeds 2
    python benchmarks/search_efficiency.py --backbone resnet50 --data digits --learning-rate 0.002 --cost-only

Every method (see ``benchmarks/baselines/``) searches the space ``stages`` with its own evaluator. ``hand-written`` and
``paper`` train each configuration from scratch. All others evaluate with a supernet; they share it here, but each is
charged its full training, and each search evaluates anew and shares passes between its own configurations only. A
repeated configuration costs nothing.

The cost of a search ends when its front is chosen. It is the recorded seconds of training, evaluation and proposing,
and the number of training passes: forward and backward of one network on one batch. Batches that are only passed
forward, for recalibration and evaluation, are counted separately, as if no passes were shared.

``--cost-only`` times one search of se-search, and epochs and evaluations of the hand-written script's kind before and
after it. It prints what as many trials of that kind would take, and what the search took.

The front is then verified. No SE and members of the front that the search saw, spread by overhead, are retrained with
seeds that no search has used. The hypervolume uses parameter overhead, and log-loss on the test images minus that of
no SE with the same seed. It is a share of the box between the best values and the reference point, which is the worst
verified value plus 5 % of the range. Verification is the same for all methods and not part of the cost.

The JSON file stores trainings under their complete settings; supernets are in a folder beside it.
"""

import argparse
import hashlib
import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, chain
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch
from baselines import (
    Evaluate,
    Search,
    Values,
    hand_written,
    nsga2,
    once_for_all,
    paper,
    pareto_front,
    spread,
    supernet_random as random_search,
)
from fidelity import timed
from optuna._hypervolume import compute_hypervolume  # its public counterpart draws a figure
from sampler_regret import cost as overhead, create_study, mean

from se_search import SEConfig
from se_search.data.load import load_data
from se_search.files import write_text
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.training.evaluator import evaluate_network
from se_search.training.protocols import no_progress
from se_search.training.recipe import TrainingRecipe
from se_search.training.stand_alone import Scratch
from se_search.training.supernet import SUMMARY, Supernet

OURS, BY_HAND = "se-search", "hand-written"
FIRST_VERIFICATION_SEED = 1000
MARGIN = 0.05
RESAMPLES = 1000
COSTS = ("passes", "forward", "training s", "evaluation s", "proposing s", "seconds")
BATCH = 64
REFERENCES = 8


def search(
    evaluate: Evaluate, space: SearchSpace, budget: int, seed: int, errors: Mapping[str, Values] | None = None
) -> list[SEConfig]:
    """Search as se-search does: known answers first, then expected hypervolume improvement, without repetition.

    ``errors`` are standard deviations of values by configuration, which evaluations add.
    """
    study, sampler = create_study(space, "ehvi", seed, errors=errors)
    tried: list[SEConfig] = []
    waiting = len(space.known_answers())
    while len(tried) < budget and (len(tried) < waiting or not sampler.is_exhausted(study)):
        trial = study.ask(dict(space.distributions))
        tried.append(space.to_config(trial.params))
        study.tell(trial, evaluate(tried[-1]))
    return tried


SUPERNET: dict[str, Search] = {
    OURS: search,
    "random": random_search.search,
    "nsga2": nsga2.search,
    "once-for-all": once_for_all.search,
}
STAND_ALONE: dict[str, Search] = {BY_HAND: hand_written.search, "paper": paper.search}


@dataclass(frozen=True)
class Found:
    """Result of one search.

    Attributes:
        tried: Configurations in the order of their trials.
        seen: Observed values of each.
        costs: Cumulative cost after each trial, by name; the first value is the cost before the first trial.
    """

    tried: list[SEConfig]
    seen: dict[SEConfig, Values]
    costs: dict[str, list[float]]


class Bench:
    """Measurements, each made once and cached.

    Args:
        options: Options of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.data = load_data(options.data)
        stages = load_space("stages").model_copy(update={"rounding": 1, "positions": (options.position,)})
        self.space = SearchSpace(options.backbone, stages)
        self.bare = SEConfig.without_attention(options.backbone)
        self.recipe = TrainingRecipe(epochs=options.epochs, batch=BATCH, learning_rate=options.learning_rate)
        self.shared_recipe = replace(self.recipe, epochs=options.supernet_epochs)
        self.kept: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
        self._supernets: dict[int, Supernet] = {}
        self._evaluates_for: tuple[str, int] | None = None
        where = f"{options.data} {options.backbone} {options.device} {options.threads} threads"
        self.steps = ceil(len(self.data.train) / BATCH)
        self._alone = f"{where} {self.recipe!r}"
        self._shared = f"{where} {self.shared_recipe!r} {options.recalibration_images} {self.space.definition!r}"

    def once(self, settings: str, key: str, measure: Callable[[], dict[str, Any]]) -> Any:
        """Return the cached value of ``key`` under these settings; measure it if it is missing."""
        kept = self.kept.setdefault(settings, {})
        if key not in kept:
            kept[key] = measure()
            write_text(self.options.out, json.dumps(self.kept))
            shown = {name: round(value, 4) for name, value in kept[key].items() if name != "losses"}
            print(f"{key}: {shown}", flush=True)
        return kept[key]

    def trial(self, config: SEConfig, seed: int) -> Any:
        """One trial of the hand-written script: ``log_loss``, seconds of ``training`` and ``evaluation``."""
        options, recipe = self.options, self.recipe

        def measure() -> dict[str, Any]:
            with timed() as training:
                model = hand_written.train(
                    config, self.data, recipe.epochs, recipe.batch, recipe.learning_rate, seed, options.device
                )
            with timed() as evaluation:
                loss = hand_written.log_loss(model, self.data, recipe.batch, options.device)
            return {"log_loss": loss, "training": training[0], "evaluation": evaluation[0]}

        return self.once(self._alone, f"hand-written {config.id}, seed {seed}", measure)

    def verify(self, config: SEConfig) -> npt.NDArray[np.float64]:
        """Return test losses of further trainings, of shape (seeds, images)."""
        device = self.options.device

        def measure(seed: int) -> dict[str, Any]:
            training = Scratch(self.options.backbone, self.data, self.recipe, device).training(config, seed)
            with timed() as seconds:
                network = training.finish()
            judged = evaluate_network(network, self.data.test, BATCH, device, self.recipe)
            return {"losses": judged.losses[0].round(5).tolist(), "training": seconds[0]}

        seeds = range(FIRST_VERIFICATION_SEED, FIRST_VERIFICATION_SEED + self.options.verify_seeds)
        trained = [
            self.once(self._alone, f"verified {config.id}, seed {seed}", partial(measure, seed)) for seed in seeds
        ]
        return np.array([one["losses"] for one in trained])

    def shared_training(self, seed: int) -> Any:
        """Return the cost of training a supernet: seconds of ``training``, and ``passes``."""

        def measure() -> dict[str, Any]:
            supernet = self._supernet(seed)
            epochs = json.loads((self._folder(seed) / SUMMARY).read_text())["epochs"]
            steps = range(len(epochs) * self.steps)
            passes = sum(len(supernet._networks(self.bare, self.space.largest(), step)) for step in steps)
            return {"training": sum(epoch["seconds"] for epoch in epochs), "passes": passes}

        return self.once(self._shared, f"supernet, seed {seed}", measure)

    def shared_evaluation(self, config: SEConfig, method: str, seed: int) -> Any:
        """One evaluation in a search: ``log_loss``, ``losses`` of images, and seconds of ``evaluation``."""

        def measure() -> dict[str, Any]:
            supernet = self._supernet(seed)
            if self._evaluates_for != (method, seed):
                supernet._forget()
                self._evaluates_for = method, seed
            with timed() as evaluation:
                found = supernet.evaluate(config)
            losses = found.losses[0].round(5).tolist()
            return {"log_loss": found.log_loss.value, "losses": losses, "evaluation": evaluation[0]}

        return self.once(self._shared, f"{method}, supernet, seed {seed}, {config.id}", measure)

    def _folder(self, seed: int) -> Path:
        name = hashlib.sha256(f"{self._shared}, seed {seed}".encode()).hexdigest()[:12]
        return Path(self.options.out).with_suffix(".supernets") / name

    def _supernet(self, seed: int) -> Supernet:
        if seed not in self._supernets:
            folder = self._folder(seed)
            folder.mkdir(parents=True, exist_ok=True)
            supernet = Supernet(
                self.options.backbone,
                self.space.widest_blocks(),
                self.data,
                replace(self.shared_recipe, seed=seed),
                self.options.device,
                self.options.recalibration_images,
            )
            supernet.prepare(folder, self.space, no_progress)
            self._supernets = {seed: supernet}
        return self._supernets[seed]

    def run(self, method: str, seed: int) -> Found:
        """Search once."""
        validation = ceil(len(self.data.validation) / BATCH)
        recalibration = ceil(min(self.options.recalibration_images, len(self.data.calibration)) / BATCH)
        is_shared = method in SUPERNET
        seen: dict[SEConfig, Values] = {}
        errors: dict[str, Values] = {}
        evaluating: list[float] = []

        def measured(config: SEConfig) -> Any:
            return self.shared_evaluation(config, method, seed) if is_shared else self.trial(config, seed)

        def evaluate(config: SEConfig) -> Values:
            with timed() as seconds:
                if config not in seen:
                    seen[config] = measured(config)["log_loss"], overhead(config)
                    if is_shared:
                        errors.update(image_noise({one.id: np.array(measured(one)["losses"]) for one in seen}))
            evaluating.append(seconds[0])
            return seen[config]

        first = {}
        if is_shared:
            training = self.shared_training(seed)
            first = {"training s": training["training"], "passes": training["passes"]}
        propose = partial(search, errors=errors) if method == OURS else (SUPERNET | STAND_ALONE)[method]
        budget = self.options.budget
        with timed() as whole:
            tried = propose(evaluate, self.space, budget, seed)
        proposing = self.once(
            f"{self._shared} {self._alone}",
            f"proposing of {method}, {budget} trials, seed {seed}",
            lambda: {"seconds": whole[0] - sum(evaluating)},
        )["seconds"]

        costs: dict[str, list[float]] = {name: [] for name in COSTS if name != "seconds"}
        known: set[SEConfig] = set()
        for config in tried:
            is_new = config not in known
            known.add(config)
            one = measured(config)
            costs["training s"].append(is_new * one.get("training", 0.0))
            costs["evaluation s"].append(is_new * one["evaluation"])
            costs["proposing s"].append(proposing / len(tried))
            costs["passes"].append(is_new * (not is_shared) * self.options.epochs * self.steps)
            costs["forward"].append(is_new * (validation + is_shared * recalibration))
        until = {name: list(accumulate(values, initial=first.get(name, 0))) for name, values in costs.items()}
        until["seconds"] = [
            sum(one) for one in zip(*(until[name] for name in until if name.endswith(" s")), strict=True)
        ]
        return Found(tried, seen, until)


def image_noise(losses: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, Values]:
    """Return the error of each log-loss that differs between configurations, as the search computes it."""
    reference = np.mean(list(losses.values())[:REFERENCES], axis=0)
    return {name: (float((one - reference).std(ddof=1) / sqrt(len(one))),) for name, one in losses.items()}


class Verified:
    """Verified hypervolume of fronts on a common scale.

    Args:
        losses: Log-losses of each configuration, of shape (seeds, images).
        bare: The configuration without SE.
    """

    def __init__(self, losses: Mapping[SEConfig, npt.NDArray[np.float64]], bare: SEConfig) -> None:
        self._place = {config: place for place, config in enumerate(losses)}
        # Seeds and images shift the losses of all configurations together; only the differences matter.
        self._losses = np.stack(list(losses.values())) - losses[bare]
        self._overheads = np.array([overhead(config) for config in losses])
        values = np.stack([self._losses.mean((1, 2)), self._overheads], 1)
        self._best = values.min(0)
        self._reference = values.max(0) + MARGIN * (values.max(0) - self._best)
        self._values = values

    def hypervolume(self, members: Sequence[SEConfig]) -> float:
        """Return the hypervolume of a front in % of the box."""
        return self._percent(self._values, members)

    def resampled(self, fronts: Mapping[str, Sequence[Sequence[SEConfig]]]) -> dict[str, npt.NDArray[np.float64]]:
        """Return mean hypervolumes per method, with resampled verification seeds and images."""
        rng = np.random.default_rng(0)
        _, seeds, images = self._losses.shape
        drawn: dict[str, list[float]] = {method: [] for method in fronts}
        for _ in range(RESAMPLES):
            by_seed = self._losses @ rng.multinomial(images, np.full(images, 1 / images)) / images
            losses = by_seed @ rng.multinomial(seeds, np.full(seeds, 1 / seeds)) / seeds
            values = np.stack([losses, self._overheads], 1)
            for method, searches in fronts.items():
                drawn[method].append(float(np.mean([self._percent(values, members) for members in searches])))
        return {method: np.array(one) for method, one in drawn.items()}

    def _percent(self, values: npt.NDArray[np.float64], members: Sequence[SEConfig]) -> float:
        points = values[[self._place[member] for member in members]]
        inside = points[(points < self._reference).all(1)]
        area = compute_hypervolume(inside, self._reference) if len(inside) else 0.0
        return float(100 * area / np.prod(self._reference - self._best))


def main() -> None:
    """Search, verify and print; with ``--cost-only`` only measure costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--data", default="digits-hard")
    parser.add_argument("--position", default="default", help="position of the SE blocks")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each training from scratch")
    parser.add_argument("--supernet-epochs", type=int, default=8)
    parser.add_argument("--recalibration-images", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=0.005)
    parser.add_argument("--budget", type=int, default=50, help="trials per search")
    parser.add_argument("--seeds", type=int, default=3, help="searches per method")
    parser.add_argument("--methods", nargs="+", choices=[*STAND_ALONE, *SUPERNET], default=[*STAND_ALONE, *SUPERNET])
    parser.add_argument(
        "--members", type=int, default=6, help="maximum verified configurations per front, including no SE"
    )
    parser.add_argument("--verify-seeds", type=int, default=3, help="trainings per member")
    parser.add_argument("--cost-only", action="store_true", help="do one search, and only estimate the script's cost")
    parser.add_argument("--repeats", type=int, default=3, help="epochs timed before and after, with --cost-only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("search_efficiency.json"))
    options = parser.parse_args()
    if OURS not in options.methods:
        parser.error(f"--methods needs {OURS}, which all others are compared with")
    torch.set_num_threads(options.threads)
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    bench = Bench(options)
    if options.cost_only:
        report_costs(bench)
        return
    seeds = range(options.seeds)
    found = {method: [bench.run(method, seed) for seed in seeds] for method in options.methods}
    fronts = {name: [front_after(bench, one, len(one.tried)) for one in found[name]] for name in found}
    curves = [[front_after(bench, one, n) for n in range(len(one.tried) + 1)] for one in found.get(BY_HAND, [])]
    everyone = [front for searches in [*fronts.values(), *curves] for front in searches]
    members = dict.fromkeys(chain.from_iterable(everyone))
    verified = Verified({one: bench.verify(one) for one in members}, bench.bare)
    report(options, found, fronts, verified)
    if curves:
        report_by_hand(found, fronts, curves, verified)


def front_after(bench: Bench, found: Found, trials: int) -> list[SEConfig]:
    """Return the configurations to verify after some trials: no SE, and front members spread by overhead."""
    front = pareto_front({one: found.seen[one] for one in found.tried[:trials]})
    return [bench.bare, *spread([one for one in front if one != bench.bare], bench.options.members - 1)]


def report(
    options: argparse.Namespace,
    found: Mapping[str, Sequence[Found]],
    fronts: Mapping[str, Sequence[Sequence[SEConfig]]],
    verified: Verified,
) -> None:
    """Print cost and verified hypervolume of each method."""
    print(f"\n{describe(options)}")
    print(
        f"{options.seeds} searches of {options.budget} trials, {options.epochs} epochs a training, "
        f"{options.supernet_epochs} a supernet; {options.verify_seeds} trainings of each member verified"
    )
    print("\ncost of a search until its front is chosen, mean of the searches")
    print(f"{'method':14s} {'trials':>7s} " + " ".join(f"{name:>12s}" for name in COSTS))
    for method, searches in found.items():
        cells = " ".join(f"{np.mean([one.costs[name][-1] for one in searches]):12.1f}" for name in COSTS)
        print(f"{method:14s} {np.mean([len(one.tried) for one in searches]):7.1f} {cells}")

    print(
        f"\nverified hypervolume in %, mean [95 % over searches] [95 % over verification seeds and images]; "
        f"below it minus that of {OURS}, paired"
    )
    resampled = verified.resampled(fronts)
    ours = [verified.hypervolume(front) for front in fronts[OURS]]
    for method, chosen in fronts.items():
        values = [verified.hypervolume(front) for front in chosen]
        print(f"{method:14s} {average(values):>26s}  {interval(resampled[method])}")
        if method != OURS:
            less = [one - other for one, other in zip(values, ours, strict=True)]
            again = interval(resampled[method] - resampled[OURS], "+")
            print(f"{'':14s} {average(less, '+'):>26s}  {again}")


def report_by_hand(
    found: Mapping[str, Sequence[Found]],
    fronts: Mapping[str, Sequence[Sequence[SEConfig]]],
    curves: Sequence[Sequence[Sequence[SEConfig]]],
    verified: Verified,
) -> None:
    """Print the hypervolume of the hand-written script after each trial, and when it reaches that of se-search."""
    by_hand, ours = found[BY_HAND], found[OURS]
    table = np.array([[verified.hypervolume(front) for front in curve] for curve in curves])
    goal = np.array([verified.hypervolume(front) for front in fronts[OURS]])
    print(f"\n{BY_HAND} after each trial, mean of the searches: verified hypervolume in %, passes, seconds")
    for trials, value in enumerate(table.mean(0)):
        passes, seconds = (np.mean([one.costs[name][trials] for one in by_hand]) for name in ("passes", "seconds"))
        print(f"{trials:4d} {value:6.2f} {passes:9.0f} {seconds:9.1f}")

    print(f"\ncost of {BY_HAND} as a multiple of that of {OURS}, mean of the searches")
    for name in ("passes", "seconds"):
        spent = np.mean([one.costs[name] for one in by_hand], 0)
        price = float(np.mean([one.costs[name][-1] for one in ours]))
        reached = np.flatnonzero(table.mean(0) >= goal.mean())
        where = f"{spent[reached[0]] / price:.1f} (trial {reached[0]})" if len(reached) else "never in these trials"
        each = [first_reached(row, value) for row, value in zip(table, goal, strict=True)]
        print(
            f"{name}: {spent[-1] / price:.1f} for all trials; where its mean first reaches that of {OURS}: {where}; "
            f"single searches reach it with trial {', '.join(each)}"
        )
        affordable = [int(np.flatnonzero(np.array(one.costs[name]) <= price)[-1]) for one in by_hand]
        values = [float(row[trials]) for row, trials in zip(table, affordable, strict=True)]
        less = [value - other for value, other in zip(values, goal, strict=True)]
        print(
            f"{name}: for the cost of {OURS}, {np.mean(affordable):.1f} trials: {np.mean(values):.2f} %, "
            f"{average(less, '+')} against {OURS}"
        )
    share = np.mean([one.costs["training s"][-1] / one.costs["seconds"][-1] for one in ours])
    print(f"of the seconds of {OURS}, {100 * share:.0f} % are the supernet's training, nearly all others evaluations")


def first_reached(values: npt.NDArray[np.float64], goal: float) -> str:
    """Return the index of the first value that is not below the goal."""
    reached = np.flatnonzero(values >= goal)
    return str(reached[0]) if len(reached) else "never"


def report_costs(bench: Bench) -> None:
    """Time one search of se-search, and compare it with the estimate for the hand-written script."""
    options, rng = bench.options, random.Random(0)
    epochs: list[float] = []
    evaluations: list[float] = []

    def time_script() -> None:
        once = replace(bench.recipe, epochs=1)
        training = Scratch(options.backbone, bench.data, once, options.device).training(bench.space.draw(rng), 0)
        network = training.finish()
        with timed() as evaluation:
            evaluate_network(network, bench.data.validation, BATCH, options.device, once)
        epochs.append(training.history[0]["seconds"])
        evaluations.append(evaluation[0])
        print(f"from scratch: epoch {epochs[-1]:.2f} s, evaluation {evaluations[-1]:.2f} s", flush=True)

    for _ in range(options.repeats + 1):
        time_script()
    del epochs[0], evaluations[0]  # allocates memory and selects kernels
    ours = {name: values[-1] for name, values in bench.run(OURS, 0).costs.items()}
    for _ in range(options.repeats):
        time_script()
    epoch, evaluation = statistics.median(epochs), statistics.median(evaluations)
    by_hand = options.budget * (options.epochs * epoch + evaluation)
    passes = options.budget * options.epochs * bench.steps
    print(f"\n{describe(options)}: a search of {options.budget} trials, the script's estimated")
    print(f"{BY_HAND}: {by_hand:.0f} s, {passes} passes; median epoch {epoch:.2f} s, evaluation {evaluation:.2f} s")
    parts = ", ".join(f"{name.removesuffix(' s')} {ours[name]:.1f} s" for name in ours if name.endswith(" s"))
    print(f"{OURS}: {ours['seconds']:.0f} s, {ours['passes']:.0f} passes; {parts}")
    print(f"a share of 1/{by_hand / ours['seconds']:.1f} and 1/{passes / ours['passes']:.1f}")


def describe(options: argparse.Namespace) -> str:
    """Describe the settings and the machine."""
    return f"{options.backbone} on {options.data}, {options.device}, {options.threads} threads"


def average(values: list[float], sign: str = "") -> str:
    """Format a mean, with its interval if there are several values."""
    return mean(values, sign) if len(values) > 1 else f"{values[0]:{sign}.2f}"


def interval(values: npt.NDArray[np.float64], sign: str = "") -> str:
    """Return the central 95 % of resampled values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return f"[{low:{sign}.2f}, {high:{sign}.2f}]"


if __name__ == "__main__":
    main()
