"""What people would do instead of se-search: baselines that share one interface.

Each module has a function ``search(evaluate, space, budget, seed)`` that returns the configurations it tried, in order.
``evaluate`` gives log-loss and parameter overhead, both to be minimised, and remembers what it has evaluated: asking
twice costs nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from se_search import SEConfig
from se_search.search.space import SearchSpace

Values = tuple[float, float]
Evaluate = Callable[[SEConfig], Values]
Search = Callable[[Evaluate, SearchSpace, int, int], list[SEConfig]]

_DRAWS = 1000


def pareto_front(evaluated: Mapping[SEConfig, Values]) -> list[SEConfig]:
    """Return the configurations that no other one dominates, by rising overhead."""
    if not evaluated:
        return []
    values = np.array(list(evaluated.values()))
    front = [one for one, own in zip(evaluated, values, strict=True) if not _is_dominated(own, values)]
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


def _is_dominated(own: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> bool:
    return bool(((values <= own).all(1) & (values < own).any(1)).any())
