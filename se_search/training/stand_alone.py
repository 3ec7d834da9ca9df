"""The stand-alone evaluators: each configuration is trained independently, from scratch or from a common backbone."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..data.image_data import ImageData, sample
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.folding import fold_gates
from ..network.gates import find_gates
from ..network.insertion import create_model, insert, write_weights
from ..network.sites import find_places
from .common_start import BACKBONE_SUMMARY, BACKBONE_WEIGHTS, Adaptation, CommonStart
from .distributed import Team, together
from .evaluator import Effort, Evaluation, evaluate_network, pool_seeds, time_images
from .mean_gates import CALIBRATION_IMAGES, mean_gates
from .protocols import ConfigurationSource, ProgressBar, no_progress
from .recipe import Training, TrainingRecipe, classification_losses, count_bytes, load_weights
from .tuning import Tuning

NETWORKS = "networks"


@dataclass(eq=False, repr=False)
class Scratch:
    """Trains each configuration from scratch.

    With the same seed, all configurations start from the same backbone weights and see the same batches in the same
    order. Their differences are therefore much less noisy than their values.

    Attributes:
        backbone: A timm architecture name.
        data: Data to train and evaluate on.
        recipe: Hyperparameters; ``recipe.seed`` is the first seed.
        device: A torch device.
        seeds: Number of trainings of each configuration, with consecutive seeds.
        halving: Factor between the epochs of two rungs, for :meth:`rungs`.
        options: Arguments for ``timm.create_model`` that suit the data.
    """

    backbone: str
    data: ImageData
    recipe: TrainingRecipe
    device: str = "cpu"
    seeds: int = 1
    halving: int | None = None
    options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.options = network_options(self.backbone, self.data.input_size) | {"num_classes": self.data.classes}
        self._folder = Path()
        self._progress_bar: ProgressBar = no_progress

    def prepare(self, folder: Path, space: ConfigurationSource, progress_bar: ProgressBar) -> None:
        """Create the folder for trained networks; nothing is shared, so nothing is trained."""
        self._folder = folder
        self._progress_bar = progress_bar
        (folder / NETWORKS).mkdir(exist_ok=True)

    def load(self, folder: Path) -> None:
        """Read trained networks from ``folder``."""
        self._folder = folder

    def start(self, config: SEConfig, seed: int) -> nn.Module:
        """Return the untrained network of ``config``; the backbone's weights depend only on the seed."""
        torch.manual_seed(seed)
        return create_model(config, **self.options)

    def training(self, config: SEConfig, seed: int, checkpoint: Path | None = None) -> Training:
        """Return the training of ``config`` with one seed, resumed from the checkpoint if that exists."""
        return Training(self.start(config, seed), replace(self.recipe, seed=seed), self.data, self.device, checkpoint)

    def rungs(self, config: SEConfig) -> Iterator[tuple[int, Evaluation]]:
        """Train with each seed; yield evaluations of the first seed at each rung, then the mean over seeds at the end.

        Without halving the end is the only rung.
        """
        epochs = self.recipe.epochs
        rungs = rung_epochs(epochs, self.halving)
        evaluations: list[Evaluation] = []
        for seed in range(self.recipe.seed, self.recipe.seed + self.seeds):
            training = self.training(config, seed)
            losses = classification_losses(training.model, self.recipe)
            with self._progress_bar(f"Training {config.id}, seed {seed}", epochs * training.steps, 0) as advance:
                for done in training.epochs(losses, advance):
                    if done not in rungs or (done < epochs and evaluations):
                        continue
                    network = training.evaluated.eval()
                    evaluation = evaluate_network(
                        network, self.data.validation, self.recipe.batch, self.device, self.recipe
                    )
                    trained = tuple(epoch["loss"] for epoch in training.history)
                    evaluation = replace(evaluation, training_losses=(trained,))
                    if done < epochs:
                        yield done, evaluation
                        continue
                    if not evaluations:
                        write_weights(network, self._weights(config))
                    evaluations.append(evaluation)
        yield epochs, pool_seeds(evaluations)

    def evaluate(self, config: SEConfig) -> Evaluation:
        """Train with every seed and evaluate on the validation images.

        Raises:
            EvaluationError: If a loss or the outputs are not finite.
        """
        *_, (_, evaluation) = self.rungs(config)
        return evaluation

    def estimate(self, folder: Path, space: ConfigurationSource) -> Effort:
        """Estimate training and evaluation of a network from a few steps; halving can only take less."""
        training = self.training(space.largest(), self.recipe.seed)
        times = training.time_steps(classification_losses(training.model, self.recipe))
        evaluation = len(self.data.validation) * time_images(
            training.evaluated, self.data.validation, self.recipe, self.device
        )
        seconds = times.of(self.recipe.epochs * training.steps) + evaluation
        return Effort((), self.seeds * seconds, trial_bytes=count_bytes(training.model))

    def network(self, config: SEConfig) -> nn.Module:
        """Return the trained network of ``config`` (first seed), in evaluation mode on the CPU.

        Raises:
            RunFolderError: If its weights are missing or damaged.
        """
        model = self.start(config, self.recipe.seed)
        load_weights(model, self._weights(config), "evaluate the configuration first")
        return model.eval()

    def _weights(self, config: SEConfig) -> Path:
        return self._folder / NETWORKS / f"{config.id}.safetensors"


@dataclass(eq=False, repr=False)
class Finetune(Scratch):
    """Trains each configuration from a common backbone, into which SE blocks are inserted with identity start.

    Every configuration therefore starts at the backbone's accuracy, unless it removes existing attention.

    Attributes:
        pretrained: Weights of the backbone, as for :func:`~se_search.training.pretrained.load_pretrained`. ``None``
            trains the backbone on the data first, with the same recipe.
        adaptation: Adaptation of pretrained weights to the data; by default a classifier for other classes is trained.
        backbone_rate: Learning rate of the backbone relative to that of the inserted blocks.
    """

    pretrained: str | None = None
    adaptation: Adaptation | None = None
    backbone_rate: float = 1.0

    shared_files = (BACKBONE_WEIGHTS, BACKBONE_SUMMARY)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._start = CommonStart(self.backbone, self.data, self.recipe, self.device, self.pretrained, self.adaptation)
        self._common: nn.Module | None = None

    def prepare(self, folder: Path, space: ConfigurationSource, progress_bar: ProgressBar) -> None:
        """Load the common backbone from ``folder``, or load its pretrained weights or train it and save it there.

        Under torchrun, the other ranks :meth:`assist`.

        Raises:
            DefinitionError: If pretrained weights cannot be used.
            EvaluationError: If the training fails, or another rank does not respond.
            RunFolderError: If files in the folder are damaged.
        """
        super().prepare(folder, space, progress_bar)
        with together(self.device, self._start.trains(folder)) as team:
            self._start.prepare(folder, progress_bar, team)
        self._common = self._start.load(folder)

    def estimate(self, folder: Path, space: ConfigurationSource) -> Effort:
        """Estimate the training of the common backbone, and that and the evaluation of a network."""
        phases = self._start.phases(folder)
        backbone = create_model(SEConfig(self.backbone), **self.options)
        timed = copy.copy(self)
        timed._common = backbone
        effort = super(Finetune, timed).estimate(folder, space)
        return replace(effort, phases=phases, shared_bytes=count_bytes(backbone))

    def start(self, config: SEConfig, seed: int) -> nn.Module:
        """Return the common backbone with the SE blocks of ``config``, which have no effect yet.

        Attention that becomes constant has its mean gate in the common backbone.
        """
        return self._insert(config, seed)[0]

    def training(self, config: SEConfig, seed: int, checkpoint: Path | None = None) -> Training:
        """Return the training of ``config`` with one seed, resumed from the checkpoint if that exists."""
        model, inserted = self._insert(config, seed)
        tuning = None if self.backbone_rate == 1 else Tuning(inserted, self.backbone_rate, keeps_statistics=False)
        return Training(model, replace(self.recipe, seed=seed), self.data, self.device, checkpoint, tuning=tuning)

    def assist(self, space: ConfigurationSource, team: Team) -> None:
        """Join the training of the backbone that rank 0 runs in :meth:`prepare`; write nothing.

        Raises:
            EvaluationError: If a loss is not finite, or another rank does not respond.
        """
        self._start.assist(team)

    def _insert(self, config: SEConfig, seed: int) -> tuple[nn.Module, frozenset[str]]:
        """Return the network of ``config`` before training and the names of its inserted parameters."""
        model = copy.deepcopy(self._backbone)
        own = set(model.parameters())
        torch.manual_seed(seed)
        kept = replace(config, constant=())
        model = insert(model, kept, identity_start=True, input_size=self.data.input_size)
        inserted = frozenset(name for name, one in model.named_parameters() if one not in own)
        if not config.constant:
            return model, inserted
        places = find_places(config.backbone)
        gates = {places[site].host: self._mean_gates[places[site].host] for site in config.constant}
        return fold_gates(model, gates, self.data.input_size), inserted

    @property
    def _backbone(self) -> nn.Module:
        if self._common is None:
            self._common = self._start.load(self._folder)
        return self._common

    @cached_property
    def _mean_gates(self) -> dict[str, npt.NDArray[np.float64]]:
        """The mean gates of the common backbone's own attention."""
        model = copy.deepcopy(self._backbone).to(self.device).eval()
        images = sample(self.data.calibration, CALIBRATION_IMAGES, self.recipe.seed)
        return mean_gates(model, find_gates(model), images, self.recipe, str(self.device))


def rung_epochs(epochs: int, factor: int | None) -> tuple[int, ...]:
    """Return the epochs after which a training is evaluated: ``epochs``, ``epochs // factor`` and so on, ascending.

    ``factor`` is the ratio of two rungs; ``None`` gives one rung, the end.
    """
    rungs = [epochs]
    while factor is not None and rungs[0] // factor >= 1:
        rungs.insert(0, rungs[0] // factor)
    return tuple(rungs)
