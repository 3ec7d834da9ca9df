"""Baselines for se-search with a common interface.

Each module has a function ``search(evaluate, space, budget, seed)`` that returns the tried configurations in order.
``evaluate`` returns log-loss and parameter overhead, both to be minimised, and is cached: repeated calls cost
nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import optuna

from se_search import SEConfig
from se_search.sampling.fronts import is_on_front
from se_search.study.space import SearchSpace

Values = tuple[float, float]
Evaluate = Callable[[SEConfig], Values]
Search = Callable[[Evaluate, SearchSpace, int, int], list[SEConfig]]

_DRAWS = 1000


def pareto_front(evaluated: Mapping[SEConfig, Values]) -> list[SEConfig]:
    """Return the configurations that no other one dominates, by rising overhead."""
    if not evaluated:
        return []
    on_front = is_on_front(np.array(list(evaluated.values())))
    front = [one for one, is_member in zip(evaluated, on_front, strict=True) if is_member]
    return sorted(front, key=lambda one: evaluated[one][1])


def spread(front: Sequence[SEConfig], count: int) -> list[SEConfig]:
    """Return at most ``count`` of a sorted front, evenly spread by rank, both ends among them."""
    if len(front) <= count:
        return list(front)
    return [front[place] for place in np.linspace(0, len(front) - 1, count).round().astype(int)]


def draw_new(draw: Callable[[], SEConfig], tried: Iterable[SEConfig]) -> SEConfig | None:
    """Draw until a configuration is new; ``None`` after 1,000 vain draws."""
    known = set(tried)
    return next((one for one in (draw() for _ in range(_DRAWS)) if one not in known), None)


def optimize(study: optuna.Study, evaluate: Evaluate, space: SearchSpace, budget: int) -> list[SEConfig]:
    """Let a study propose; a configuration that is proposed again uses up a trial, as it does in Optuna."""
    tried = []

    def objective(trial: optuna.Trial) -> Values:
        parameters = {name: trial.suggest_categorical(name, one.choices) for name, one in space.distributions.items()}
        tried.append(space.to_config(parameters))
        return evaluate(tried[-1])

    study.optimize(objective, n_trials=budget)
    return tried
