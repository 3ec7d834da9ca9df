"""The fixed choices of the paper (Hu et al., section 6 of the journal version), without a search.

They are no SE, uniform reduction ratios, r=16 without the last stage and r=16 in a single stage, if the space contains
them. Each is trained stand-alone.
"""

from baselines import Evaluate
from se_search import SEConfig
from se_search.study.space import SearchSpace


def search(evaluate: Evaluate, space: SearchSpace, budget: int, seed: int) -> list[SEConfig]:
    """Evaluate them; the seed has no effect."""
    tried = list(dict.fromkeys([*space.known_answers().values(), *space.paper_variants().values()]))[:budget]
    for config in tried:
        evaluate(config)
    return tried
