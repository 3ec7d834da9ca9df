"""Random search with a trained supernet: uniform over every parameter, without repetition."""

import random

from baselines import Evaluate, draw_new
from se_search import SEConfig
from se_search.study.space import SearchSpace


def search(evaluate: Evaluate, space: SearchSpace, budget: int, seed: int) -> list[SEConfig]:
    """Evaluate random configurations, until the budget or the space is exhausted."""
    rng = random.Random(seed)
    tried: list[SEConfig] = []
    while len(tried) < budget:
        config = draw_new(lambda: space.draw(rng), tried)
        if config is None:
            break
        evaluate(config)
        tried.append(config)
    return tried
