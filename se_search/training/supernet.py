"""The weight-sharing evaluator: one network, trained once, that holds every configuration of a space."""

import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

from ..data.image_data import ImageData, batches, sample
from ..files import write_text
from ..memory import memory_told
from ..network.attention.kind import PlacedAttention
from ..network.attention.layers import Elastic
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.insertion import attach, create_model, write_weights
from ..network.sites import Site, find_places
from .distributed import Team, together
from .evaluator import Evaluation, evaluate_network
from .protocols import ConfigurationSource, ProgressBar, no_progress
from .recipe import Losses, Training, TrainingRecipe, autocast, label_smoothing, load_weights, prepare_network

WEIGHTS = "supernet.safetensors"
SUMMARY = "supernet.json"
CHECKPOINT = "supernet.checkpoint.pt"

_KEPT_STATISTICS = 128
# A network without SE is one point of a large space, but the one that all are compared with. With every second step it
# takes so much of the training that the gates of the others hardly develop: on digits-context none is learned.
_STEPS_PER_BARE = 4
_LEAST_IMPROVEMENT = 0.001


class Supernet:
    """The ordinary network with an elastic block at every site, shared by all configurations of a space.

    Args:
        backbone: A timm architecture name.
        widest: The widest block of each site.
        data: What to train and evaluate on.
        recipe: How to train.
        device: A torch device.
        recalibration_images: Training images from which normalisation statistics are estimated anew for each
            configuration; all where there are no more.
        distillation: Share of the smaller network's loss that is about the outputs of the larger one instead of the
            labels, 0 to 1.
        patience: Epochs without a lower training loss (by 0.1 %) after which training ends; ``None`` trains on.
    """

    shared_files = (WEIGHTS, SUMMARY)

    def __init__(
        self,
        backbone: str,
        widest: Iterable[PlacedAttention],
        data: ImageData,
        recipe: TrainingRecipe,
        device: str = "cpu",
        recalibration_images: int = 512,
        distillation: float = 0.0,
        patience: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.data = data
        self.recipe = recipe
        self.device = torch.device(device)
        self._recalibration_images = recalibration_images
        self._distillation = distillation
        self._patience = patience
        torch.manual_seed(recipe.seed)
        self._options = network_options(backbone, data.input_size) | {"num_classes": data.classes}
        self.model = create_model(SEConfig(backbone), **self._options)
        self._elastic: dict[Site, Elastic] = {}
        places = {(site.block, site.position): place for site, place in find_places(self.model).items()}
        for block in widest:
            site, place = block.site, places[block.site.block, block.site.position]
            kept = self.model.get_submodule(place.host) if place.side == "existing" else None
            self._elastic[site] = block.create_elastic(kept)
            attach(self.model, site, place, self._elastic[site])
        prepare_network(self.model, recipe, self.device)
        names = {module: name for name, module in self.model.named_modules()}
        self._names = {site: names[elastic] for site, elastic in self._elastic.items()}
        self._statistics: dict[Any, dict[str, torch.Tensor]] = {}

    def select(self, config: SEConfig) -> None:
        """Switch the blocks of ``config`` on and all others off; existing attention stays where nothing is said."""
        for site, elastic in self._elastic.items():
            elastic.select(None)
            if elastic.kept is not None and site not in config.removed:
                elastic.keep()
        for placed in config.placed:
            placed.select_in(self._elastic[placed.site])

    def prepare(self, folder: Path, space: ConfigurationSource, progress_bar: ProgressBar) -> None:
        """Train the shared network on ``space``, see :meth:`train`."""
        self.train(folder, space.draw, space.widen, progress_bar)

    def assist(self, space: ConfigurationSource, team: Team) -> None:
        """Take part in the training that the first process of a team does, and write nothing.

        Raises:
            EvaluationError: If the training loss is not finite, or another process does not answer.
        """
        self._train(space.draw, space.widen, no_progress, None, team)

    def train(
        self,
        folder: Path,
        draw: Callable[[random.Random], SEConfig],
        widen: Callable[[SEConfig], SEConfig],
        progress_bar: ProgressBar,
    ) -> None:
        """Train, or go on from the last whole epoch that ``folder`` holds, or load what is trained already.

        Each step sums the gradients of two networks, after the sandwich rule of slimmable networks (Yu and Huang 2019):
        the widest relative of a configuration drawn at random, and the configuration itself, or in every fourth step
        no SE. The smaller one can learn from the outputs of the widest too (their in-place distillation).

        Where torchrun has started several processes, the others :meth:`assist`.

        Args:
            folder: Where checkpoints and the trained weights are kept.
            draw: Draws a random configuration of the space.
            widen: Returns the widest relative of a configuration: with its gate and positions, the widest blocks.
            progress_bar: As :func:`se_search.progress.progress_bar`.

        Raises:
            EvaluationError: If the training loss is not finite, or another process does not answer.
            RunFolderError: If kept weights are damaged.
        """
        kept = (folder / WEIGHTS).exists() and (folder / SUMMARY).exists()
        with together(self.device, not kept) as team:
            training = None if kept else self._train(draw, widen, progress_bar, folder / CHECKPOINT, team)
        if training is None:
            self.load(folder)
        else:
            self.model.load_state_dict(training.evaluated.state_dict())
            self._statistics.clear()
            write_weights(self.model, folder / WEIGHTS)
            write_text(folder / SUMMARY, json.dumps({"backbone": self.backbone, "epochs": training.history}, indent=2))
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def _train(
        self,
        draw: Callable[[random.Random], SEConfig],
        widen: Callable[[SEConfig], SEConfig],
        progress_bar: ProgressBar,
        checkpoint: Path | None,
        team: Team | None,
    ) -> Training:
        training = Training(self.model, self.recipe, self.data, self.device, checkpoint, team)
        losses = self._losses(training, draw, widen)
        total, done = self.recipe.epochs * training.steps, len(training.history) * training.steps
        with progress_bar("Training the supernet", total, done) as advance:
            for epoch in training.epochs(losses, advance):
                advance(0, training.describe(epoch))
                if self._is_on_a_plateau(training):
                    advance(0, f"the training loss has not fallen for {self._patience} epochs: training ends")
                    break
        return training

    def _losses(
        self,
        training: Training,
        draw: Callable[[random.Random], SEConfig],
        widen: Callable[[SEConfig], SEConfig],
    ) -> Losses:
        bare = SEConfig.without_attention(self.backbone)
        smoothing = label_smoothing(self.recipe)

        def outputs(config: SEConfig, images: torch.Tensor) -> torch.Tensor:
            self.select(config)
            with autocast(self.recipe, self.device):
                return self.model(images).float()

        def losses(images: torch.Tensor, targets: torch.Tensor) -> Iterator[torch.Tensor]:
            # From PyTorch's generator, whose seed is the epoch's: a resumed training draws the same.
            drawn = draw(random.Random(int(torch.randint(2**62, ()))))
            widest = outputs(widen(drawn), images)
            yield F.cross_entropy(widest, targets, label_smoothing=smoothing)
            smaller = outputs(bare if training.step % _STEPS_PER_BARE == 0 else drawn, images)
            from_labels = F.cross_entropy(smaller, targets, label_smoothing=smoothing)
            from_widest = F.cross_entropy(smaller, widest.detach().softmax(1))
            yield from_labels + self._distillation * (from_widest - from_labels)

        return losses

    def _is_on_a_plateau(self, training: Training) -> bool:
        if self._patience is None or len(training.history) <= self._patience:
            return False
        losses = [epoch["loss"] for epoch in training.history]
        before, since = min(losses[: -self._patience]), min(losses[-self._patience :])
        return since > before * (1 - _LEAST_IMPROVEMENT)

    def load(self, folder: Path) -> None:
        """Load the trained weights that ``folder`` holds.

        Raises:
            RunFolderError: If they are missing, damaged or of another network.
        """
        load_weights(self.model, folder / WEIGHTS, "run the search to its end first")
        self._statistics.clear()

    def evaluate(self, config: SEConfig) -> Evaluation:
        """Evaluate a configuration on the validation images after recalibrating normalisation statistics.

        Raises:
            EvaluationError: If the network's outputs are not finite.
        """
        self._select_recalibrated(config)
        return evaluate_network(self.model, self.data.validation, self.recipe.batch, self.device, self.recipe)

    def slice(self, config: SEConfig) -> nn.Module:
        """Return the plain network of ``config`` with its slice of the shared weights, in evaluation mode on the CPU.

        Its normalisation statistics are those of :meth:`evaluate`, so its outputs are too.
        """
        self._select_recalibrated(config)
        shared = {name: value.cpu() for name, value in self.model.state_dict().items()}
        elastic = tuple(f"{name}." for name in self._names.values())
        state = {name: value for name, value in shared.items() if not name.startswith(elastic)}
        for site, one in self._elastic.items():
            if one.keeps:
                own = f"{self._names[site]}."
                kept = {name: value for name, value in shared.items() if name.startswith(f"{own}kept.")}
                state |= {own + name.removeprefix(f"{own}kept."): value for name, value in kept.items()}
        for placed in config.placed:
            sliced = placed.slice_of(self._elastic[placed.site])
            state |= {f"{self._names[placed.site]}.{name}": value.cpu() for name, value in sliced.items()}
        model = create_model(config, **self._options)
        model.load_state_dict(state)
        return model.eval()

    def network(self, config: SEConfig) -> nn.Module:
        """Return the plain network of ``config``, see :meth:`slice`."""
        return self.slice(config)

    @memory_told()
    def _select_recalibrated(self, config: SEConfig) -> None:
        self.select(config)
        known = self._statistics.get(config.structure)
        if known is None:
            images = sample(self.data.calibration, self._recalibration_images, self.recipe.seed)
            with autocast(self.recipe, self.device):
                drawn = batches(images, self.recipe.batch, workers=self.recipe.workers)
                # Normalisation over a batch needs two images.
                update_bn((one for one in drawn if len(one[0]) > 1), self.model, self.device)
            if len(self._statistics) == _KEPT_STATISTICS:
                del self._statistics[next(iter(self._statistics))]
            known = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
            self._statistics[config.structure] = known
        self.model.load_state_dict(known, strict=False)
        self.model.eval()
