"""Hypervolume regret of samplers by the number of trials, replayed from tables.

    python benchmarks/sampler_regret.py --seeds 100 --jobs 2 --out sampler_regret.json
    python benchmarks/sampler_regret.py --problems table --samplers ehvi tpe --seeds 10
    python benchmarks/sampler_regret.py --problems table --samplers ehvi ax --seeds 5 --budget 20

The values of all configurations of a problem are precomputed, so that a search takes milliseconds and the true front is
known. Regret is 1 minus the hypervolume of the found front divided by that of the whole space; the reference point is
the worst value of each objective. The problems are

- ``table``: log-loss and parameter overhead from ``benchmarks/tabular.csv``, the mean of its seeds;
- ``noisy``: the same, but a search sees one training of each configuration, and the mean of the others evaluates its
  front;
- ``additive``: the gains of resnet50's stages add up; log-loss and parameter overhead;
- ``interacting``: SE helps a block of resnet18 only if the previous block has it too; three objectives, of which
  latency is unknown in advance;
- ``measured``: the same with measurements as in a run. Log-loss and latency have normal errors whose standard
  deviations are known: 0.25 to 0.6 times that of the space's log-losses, up to 0.3 times that of its latencies. Regret
  is that of the true front of all tried configurations: a front picked by observed values would also measure luck.

``optuna …`` are Optuna's samplers as in a plain Optuna script. All others are those of se-search, which never proposes
a configuration twice and tries the known answers first (``… alone`` does not). ``ehvi blind`` is not told the errors.
``ax`` is Ax, for two objectives and if it is installed (see ``benchmarks/baselines/peer_ax.py``); it runs only if
named.

The JSON file stores finished searches: the same command resumes.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna._hypervolume import compute_hypervolume  # its public counterpart draws a figure
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from scipy import stats
from tabular import load_table

from se_search import SEConfig
from se_search.files import write_text
from se_search.network.overhead import added_parameters, backbone_parameters
from se_search.sampling.distinct import DistinctSampler
from se_search.sampling.exact import exact_objectives
from se_search.sampling.fronts import is_on_front
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition

Values = dict[str, tuple[float, ...]]
"""Objectives by configuration, all to be minimised."""

BUDGETS = (20, 50, 200)
DEFAULT = "ehvi"
FLOPS_SIZE = (3, 32, 32)  # no objective uses FLOPs


@dataclass(frozen=True)
class Problem:
    """A space with precomputed values of all configurations.

    Attributes:
        space: The space.
        seen: Values that a search observes.
        true: Values that evaluate its front.
        errors: Known standard deviations of the errors of the observed values; without them, the observed values decide
            which configurations are on the front, with them the true values.
    """

    space: SearchSpace
    seen: Values
    true: Values
    errors: Values = field(default_factory=dict)


@cache
def table_problem(seed: int | None) -> Problem:
    """The table of trainings: the mean of its seeds, or one seed evaluated by the others."""
    table = load_table()

    def values(losses: npt.NDArray[np.float64]) -> Values:
        columns = zip(table.configs, losses, table.overheads, strict=True)
        return {config.id: (float(loss), float(overhead)) for config, loss, overhead in columns}

    if seed is None:
        mean = values(table.log_losses.mean(1))
        return Problem(table.space, mean, mean)
    others = np.delete(table.log_losses, seed, 1)
    return Problem(table.space, values(table.log_losses[:, seed]), values(others.mean(1)))


@cache
def additive() -> Problem:
    """Stages of resnet50 with additive gains that grow with the logarithm of the hidden width."""
    gains = {2: 0.1, 3: 0.3, 4: 0.6, 5: 0.2}

    def values(config: SEConfig) -> tuple[float, ...]:
        ratios = {placed.site.stage: placed.ratio for placed in config.placed}
        gate = 0.05 if any(placed.gate == "hard_sigmoid" for placed in config.placed) else 0.0
        return gate - sum(gains[stage] * (1 - math.log2(ratio) / 8) for stage, ratio in ratios.items()), cost(config)

    return synthetic(SearchSpace("resnet50", load_space("stages")), values)


@cache
def interacting() -> Problem:
    """Blocks of resnet18 in which SE helps if the previous block has it, else harms; latency is unknown in advance."""
    definition = SpaceDefinition(placement="block", ratios=(4, 16), gates=("sigmoid",))
    space = SearchSpace("resnet18", definition)
    blocks = [site.block for site in space.sites]
    worth = np.random.default_rng(0).uniform(0.1, 1.0, len(blocks))

    def values(config: SEConfig) -> tuple[float, ...]:
        ratios = {placed.site.block: placed.ratio for placed in config.placed}
        loss = 0.0
        for place, block in enumerate(blocks):
            if block in ratios:
                helps = place == 0 or blocks[place - 1] in ratios
                loss -= worth[place] * (1.0 if helps else -0.3) * (1.0 if ratios[block] == 4 else 0.8)
        return loss, cost(config), sum(0.01 + placed.site.channels / 1e5 for placed in config.placed)

    return synthetic(space, values)


@cache
def measured(seed: int) -> Problem:
    """``interacting`` with normal errors of log-loss and latency."""
    exact = interacting()
    drawing = np.random.default_rng(seed)
    true = np.array(list(exact.true.values()))
    spread = true.std(0)
    low, high = np.array([0.25, 0, 0.1]) * spread, np.array([0.6, 0, 0.3]) * spread
    errors = drawing.uniform(low, high, true.shape)
    seen = drawing.normal(true, errors)

    def values(rows: npt.NDArray[np.float64]) -> Values:
        return dict(zip(exact.true, map(tuple, rows.tolist()), strict=True))

    return Problem(exact.space, values(seen), exact.true, values(errors))


def cost(config: SEConfig) -> float:
    """Parameter overhead."""
    return added_parameters(config) / backbone_parameters(config.backbone)


def synthetic(space: SearchSpace, values: Callable[[SEConfig], tuple[float, ...]]) -> Problem:
    """A problem with computed values."""
    known = {config.id: values(config) for config in map(space.to_config, space.enumerate())}
    return Problem(space, known, known)


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "table": lambda seed: table_problem(None),
    "noisy": lambda seed: table_problem(seed % load_table().log_losses.shape[1]),
    "additive": lambda seed: additive(),
    "interacting": lambda seed: interacting(),
    "measured": measured,
}

OPTUNA: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "tpe multivariate": lambda seed: TPESampler(seed=seed, multivariate=True),
    "tpe grouped": lambda seed: TPESampler(seed=seed, multivariate=True, group=True),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
    "nsga3": lambda seed: NSGAIIISampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed),
}
OURS = ("random", "tpe", "nsga2", "gp", "ehvi")
AX = "ax"
SLOW = {"optuna gp": (50, 100), AX: (50, 5)}
"""Limits of slow samplers: maximum budget and number of seeds."""


def main() -> None:
    """Run the missing searches and print the comparison."""
    names = [
        *(f"optuna {name}" for name in OPTUNA),
        *(f"{name}{alone}" for name in OURS for alone in ("", " alone")),
        "ehvi blind",
    ]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--samplers", nargs="+", choices=[*names, AX], default=names)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--budget", type=int, default=max(BUDGETS), help="maximum trials per search")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("sampler_regret.json"))
    options = parser.parse_args()

    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    missing = []
    for problem in options.problems:
        for sampler in options.samplers:
            budget, seeds = SLOW.get(sampler, (options.budget, options.seeds))
            for seed in range(min(seeds, options.seeds)):
                key = f"{problem}|{sampler}|{min(budget, options.budget)}|{seed}"
                if key not in kept:
                    missing.append((key, problem, sampler, min(budget, options.budget), seed))
    with ProcessPoolExecutor(options.jobs) as pool:
        running = {pool.submit(regrets, *one): key for key, *one in missing}
        for number, finished in enumerate(as_completed(running), start=1):
            kept[running[finished]] = finished.result()
            if number % 5 == 0 or number == len(running):
                write_text(options.out, json.dumps(kept, indent=0))
                print(f"{number} of {len(running)} searches", flush=True)
    for problem in options.problems:
        report(problem, kept, options.samplers)


def regrets(problem_name: str, sampler_name: str, budget: int, seed: int) -> dict[str, float]:
    """Search once; return the regret after each budget, and the milliseconds per trial."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    problem = PROBLEMS[problem_name](seed)
    start = time.process_time()
    tried = list(search(problem, sampler_name, budget, seed))
    spent = time.process_time() - start
    whole = hypervolume(problem, list(problem.true))
    found = {str(one): 1 - hypervolume(problem, tried[:one]) / whole for one in BUDGETS if one <= budget}
    return found | {"milliseconds": 1000 * spent / budget}


def search(problem: Problem, sampler_name: str, budget: int, seed: int) -> Iterator[str]:
    """Yield the ids of the configurations that a sampler tries, in order, until the space is exhausted."""
    space, objectives = problem.space, len(next(iter(problem.seen.values())))
    if sampler_name == AX:
        yield from search_with_ax(problem, budget, seed)
        return
    distinct = None
    if sampler_name.startswith("optuna "):
        sampler = OPTUNA[sampler_name.removeprefix("optuna ")](seed)
        study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
    else:
        name, _, variant = sampler_name.partition(" ")
        errors = {} if variant == "blind" else problem.errors
        study, distinct = create_study(space, name, seed, objectives, known=variant != "alone", errors=errors)
    for number in range(budget):
        if distinct is not None and number >= len(problem.seen) and distinct.is_exhausted(study):
            return
        trial = study.ask(dict(space.distributions))
        config = space.to_config(trial.params)
        study.tell(trial, problem.seen[config.id])
        yield config.id


def search_with_ax(problem: Problem, budget: int, seed: int) -> list[str]:
    """Return the ids of the configurations that Ax tries, in order."""
    from baselines import peer_ax  # optional package

    space = problem.space
    choices = {name: one.choices for name, one in space.distributions.items()}

    def evaluate(parameters: dict[str, Any]) -> tuple[float, float]:
        log_loss, overhead = problem.seen[space.to_config(parameters).id]
        return log_loss, overhead

    return [space.to_config(parameters).id for parameters, _ in peer_ax.search(evaluate, choices, budget, seed)]


def create_study(
    space: SearchSpace, name: str, seed: int, objectives: int = 2, known: bool = True, errors: Values | None = None
) -> tuple[optuna.Study, DistinctSampler]:
    """Create a study like that of se-search, of log-loss, parameter overhead and optionally latency, and its sampler.

    Args:
        space: The space.
        name: Name of the sampler.
        seed: Seed of the proposals.
        objectives: Number of objectives.
        known: Whether the known answers come first.
        errors: Known standard deviations of the errors of observed values.
    """

    def noise(trial: optuna.trial.FrozenTrial) -> dict[int, float]:
        known = (errors or {}).get(space.to_config(trial.params).id, ())
        return {place: error**2 for place, error in enumerate(known)}

    exact = exact_objectives(space, ["log_loss", "parameter_overhead"], FLOPS_SIZE)
    sampler = DistinctSampler(space, name, seed, lambda config: True, exact, {}, noise)
    study = optuna.create_study(directions=["minimize"] * objectives, sampler=sampler)
    if known:
        for config in space.known_answers().values():
            study.enqueue_trial(space.to_parameters(config))
    return study, sampler


def hypervolume(problem: Problem, tried: list[str]) -> float:
    """Return the true hypervolume of the front of a search, with each axis scaled to the space."""
    deciding = np.array([(problem.true if problem.errors else problem.seen)[one] for one in tried])
    true = np.array([problem.true[one] for one in tried])
    everything = np.array(list(problem.true.values()))
    low, high = everything.min(0), everything.max(0)
    return float(compute_hypervolume((true[is_on_front(deciding)] - low) / (high - low), np.ones(len(low))))


def report(problem: str, kept: dict[str, dict[str, float]], samplers: list[str]) -> None:
    """Print the regrets of one problem, and their differences to the default's, paired by seed."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for key, one in kept.items():
        name, sampler, _, seed = key.split("|")
        if name == problem and sampler in samplers:
            found.setdefault(sampler, {}).setdefault(int(seed), {}).update(one)
    print(f"\n{problem}: regret in %, mean [95 %]; in brackets minus that of {DEFAULT} with the same seed")
    for sampler, seeds in found.items():
        cells = []
        for budget in map(str, BUDGETS):
            values = {seed: 100 * one[budget] for seed, one in seeds.items() if budget in one}
            default = {seed: 100 * one[budget] for seed, one in found.get(DEFAULT, {}).items() if budget in one}
            shared = sorted(values.keys() & default.keys())
            difference = [values[seed] - default[seed] for seed in shared]
            cells.append(f"{mean(list(values.values())):>24s} ({mean(difference, '+'):>22s})")
        milliseconds = np.median([one["milliseconds"] for one in seeds.values()])
        print(f"{sampler:24s} n={len(seeds):<4d} {' '.join(cells)}  {milliseconds:7.1f} ms a trial")


def mean(values: list[float], sign: str = "") -> str:
    """Format a mean with its 95 % t interval."""
    if len(values) < 2:
        return "-"
    centre, error = float(np.mean(values)), stats.sem(values)
    half = float(stats.t.ppf(0.975, len(values) - 1) * error)
    return f"{centre:{sign}.2f} [{centre - half:{sign}.2f}, {centre + half:{sign}.2f}]"


if __name__ == "__main__":
    main()
