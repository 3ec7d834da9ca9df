"""Interfaces of what an evaluator receives: the search space and a progress bar."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from ..network.config import SEConfig
from ..network.sites import Site

ProgressBar = Callable[[str, int, int], AbstractContextManager[Callable[..., None]]]
"""As :func:`se_search.progress.progress_bar`."""


@contextmanager
def no_progress(description: str, total: int, completed: int = 0) -> Iterator[Callable[..., None]]:
    """No-op :data:`ProgressBar`."""
    yield lambda steps=1, line=None: None


class ConfigurationSource(Protocol):
    """The search space, as far as an evaluator uses it."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites at which a configuration can have an SE block."""

    def draw(self, rng: random.Random) -> SEConfig:
        """Draw a random configuration."""

    def largest(self) -> SEConfig:
        """Return a configuration with the widest SE block at every site of one position."""

    def widen(self, config: SEConfig) -> SEConfig:
        """Return the configuration with the same gate and positions and the widest block at each of their sites."""
