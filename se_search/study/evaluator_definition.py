"""Definitions of evaluators: their settings, and everything else that depends on which evaluator it is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, Union

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, JsonValue, Tag

from ..definition import Definition
from ..errors import did_you_mean
from ..words import counted
from .base import MOST_IMAGES

if TYPE_CHECKING:  # PyTorch with it, which reading a study does without
    from ..data.image_data import ImageData
    from ..training.evaluator import Evaluator
    from ..training.recipe import TrainingRecipe
    from ..training.stand_alone import Scratch
    from .definitions import StudyDefinition
    from .space import SearchSpace

FROM_PYTHON = "python:"
"""What the name of an evaluator begins with that was given as a function from Python."""


def _own_name(name: str) -> str:
    if not re.fullmatch(rf"({FROM_PYTHON})?[A-Za-z_][\w.-]*", name, re.ASCII) or name in SHIPPED_EVALUATORS:
        raise ValueError("must be a name, such as supernet")
    return name


def _optimizer(name: str) -> str:
    from timm.optim import list_optimizers  # PyTorch with it, which only this check needs

    known = list_optimizers()
    if name not in known:
        raise ValueError(f"must be an optimizer of timm, such as adamw or sgd{did_you_mean(name, known)}")
    return name


def _not_compiled(value: bool) -> bool:
    if value:
        raise ValueError("the supernet changes its blocks with every step, which no compiled network can")
    return value


LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EvaluatorDefinition(Definition):
    """What all evaluators have: a name, how to train, and what else a search asks about them.

    Keys from ``epochs`` to ``compile`` are as in :class:`se_search.training.recipe.TrainingRecipe`.
    """

    shipped: ClassVar[bool] = True
    """Whether it comes with this package: then it trains as the fields say."""

    shares_weights: ClassVar[bool] = False
    """Whether one trained network holds every configuration, whose excitation can be analysed."""

    shared: ClassVar[str] = ""
    """What is trained once for all configurations; the run folder keeps it in files of this name. Empty for nothing."""

    estimates_by: ClassVar[str] = "the evaluator {name}"
    """How it estimates accuracies, with its name and the epochs to be put in."""

    name: str
    """Which evaluator."""

    epochs: Annotated[int, Field(ge=1)] = 8
    """Epochs of each training."""

    batch: Annotated[int, Field(ge=2, le=MOST_IMAGES)] = 64
    """Images in one step."""

    learning_rate: LearningRate = 0.002
    """Peak learning rate."""

    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """Weight decay of the weights."""

    optimizer: Annotated[str, AfterValidator(_optimizer)] = "adamw"
    """A name of ``timm.optim.list_optimizers``."""

    scheduler: Literal["cosine", "tanh", "poly", "wsd", "constant"] = "cosine"
    """A schedule of timm."""

    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Part of the training in which the learning rate rises."""

    clip_gradient: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest norm of the gradient."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes."""

    mixup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Alpha of mixup."""

    cutmix: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Alpha of CutMix."""

    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an average of the weights."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """``"float32"`` or ``"bfloat16"``."""

    channels_last: bool = False
    """Whether tensors keep their channels last in memory."""

    compile: bool = False
    """Whether ``torch.compile`` compiles the network; not with the supernet."""

    @classmethod
    def own_settings(cls) -> list[str]:
        """Names of the settings that not every evaluator has."""
        return [name for name in cls.model_fields if name not in EvaluatorDefinition.model_fields]

    @property
    def method(self) -> str:
        """How accuracies are estimated, and after how much training."""
        return self.estimates_by.format(name=self.name, epochs=counted(self.epochs, "epoch"))

    @property
    def function(self) -> str:
        """Name of the function given from Python that creates it; empty for all others."""
        return self.name.removeprefix(FROM_PYTHON) if self.name.startswith(FROM_PYTHON) else ""

    @property
    def rung_factor(self) -> int | None:
        """Factor of successive halving; ``None`` without it."""
        return None

    @property
    def starts_from_published_weights(self) -> bool:
        """Whether training starts from the weights that timm publishes, whose licence then applies."""
        return False

    def check(self, folder: Path) -> None:
        """Check before any training, and without writing, what training in a run folder takes from elsewhere.

        Raises:
            DefinitionError: If something is missing.
        """

    def create(
        self, definition: "StudyDefinition", space: "SearchSpace", data: "ImageData", recipe: "TrainingRecipe"
    ) -> "Evaluator":
        """Create a shipped evaluator, not prepared yet; :func:`se_search.trials.evaluators.find_evaluator` the others.

        Args:
            definition: The study.
            space: Its space.
            data: Its data.
            recipe: How to train.
        """
        raise NotImplementedError

    def create_trainer(
        self, definition: "StudyDefinition", data: "ImageData", recipe: "TrainingRecipe", folder: Path
    ) -> "Scratch":
        """Create what verification trains single networks with: from random weights, or what a run folder holds.

        Args:
            definition: The study.
            data: Its data.
            recipe: How to train.
            folder: The run folder.

        Raises:
            RunFolderError: If the folder lacks the weights to start from.
        """
        from ..training.stand_alone import Scratch

        return Scratch(definition.backbone, data, recipe, definition.device)

    def describe_weights(self, seen: str, data: str) -> str:
        """Say where the weights come from that the search evaluates.

        Args:
            seen: What training saw, as in ``"saw 1000 training images of digits for 8 epochs"``.
            data: Name of the data.
        """
        return self.describe_verified_weights(seen)

    def describe_verified_weights(self, seen: str) -> str:
        """Say where the weights come from that verification evaluates.

        Args:
            seen: As in :meth:`describe_weights`.
        """
        return f"Trained by themselves: the network started from random weights and {seen} (the first seed's)."


class SupernetDefinition(EvaluatorDefinition):
    """Train one network that holds every configuration."""

    shares_weights = True
    shared = "supernet"
    estimates_by = "weight sharing ({epochs} of the shared network)"

    name: Literal["supernet"] = "supernet"
    """Which evaluator."""

    compile: Annotated[bool, AfterValidator(_not_compiled)] = False
    """Whether ``torch.compile`` compiles the network; not with the supernet."""

    recalibration_images: Annotated[int, Field(ge=2)] = 512
    """Training images from which normalisation statistics are estimated anew."""

    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the smaller network's loss that is about the outputs of the larger one."""

    patience: Annotated[int, Field(ge=1)] | None = None
    """Epochs without a lower training loss after which training ends."""

    def create(
        self, definition: "StudyDefinition", space: "SearchSpace", data: "ImageData", recipe: "TrainingRecipe"
    ) -> "Evaluator":
        """Create the supernet, untrained."""
        from ..training.supernet import Supernet

        return Supernet(
            definition.backbone,
            space.widest_blocks(),
            data,
            recipe,
            definition.device,
            self.recalibration_images,
            self.distillation,
            self.patience,
        )

    def describe_weights(self, seen: str, data: str) -> str:
        """Say that they are a slice of the shared ones."""
        return (
            "A slice of the search's weight-sharing network, not trained on their own. That network started from "
            f"random weights, not from published ones, and {seen}; normalisation statistics were estimated anew for "
            "this slice."
        )


class _SingleNetworks(EvaluatorDefinition):
    """Train every configuration by itself."""

    seeds: Annotated[int, Field(ge=1)] = 1
    """Trainings of each configuration."""

    halving: Annotated[int, Field(ge=2)] | None = None
    """Factor of successive halving; none without it."""

    @property
    def rung_factor(self) -> int | None:
        """``halving``."""
        return self.halving


class ScratchDefinition(_SingleNetworks):
    """Train every configuration from scratch."""

    estimates_by = "training each network from scratch ({epochs})"

    name: Literal["scratch"] = "scratch"
    """Which evaluator."""

    def create(
        self, definition: "StudyDefinition", space: "SearchSpace", data: "ImageData", recipe: "TrainingRecipe"
    ) -> "Evaluator":
        """Create what trains every configuration from scratch."""
        from ..training.stand_alone import Scratch

        return Scratch(definition.backbone, data, recipe, definition.device, self.seeds, self.halving)


class FinetuneDefinition(_SingleNetworks):
    """Train every configuration from a common backbone."""

    shared = "backbone"
    estimates_by = "finetuning each network ({epochs} from a common backbone)"

    name: Literal["finetune"] = "finetune"
    """Which evaluator."""

    learning_rate: LearningRate = 0.0005
    """Peak learning rate."""

    pretrained: str | None = None
    """Weights of the backbone to start from: ``"timm"``, ``"local-dir:FOLDER"`` or the path of a checkpoint."""

    @property
    def starts_from_published_weights(self) -> bool:
        """Whether ``pretrained`` says so."""
        return self.pretrained == "timm"

    def check(self, folder: Path) -> None:
        """Check that the weights which ``pretrained`` names exist, unless the folder holds a common backbone already.

        Raises:
            DefinitionError: If they do not exist.
        """
        from ..training.pretrained import check_pretrained
        from ..training.stand_alone import BACKBONE_WEIGHTS

        if self.pretrained is not None and not (folder / BACKBONE_WEIGHTS).exists():
            check_pretrained(self.pretrained)

    def create(
        self, definition: "StudyDefinition", space: "SearchSpace", data: "ImageData", recipe: "TrainingRecipe"
    ) -> "Evaluator":
        """Create what trains every configuration from a common backbone."""
        from ..training.stand_alone import Finetune

        return Finetune(definition.backbone, data, recipe, definition.device, self.seeds, self.halving, self.pretrained)

    def create_trainer(
        self, definition: "StudyDefinition", data: "ImageData", recipe: "TrainingRecipe", folder: Path
    ) -> "Scratch":
        """Create what trains from the common backbone that the run folder holds."""
        from ..training.stand_alone import Finetune

        trainer = Finetune(definition.backbone, data, recipe, definition.device)
        trainer.load(folder)
        return trainer

    def describe_verified_weights(self, seen: str) -> str:
        """Say from which backbone training started."""
        start = "a backbone that was trained on the same images before"
        if self.starts_from_published_weights:
            start = "the weights of the backbone that timm publishes, whose licence applies"
        elif self.pretrained is not None:
            start = "weights of the backbone that the user gave, whose licence applies"
        return f"Trained by themselves: the network started from {start}, with SE blocks without an effect, and {seen}."


class OwnEvaluatorDefinition(_SingleNetworks):
    """What a plugin's evaluator is given, or one that was given from Python."""

    shipped = False

    name: Annotated[str, AfterValidator(_own_name)]
    """The name of a plugin, or that of a function given from Python after :data:`FROM_PYTHON`."""

    pretrained: str | None = None
    """``"timm"``, ``"local-dir:FOLDER"`` or the path of a checkpoint."""

    options: dict[str, JsonValue] = Field(default_factory=dict)
    """What it takes besides, plain data."""

    def describe_weights(self, seen: str, data: str) -> str:
        """Say only who made them: how, the evaluator alone knows."""
        return f"Those that the evaluator {self.name} made on {data}; it knows how."


SHIPPED_EVALUATORS: Mapping[str, type[EvaluatorDefinition]] = {
    "supernet": SupernetDefinition,
    "finetune": FinetuneDefinition,
    "scratch": ScratchDefinition,
}
"""Evaluators that travel with the package."""


_KINDS: tuple[type[EvaluatorDefinition], ...] = (*SHIPPED_EVALUATORS.values(), OwnEvaluatorDefinition)

EVALUATOR_TAGS = {f"[{kind.__name__}]": kind for kind in _KINDS}
"""What pydantic calls the kinds of evaluators in the places of its errors."""


def _kind_of(evaluator: Any) -> type[EvaluatorDefinition]:
    if isinstance(evaluator, EvaluatorDefinition):
        return type(evaluator)
    name = evaluator.get("name", "supernet") if isinstance(evaluator, dict) else "supernet"
    return SHIPPED_EVALUATORS.get(name, OwnEvaluatorDefinition) if isinstance(name, str) else OwnEvaluatorDefinition


def _without_old_defaults(evaluator: Any) -> Any:
    """Leave out what files of version 0.1.0 say of all evaluators; to be dropped with the release after the next.

    There every evaluator had the settings of all others, which did nothing at their defaults, and no learning rate of
    its own.
    """
    if not isinstance(evaluator, dict):
        return evaluator
    old = {name: kind.model_fields[name] for kind in _KINDS for name in kind.own_settings()}
    for name in _kind_of(evaluator).own_settings():
        del old[name]
    gone = {name for name, field in old.items() if evaluator.get(name) == field.get_default(call_default_factory=True)}
    if evaluator.get("learning_rate", 0) is None:
        gone.add("learning_rate")
    return {name: value for name, value in evaluator.items() if name not in gone}


if TYPE_CHECKING:
    AnyEvaluator: TypeAlias = EvaluatorDefinition
else:
    AnyEvaluator = Annotated[
        Union[tuple(Annotated[kind, Tag(tag)] for tag, kind in EVALUATOR_TAGS.items())],  # noqa: UP007  # of a tuple
        Discriminator(lambda evaluator: f"[{_kind_of(evaluator).__name__}]"),
        BeforeValidator(_without_old_defaults),
    ]
