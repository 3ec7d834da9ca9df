"""Training loop of all evaluators, on timm's optimizers, schedules, mixup, gradient clipping and EMA."""

import io
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import nn

from ..data.image_data import ImageData, ImageSet, batches
from ..errors import DivergenceError, RunFolderError
from ..files import open_regular, write_atomically
from ..memory import memory_told
from ..progress import Phase
from .distributed import Share, Team, size
from .protocols import ProgressBar
from .tuning import Tuning

_LEAST_IMPROVEMENT = 0.001

# timm's names of PyTorch's optimizers that update all weights in one pass over memory. SGD can too, but then fails for
# blocks of a supernet that get their first gradient later than others.
_FUSED = ("adam", "adamw")

_TIMED_STEPS = 3
_TIMED_SECONDS = 5.0

Losses = Callable[[torch.Tensor, torch.Tensor], Iterable[torch.Tensor]]
"""Function from images and targets to the losses of one step, whose gradients are added.

Targets are class indices, or class probabilities with mixup or CutMix."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Hyperparameters of a training.

    Attributes:
        epochs: Number of epochs.
        batch: Batch size.
        optimizer: Name of an optimizer in ``timm.optim``.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay; biases and norms have none, as in timm.
        scheduler: Name of a schedule in ``timm.scheduler`` that needs only the number of epochs.
        warm_up: Share of the training during which the learning rate rises linearly to its peak.
        clip_gradient: Maximum gradient norm; ``None`` disables clipping.
        label_smoothing: Share of each label that is distributed over all classes.
        mixup: Alpha of mixup; 0 disables it.
        cutmix: Alpha of CutMix; 0 disables it.
        ema_decay: Decay of an exponential moving average of the weights, which is then evaluated; ``None`` evaluates
            the weights themselves.
        precision: ``"float32"``, or ``"bfloat16"`` for automatic mixed precision in training and evaluation.
        channels_last: Whether to use the channels_last memory format.
        compile: Whether to train with ``torch.compile``.
        workers: Number of data loader processes; 0 loads in this process.
        seed: Seed of batches, augmentation and all other random numbers in training.
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.05
    optimizer: str = "adamw"
    scheduler: str = "cosine"
    warm_up: float = 0.1
    clip_gradient: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float | None = None
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    workers: int = 0
    seed: int = 0


@dataclass(frozen=True)
class StepTimes:
    """Duration of training steps (s).

    Attributes:
        first: The first step, which starts processes that load images and compiles.
        usual: Each of the others.
    """

    first: float
    usual: float

    def of(self, steps: int) -> float:
        """Return the duration of a training."""
        return self.first + (steps - 1) * self.usual


class _EnoughError(Exception):
    """Ends a training whose steps are timed."""


class Training:
    """Resumable training of one network, epoch by epoch.

    Args:
        model: The network; it is moved to ``device``.
        recipe: The hyperparameters.
        data: The data.
        device: A torch device.
        checkpoint: File for a checkpoint after each epoch. Training resumes from an existing one.
        team: Process group for data-parallel training, with a share of each batch per rank. All ranks resume from the
            checkpoint of rank 0; the other ranks give none. Batch norms see their rank's share, and the statistics of
            rank 0 are kept.
        tuning: Which weights learn, and how fast; all at the same rate by default.

    Attributes:
        history: ``loss`` (mean over steps) and ``seconds`` of each finished epoch, and ``processes`` with a ``team``.
        steps: Steps per epoch.
        step: Current step, counted from the start of the training.

    Raises:
        RunFolderError: If the checkpoint is damaged.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: TrainingRecipe,
        data: ImageData,
        device: torch.device | str,
        checkpoint: Path | None = None,
        team: Team | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self.model = prepare_network(model, recipe, device)
        self.recipe = recipe
        self.history: list[dict[str, float]] = []
        self.steps = math.ceil(len(data.train) / recipe.batch)
        self.step = 0
        self._data = data
        self._images: ImageSet = data.train if team is None else Share(data.train, team)
        self._checkpoint = checkpoint
        self._team = team
        self._device = torch.device(device)
        self._tuning = tuning
        if tuning is not None:
            tuning.freeze(self.model)
        self._optimizer = create_optimizer_v2(
            self.model,
            opt=recipe.optimizer,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            param_group_fn=None if tuning is None else lambda model: tuning.groups(model, recipe.weight_decay),
            **({"fused": True} if recipe.optimizer in _FUSED else {}),
        )
        self._scheduler, _ = create_scheduler_v2(
            self._optimizer,
            sched=recipe.scheduler,
            num_epochs=recipe.epochs,
            warmup_epochs=recipe.warm_up * recipe.epochs,
            warmup_lr=recipe.learning_rate / 100,
            step_on_epochs=False,
            updates_per_epoch=self.steps,
        )
        self._average = None if recipe.ema_decay is None else ModelEmaV3(self.model, recipe.ema_decay, use_warmup=True)
        self._mixup = None
        if recipe.mixup or recipe.cutmix:
            self._mixup = Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                label_smoothing=recipe.label_smoothing,
                num_classes=data.classes,
            )
        if checkpoint is not None and checkpoint.exists():
            self._load(checkpoint)
        if team is not None:
            self._broadcast_state(team)

    @property
    def evaluated(self) -> nn.Module:
        """The network to evaluate: the weight average if there is one."""
        return self.model if self._average is None else self._average.module

    def epochs(self, losses: Losses, advance: Callable[..., None] = lambda steps: None) -> Iterator[int]:
        """Train the remaining epochs; yield the number of finished epochs after each.

        Args:
            losses: The losses of one step.
            advance: Called with 1 after each step.

        Raises:
            EvaluationError: If a loss is not finite, memory runs out, or another rank does not respond.
        """
        for epoch in range(len(self.history), self.recipe.epochs):
            start = time.perf_counter()
            loss = self._train_epoch(epoch, losses, advance)
            self.history.append({"loss": loss, "seconds": time.perf_counter() - start})
            if self._team is not None:
                self._merge_epochs(self._team)
            if self._checkpoint is not None:
                write_atomically(self._checkpoint, lambda path: path.write_bytes(self._packed_state()))
            yield epoch + 1

    def finish(self, advance: Callable[..., None] = lambda steps: None) -> nn.Module:
        """Train a network for the remaining epochs, see :meth:`epochs`; return the one to evaluate."""
        for _ in self.epochs(classification_losses(self.model, self.recipe), advance):
            pass
        return self.evaluated.eval()

    def run(self, losses: Losses, progress_bar: ProgressBar, title: str, patience: int | None = None) -> None:
        """Train the remaining epochs, or until :meth:`is_on_plateau`, with a progress bar and a line for each epoch.

        Raises:
            EvaluationError: As :meth:`epochs`.
        """
        total = self.recipe.epochs
        with progress_bar(title, total * self.steps, len(self.history) * self.steps) as advance:
            for epoch in self.epochs(losses, advance):
                last = self.history[-1]
                advance(0, f"epoch {epoch}/{total}: training loss {last['loss']:.4f}, {last['seconds']:.1f} s")
                if self.is_on_plateau(patience):
                    advance(0, f"the training loss has not fallen for {patience} epochs: training ends")
                    break

    def time_steps(self, losses: Losses) -> StepTimes:
        """Time a few steps, which change the weights; nothing is written.

        Raises:
            EvaluationError: As :meth:`epochs`.
        """
        ends = [time.perf_counter()]

        def advance(_: int) -> None:
            ends.append(time.perf_counter())
            if len(ends) > _TIMED_STEPS + 1 or (len(ends) > 2 and ends[-1] - ends[0] > _TIMED_SECONDS):
                raise _EnoughError

        with suppress(_EnoughError):
            self._train_epoch(0, losses, advance)
        first, *others = (after - before for before, after in itertools.pairwise(ends))
        return StepTimes(first, statistics.median(others or [first]))

    def as_phase(self, title: str, times: StepTimes) -> Phase:
        """Return a training of all epochs as a phase; the processes of torchrun share each step."""
        return Phase(title, self.recipe.epochs * self.steps, times.usual / size())

    def is_on_plateau(self, patience: int | None) -> bool:
        """Whether the loss of the last ``patience`` epochs is not at least 0.1 % below that of the epochs before."""
        if patience is None or len(self.history) <= patience:
            return False
        losses = [epoch["loss"] for epoch in self.history]
        return min(losses[-patience:]) > min(losses[:-patience]) * (1 - _LEAST_IMPROVEMENT)

    @memory_told()
    def _train_epoch(self, epoch: int, losses: Losses, advance: Callable[..., None]) -> float:
        recipe = self.recipe
        # Random numbers depend on seed and epoch only, so that a resumed training takes the same steps.
        seed = recipe.seed * 1_000_003 + epoch
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # used by timm's mixup
        self.model.train()
        if self._tuning is not None:
            self._tuning.set_modes(self.model)
        seen = _SeenLosses(epoch)
        drawn = batches(self._images, recipe.batch, seed, recipe.workers, self._device.type == "cuda")
        # A share can be empty if a batch is small or unreadable. All ranks still take the same number of steps.
        for step, batch in zip(range(self.steps), itertools.chain(drawn, itertools.repeat(None)), strict=False):
            seen.check()
            self.step = epoch * self.steps + step
            if self._team is not None:
                self._team.sync_random_state()
            self._optimizer.zero_grad()
            values, images = self._add_gradients(batch, losses)
            if self._team is not None:
                values = self._team.average_gradients(self.model, values, images)
            advance(1)
            if not values:
                continue
            seen.add(step, values)
            if recipe.clip_gradient is not None:
                dispatch_clip_grad(self.model.parameters(), recipe.clip_gradient)
            self._optimizer.step()
            done = self.step + 1
            self._scheduler.step_update(done)
            if self._average is not None:
                self._average.update(self.model, step=done)
        return seen.mean()

    def _add_gradients(
        self, batch: tuple[torch.Tensor, torch.Tensor] | None, losses: Losses
    ) -> tuple[list[torch.Tensor], int]:
        """Add the gradients of one step; return its losses and the number of images.

        A step with fewer than two images is skipped, because batch normalisation needs two.
        """
        if batch is None or len(batch[0]) < 2:
            return [], 0
        images, targets = to_device(batch[0], self.recipe, self._device), batch[1].to(self._device, non_blocking=True)
        if self._mixup is not None:
            even = len(images) // 2 * 2
            images, targets = self._mixup(images[:even], targets[:even])
        values = []
        for loss in losses(images, targets):
            if loss.requires_grad:  # not if all weights that it depends on are frozen
                loss.backward()  # type: ignore[no-untyped-call]
            values.append(loss.detach())
        return values, len(images)

    def _broadcast_state(self, team: Team) -> None:
        """Copy weights, optimizer and history from rank 0."""
        state = team.broadcast(self._packed_state() if team.rank == 0 else b"")
        if team.rank > 0:
            self._set_state(torch.load(io.BytesIO(state), map_location=self._device, weights_only=True))

    def _merge_epochs(self, team: Team) -> None:
        """Use rank 0's history entry for the last epoch, and collect the unreadable images of all ranks."""
        unreadable = getattr(self._data.train, "unreadable", None)
        notes = team.gather((self.history[-1], [] if unreadable is None else sorted(unreadable.names)))
        self.history[-1] = notes[0][0] | {"processes": team.size}
        if unreadable is not None:
            unreadable.add([name for _, names in notes for name in names])

    def _packed_state(self) -> bytes:
        """Serialise the state in memory: ``torch.save`` to a full disk raises another exception type."""
        held = io.BytesIO()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": None if self._average is None else self._average.module.state_dict(),
            "history": self.history,
        }
        torch.save(state, held)
        return held.getvalue()

    def _set_state(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.module.load_state_dict(state["average"])
        self.history = list(state["history"])

    def _load(self, checkpoint: Path) -> None:
        try:
            with open_regular(checkpoint) as file:
                self._set_state(torch.load(file, map_location=self._device, weights_only=True))
        except Exception as error:  # torch.load and load_state_dict raise many exception types for a damaged file
            raise RunFolderError(
                f"{checkpoint} is damaged ({type(error).__name__}): delete it to train again"
            ) from error


class _SeenLosses:
    """The losses of an epoch.

    They are read when the next batch is there: reading one waits for the device, which can work until then.
    """

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._read: list[float] = []
        self._last: tuple[int, Sequence[torch.Tensor]] = 0, ()

    def add(self, step: int, losses: Sequence[torch.Tensor]) -> None:
        """Keep the losses of a step until :meth:`check`."""
        self._last = step, losses

    def check(self) -> None:
        """Read the losses of the last step.

        Raises:
            DivergenceError: If one is not finite.
        """
        step, losses = self._last
        for value in map(float, losses):
            if not math.isfinite(value):
                raise DivergenceError(
                    f"the training loss is {value} in epoch {self._epoch + 1}, step {step + 1}: "
                    "lower the study's learning_rate or set its clip_gradient"
                )
            self._read.append(value)
        self._last = step, ()

    def mean(self) -> float:
        """Return the mean of all losses, see :meth:`check`."""
        self.check()
        return float(np.mean(self._read))


def classification_losses(model: nn.Module, recipe: TrainingRecipe) -> Losses:
    """Return the cross-entropy loss with the recipe's label smoothing and precision."""
    trained = torch.compile(model) if recipe.compile else model
    smoothing = label_smoothing(recipe)

    def losses(images: torch.Tensor, targets: torch.Tensor) -> Iterator[torch.Tensor]:
        with autocast(recipe, images.device):
            logits = trained(images)
        yield F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)

    return losses


def label_smoothing(recipe: TrainingRecipe) -> float:
    """Return the label smoothing of the loss; 0 with mixup or CutMix, which smooth the targets."""
    return 0.0 if recipe.mixup or recipe.cutmix else recipe.label_smoothing


@memory_told()
def prepare_network(model: nn.Module, recipe: TrainingRecipe, device: torch.device | str) -> nn.Module:
    """Move a network to the device and the recipe's memory format, in place, and return it."""
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if recipe.channels_last else model


def to_device(images: torch.Tensor, recipe: TrainingRecipe, device: torch.device) -> torch.Tensor:
    """Move images to the device and the recipe's memory format."""
    memory_format = torch.channels_last if recipe.channels_last else torch.preserve_format
    return images.to(device, non_blocking=True, memory_format=memory_format)


def autocast(recipe: TrainingRecipe, device: torch.device) -> torch.autocast:
    """Return the autocast context for the recipe's precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")


def count_bytes(model: nn.Module) -> int:
    """Return the size of a network's weights in a file."""
    return sum(one.numel() * one.element_size() for one in model.state_dict().values())


def load_weights(model: nn.Module, file: Path, otherwise: str) -> None:
    """Load a safetensors file of a run folder into ``model``.

    Raises:
        RunFolderError: If the file is missing (with the advice ``otherwise``), damaged, or of another network.
    """
    if not file.is_file():
        raise RunFolderError(f"{file.parent} has no {file.name}: {otherwise}")
    try:
        model.load_state_dict(load_file(file))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunFolderError(
            f"{file} is damaged or of another network ({type(error).__name__}): delete it to train again"
        ) from error
