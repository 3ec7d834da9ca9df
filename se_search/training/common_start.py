"""The backbone from which all configurations start: trained or adapted once, and kept in the run folder."""

import functools
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.image_data import ImageData
from ..errors import DefinitionError, as_given
from ..files import write_text
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.insertion import create_model, write_weights
from ..progress import Phase
from .distributed import Team
from .pretrained import classifier_names, load_pretrained, pretrained_classes
from .protocols import ProgressBar, no_progress
from .recipe import Training, TrainingRecipe, classification_losses, load_weights
from .tuning import Tuning

BACKBONE_WEIGHTS = "backbone.safetensors"
BACKBONE_SUMMARY = "backbone.json"
BACKBONE_CHECKPOINT = "backbone.checkpoint.pt"


@dataclass(frozen=True)
class Adaptation:
    """Training of pretrained weights on the data.

    Attributes:
        epochs: Number of epochs.
        learning_rate: Peak learning rate.
        freeze: ``"backbone"`` trains only the classifier, ``"none"`` the whole network.
    """

    epochs: int = 4
    learning_rate: float = 0.002
    freeze: str = "backbone"


@dataclass(eq=False)
class CommonStart:
    """The backbone from which all configurations start.

    Without pretrained weights it is trained on the data by the recipe. Pretrained weights with as many classes as the
    data are taken as they are, unless there is an adaptation.

    Attributes:
        backbone: A timm architecture name.
        data: Data to train on.
        recipe: Hyperparameters; an adaptation replaces epochs and learning rate.
        device: A torch device.
        weights: As for :func:`~se_search.training.pretrained.load_pretrained`.
        adaptation: Of pretrained weights, by default only of a classifier for other classes.
        options: Arguments for ``timm.create_model`` that suit the data.
    """

    backbone: str
    data: ImageData
    recipe: TrainingRecipe
    device: str = "cpu"
    weights: str | None = None
    adaptation: Adaptation | None = None
    options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.options = network_options(self.backbone, self.data.input_size) | {"num_classes": self.data.classes}

    def trains(self, folder: Path) -> bool:
        """Whether :meth:`prepare` has anything to train in a run folder.

        Raises:
            DefinitionError: If the weights are missing or damaged.
        """
        return not (folder / BACKBONE_WEIGHTS).exists() and (self.weights is None or self._adapts)

    @property
    def _adapts(self) -> bool:
        return self.adaptation is not None or self._classes_given != self.data.classes

    @functools.cached_property
    def _classes_given(self) -> int | None:
        return None if self.weights is None else pretrained_classes(self.backbone, self.weights)

    def prepare(self, folder: Path, progress_bar: ProgressBar, team: Team | None = None) -> None:
        """Write the backbone to a run folder, unless it is there; resume an interrupted training.

        The other ranks of ``team`` call :meth:`assist`.

        Raises:
            DefinitionError: If the weights are missing, damaged, not finite or of another architecture.
            EvaluationError: If the training fails, or another rank does not respond.
            RunFolderError: If the checkpoint is damaged.
        """
        trains = self.trains(folder)
        if team is not None:
            team.broadcast(trains)
        if (folder / BACKBONE_WEIGHTS).exists():
            return
        torch.manual_seed(self.recipe.seed)
        model, history = load_pretrained(self.backbone, self.weights, self.options), []
        if trains:
            training = self._train(model, self._title(), progress_bar, folder / BACKBONE_CHECKPOINT, team)
            model, history = training.evaluated, training.history
        write_text(folder / BACKBONE_SUMMARY, json.dumps(self._summary(trains) | {"epochs": history}, indent=2))
        write_weights(model, folder / BACKBONE_WEIGHTS)
        (folder / BACKBONE_CHECKPOINT).unlink(missing_ok=True)

    def assist(self, team: Team) -> None:
        """Join the training that rank 0 runs in :meth:`prepare`, from its weights; write nothing.

        Raises:
            EvaluationError: If a loss is not finite, or another rank does not respond.
        """
        if team.broadcast(False):
            self._train(create_model(SEConfig(self.backbone), **self.options), "", no_progress, None, team)

    def phases(self, folder: Path) -> tuple[Phase, ...]:
        """Return the training that :meth:`prepare` has left, with a few steps timed on random weights."""
        if not self.trains(folder):
            return ()
        training = self._training(create_model(SEConfig(self.backbone), **self.options))
        times = training.time_steps(classification_losses(training.model, training.recipe))
        return (training.as_phase(self._title(), times),)

    def load(self, folder: Path) -> nn.Module:
        """Return the backbone of a run folder.

        Raises:
            RunFolderError: If it is missing or damaged.
        """
        model = create_model(SEConfig(self.backbone), **self.options)
        load_weights(model, folder / BACKBONE_WEIGHTS, "run the search first")
        return model

    def _title(self) -> str:
        """Return the title of the training's progress bar."""
        if self.weights is None:
            return "Training the backbone"
        part = "classifier" if self._adaptation.freeze == "backbone" else "backbone"
        given, here = self._classes_given, self.data.classes
        return f"Adapting the {part}" + ("" if given in (None, here) else f" ({given} classes to {here})")

    def _train(
        self, model: nn.Module, title: str, progress_bar: ProgressBar, checkpoint: Path | None, team: Team | None
    ) -> Training:
        training = self._training(model, checkpoint, team)
        training.run(classification_losses(training.model, training.recipe), progress_bar, title)
        return training

    def _training(self, model: nn.Module, checkpoint: Path | None = None, team: Team | None = None) -> Training:
        recipe, tuning = self.recipe, None
        if self.weights is not None:
            how = self._adaptation
            recipe = replace(recipe, epochs=how.epochs, learning_rate=how.learning_rate)
            tuning = Tuning(self._head(model)) if how.freeze == "backbone" else None
        return Training(model, recipe, self.data, self.device, checkpoint, team, tuning)

    @property
    def _adaptation(self) -> Adaptation:
        return self.adaptation or Adaptation()

    def _head(self, model: nn.Module) -> frozenset[str]:
        heads = tuple(f"{name}." for name in classifier_names(self.backbone))
        names = frozenset(name for name, _ in model.named_parameters() if heads and name.startswith(heads))
        if not names:
            raise DefinitionError(
                f"the classifier of {self.backbone} is unknown, so it cannot be adapted alone: set "
                f"{as_given('adapt.freeze', '--set evaluator.adapt.freeze=none')}"
            )
        return names

    def _summary(self, trained: bool) -> dict[str, Any]:
        if self.weights is None:
            return {"weights": f"{self.recipe.epochs} epochs on {self.data.name}"}
        return {"weights": self.weights, "adaptation": asdict(self._adaptation) if trained else None}
