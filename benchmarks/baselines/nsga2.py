"""NSGA-II from Optuna with a trained supernet.

With Optuna's population of 50, a search of 50 trials would be random. The population is therefore a fifth of the
budget, which gives five generations. Everything else is Optuna's default.
"""

import optuna

from baselines import Evaluate, optimize
from se_search import SEConfig
from se_search.study.space import SearchSpace


def search(evaluate: Evaluate, space: SearchSpace, budget: int, seed: int) -> list[SEConfig]:
    """Search; a repeated configuration uses up a trial, as in Optuna."""
    sampler = optuna.samplers.NSGAIISampler(population_size=max(4, budget // 5), seed=seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    return optimize(study, evaluate, space, budget)
