"""Optuna study of a search."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna


class SearchStudy(optuna.Study):
    """An Optuna study that can write several attributes of a trial together."""

    @contextmanager
    def at_once(self) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
        """Write what belongs together; a storage without transactions of its own gets one attribute after the other.

        Yields:
            A function to call with the number of a running trial and what to set as its user attributes.
        """
        yield lambda number, attributes: set_attributes(self, number, attributes)


def set_attributes(study: optuna.Study, number: int, attributes: Mapping[str, Any]) -> None:
    """Set user attributes of a trial that is under way, whoever has asked for it.

    Args:
        study: The study.
        number: Number of the trial.
        attributes: Plain data.
    """
    storage = study._storage
    trial = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    for name, value in attributes.items():
        storage.set_trial_user_attr(trial, name, value)
