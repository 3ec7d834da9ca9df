"""Evolutionary search as in Once-for-All (Cai et al. 2020) with a trained supernet.

Settings are those of ``ofa/nas/search_algorithm/evolution.py`` in https://github.com/mit-han-lab/once-for-all: the best
quarter of a population are parents; half of the children are mutations, which redraw each choice with probability 0.1;
half are crossovers, which take each choice from one of two parents; parents stay in the population. Three things
differ. Instead of 100 over 500 generations, the population is a quarter of the budget, because evaluations are not
free without a predictor. Instead of one constraint there is a front, so the best are the first fronts, spread by
overhead if one does not fit. A child that was evaluated before is replaced.
"""

import random
from collections.abc import Iterable, Mapping, Sequence

from baselines import Evaluate, Values, draw_new, pareto_front, spread
from se_search import SEConfig
from se_search.study.space import SearchSpace

MUTATION_PROBABILITY = 0.1
PARENT_RATIO = 0.25
MUTATION_RATIO = 0.5


def search(evaluate: Evaluate, space: SearchSpace, budget: int, seed: int) -> list[SEConfig]:
    """Search; fewer configurations than the budget where no new one is left."""
    rng = random.Random(seed)
    size = max(4, budget // 4)
    known: dict[SEConfig, Values] = {}
    parents: list[SEConfig] = []
    while len(known) < budget:
        children: list[SEConfig] = []
        for place in range(min(size, budget - len(known))):
            child = new_child(space, parents, place < MUTATION_RATIO * size, known, rng)
            if child is None:
                return list(known)
            children.append(child)
            known[child] = evaluate(child)
        population = {one: known[one] for one in [*parents, *children]}
        parents = best(population, max(2, round(PARENT_RATIO * size)))
    return list(known)


def new_child(
    space: SearchSpace, parents: Sequence[SEConfig], is_mutation: bool, known: Iterable[SEConfig], rng: random.Random
) -> SEConfig | None:
    """Make a child that is not known; draw one at random where there are no parents or they have no new one."""
    child = draw_new(lambda: breed(space, parents, is_mutation, rng), known) if parents else None
    return child or draw_new(lambda: space.draw(rng), known)


def breed(space: SearchSpace, parents: Sequence[SEConfig], is_mutation: bool, rng: random.Random) -> SEConfig:
    """Make a child: a mutation of one parent or a crossover of two."""
    first, second = (space.to_parameters(rng.choice(parents)) for _ in range(2))
    child = {}
    for name, distribution in space.distributions.items():
        if is_mutation:
            child[name] = rng.choice(distribution.choices) if rng.random() < MUTATION_PROBABILITY else first[name]
        else:
            child[name] = rng.choice([first[name], second[name]])
    return space.to_config(child)


def best(evaluated: Mapping[SEConfig, Values], count: int) -> list[SEConfig]:
    """Return the first fronts, the last one that is needed spread by overhead."""
    rest = dict(evaluated)
    chosen: list[SEConfig] = []
    while rest and len(chosen) < count:
        front = spread(pareto_front(rest), count - len(chosen))
        chosen += front
        rest = {one: values for one, values in rest.items() if one not in front}
    return chosen
