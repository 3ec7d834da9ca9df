"""The weight-sharing evaluator: one network, trained once, that holds every configuration of a space."""

import json
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset, Subset

from ..errors import EvaluationError, RunFolderError
from ..files import write_atomically, write_text
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.insertion import attach, create_model, whole_state
from ..network.se_block import ElasticSE
from ..network.sites import Site, find_places
from .data import ImageData
from .evaluator import Evaluation, ProgressBar, Space, evaluate_network

WEIGHTS = "supernet.safetensors"
SUMMARY = "supernet.json"
CHECKPOINT = "supernet.checkpoint.pt"


@dataclass(frozen=True)
class TrainingSchedule:
    """How the supernet is trained: AdamW with a one-cycle learning rate.

    Attributes:
        epochs: Passes over the training images.
        batch: Images in one step.
        learning_rate: Peak learning rate.
        weight_decay: AdamW's weight decay.
        recalibration_images: Training images from which normalisation statistics are estimated anew for each
            configuration.
        seed: Fixes initial weights, batches and the configurations drawn.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    recalibration_images: int
    seed: int


class Supernet:
    """The ordinary network with an elastic SE block at every site, shared by all configurations of a space.

    Args:
        backbone: A timm architecture name.
        widest: Hidden width of the widest SE block of each site.
        bias: Whether the SE blocks have biases.
        data: What to train and evaluate on.
        schedule: How to train.
        device: A torch device.
    """

    def __init__(
        self,
        backbone: str,
        widest: Mapping[Site, int],
        bias: bool,
        data: ImageData,
        schedule: TrainingSchedule,
        device: str = "cpu",
    ) -> None:
        self.backbone = backbone
        self.data = data
        self.schedule = schedule
        self.device = torch.device(device)
        torch.manual_seed(schedule.seed)
        self._options = network_options(backbone, data.input_size) | {"num_classes": data.classes}
        self.model = create_model(SEConfig(backbone), **self._options)
        self._elastic: dict[Site, ElasticSE] = {}
        places = {(site.block, site.position): place for site, place in find_places(self.model).items()}
        for site, hidden in widest.items():
            place = places[site.block, site.position]
            kept = self.model.get_submodule(place.host) if place.side == "existing" else None
            self._elastic[site] = ElasticSE(site.channels, hidden, bias, site.layout, kept)
            attach(self.model, site, place, self._elastic[site])
        self.model.to(self.device)
        names = {module: name for name, module in self.model.named_modules()}
        self._names = {site: names[block] for site, block in self._elastic.items()}

    def select(self, config: SEConfig) -> None:
        """Switch the SE blocks of ``config`` on and all others off; existing attention stays where nothing is said."""
        for site, block in self._elastic.items():
            block.select(None)
            if block.kept is not None and site not in config.removed:
                block.keep()
        for placed in config.placed:
            self._elastic[placed.site].select(placed.hidden, placed.gate)

    def prepare(self, folder: Path, space: Space, progress_bar: ProgressBar) -> None:
        """Train the shared network on ``space``, see :meth:`train`."""
        self.train(folder, space.draw, space.largest(), progress_bar)

    def train(
        self,
        folder: Path,
        draw: Callable[[random.Random], SEConfig],
        largest: SEConfig,
        progress_bar: ProgressBar,
    ) -> None:
        """Train, or go on from the last whole epoch that ``folder`` holds, or load what is trained already.

        Each step sums the gradients of one extreme (the largest configuration and no SE in turn) and of one
        configuration drawn at random: the sandwich rule of slimmable networks (Yu and Huang 2019) with its two ends
        alternating.

        Args:
            folder: Where checkpoints and the trained weights are kept.
            draw: Draws a random configuration of the space.
            largest: The configuration with the widest block at every site.
            progress_bar: As :func:`se_search.progress.progress_bar`.

        Raises:
            RunFolderError: If kept weights are damaged.
        """
        if (folder / WEIGHTS).exists() and (folder / SUMMARY).exists():
            self.load(folder)
            (folder / CHECKPOINT).unlink(missing_ok=True)
            return

        schedule = self.schedule
        steps = math.ceil(len(self.data.train) / schedule.batch)
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, schedule.learning_rate, epochs=schedule.epochs, steps_per_epoch=steps
        )
        history = self._resume(folder / CHECKPOINT, optimizer, scheduler)

        extremes = (largest, SEConfig(self.backbone))
        with progress_bar("Training the supernet", schedule.epochs * steps, len(history) * steps) as advance:
            for epoch in range(len(history), schedule.epochs):
                start = time.perf_counter()
                losses = self._train_epoch(epoch, extremes, draw, optimizer, scheduler, advance)
                history.append({"loss": float(np.mean(losses)), "seconds": time.perf_counter() - start})
                state = {
                    "model": self.model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "history": history,
                }
                write_atomically(folder / CHECKPOINT, lambda path, state=state: torch.save(state, path))  # type: ignore[misc]
                latest = history[-1]
                line = f"epoch {epoch + 1}/{schedule.epochs}: training loss {latest['loss']:.4f}"
                advance(0, f"{line}, {latest['seconds']:.1f} s")

        write_atomically(folder / WEIGHTS, lambda path: save_file(whole_state(self.model), path))
        write_text(folder / SUMMARY, json.dumps({"backbone": self.backbone, "epochs": history}, indent=2))
        (folder / CHECKPOINT).unlink()

    def _train_epoch(
        self,
        epoch: int,
        extremes: tuple[SEConfig, SEConfig],
        draw: Callable[[random.Random], SEConfig],
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        advance: Callable[..., None],
    ) -> list[float]:
        # Randomness depends on seed and epoch only, so that a resumed training takes the same steps.
        seed = self.schedule.seed * 1_000_003 + epoch
        torch.manual_seed(seed)
        drawing = random.Random(seed)
        loader = DataLoader(
            self.data.train, self.schedule.batch, shuffle=True, generator=torch.Generator().manual_seed(seed)
        )
        self.model.train()
        losses = []
        for step, (images, labels) in enumerate(loader):
            images, labels = images.to(self.device), labels.to(self.device)
            optimizer.zero_grad()
            for config in (extremes[step % 2], draw(drawing)):
                self.select(config)
                loss = F.cross_entropy(self.model(images), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(loss.item())
            optimizer.step()
            scheduler.step()
            advance()
        if not all(math.isfinite(loss) for loss in losses):
            raise EvaluationError(
                f"the supernet's training loss is {losses[-1]} after epoch {epoch + 1}: lower the study's learning_rate"
            )
        return losses

    def _resume(self, checkpoint: Path, optimizer: Any, scheduler: Any) -> list[dict[str, float]]:
        if not checkpoint.exists():
            return []
        try:
            state = torch.load(checkpoint, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
            return list(state["history"])
        except Exception as error:  # torch.load and load_state_dict raise many kinds for a damaged file
            raise RunFolderError(
                f"{checkpoint} is damaged ({type(error).__name__}): delete it to train again"
            ) from error

    def load(self, folder: Path) -> None:
        """Load the trained weights that ``folder`` holds.

        Raises:
            RunFolderError: If they are missing, damaged or of another network.
        """
        if not (folder / WEIGHTS).is_file():
            raise RunFolderError(f"{folder} has no {WEIGHTS}: run the search to its end first")
        try:
            self.model.load_state_dict(load_file(folder / WEIGHTS, device=str(self.device)))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise RunFolderError(
                f"{folder / WEIGHTS} is damaged or of another study ({type(error).__name__}): delete it to train again"
            ) from error

    def evaluate(self, config: SEConfig) -> Evaluation:
        """Evaluate a configuration on the validation images after recalibrating normalisation statistics.

        Raises:
            EvaluationError: If the network's outputs are not finite.
        """
        self._select_recalibrated(config)
        return evaluate_network(self.model, self.data.validation, self.schedule.batch, self.device, self.schedule.seed)

    def slice(self, config: SEConfig) -> nn.Module:
        """Return the plain network of ``config`` with its slice of the shared weights, in evaluation mode on the CPU.

        Its normalisation statistics are those of :meth:`evaluate`, so its outputs are too.
        """
        self._select_recalibrated(config)
        shared = {name: value.cpu() for name, value in self.model.state_dict().items()}
        elastic = tuple(f"{name}." for name in self._names.values())
        state = {name: value for name, value in shared.items() if not name.startswith(elastic)}
        for site, block in self._elastic.items():
            if block.keeps:
                own = f"{self._names[site]}."
                kept = {name: value for name, value in shared.items() if name.startswith(f"{own}kept.")}
                state |= {own + name.removeprefix(f"{own}kept."): value for name, value in kept.items()}
        for placed in config.placed:
            sliced = self._elastic[placed.site].slice_state(placed.hidden)
            state |= {f"{self._names[placed.site]}.{name}": value.cpu() for name, value in sliced.items()}
        model = create_model(config, **self._options)
        model.load_state_dict(state)
        return model.eval()

    def network(self, config: SEConfig) -> nn.Module:
        """Return the plain network of ``config``, see :meth:`slice`."""
        return self.slice(config)

    def _select_recalibrated(self, config: SEConfig) -> None:
        self.select(config)
        update_bn(DataLoader(self._recalibration_images(), self.schedule.batch), self.model, self.device)
        self.model.eval()

    def _recalibration_images(self) -> Dataset[Any]:
        order = torch.randperm(len(self.data.train), generator=torch.Generator().manual_seed(self.schedule.seed))
        return Subset(self.data.train, order[: self.schedule.recalibration_images].tolist())
