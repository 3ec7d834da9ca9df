"""Ax with its default settings: multi-objective Bayesian optimisation.

Requires ``pip install ax-platform``; written for Ax 1.3.
"""

import logging
from collections.abc import Callable

from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig
from ax.exceptions.core import SearchSpaceExhausted
from ax.utils.common.logger import set_ax_logger_levels

Choice = str | int
Values = tuple[float, float]


def search(
    evaluate: Callable[[dict[str, Choice]], Values],
    distributions: dict[str, tuple[Choice, ...]],
    budget: int,
    seed: int,
) -> list[tuple[dict[str, Choice], Values]]:
    """Search for the front of two objectives.

    Ax begins with the middle of the space and four configurations of a Sobol sequence, then fits a Gaussian process to
    each objective and maximises the logarithm of the noisy expected hypervolume improvement. It cannot use the known
    values of the second objective.

    Args:
        evaluate: Returns log-loss and parameter overhead of a configuration, both to be minimised.
        distributions: Choices by name. Ax takes one type for each parameter and is given strings, without an order.
        budget: Number of evaluations.
        seed: Seed of Ax's random numbers.

    Returns:
        Configurations and their values in the order of evaluation: fewer than the budget where Ax finds no further one.
    """
    set_ax_logger_levels(logging.ERROR)
    free = {name: {str(choice): choice for choice in choices} for name, choices in distributions.items() if choices[1:]}
    fixed = {name: choices[0] for name, choices in distributions.items() if name not in free}

    client = Client(random_seed=seed)
    client.configure_experiment(
        [
            ChoiceParameterConfig(name=name, values=list(choices), parameter_type="str", is_ordered=False)
            for name, choices in free.items()
        ]
    )
    client.configure_optimization("-log_loss, -parameter_overhead")

    evaluated: list[tuple[dict[str, Choice], Values]] = []
    while len(evaluated) < budget:
        try:
            ((trial, proposed),) = client.get_next_trials(max_trials=1).items()
        except SearchSpaceExhausted:
            break
        parameters = fixed | {name: free[name][str(choice)] for name, choice in proposed.items()}
        log_loss, overhead = evaluate(parameters)
        client.complete_trial(trial, {"log_loss": log_loss, "parameter_overhead": overhead})
        evaluated.append((parameters, (log_loss, overhead)))
    return evaluated
