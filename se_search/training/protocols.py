"""What an evaluator is given: the space that is searched, and a progress bar."""

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
    """Show nothing: the :data:`ProgressBar` of who does not want one."""
    yield lambda steps=1, line=None: None


class ConfigurationSource(Protocol):
    """What an evaluator may ask of the space that is searched."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site at which a configuration of the space may have an SE block."""

    def draw(self, rng: random.Random) -> SEConfig:
        """Draw a configuration."""

    def largest(self) -> SEConfig:
        """Return a configuration with the widest SE block at every site of one position."""

    def widen(self, config: SEConfig) -> SEConfig:
        """Return the widest relative of a configuration: its gate and positions, the widest block at each of them."""
