"""The supernet that starts from pretrained weights: before training, every configuration is the adapted backbone."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..network.attention.kind import PlacedAttention
from ..network.config import SEConfig
from ..progress import Phase
from .common_start import CommonStart
from .distributed import Team
from .evaluator import Effort
from .protocols import ConfigurationSource, ProgressBar
from .supernet import Supernet
from .tuning import Tuning


class PretrainedSupernet(Supernet):
    """The adapted backbone with an elastic block at every site, which has no effect before training.

    Norms keep the statistics of the adapted backbone, in training and evaluation. A configuration that is not trained
    therefore has exactly its outputs, unless it removes or replaces the backbone's own attention.

    Args:
        start: The backbone.
        widest: The widest block of each kind at each site, grouped by site.
        backbone_rate: Learning rate of the backbone relative to that of the inserted blocks; 0 freezes it.
        distillation: As in :class:`~se_search.training.supernet.Supernet`.
        patience: Likewise.
        recalibration_images: Number of training images over which constant gates are averaged.
    """

    def __init__(
        self,
        start: CommonStart,
        widest: Iterable[PlacedAttention],
        backbone_rate: float = 0.1,
        distillation: float = 0.0,
        patience: int | None = None,
        recalibration_images: int = 256,
    ) -> None:
        blocks = [block.at_identity() for block in widest]
        super().__init__(
            start.backbone,
            blocks,
            start.data,
            start.recipe,
            start.device,
            recalibration_images,
            distillation,
            patience,
        )
        self._start = start
        inserted = frozenset(
            f"{self._names[site]}.{name}"
            for site, elastic in self._elastic.items()
            for name, _ in elastic.named_parameters()
            if not name.startswith("kept.")
        )
        self._tuning = Tuning(inserted, backbone_rate)

    def select(self, config: SEConfig) -> None:
        """Switch the blocks of ``config`` on, with gates that start at one, and all others off."""
        super().select(config.starting_at_identity())

    def assist(self, space: ConfigurationSource, team: Team) -> None:
        """Join the adaptation and the training that rank 0 runs in :meth:`prepare`; write nothing.

        Raises:
            EvaluationError: If the training loss is not finite, or another rank does not respond.
        """
        self._start.assist(team)
        super().assist(space, team)

    def network(self, config: SEConfig) -> nn.Module:
        """Return the plain network of ``config``, whose gates start at one, as :meth:`evaluate` evaluates it."""
        return super().network(config.starting_at_identity())

    def _prepare_start(self, folder: Path, progress_bar: ProgressBar, team: Team | None) -> None:
        self._start.prepare(folder, progress_bar, team)
        state = self._start.load(folder).state_dict()
        for site, elastic in self._elastic.items():
            if elastic.kept is not None:
                own = f"{self._names[site]}."
                state = {
                    f"{own}kept.{name.removeprefix(own)}" if name.startswith(own) else name: value
                    for name, value in state.items()
                }
        self.model.load_state_dict(self.model.state_dict() | state)

    def estimate(self, folder: Path, space: ConfigurationSource) -> Effort:
        """Estimate adaptation, training and evaluation from a few steps of a copy."""
        effort = super().estimate(folder, space)
        return replace(effort, shared_bytes=2 * effort.shared_bytes)  # the adapted backbone is kept too

    def _shared_phases(self, folder: Path, space: ConfigurationSource) -> tuple[Phase, ...]:
        return self._start.phases(folder) + super()._shared_phases(folder, space)

    def _images_of_a_trial(self) -> int:
        return len(self.data.validation)  # statistics are not recalibrated

    def _networks(self, drawn: SEConfig, widest: SEConfig, step: int) -> tuple[SEConfig, ...]:
        """Return the drawn network; in every fourth step the one without SE and, two steps later, the widest.

        They rank as well as two networks a step, for half of the cost (``benchmarks/pretrained_fidelity.py``). From
        random weights, gates of one network a step hardly learn.
        """
        frozen = self._tuning is not None and self._tuning.rate == 0  # then the network without SE does not learn
        in_turn = (drawn if frozen else SEConfig.without_attention(self.backbone), drawn, widest, drawn)
        one = in_turn[step % len(in_turn)]
        return (widest, one) if self._distillation else (one,)

    def _select_calibrated(self, config: SEConfig) -> None:
        self.select(config)
        self.model.eval()
