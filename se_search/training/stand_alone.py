"""The stand-alone evaluators: each configuration is trained by itself, from scratch or from a common backbone."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ..data.image_data import ImageData
from ..files import write_text
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.insertion import create_model, insert, write_weights
from .distributed import Team, together
from .evaluator import Evaluation, evaluate_network, pool_seeds
from .pretrained import load_pretrained
from .protocols import ConfigurationSource, ProgressBar, no_progress
from .recipe import Training, TrainingRecipe, classification_losses, load_weights

NETWORKS = "networks"
BACKBONE_WEIGHTS = "backbone.safetensors"
BACKBONE_SUMMARY = "backbone.json"
BACKBONE_CHECKPOINT = "backbone.checkpoint.pt"


class Scratch:
    """Trains each configuration from scratch.

    All start from the same weights of the backbone and see the same batches in the same order, for each seed: their
    differences have far less noise than their values.

    Args:
        backbone: A timm architecture name.
        data: What to train and evaluate on.
        recipe: How to train; its seed is the first.
        device: A torch device.
        seeds: Trainings of each configuration, with seeds in a row.
        halving: Factor between the epochs of two rungs, for :meth:`rungs`.
    """

    def __init__(
        self,
        backbone: str,
        data: ImageData,
        recipe: TrainingRecipe,
        device: str = "cpu",
        seeds: int = 1,
        halving: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.data = data
        self.recipe = recipe
        self.device = device
        self.seeds = tuple(range(recipe.seed, recipe.seed + seeds))
        self.halving = halving
        self.options = network_options(backbone, data.input_size) | {"num_classes": data.classes}
        self._folder = Path()
        self._progress_bar: ProgressBar = no_progress

    def prepare(self, folder: Path, space: ConfigurationSource, progress_bar: ProgressBar) -> None:
        """Note where to keep the networks: nothing is shared, so nothing is trained."""
        self._folder = folder
        self._progress_bar = progress_bar
        (folder / NETWORKS).mkdir(exist_ok=True)

    def load(self, folder: Path) -> None:
        """Note where the networks are kept."""
        self._folder = folder

    def start(self, config: SEConfig, seed: int) -> nn.Module:
        """Return the network of ``config`` as it begins to train.

        The weights of the backbone depend on the seed alone.
        """
        torch.manual_seed(seed)
        return create_model(config, **self.options)

    def training(self, config: SEConfig, seed: int, checkpoint: Path | None = None) -> Training:
        """Return the training of ``config`` with one seed, at its start or where the checkpoint has left it."""
        return Training(self.start(config, seed), replace(self.recipe, seed=seed), self.data, self.device, checkpoint)

    def rungs(self, config: SEConfig) -> Iterator[tuple[int, Evaluation]]:
        """Train with the first seed up to each rung, then with the other seeds, and evaluate on the validation images.

        Without halving there is one rung, the end.
        """
        rungs = rung_epochs(self.recipe.epochs, self.halving)
        first: Evaluation | None = None
        for epochs, network in self._train(config, self.seeds[0], rungs):
            first = self._evaluate(network)
            if epochs < self.recipe.epochs:
                yield epochs, first
            else:
                self._keep(config, network)
        assert first is not None  # noqa: S101  # for mypy: the end is among the rungs
        evaluations = [first]
        for seed in self.seeds[1:]:
            for _, network in self._train(config, seed, ()):
                evaluations.append(self._evaluate(network))
        yield self.recipe.epochs, pool_seeds(evaluations)

    def evaluate(self, config: SEConfig) -> Evaluation:
        """Train with every seed and evaluate on the validation images.

        Raises:
            EvaluationError: If a loss or the outputs are not finite.
        """
        *_, (_, evaluation) = self.rungs(config)
        return evaluation

    def network(self, config: SEConfig) -> nn.Module:
        """Return the trained network of ``config`` (of the first seed), in evaluation mode on the CPU.

        Raises:
            RunFolderError: If its weights are missing or damaged.
        """
        model = self.start(config, self.seeds[0])
        load_weights(model, self._weights(config), "evaluate the configuration first")
        return model.eval()

    def _weights(self, config: SEConfig) -> Path:
        return self._folder / NETWORKS / f"{config.id}.safetensors"

    def _keep(self, config: SEConfig, network: nn.Module) -> None:
        write_weights(network, self._weights(config))

    def _evaluate(self, network: nn.Module) -> Evaluation:
        return evaluate_network(network, self.data.validation, self.recipe.batch, self.device, self.recipe)

    def _train(self, config: SEConfig, seed: int, rungs: tuple[int, ...]) -> Iterator[tuple[int, nn.Module]]:
        """Train, and give the network in evaluation mode at each rung and at the end."""
        training = self.training(config, seed)
        losses = classification_losses(training.model, self.recipe)
        with self._progress_bar(
            f"Training {config.id}, seed {seed}", self.recipe.epochs * training.steps, 0
        ) as advance:
            for epochs in training.epochs(losses, advance):
                if epochs in rungs or epochs == self.recipe.epochs:
                    yield epochs, training.evaluated.eval()


class Finetune(Scratch):
    """Trains each configuration from one common backbone, into which its SE blocks are inserted without an effect.

    Only a configuration that takes out attention of the backbone's own does not start at the backbone's accuracy.

    Args:
        backbone: A timm architecture name.
        data: What to train and evaluate on.
        recipe: How to train.
        device: A torch device.
        seeds: Trainings of each configuration, with seeds in a row.
        halving: Factor between the epochs of two rungs.
        pretrained: Where the backbone's weights come from: ``"timm"`` for those that timm downloads,
            ``"local-dir:FOLDER"`` for a folder that timm has saved, or the path of a checkpoint. ``None`` trains the
            backbone on the data first, with the same recipe.
    """

    shared_files = (BACKBONE_WEIGHTS, BACKBONE_SUMMARY)

    def __init__(
        self,
        backbone: str,
        data: ImageData,
        recipe: TrainingRecipe,
        device: str = "cpu",
        seeds: int = 1,
        halving: int | None = None,
        pretrained: str | None = None,
    ) -> None:
        super().__init__(backbone, data, recipe, device, seeds, halving)
        self._pretrained = pretrained
        self._common: nn.Module | None = None

    def prepare(self, folder: Path, space: ConfigurationSource, progress_bar: ProgressBar) -> None:
        """Load or train the common backbone, or take the one that ``folder`` holds.

        Where torchrun has started several processes, the others :meth:`assist`.

        Raises:
            EvaluationError: If it cannot be trained, or another process does not answer.
            RunFolderError: If what the folder holds is damaged.
        """
        super().prepare(folder, space, progress_bar)
        missing = not (folder / BACKBONE_WEIGHTS).exists()
        untrained = missing and self._pretrained is None
        with together(self.device, untrained) as team:
            training = self._train_common(progress_bar, folder / BACKBONE_CHECKPOINT, team) if untrained else None
        if missing:
            model = self._first_common() if training is None else training.evaluated
            epochs = [] if training is None else training.history
            origin = self._pretrained or f"{self.recipe.epochs} epochs on {self.data.name}"
            write_text(folder / BACKBONE_SUMMARY, json.dumps({"weights": origin, "epochs": epochs}, indent=2))
            write_weights(model, folder / BACKBONE_WEIGHTS)
            (folder / BACKBONE_CHECKPOINT).unlink(missing_ok=True)
        self._common = self._load_common(folder)

    def start(self, config: SEConfig, seed: int) -> nn.Module:
        """Return the common backbone with the SE blocks of ``config``, which have no effect yet."""
        if self._common is None:
            self._common = self._load_common(self._folder)
        torch.manual_seed(seed)
        return insert(copy.deepcopy(self._common), config, identity_start=True, input_size=self.data.input_size)

    def assist(self, space: ConfigurationSource, team: Team) -> None:
        """Take part in the training of the backbone that the first process of a team does, and write nothing.

        Raises:
            EvaluationError: If a loss is not finite, or another process does not answer.
        """
        self._train_common(no_progress, None, team)

    def _train_common(self, progress_bar: ProgressBar, checkpoint: Path | None, team: Team | None) -> Training:
        training = Training(self._first_common(), self.recipe, self.data, self.device, checkpoint, team)
        losses = classification_losses(training.model, self.recipe)
        total, done = self.recipe.epochs * training.steps, len(training.history) * training.steps
        with progress_bar("Training the backbone", total, done) as advance:
            for epoch in training.epochs(losses, advance):
                advance(0, training.describe(epoch))
        return training

    def _first_common(self) -> nn.Module:
        torch.manual_seed(self.recipe.seed)
        return load_pretrained(self.backbone, self._pretrained, self.options)

    def _load_common(self, folder: Path) -> nn.Module:
        model = create_model(SEConfig(self.backbone), **self.options)
        load_weights(model, folder / BACKBONE_WEIGHTS, "run the search first")
        return model


def rung_epochs(epochs: int, factor: int | None) -> tuple[int, ...]:
    """Return after how many epochs a training is judged: the end, a ``factor``-th of it, and so on down to one epoch.

    Args:
        epochs: Epochs of the whole training.
        factor: Factor between two rungs; ``None`` for one rung, the end.
    """
    rungs = [epochs]
    while factor is not None and rungs[0] // factor >= 1:
        rungs.insert(0, rungs[0] // factor)
    return tuple(rungs)
