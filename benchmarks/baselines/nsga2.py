"""NSGA-II from Optuna with a trained supernet.

Optuna's population of 50 would make a search of 50 trials a random one: the population is a fifth of the budget here,
so that there are five generations. All else is Optuna's default.
"""

import optuna

from baselines import Evaluate, optimize
from se_search import SEConfig
from se_search.study.space import SearchSpace


def search(evaluate: Evaluate, space: SearchSpace, budget: int, seed: int) -> list[SEConfig]:
    """Search; a configuration that is proposed again uses up a trial, as it does in Optuna."""
    sampler = optuna.samplers.NSGAIISampler(population_size=max(4, budget // 5), seed=seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    return optimize(study, evaluate, space, budget)
